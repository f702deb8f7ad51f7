//! Finds fields of a JSON object in its text, so that all else can stay as it is.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, fmt};

/// Why a preset can't be put into a request: a sentence for its caller, without any of its content.
pub(crate) type Conflict = String;

/// An object, as far as it is of interest.
pub(super) struct Object<'a> {
    pub text: &'a str,
    pub is_empty: bool,
    found: Vec<(String, &'a str)>,
}

impl<'a> Object<'a> {
    /// Reads an object and finds the fields with these names.
    ///
    /// # Errors
    /// When it isn't one, or one of them is there twice, or in another case.
    pub fn read(text: &'a str, names: &[&str]) -> Result<Self, Conflict> {
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
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        let found = self.found.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| *value)
    }

    /// A field's value, unless it is `null`.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.raw(name).filter(|value| *value != "null")
    }

    pub fn has(&self, name: &str) -> bool {
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

/// The first item of an array.
pub(super) fn first_of(array: &str) -> Option<&str> {
    let items = array.strip_prefix('[')?;
    let mut values = serde_json::Deserializer::from_str(items).into_iter::<&RawValue>();
    values.next()?.ok().map(RawValue::get)
}

/// The names of an object's fields; `None` if it is none.
pub(super) fn names_of(object: &str) -> Option<Vec<String>> {
    let fields: BTreeMap<String, IgnoredAny> = serde_json::from_str(object).ok()?;
    Some(fields.into_keys().collect())
}
