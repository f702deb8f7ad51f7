//! Tables of keys, from the schema of config files.
//!
//! Beside JSON Schema's own words the schema has three that only this reads: `x-bounds` and `x-default` say in words
//! what no number says, `x-min` and `x-max` bound a duration.

use super::markdown;
use serde_json::{Map, Value};

/// A table of keys.
pub(super) struct Section {
    /// What the page calls it.
    pub(super) name: &'static str,
    /// Where in the schema its keys are.
    at: &'static str,
    /// Keys that have a chapter of their own.
    elsewhere: &'static [&'static str],
}

pub(super) const SECTIONS: [Section; 11] = [
    Section::at("agent", "/$defs/agent"),
    Section::at("provider", "/$defs/provider"),
    Section::at("models", "/$defs/model"),
    Section::at("probe", "/$defs/probe"),
    Section::at("wake", "/$defs/wake"),
    Section::at("sleep", "/$defs/sleep"),
    Section {
        elsewhere: &["type"],
        ..Section::at("http", "/$defs/http")
    },
    Section {
        elsewhere: &["type"],
        ..Section::at("command", "/$defs/command")
    },
    Section {
        elsewhere: &["type"],
        ..Section::at("wol", "/$defs/wol")
    },
    Section {
        elsewhere: &["type"],
        ..Section::at("tcp", "/$defs/tcp")
    },
    Section::at("verify", "/$defs/verify"),
];

impl Section {
    const fn at(name: &'static str, at: &'static str) -> Self {
        Self {
            name,
            at,
            elsewhere: &[],
        }
    }

    /// Its keys: the required ones, then the others by name.
    pub(super) fn keys(&self) -> Vec<Key> {
        let schema: Value = serde_json::from_str(crate::config::SCHEMA).expect("the schema is JSON");
        let section = schema.pointer(self.at).expect("the section is in the schema");
        let required = section["required"].as_array().cloned().unwrap_or_default();
        let properties = section["properties"].as_object().expect("it has keys");
        let known = properties
            .iter()
            .filter(|(name, _)| !self.elsewhere.contains(&name.as_str()));
        let key = |(name, own): (&String, &Value)| Key {
            name: name.clone(),
            required: required.contains(&Value::from(name.as_str())),
            schema: with_definitions(&schema, own),
        };
        let mut keys: Vec<_> = known.map(key).collect();
        let place = |key: &Key| {
            let among = required.iter().position(|name| *name == key.name);
            (among.unwrap_or(usize::MAX), key.name.clone())
        };
        keys.sort_by_key(place);
        keys
    }
}

/// A property together with its definition.
fn with_definitions(schema: &Value, own: &Value) -> Map<String, Value> {
    let mut all = match own["$ref"].as_str() {
        None => Map::new(),
        Some(at) => with_definitions(schema, schema.pointer(&at[1..]).expect("a definition")),
    };
    all.extend(own.as_object().expect("a schema").clone());
    all
}

/// A key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) required: bool,
    schema: Map<String, Value>,
}

/// What bounds a key's values in a way that can be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bound {
    Duration { min: Option<String>, max: String },
    Bytes { min: u64, max: u64 },
    Entries { min: u64, max: u64 },
    Integer { min: u64, max: u64 },
    OneOf(Vec<String>),
}

impl Key {
    fn text(&self, word: &str) -> Option<&str> {
        self.schema.get(word)?.as_str()
    }

    fn number(&self, word: &str) -> Option<u64> {
        self.schema.get(word)?.as_u64()
    }

    /// The default as TOML; nothing when the schema says it in words only, or there is none.
    pub(super) fn default(&self) -> Option<String> {
        self.schema.get("default").map(Value::to_string)
    }

    pub(super) fn bound(&self) -> Option<Bound> {
        let bytes = (self.number("minLength").unwrap_or(0), self.number("maxLength"));
        let entries = (self.number("minItems").unwrap_or(0), self.number("maxItems"));
        if let Some(max) = self.text("x-max") {
            let min = self.text("x-min").map(str::to_owned);
            return Some(Bound::Duration {
                min,
                max: max.to_owned(),
            });
        }
        if let Some(words) = self.schema.get("enum").and_then(Value::as_array) {
            return Some(Bound::OneOf(words.iter().map(Value::to_string).collect()));
        }
        match (
            bytes,
            entries,
            self.number("maxProperties"),
            self.number("maximum"),
        ) {
            ((min, Some(max)), ..) => Some(Bound::Bytes { min, max }),
            (_, (min, Some(max)), ..) => Some(Bound::Entries { min, max }),
            (_, _, Some(max), _) => Some(Bound::Entries { min: 0, max }),
            (_, _, _, Some(max)) => Some(Bound::Integer {
                min: self.number("minimum").unwrap_or(0),
                max,
            }),
            _ => None,
        }
    }

    fn row(&self) -> Vec<String> {
        let default = match (self.required, self.default(), self.text("x-default")) {
            (true, ..) => "required".to_owned(),
            (false, Some(default), _) => format!("`{default}`"),
            (false, None, words) => words.unwrap_or("none").to_owned(),
        };
        let mut bounds: Vec<String> = self.bound().iter().map(Bound::words).collect();
        bounds.extend(self.text("x-bounds").map(str::to_owned));
        if self.text("type") == Some("boolean") {
            bounds.push("`true` or `false`".to_owned());
        }
        assert!(
            !bounds.is_empty(),
            "{} has no bounds: {:?}",
            self.name,
            self.schema
        );
        let what = self.text("description");
        let what = what.unwrap_or_else(|| panic!("{} has no description", self.name));
        vec![
            format!("`{}`", self.name),
            default,
            bounds.join("; "),
            what.to_owned(),
        ]
    }
}

impl Bound {
    fn words(&self) -> String {
        let most = |min: u64, max: String, what: &str| match min {
            0 => format!("at most {max} {what}"),
            _ => format!("{min} to {max} {what}"),
        };
        match self {
            Self::Duration { min: None, max } => format!("more than 0, at most `\"{max}\"`"),
            Self::Duration { min: Some(min), max } => format!("`\"{min}\"` to `\"{max}\"`"),
            Self::Bytes { min, max } if max.is_multiple_of(1024) => {
                most(*min, (max / 1024).to_string(), "KiB")
            }
            Self::Bytes { min, max } => most(*min, max.to_string(), "bytes"),
            Self::Entries { min, max } => most(*min, max.to_string(), "entries"),
            Self::Integer { min, max } => format!("{min} to {max}"),
            Self::OneOf(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
                words.join(" or ")
            }
        }
    }
}

pub(super) fn table(name: &str) -> String {
    let section = SECTIONS.iter().find(|section| section.name == name);
    let section = section.unwrap_or_else(|| panic!("there is no table {name}"));
    markdown(
        &["key", "default", "bounds", "what it is"],
        section.keys().iter().map(Key::row),
    )
}
