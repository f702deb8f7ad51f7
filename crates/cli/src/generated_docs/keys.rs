//! Tables of keys, from the schema of config files.
//!
//! Beside JSON Schema's own words the schema has three that only this reads: `x-bounds` and `x-default` say in words
//! what no number says, `x-min` and `x-max` bound a duration.

use super::markdown;
use serde_json::{Map, Value};

/// The tables of keys, by the names of their definitions in the schema.
pub(super) const SECTIONS: [Section; 12] = [
    Section("agent"),
    Section("provider"),
    Section("model"),
    Section("probe"),
    Section("wake"),
    Section("sleep"),
    Section("http"),
    Section("command"),
    Section("wol"),
    Section("tcp"),
    Section("verify"),
    Section("preset"),
];

/// A table of keys.
pub(super) struct Section(pub(super) &'static str);

impl Section {
    /// Its keys: the required ones, then the others by name.
    pub(super) fn keys(&self) -> Vec<Key> {
        let schema: Value = serde_json::from_str(crate::config::SCHEMA).expect("the schema is JSON");
        let section = &schema["$defs"][self.0];
        let required = section["required"].as_array().cloned().unwrap_or_default();
        let properties = section["properties"].as_object().expect("it has keys");
        // The types of steps have a chapter of their own.
        let known = properties.iter().filter(|(name, _)| *name != "type");
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

/// What a bound counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Entries,
    Integer,
}

/// What bounds a key's values in a way that can be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bound {
    Duration { min: Option<String>, max: String },
    Number { min: u64, max: u64, of: Unit },
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
        let numbers = [
            ("minLength", "maxLength", Unit::Bytes),
            ("minItems", "maxItems", Unit::Entries),
            ("minProperties", "maxProperties", Unit::Entries),
            ("minimum", "maximum", Unit::Integer),
        ];
        numbers.into_iter().find_map(|(min, max, of)| {
            let (min, max) = (self.number(min).unwrap_or(0), self.number(max)?);
            Some(Bound::Number { min, max, of })
        })
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
        match self {
            Self::Duration { min: None, max } => format!("more than 0, at most `\"{max}\"`"),
            Self::Duration { min: Some(min), max } => format!("`\"{min}\"` to `\"{max}\"`"),
            Self::Number { min, max, of } => {
                let (max, unit) = match of {
                    Unit::Integer => return format!("{min} to {max}"),
                    Unit::Bytes if max.is_multiple_of(1024) => (max / 1024, "KiB"),
                    Unit::Bytes => (*max, "bytes"),
                    Unit::Entries => (*max, "entries"),
                };
                match min {
                    0 => format!("at most {max} {unit}"),
                    _ => format!("{min} to {max} {unit}"),
                }
            }
            Self::OneOf(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
                words.join(" or ")
            }
        }
    }
}

pub(super) fn table(name: &str) -> String {
    let section = SECTIONS.iter().find(|section| section.0 == name);
    let section = section.unwrap_or_else(|| panic!("there is no table {name}"));
    markdown(
        &["key", "default", "bounds", "what it is"],
        section.keys().iter().map(Key::row),
    )
}
