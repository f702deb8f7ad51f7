//! The place of each value in a config file, for showing an effective config with its origins.

use super::{Secret, variables};
use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};

/// The place of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The variables that its text refers to, in order.
    pub variables: Vec<String>,
    /// The text as the file has it; `None` if the value isn't one.
    pub text: Option<Secret>,
}

/// The places of all values of a file that [`Config::parse`](super::Config::parse) accepted, by path, such as
/// `provider[0].wake.url`. Empty if the text isn't TOML.
#[must_use]
pub fn places(text: &str) -> BTreeMap<String, Place> {
    let mut places = BTreeMap::new();
    if let Ok(root) = DeTable::parse(text) {
        walk_table(text, "", root.get_ref(), &mut places);
    }
    places
}

/// The line of an offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}

fn walk_table(text: &str, path: &str, table: &DeTable<'_>, places: &mut BTreeMap<String, Place>) {
    for (key, value) in table {
        let path = match path {
            "" => key.get_ref().to_string(),
            _ => format!("{path}.{}", key.get_ref()),
        };
        walk(text, path, key.span().start, value.get_ref(), places);
    }
}

fn walk(text: &str, path: String, offset: usize, value: &DeValue<'_>, places: &mut BTreeMap<String, Place>) {
    let place = Place {
        line: line_of(text, offset),
        variables: value.as_str().map(variables::names).unwrap_or_default(),
        text: value.as_str().map(|text| Secret::new(text.to_owned())),
    };
    match value {
        DeValue::Table(table) => walk_table(text, &path, table, places),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                walk(text, path, item.span().start, item.get_ref(), places);
            }
        }
        DeValue::String(_)
        | DeValue::Boolean(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Datetime(_) => {}
    }
    places.insert(path, place);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_its_line_and_its_variables() {
        let text = "[agent]\nname = \"a\"\n\n[[provider]]\nname = \"p\"\napi_key = \"x${KEY}$${NO}${B}\"\n\
                    [provider.wake]\ntype = \"command\"\nargs = [\n  \"1\",\n  \"${TWO}\",\n]\n";
        let places = places(text);
        let at = |path: &str| (places[path].line, places[path].variables.join(" "));
        assert_eq!(at("agent.name"), (2, String::new()));
        assert_eq!(at("provider[0].api_key"), (6, "KEY B".to_owned()));
        assert_eq!(at("provider[0].wake.args[1]"), (11, "TWO".to_owned()));
        assert!(super::places("= nonsense").is_empty());
    }
}
