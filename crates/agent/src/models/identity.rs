//! Whether a server is a provider's backend, as far as its list of models shows.
//!
//! Any program may listen on a backend's port and answer 200, so an answer alone shows nothing. A list that has one of the
//! provider's models does, short of asking for a completion.

use super::dialects;
use crate::config::{ModelConfig, ProviderConfig};
use reveille_domain::{ModelDetails, ModelName, latest_alias};
use serde_json::Value;
use std::collections::BTreeMap;

/// The most names of a kind that a reason has.
const NAMED: usize = 3;
/// How much of a name it has.
const NAME_CHARS: usize = 40;

/// What a backend's list must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The backend's names of which it must list at least one; with none, any list will do.
    models: Vec<ModelName>,
}

/// Why a server isn't the provider's backend; a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("another server listens there: its answer to /v1/models is no list of models")]
    NoList,
    /// It may not have found its models yet.
    #[error("the server there lists no models, but `models` has {0}")]
    NoModels(String),
    #[error("the server there lists {listed}, not {wanted}")]
    OtherModels { listed: String, wanted: String },
}

impl Identity {
    /// What the list of a provider's backend must show; `None` if its config doesn't want that checked.
    #[must_use]
    pub fn of(provider: &ProviderConfig) -> Option<Self> {
        let models = provider.models.iter().flatten();
        let models = models.map(|ModelConfig { id, .. }| id.clone()).collect();
        provider.probe.check_models.then_some(Self { models })
    }

    /// Whether any list will do.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.models.is_empty()
    }

    /// The first of the models that it must list.
    pub(crate) fn first_model(&self) -> Option<&str> {
        self.models.first().map(ModelName::as_str)
    }

    /// That of the models which has this name.
    pub(crate) fn model(&self, name: &str) -> Option<&str> {
        let mut models = self.models.iter();
        let found = models.find(|model| is_name_of(name, model));
        found.map(ModelName::as_str)
    }

    /// Checks an answer to `/v1/models`.
    ///
    /// # Errors
    /// Why it isn't the provider's backend that answered.
    pub fn check(&self, answer: &Value) -> Result<(), Mismatch> {
        let listed = dialects::models(answer).ok_or(Mismatch::NoList)?;
        let aliases: Vec<_> = dialects::aliases(answer).collect();
        let is_listed = |model| lists(&listed, &aliases, model);
        if self.is_any() || self.models.iter().any(is_listed) {
            return Ok(());
        }
        let wanted = names(self.models.iter());
        if listed.is_empty() {
            return Err(Mismatch::NoModels(wanted));
        }
        let listed = names(listed.keys());
        Err(Mismatch::OtherModels { listed, wanted })
    }
}

/// Whether a model is among those, or among their aliases. Servers differ in whether case and the tag `latest` matter, and this is
/// about the server, not about the name.
fn lists(listed: &BTreeMap<ModelName, ModelDetails>, aliases: &[&str], model: &ModelName) -> bool {
    let is = |name: &str| is_name_of(name, model);
    let mut listed = listed.keys().map(ModelName::as_str);
    listed.any(is) || aliases.iter().copied().any(is)
}

fn is_name_of(name: &str, model: &ModelName) -> bool {
    let same = |model: &str| name.eq_ignore_ascii_case(model);
    same(model.as_str()) || latest_alias(model.as_str()).as_deref().is_some_and(same)
}

/// The command with which an Ollama gets a model, unless a shell or `ollama` would read its name as something else.
pub(crate) fn pull_command(model: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".:/_-".contains(c);
    (model.chars().all(plain) && !model.starts_with('-')).then(|| format!("ollama pull {model}"))
}

/// A few names for a sentence, such as "`a`, `b`, `c` and 2 more".
fn names<'a>(all: impl ExactSizeIterator<Item = &'a ModelName>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let name = |name: &ModelName| {
        let name = name.as_str();
        let cut = name.char_indices().nth(NAME_CHARS);
        cut.map_or_else(|| format!("`{name}`"), |(end, _)| format!("`{}…`", &name[..end]))
    };
    let named: Vec<_> = all.take(NAMED).map(name).collect();
    match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use serde_json::json;

    fn identity(rest: &str) -> Option<Identity> {
        let wake = "[provider.wake]\ntype = \"http\"\nurl = \"http://127.0.0.1:1/wake\"";
        let text = format!("[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n{rest}\n{wake}\n");
        let config = Config::parse(&text, "test.toml", &|_| None).expect("legal");
        Identity::of(&config.providers[0])
    }

    fn list(names: &[&str]) -> Value {
        let entries: Vec<_> = names.iter().map(|name| json!({ "id": name })).collect();
        json!({ "object": "list", "data": entries })
    }

    #[test]
    fn a_list_with_one_of_the_models_is_the_backends_whichever_way_it_names_it() {
        let of = |models: &str| identity(&format!("models = [{models}]")).expect("checked");
        for (models, answer) in [
            ("\"m\"", list(&["other", "m"])),
            ("\"a\", \"m\"", list(&["m"])),
            ("{ id = \"Org/M\", as = \"m\" }", list(&["Org/M"])),
            ("\"qwen3\"", list(&["qwen3:latest"])),
            ("\"qwen3:latest\"", list(&["qwen3"])),
            ("\"Qwen3\"", list(&["qwen3:latest"])),
            ("\"Qwen3:8b\"", list(&["qwen3:8b"])),
            (
                "\"m\"",
                json!({ "data": [{ "id": "m.gguf", "aliases": ["x", "m"] }] }),
            ),
            ("\"m\"", json!([{ "id": "m" }])),
        ] {
            assert_eq!(of(models).check(&answer), Ok(()), "{models}: {answer}");
        }
        let renamed = of("{ id = \"Org/M\", as = \"m\" }").check(&list(&["m"]));
        assert!(renamed.is_err(), "the public name is Reveille's own");
        assert!(of("\"qwen3\"").check(&list(&["qwen3:8b"])).is_err());
    }

    #[test]
    fn without_models_any_list_will_do_but_nothing_else() {
        let any = identity("").expect("checked");
        for answer in [list(&[]), list(&["m"]), json!({ "object": "list", "data": null })] {
            assert_eq!(any.check(&answer), Ok(()), "{answer}");
        }
        for answer in [json!({ "error": "no" }), json!("<html>"), json!([]), json!([1])] {
            assert_eq!(any.check(&answer), Err(Mismatch::NoList), "{answer}");
        }
    }

    #[test]
    fn a_config_may_do_without_as_one_does_that_wakes_nothing() {
        let plain = "[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\nmodels = [\"m\"]\n";
        let of = |text: &str| {
            let config = Config::parse(text, "test.toml", &|_| None).expect("legal");
            Identity::of(&config.providers[0])
        };
        assert_eq!(of(plain), None);
        assert!(of(&format!("{plain}probe = {{ check_models = true }}\n")).is_some());
        assert_eq!(
            identity("models = [\"m\"]\nprobe = { check_models = false }"),
            None
        );
    }

    #[test]
    fn a_reason_names_a_few_models_of_each_kind() {
        let of = |models: &str, answer: &Value| {
            let wanted = identity(&format!("models = [{models}]")).expect("checked");
            wanted.check(answer).expect_err("another server").to_string()
        };
        assert_eq!(
            of("\"m\"", &list(&["e", "d", "c", "b", "a"])),
            "the server there lists `a`, `b`, `c` and 2 more, not `m`"
        );
        assert_eq!(
            of("\"m\", \"n\"", &list(&[])),
            "the server there lists no models, but `models` has `m`, `n`"
        );
        let long = of("\"m\"", &list(&[&"ü".repeat(100)]));
        assert!(
            long.contains(&format!("lists `{}…`, not", "ü".repeat(40))),
            "{long}"
        );
    }
}
