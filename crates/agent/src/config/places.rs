//! Where each value of a config file stands: for those who show an effective config with its origins.

use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};

/// Where a value stands, and what it takes from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The variables that its text names, in order.
    pub variables: Vec<String>,
}

/// The place of each value of a file that [`Config::parse`](super::Config::parse) has accepted, by its path, such as
/// `provider[0].wake.url`. Empty for a text that is no TOML.
#[must_use]
pub fn places(text: &str) -> BTreeMap<String, Place> {
    let mut places = BTreeMap::new();
    if let Ok(root) = DeTable::parse(text) {
        walk_table(text, "", root.get_ref(), &mut places);
    }
    places
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
        line: text[..offset].bytes().filter(|byte| *byte == b'\n').count() + 1,
        variables: value.as_str().map(variables).unwrap_or_default(),
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

/// The names in `${…}`, without those that `$${` escapes.
fn variables(raw: &str) -> Vec<String> {
    let mut found = vec![];
    let mut rest = raw;
    while let Some(start) = rest.find("${") {
        let escaped = rest[..start].ends_with('$');
        rest = &rest[start + 2..];
        if escaped {
            continue;
        }
        if let Some((name, after)) = rest.split_once('}') {
            found.push(name.to_owned());
            rest = after;
        }
    }
    found
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
