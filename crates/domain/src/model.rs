//! What a backend says of its models, and which of them a name means.

use crate::names::{Capability, ModelName, ProviderId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The most capabilities of one model.
pub const MAX_CAPABILITIES: usize = 16;
/// The tag that Ollama adds to a name without one.
const LATEST: &str = ":latest";

/// What is known of a model beside its name: numbers and single words, so that clients can choose by them while it sleeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDetails {
    /// The earliest time that is known of it, in Unix seconds: when it was made or pulled according to its backend, or when
    /// its agent first heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// How many tokens its prompt and answer may have together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// What it can do; at most [`MAX_CAPABILITIES`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<Capability>,
}

/// The model among those of the provider `id` that a request means by `asked`: the public name itself, or that name after
/// `agent/`, or after `agent/provider/`. With `latest_tag`, the name with or without the tag `latest` comes after these.
#[must_use]
pub fn named<'a>(
    models: &(impl Iterator<Item = &'a ModelName> + Clone),
    latest_tag: bool,
    id: &ProviderId,
    asked: &str,
) -> Option<&'a ModelName> {
    let is = |name: &str| models.clone().find(|model| model.as_str() == name);
    let of_agent = behind(asked, id.agent.as_str());
    let of_provider = of_agent.and_then(|rest| behind(rest, id.provider.as_str()));
    let spellings = [Some(asked), of_agent, of_provider];
    let exact = spellings.into_iter().flatten().find_map(is);
    exact.or_else(|| {
        let other = |name: &str| is(&latest_alias(name).filter(|_| latest_tag)?);
        spellings.into_iter().flatten().find_map(other)
    })
}

/// What follows `name/` in `asked`.
fn behind<'a>(asked: &'a str, name: &str) -> Option<&'a str> {
    asked.strip_prefix(name)?.strip_prefix('/')
}

/// The other name of the same model where a name without a tag means the tag `latest`: `qwen3` for `qwen3:latest`, and the
/// reverse. `None` for a name with another tag.
#[must_use]
pub fn latest_alias(name: &str) -> Option<String> {
    let tagged = |name: &str| name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    match name.strip_suffix(LATEST) {
        Some(plain) => (!plain.is_empty() && !tagged(plain)).then(|| plain.to_owned()),
        None => (!tagged(name)).then(|| format!("{name}{LATEST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(raw: &str) -> ModelName {
        ModelName::parse(raw).expect("legal")
    }

    #[test]
    fn a_request_may_name_a_model_with_its_agent() {
        let id: ProviderId = "box/vllm".parse().expect("legal");
        let models = ["qwen", "box/qwen"].map(model);
        let named = |asked: &str| named(&models.iter(), false, &id, asked).map(ModelName::as_str);
        assert_eq!(named("qwen"), Some("qwen"));
        assert_eq!(named("box/qwen"), Some("box/qwen"), "the exact name first");
        assert_eq!(named("box/box/qwen"), Some("box/qwen"));
        for unknown in ["other/qwen", "boxqwen", "qwen:latest", "qwe", "vllm/qwen", ""] {
            assert_eq!(named(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_request_may_name_a_model_with_its_agent_and_its_provider() {
        let id: ProviderId = "box/qwen".parse().expect("legal");
        let models = ["m", "qwen/m", "tagged:latest"].map(model);
        let named = |asked: &str| named(&models.iter(), true, &id, asked).map(ModelName::as_str);
        assert_eq!(named("box/qwen/m"), Some("qwen/m"), "the agent's model first");
        assert_eq!(named("box/qwen/qwen/m"), Some("qwen/m"));
        assert_eq!(named("box/qwen/tagged"), Some("tagged:latest"));
        for unknown in ["box/vllm/m", "other/qwen/m", "box/qwen/", "box/qwen"] {
            assert_eq!(named(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_latest_tag_may_be_left_out_or_added_where_it_is_implied() {
        let id: ProviderId = "box/ollama".parse().expect("legal");
        let models = [
            "qwen3:latest",
            "llama3",
            "hf.co/org/x:latest",
            "a:7b",
            "both",
            "both:latest",
        ]
        .map(model);
        let named = |asked: &str| named(&models.iter(), true, &id, asked).map(ModelName::as_str);
        for (asked, means) in [
            ("qwen3", Some("qwen3:latest")),
            ("qwen3:latest", Some("qwen3:latest")),
            ("box/qwen3", Some("qwen3:latest")),
            ("llama3:latest", Some("llama3")),
            ("box/llama3:latest", Some("llama3")),
            ("hf.co/org/x", Some("hf.co/org/x:latest")),
            ("both", Some("both")),
            ("both:latest", Some("both:latest")),
            ("a", None),
            ("a:latest", None),
            ("a:7b:latest", None),
            ("qwen3:7b", None),
            (":latest", None),
        ] {
            assert_eq!(named(asked), means, "{asked}");
        }
    }
}
