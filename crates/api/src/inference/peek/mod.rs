//! Reads `model` and `stream` from a request's body and leaves the rest alone: nothing is parsed into values, and the
//! backend gets the bytes as they came, but for the name of a model if they lack one.
//!
//! It refuses what two parsers could read differently, because the backend reads the same bytes again: a key with a
//! meaning here that is given twice or in another case, bytes that aren't UTF-8, nesting too deep for a recursive parser.

use super::endpoint::{Endpoint, Family, Required, Streams};
use bytes::Bytes;
use reveille_domain::{MAX_MODEL_NAME_BYTES, ModelName};
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{fmt, ops::Range};

#[cfg(test)]
mod tests;

/// How deep a body may nest: the default limit of recursive JSON parsers.
pub(crate) const MAX_DEPTH: usize = 128;

const PREVIOUS: &str = "previous_response_id";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peeked {
    pub model: AskedModel,
    /// Whether the caller wants a stream.
    pub stream: bool,
    /// The response that it goes on from, which one backend keeps.
    pub previous: Option<String>,
}

/// The model that a body asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AskedModel {
    Named(ModelName),
    /// By another field, as older clients of Ollama do. The backend gets it in `model` too.
    Otherwise(ModelName, ModelGap),
    /// None: it is missing, `null` or empty.
    Unnamed(ModelGap),
}

/// Where a body lacks the name of its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelGap {
    /// These bytes make room for it.
    at: Range<usize>,
    before: &'static str,
    after: &'static str,
    /// The code of the error, if nothing fills it.
    pub code: &'static str,
}

impl ModelGap {
    /// The body with `model` in the gap, and every other byte as it was.
    pub fn filled(&self, body: &[u8], model: &ModelName) -> Bytes {
        let name = serde_json::Value::from(model.as_str()).to_string();
        let filling = [self.before, &name, self.after].concat();
        [&body[..self.at.start], filling.as_bytes(), &body[self.at.end..]]
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
    pub(super) fn new(
        code: &'static str,
        param: impl Into<Option<&'static str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code,
            param: param.into(),
            message: message.into(),
        }
    }
}

/// The fields by which it is decided here who gets a request, and how it is answered.
fn deciding(endpoint: &Endpoint) -> impl Iterator<Item = &'static str> {
    let name = (endpoint.family == Family::Ollama).then_some("name");
    let previous = endpoint.keeps_answers().then_some(PREVIOUS);
    ["model", "stream"].into_iter().chain(name).chain(previous)
}

/// Refuses a key that is this name but for its case, which some parsers ignore: those of Go, in which Ollama is written, and of .NET.
pub(crate) fn check_case(key: &str, name: &'static str) -> Result<(), BadBody> {
    fn upper(text: &str) -> impl Iterator<Item = char> {
        text.chars().flat_map(char::to_uppercase)
    }
    if key == name || !upper(key).eq(upper(name)) {
        return Ok(());
    }
    let message =
        format!("`{key}` is not supported, since some backends read it as `{name}`: write `{name}`");
    Err(BadBody::new("unsupported_field", name, message))
}

/// Reads `model` and `stream`, and checks what the endpoint wants of the rest.
pub(crate) fn peek(body: &[u8], endpoint: &Endpoint) -> Result<Peeked, BadBody> {
    let invalid = |message: String| BadBody::new("invalid_json", None, message);
    if body.trim_ascii().is_empty() {
        return Err(invalid("the body is empty: a JSON object is needed".to_owned()));
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| invalid("the body is not UTF-8, which JSON has to be".to_owned()))?;
    if nests_deeper_than(body, MAX_DEPTH) {
        return Err(invalid(format!("the body nests deeper than {MAX_DEPTH} levels")));
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    let fields = FieldsOf(endpoint).deserialize(&mut parser);
    let fields = fields.and_then(|fields| parser.end().map(|()| fields));
    let fields = fields.map_err(|error| invalid(format!("the body is not a JSON object: {error}")))?;
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
            b'"' => rest = end_of_string(rest).map_or(&[], |end| &rest[end + 1..]),
            b'[' | b'{' => depth += 1,
            _ => depth = depth.saturating_sub(1),
        }
        if depth > limit {
            return true;
        }
    }
    false
}

/// Where a string ends that has begun before this text.
pub(super) fn end_of_string(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// The fields with a meaning here.
#[derive(Debug, Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    /// Ollama's older name for `model`.
    name: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    previous: Option<&'a RawValue>,
    /// What the endpoint requires.
    required: Option<&'a RawValue>,
    /// Whether there is any field.
    some: bool,
    twice: Option<&'static str>,
    /// What is wrong with a key that some parsers read as one that decides something.
    alike: Option<BadBody>,
    /// Other gateways take the backend's address from the body. Here a request can't choose it.
    backend_address: Option<&'static str>,
}

/// Reads the fields with a meaning to one endpoint.
struct FieldsOf<'e>(&'e Endpoint);

impl<'de> DeserializeSeed<'de> for FieldsOf<'_> {
    type Value = Fields<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsOf<'_> {
    type Value = Fields<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<String>()? {
            fields.take(&key, &mut map, self.0)?;
        }
        Ok(fields)
    }
}

impl<'de> Fields<'de> {
    fn take<A: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut A,
        endpoint: &Endpoint,
    ) -> Result<(), A::Error> {
        self.some = true;
        let required = endpoint.required.field().filter(|name| *name == key);
        let (name, slot) = match (key, required) {
            ("model", _) => ("model", &mut self.model),
            ("stream", _) => ("stream", &mut self.stream),
            (PREVIOUS, _) if endpoint.keeps_answers() => (PREVIOUS, &mut self.previous),
            ("name", _) if endpoint.family == Family::Ollama => ("name", &mut self.name),
            (_, Some(name)) => (name, &mut self.required),
            _ => {
                if let Some(bad) = deciding(endpoint).find_map(|name| check_case(key, name).err()) {
                    self.alike = Some(bad);
                }
                match key {
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
    fn check(self, text: &str, endpoint: &Endpoint) -> Result<Peeked, BadBody> {
        if let Some(name) = self.twice {
            return Err(BadBody::new(
                "duplicate_field",
                name,
                format!("`{name}` is given twice"),
            ));
        }
        if let Some(bad) = self.alike {
            return Err(bad);
        }
        if let Some(name) = self.backend_address {
            return Err(BadBody::new(
                "unsupported_field",
                name,
                format!("`{name}` is not supported: `model` alone chooses the backend"),
            ));
        }
        let model = self.model(text)?;
        let stream = self.streams(endpoint.streams)?;
        // Whether it is a text is its backend's business.
        let previous = self.previous.and_then(|id| serde_json::from_str(id.get()).ok());
        let peeked = Peeked {
            model,
            stream,
            previous,
        };
        let Some(name) = endpoint.required.field() else {
            return Ok(peeked);
        };
        match (endpoint.required, self.required.map(RawValue::get)) {
            (Required::Array(_), None) => {
                Err(BadBody::new("invalid_type", name, format!("`{name}` is missing")))
            }
            (Required::Array(_), Some(value)) if !value.starts_with('[') => Err(BadBody::new(
                "invalid_type",
                name,
                format!("`{name}` must be an array"),
            )),
            (Required::Field(_), None) => Err(BadBody::new(
                "missing_field",
                name,
                format!("`{name}` is missing"),
            )),
            (Required::Array(_) | Required::Field(_) | Required::Nothing, _) => Ok(peeked),
        }
    }

    fn streams(&self, streams: Streams) -> Result<bool, BadBody> {
        let given = match self.stream.map(RawValue::get) {
            None | Some("null") => None,
            Some("false") => Some(false),
            Some("true") => Some(true),
            Some(_) if streams == Streams::Never => None,
            Some(_) => {
                return Err(BadBody::new(
                    "invalid_type",
                    "stream",
                    "`stream` must be true or false",
                ));
            }
        };
        Ok(match streams {
            Streams::Never => false,
            Streams::WhenTrue => given.unwrap_or(false),
            Streams::UnlessFalse => given.unwrap_or(true),
        })
    }

    /// The model of the body `text`.
    fn model(&self, text: &str) -> Result<AskedModel, BadBody> {
        let gap = match self.model.map(RawValue::get) {
            Some(model) => match gap_in(text, model) {
                Some(gap) => gap,
                None => return Ok(AskedModel::Named(parse_model("model", model)?)),
            },
            None => {
                let begins = text.find('{').map_or(0, |brace| brace + 1);
                ModelGap {
                    at: begins..begins,
                    before: "\"model\":",
                    after: if self.some { "," } else { "" },
                    code: "missing_field",
                }
            }
        };
        match self.name.map(RawValue::get).filter(|name| *name != "\"\"") {
            Some(name) => Ok(AskedModel::Otherwise(parse_model("name", name)?, gap)),
            None => Ok(AskedModel::Unnamed(gap)),
        }
    }
}

/// The gap in the body `text` whose `model` says nothing.
fn gap_in(text: &str, model: &str) -> Option<ModelGap> {
    let code = match model {
        "null" => "invalid_type",
        "\"\"" => "invalid_model",
        _ => return None,
    };
    let begins = model.as_ptr().addr() - text.as_ptr().addr();
    Some(ModelGap {
        at: begins..begins + model.len(),
        before: "",
        after: "",
        code,
    })
}

fn parse_model(field: &'static str, json: &str) -> Result<ModelName, BadBody> {
    let text: String = serde_json::from_str(json)
        .map_err(|_| BadBody::new("invalid_type", field, format!("`{field}` must be a string")))?;
    checked_model(field, &text)
}

/// The name of a model that a request has in `field`.
pub(crate) fn checked_model(field: &'static str, text: &str) -> Result<ModelName, BadBody> {
    ModelName::parse(text).map_err(|_| {
        let message = format!(
            "`{field}` must be a model's name, 1 to {MAX_MODEL_NAME_BYTES} bytes of printable text, alone or behind `agent/` or \
             `agent/provider/`"
        );
        BadBody::new("invalid_model", field, message)
    })
}
