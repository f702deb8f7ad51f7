//! Reads `model` and `stream` from a request's body and leaves the rest alone: nothing is parsed into values, and the
//! backend gets the bytes as they came, but for the name of a model if they lack one.
//!
//! It refuses what two parsers could read differently, because the backend reads the same bytes again: a key with a
//! meaning here that is given twice, bytes that aren't UTF-8, nesting too deep for a recursive parser.

use bytes::Bytes;
use reveille_domain::{MAX_MODEL_NAME_BYTES, ModelName};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{fmt, ops::Range};

#[cfg(test)]
mod tests;

/// How deep a body may nest: the default limit of recursive JSON parsers.
pub(crate) const MAX_DEPTH: usize = 128;

/// The endpoint of a request; each needs other fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    ChatCompletions,
    Completions,
    Embeddings,
}

impl Endpoint {
    /// The path, here and at the backend.
    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peeked {
    pub model: AskedModel,
    /// Whether the caller wants a stream.
    pub stream: bool,
}

/// The model that a body asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AskedModel {
    Named(ModelName),
    /// None: it is missing, `null` or empty.
    Unnamed(ModelGap),
}

/// Where a body lacks the name of its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelGap {
    /// These bytes make room for it.
    at: Range<usize>,
    is_field: bool,
    /// The code of the error, if nothing fills it.
    pub code: &'static str,
}

impl ModelGap {
    /// The body with `model` in the gap, and every other byte as it was.
    pub fn filled(&self, body: &[u8], model: &ModelName) -> Bytes {
        let name = serde_json::Value::from(model.as_str()).to_string();
        let field = if self.is_field {
            name
        } else {
            format!("\"model\":{name},")
        };
        [&body[..self.at.start], field.as_bytes(), &body[self.at.end..]]
            .concat()
            .into()
    }
}

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadBody {
    pub code: &'static str,
    pub param: Option<&'static str>,
    pub message: String,
}

impl BadBody {
    fn new(code: &'static str, param: impl Into<Option<&'static str>>, message: impl Into<String>) -> Self {
        Self {
            code,
            param: param.into(),
            message: message.into(),
        }
    }
}

/// Reads `model` and `stream`, and checks what the endpoint wants of the rest.
pub(crate) fn peek(body: &[u8], endpoint: Endpoint) -> Result<Peeked, BadBody> {
    let invalid = |message: String| BadBody::new("invalid_json", None, message);
    if body.trim_ascii().is_empty() {
        return Err(invalid("the body is empty: a JSON object is needed".to_owned()));
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| invalid("the body is not UTF-8, which JSON has to be".to_owned()))?;
    if nests_deeper_than(body, MAX_DEPTH) {
        return Err(invalid(format!("the body nests deeper than {MAX_DEPTH} levels")));
    }
    let fields: Fields<'_> = serde_json::from_str(text)
        .map_err(|error| invalid(format!("the body is not a JSON object: {error}")))?;
    fields.check(text, endpoint)
}

/// Whether brackets outside of strings nest too deep. The bytes needn't be JSON: the parser checks that later.
fn nests_deeper_than(body: &[u8], limit: usize) -> bool {
    let (mut rest, mut depth) = (body, 0_usize);
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'[' | b'{' | b']' | b'}'))
    {
        let found = rest[at];
        rest = &rest[at + 1..];
        match found {
            b'"' => rest = after_string(rest),
            b'[' | b'{' => depth += 1,
            _ => depth = depth.saturating_sub(1),
        }
        if depth > limit {
            return true;
        }
    }
    false
}

/// The bytes after the string that `rest` begins in.
fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        if rest[at] == b'"' {
            return &rest[at + 1..];
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    &[]
}

/// The fields with a meaning here.
#[derive(Debug, Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    messages: Option<&'a RawValue>,
    prompt: bool,
    input: bool,
    twice: Option<&'static str>,
    /// Other gateways take the backend's address from the body. Here a request can't choose it.
    backend_address: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key::<String>()? {
                    fields.take(&key, &mut map)?;
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

impl<'de> Fields<'de> {
    fn take<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let (name, slot) = match key {
            "model" => ("model", &mut self.model),
            "stream" => ("stream", &mut self.stream),
            "messages" => ("messages", &mut self.messages),
            _ => {
                match key {
                    "prompt" => self.prompt = true,
                    "input" => self.input = true,
                    "api_base" => self.backend_address = Some("api_base"),
                    "base_url" => self.backend_address = Some("base_url"),
                    _ => {}
                }
                return map.next_value::<IgnoredAny>().map(|_| ());
            }
        };
        if slot.replace(map.next_value()?).is_some() {
            self.twice = Some(name);
        }
        Ok(())
    }

    /// `text` is the body that they were read from.
    fn check(self, text: &str, endpoint: Endpoint) -> Result<Peeked, BadBody> {
        if let Some(name) = self.twice {
            return Err(BadBody::new(
                "duplicate_field",
                name,
                format!("`{name}` is given twice"),
            ));
        }
        if let Some(name) = self.backend_address {
            return Err(BadBody::new(
                "unsupported_field",
                name,
                format!("`{name}` is not supported: `model` alone chooses the backend"),
            ));
        }
        let model = check_model(text, self.model)?;
        let stream = match self.stream.map(RawValue::get) {
            None | Some("null" | "false") => false,
            Some("true") => true,
            Some(_) => {
                return Err(BadBody::new(
                    "invalid_type",
                    "stream",
                    "`stream` must be true or false",
                ));
            }
        };
        match endpoint {
            Endpoint::ChatCompletions => match self.messages {
                Some(messages) if messages.get().starts_with('[') => Ok(Peeked { model, stream }),
                Some(_) => Err(BadBody::new(
                    "invalid_type",
                    "messages",
                    "`messages` must be an array",
                )),
                None => Err(BadBody::new("invalid_type", "messages", "`messages` is missing")),
            },
            Endpoint::Completions if !self.prompt => {
                Err(BadBody::new("missing_field", "prompt", "`prompt` is missing"))
            }
            Endpoint::Embeddings if !self.input => {
                Err(BadBody::new("missing_field", "input", "`input` is missing"))
            }
            Endpoint::Embeddings => Ok(Peeked { model, stream: false }),
            Endpoint::Completions => Ok(Peeked { model, stream }),
        }
    }
}

fn check_model(body: &str, model: Option<&RawValue>) -> Result<AskedModel, BadBody> {
    let Some(model) = model.map(RawValue::get) else {
        // The object has other fields, since each endpoint needs one, so a comma may follow.
        let begins = body.find('{').map_or(0, |brace| brace + 1);
        return Ok(AskedModel::Unnamed(ModelGap {
            at: begins..begins,
            is_field: false,
            code: "missing_field",
        }));
    };
    let empty = match model {
        "null" => Some("invalid_type"),
        "\"\"" => Some("invalid_model"),
        _ => None,
    };
    if let Some(code) = empty {
        let begins = model.as_ptr().addr() - body.as_ptr().addr();
        return Ok(AskedModel::Unnamed(ModelGap {
            at: begins..begins + model.len(),
            is_field: true,
            code,
        }));
    }
    let text: String = serde_json::from_str(model)
        .map_err(|_| BadBody::new("invalid_type", "model", "`model` must be a string"))?;
    let model = ModelName::parse(&text).map_err(|_| {
        let message = format!("`model` must be 1 to {MAX_MODEL_NAME_BYTES} bytes of printable text");
        BadBody::new("invalid_model", "model", message)
    })?;
    Ok(AskedModel::Named(model))
}
