//! Puts a preset into the JSON of a request: its system prompt before the request's own, its parameters where the request has none,
//! and its pinned ones in place of the request's. Everything else stays, byte for byte.
//!
//! A field that it touches is refused when it is there twice, or once in another case: backends differ in which of them they take,
//! so the request's could win over a pinned one.

use crate::config::{Parameters, Preset, Secret};
use bytes::{Bytes, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, json, value::RawValue};
use std::{fmt, ops::Range};

#[cfg(test)]
mod tests;

/// Between the preset's system prompt and the request's own.
const BETWEEN: &str = "\n\n";
/// Where Ollama has most parameters.
const OPTIONS: &str = "options";

/// Why a preset can't be put into a request: a sentence for its caller, without any of its content.
pub(super) type Conflict = String;

/// Where a kind of request has the system prompt.
#[derive(Debug, Clone, Copy)]
enum SystemPlace {
    /// In the first of its `messages`.
    FirstMessage,
    /// In a field that is a text.
    Text(&'static str),
    /// In a field that is a text or a list of blocks.
    TextOrBlocks(&'static str),
}

/// Which API names the parameters of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Chat,
    Responses,
    Messages,
    Ollama,
    /// It takes none.
    None,
}

/// A kind of request with a place for a preset.
#[derive(Debug, Clone, Copy)]
struct Surface {
    system: SystemPlace,
    api: Api,
    /// Fields by which a request could do without the system prompt.
    evading: &'static [&'static str],
}

/// Where one parameter of a preset goes.
#[derive(Debug, Clone)]
struct Place {
    /// Its name, and others by which backends take the same.
    names: Vec<String>,
    /// Whether it is one of Ollama's options.
    is_option: bool,
}

/// Parameters that every API has by the same name.
const EVERYWHERE: [&str; 3] = ["temperature", "top_k", "top_p"];
/// Those that Ollama has among its options.
const OPTION_NAMES: [&str; 16] = [
    "frequency_penalty",
    "main_gpu",
    "min_p",
    "num_batch",
    "num_ctx",
    "num_gpu",
    "num_keep",
    "num_thread",
    "presence_penalty",
    "repeat_last_n",
    "repeat_penalty",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];
/// Those that it has beside them.
const OLLAMAS_OWN: [&str; 3] = ["format", "keep_alive", "think"];

impl Surface {
    fn of_path(path: &str) -> Option<Self> {
        use SystemPlace::{FirstMessage, Text, TextOrBlocks};
        let (system, api, evading): (_, _, &'static [&'static str]) = match path {
            "/v1/chat/completions" | "/apply-template" => (FirstMessage, Api::Chat, &["chat_template"]),
            "/v1/responses" => (Text("instructions"), Api::Responses, &[]),
            "/v1/messages" => (TextOrBlocks("system"), Api::Messages, &[]),
            "/v1/messages/count_tokens" => (TextOrBlocks("system"), Api::None, &[]),
            "/api/chat" => (FirstMessage, Api::Ollama, &[]),
            "/api/generate" => (Text("system"), Api::Ollama, &["raw", "template"]),
            _ => return None,
        };
        Some(Self { system, api, evading })
    }
}

impl SystemPlace {
    const fn field(self) -> &'static str {
        match self {
            Self::FirstMessage => "messages",
            Self::Text(field) | Self::TextOrBlocks(field) => field,
        }
    }
}

impl Api {
    /// Where it has a parameter of a preset; `None` where it has no such thing.
    fn place(self, parameter: &str) -> Option<Place> {
        let place = |names: &[&str], is_option| {
            Some(Place {
                names: names.iter().map(|&name| name.to_owned()).collect(),
                is_option,
            })
        };
        match (self, parameter) {
            (Self::Chat, "max_tokens") => place(&["max_tokens", "max_completion_tokens", "n_predict"], false),
            (Self::Responses, "max_tokens") => place(&["max_output_tokens"], false),
            (Self::Messages, "max_tokens") => place(&["max_tokens"], false),
            (Self::Messages, "stop") => place(&["stop_sequences"], false),
            (Self::Ollama, "max_tokens") => place(&["num_predict"], true),
            (Self::Ollama, "stop") => place(&["stop"], true),
            (Self::Ollama, name) if OPTION_NAMES.contains(&name) => place(&[name], true),
            (Self::Ollama, name) if OLLAMAS_OWN.contains(&name) => place(&[name], false),
            (Self::Responses | Self::Messages, name) if EVERYWHERE.contains(&name) => place(&[name], false),
            (Self::Chat, name) => place(&[name], false),
            (Self::Responses | Self::Messages | Self::Ollama | Self::None, _) => None,
        }
    }

    /// A parameter's value as this API has it.
    fn value(self, parameter: &str, value: &Value) -> Value {
        match (self, parameter, value) {
            (Self::Messages | Self::Ollama, "stop", Value::String(_)) => json!([value]),
            _ => value.clone(),
        }
    }
}

/// The body of a request for `path` with the preset in it.
///
/// # Errors
/// When there is no place for it.
pub(super) fn put(body: &Bytes, preset: &Preset, path: &str) -> Result<Bytes, Conflict> {
    let surface = Surface::of_path(path).ok_or_else(|| format!("{path} has no place for a preset"))?;
    let text = std::str::from_utf8(body).map_err(|_| "the body is not UTF-8".to_owned())?;
    let mut edits = Edits {
        text,
        edits: Vec::new(),
    };
    edits.preset(preset, surface)?;
    Ok(edits.applied())
}

/// What is to change of a text.
struct Edits<'a> {
    text: &'a str,
    /// These bytes are replaced by these texts. No two overlap.
    edits: Vec<(Range<usize>, String)>,
}

/// A parameter of a preset as a request is to have it.
struct Wanted {
    place: Place,
    value: String,
    is_pinned: bool,
}

impl<'a> Edits<'a> {
    fn preset(&mut self, preset: &Preset, surface: Surface) -> Result<(), Conflict> {
        let wanted = |parameters: &Parameters, is_pinned| {
            let places = parameters.iter().filter_map(|(name, value)| {
                Some(Wanted {
                    place: surface.api.place(name)?,
                    value: surface.api.value(name, value).to_string(),
                    is_pinned,
                })
            });
            places.collect::<Vec<_>>()
        };
        let mut wanted_all = wanted(&preset.parameters, false);
        wanted_all.extend(wanted(&preset.pinned, true));
        let (options, wanted): (Vec<_>, Vec<_>) =
            wanted_all.into_iter().partition(|wanted| wanted.place.is_option);

        let system = preset.system.as_ref().map(Secret::reveal);
        let mut names: Vec<&str> = wanted.iter().flat_map(Wanted::names).collect();
        if system.is_some() {
            names.push(surface.system.field());
            names.extend(surface.evading);
        }
        if !options.is_empty() {
            names.push(OPTIONS);
        }
        let object = Object::read(self.text, &names)?;
        let mut added = Vec::new();
        if let Some(system) = system {
            let is_set = |name: &&&str| {
                let value = object.get(name);
                value.is_some_and(|value| !matches!(value, "false" | "\"\""))
            };
            if let Some(evading) = surface.evading.iter().find(is_set) {
                return Err(format!(
                    "`{evading}` leaves no place for the preset's system prompt"
                ));
            }
            added.extend(self.system(system, surface.system, &object)?);
        }
        added.extend(self.parameters(&object, &wanted));
        if !options.is_empty() {
            added.extend(self.options(&object, &options)?);
        }
        self.add(&object, &added);
        Ok(())
    }

    /// Puts the system prompt in its place. Returns the field that is to be added for it.
    fn system(
        &mut self,
        system: &str,
        place: SystemPlace,
        object: &Object<'a>,
    ) -> Result<Option<String>, Conflict> {
        let field = place.field();
        let own = object.get(field);
        match place {
            SystemPlace::FirstMessage => {
                if let Some(messages) = own {
                    self.first_message(system, messages)?;
                }
                Ok(None)
            }
            SystemPlace::Text(_) | SystemPlace::TextOrBlocks(_) => match own {
                None => Ok(self.set(object, field, &quoted(system))),
                Some(own) if own.starts_with('"') => {
                    self.before_text(system, own);
                    Ok(None)
                }
                Some(own) if own.starts_with('[') && matches!(place, SystemPlace::TextOrBlocks(_)) => {
                    self.first_item(own, &text_block(system));
                    Ok(None)
                }
                Some(_) => Err(format!(
                    "`{field}` must be a text, since the preset's comes before it"
                )),
            },
        }
    }

    /// Puts the system prompt into the first of these messages, if that is of the system, or before it. Without a message there is
    /// nothing to answer.
    fn first_message(&mut self, system: &str, messages: &'a str) -> Result<(), Conflict> {
        let Some(first) = first_of(messages) else {
            return Ok(());
        };
        if first.starts_with('{') {
            let message = Object::read(first, &["role", "content"])?;
            let role = message
                .get("role")
                .and_then(|role| serde_json::from_str::<String>(role).ok());
            let content = message.get("content").unwrap_or_default();
            if matches!(role.as_deref(), Some("system" | "developer")) {
                if content.starts_with('"') {
                    self.before_text(system, content);
                    return Ok(());
                }
                if content.starts_with('[') {
                    self.first_item(content, &text_block(system));
                    return Ok(());
                }
            }
        }
        let message = format!(r#"{{"role":"system","content":{}}}"#, quoted(system));
        self.first_item(messages, &message);
        Ok(())
    }

    /// Sets the parameters. Returns the fields that are to be added for them.
    fn parameters(&mut self, object: &Object<'a>, wanted: &[Wanted]) -> Vec<String> {
        let mut added = Vec::new();
        for wanted in wanted {
            let there: Vec<_> = wanted.names().filter(|name| object.has(name)).collect();
            match there.as_slice() {
                [] => added.extend(self.set(object, &wanted.place.names[0], &wanted.value)),
                there if wanted.is_pinned => {
                    for name in there {
                        self.set(object, name, &wanted.value);
                    }
                }
                _ => {}
            }
        }
        added
    }

    /// Sets Ollama's options. Returns the field that is to be added for them.
    fn options(&mut self, object: &Object<'a>, wanted: &[Wanted]) -> Result<Option<String>, Conflict> {
        let names: Vec<_> = wanted.iter().flat_map(Wanted::names).collect();
        let Some(own) = object.get(OPTIONS) else {
            let all: Vec<_> = wanted
                .iter()
                .map(|wanted| format!("{}:{}", quoted(&wanted.place.names[0]), wanted.value))
                .collect();
            return Ok(self.set(object, OPTIONS, &format!("{{{}}}", all.join(","))));
        };
        if !own.starts_with('{') {
            return Err("`options` must be an object, since the preset sets some".to_owned());
        }
        let options = Object::read(own, &names)?;
        let added = self.parameters(&options, wanted);
        self.add(&options, &added);
        Ok(None)
    }

    /// Replaces a field's value, or returns the field for being added.
    fn set(&mut self, object: &Object<'a>, name: &str, value: &str) -> Option<String> {
        match object.raw(name) {
            Some(raw) => {
                let place = self.place_of(raw);
                self.edits.push((place, value.to_owned()));
                None
            }
            None => Some(format!("{}:{value}", quoted(name))),
        }
    }

    /// Adds fields at the beginning of an object.
    fn add(&mut self, object: &Object<'a>, fields: &[String]) {
        if fields.is_empty() {
            return;
        }
        let at = self.place_of(object.text).start + 1;
        let comma = if object.is_empty { "" } else { "," };
        self.edits.push((at..at, fields.join(",") + comma));
    }

    /// Adds an item at the beginning of an array.
    fn first_item(&mut self, array: &'a str, item: &str) {
        let at = self.place_of(array).start + 1;
        let is_empty = array[1..].trim_start().starts_with(']');
        let comma = if is_empty { "" } else { "," };
        self.edits.push((at..at, format!("{item}{comma}")));
    }

    /// Adds a text at the beginning of a text.
    fn before_text(&mut self, system: &str, text: &'a str) {
        let at = self.place_of(text).start + 1;
        let between = if text == "\"\"" { "" } else { BETWEEN };
        let quoted = quoted(&format!("{system}{between}"));
        self.edits.push((at..at, quoted[1..quoted.len() - 1].to_owned()));
    }

    /// Where a part of the text is.
    fn place_of(&self, part: &str) -> Range<usize> {
        let start = part.as_ptr().addr() - self.text.as_ptr().addr();
        start..start + part.len()
    }

    fn applied(mut self) -> Bytes {
        self.edits.sort_by_key(|(place, _)| place.start);
        let more: usize = self.edits.iter().map(|(_, new)| new.len()).sum();
        let mut changed = BytesMut::with_capacity(self.text.len() + more);
        let mut passed = 0;
        for (place, new) in &self.edits {
            changed.extend_from_slice(&self.text.as_bytes()[passed..place.start]);
            changed.extend_from_slice(new.as_bytes());
            passed = place.end;
        }
        changed.extend_from_slice(&self.text.as_bytes()[passed..]);
        changed.freeze()
    }
}

impl Wanted {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.place.names.iter().map(String::as_str)
    }
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text as one of the parts of a message or of a system prompt.
fn text_block(text: &str) -> String {
    format!(r#"{{"type":"text","text":{}}}"#, quoted(text))
}

/// The first item of an array.
fn first_of(array: &str) -> Option<&str> {
    let items = array.strip_prefix('[')?;
    let mut values = serde_json::Deserializer::from_str(items).into_iter::<&RawValue>();
    values.next()?.ok().map(RawValue::get)
}

/// An object, as far as it is of interest.
struct Object<'a> {
    text: &'a str,
    is_empty: bool,
    found: Vec<(String, &'a str)>,
}

impl<'a> Object<'a> {
    /// Reads an object and finds the fields with these names.
    ///
    /// # Errors
    /// When it isn't one, or one of them is there twice, or in another case.
    fn read(text: &'a str, names: &[&str]) -> Result<Self, Conflict> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let read = Fields(names).deserialize(&mut parser);
        let read = read.and_then(|read| parser.end().map(|()| read));
        // The parser's own words may have a part of the text.
        let (found, is_empty) = read.map_err(|_| "it is not a JSON object".to_owned())?;
        for name in names {
            let mut same = found.iter().filter(|(key, _)| is_alike(key, name));
            match (same.next(), same.next()) {
                (Some(_), Some(_)) => return Err(format!("`{name}` is given twice")),
                (Some((key, _)), None) if key != name => {
                    return Err(format!(
                        "a field is `{name}` but for its case, and some backends read it so: write `{name}`"
                    ));
                }
                _ => {}
            }
        }
        let at = text.find('{').unwrap_or_default();
        Ok(Self {
            text: &text[at..],
            is_empty,
            found,
        })
    }

    /// A field's value, whatever it is.
    fn raw(&self, name: &str) -> Option<&'a str> {
        let found = self.found.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| *value)
    }

    /// A field's value, unless it is `null`.
    fn get(&self, name: &str) -> Option<&'a str> {
        self.raw(name).filter(|value| *value != "null")
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// Whether some backends read one key as the other: those in Go, whatever their case.
fn is_alike(one: &str, other: &str) -> bool {
    // Both ways, for the Kelvin sign and the long s.
    fn folded(text: &str) -> impl Iterator<Item = char> {
        text.chars()
            .flat_map(char::to_lowercase)
            .flat_map(char::to_uppercase)
    }
    folded(one).eq(folded(other))
}

/// Reads the fields that are alike one of these names, and whether there is none at all.
struct Fields<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = (Vec<(String, &'de str)>, bool);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = (Vec<(String, &'de str)>, bool);
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut is_empty) = (Vec::new(), true);
        while let Some(key) = map.next_key::<String>()? {
            is_empty = false;
            if self.0.iter().any(|name| is_alike(&key, name)) {
                let value: &RawValue = map.next_value()?;
                found.push((key, value.get()));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((found, is_empty))
    }
}
