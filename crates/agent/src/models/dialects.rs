//! What servers say of a model, each in its own words.

use reveille_domain::{Capability, MAX_CAPABILITIES, ModelDetails, ModelName};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Where the context length is: in vLLM and SGLang, OpenRouter and others, LM Studio (of a model in memory, then of any), Groq,
/// llama.cpp (as it runs, then as it was trained), and TabbyAPI.
const CONTEXT_LENGTH: [&str; 8] = [
    "/max_model_len",
    "/context_length",
    "/loaded_context_length",
    "/max_context_length",
    "/context_window",
    "/meta/n_ctx",
    TRAINED_LENGTH,
    "/parameters/max_seq_len",
];
/// What a model was trained for. It may run with less.
const TRAINED_LENGTH: &str = "/meta/n_ctx_train";
/// Larger numbers are no context length.
const MAX_CONTEXT_LENGTH: u64 = 1 << 40;
/// The parameter of an Ollama model that limits its context.
const NUM_CTX: &str = "num_ctx";

/// The models of a list with what it says of each, by name. `None` if it isn't a list.
pub(super) fn models(list: &Value) -> Option<BTreeMap<ModelName, ModelDetails>> {
    let mut models: BTreeMap<_, _> = entries(list)?
        .iter()
        .filter_map(|entry| {
            let id = entry.get("id")?.as_str()?;
            Some((ModelName::parse(id).ok()?, details(entry)))
        })
        .collect();
    // Beside its list in OpenAI's form, llama.cpp has one in Ollama's, with the capabilities.
    for entry in list["models"].as_array().into_iter().flatten() {
        let name = entry["model"]
            .as_str()
            .and_then(|name| ModelName::parse(name).ok());
        if let Some(details) = name.and_then(|name| models.get_mut(&name)) {
            details.capabilities = union(&details.capabilities, &capabilities(&entry["capabilities"]));
        }
    }
    Some(models)
}

/// The entries of a list. Together answers with nothing else, and Ollama without a model has `null`.
fn entries(list: &Value) -> Option<&[Value]> {
    match (list, list.get("data")) {
        (Value::Array(bare), _) => {
            let named = !bare.is_empty() && bare.iter().all(|entry| entry["id"].is_string());
            named.then_some(bare)
        }
        (_, Some(Value::Array(entries))) => Some(entries),
        (_, Some(Value::Null)) if list["object"] == "list" => Some(&[]),
        _ => None,
    }
}

/// The other names that llama.cpp answers to, and lists beside the first.
pub(super) fn aliases(list: &Value) -> impl Iterator<Item = &str> {
    let entries = entries(list).unwrap_or_default().iter();
    let aliases = entries.filter_map(|entry| entry["aliases"].as_array());
    aliases.flatten().filter_map(Value::as_str)
}

/// Whether this is a list of llama.cpp that says only how long a context the model was trained for.
pub(super) fn lacks_the_context_it_runs_with(list: &Value) -> bool {
    let entries = list["data"].as_array();
    entries.is_some_and(|entries| match entries.as_slice() {
        [only] => {
            let said = context(only).map(|(place, _)| place);
            only["meta"].is_object() && said.is_none_or(|place| place == TRAINED_LENGTH)
        }
        _ => false,
    })
}

/// The context length in llama.cpp's properties.
pub(super) fn context_of_props(props: &Value) -> Option<u64> {
    length(props.pointer("/default_generation_settings/n_ctx")?)
}

/// What a list's entry says.
fn details(entry: &Value) -> ModelDetails {
    let kind = match entry["type"].as_str() {
        Some("vlm") => Some("vision"),
        Some("embeddings" | "embedding") => Some("embedding"),
        Some(_) | None => None,
    };
    let kind = kind.and_then(|kind| Capability::parse(kind).ok());
    ModelDetails {
        created: entry["created"].as_u64().filter(|created| *created > 0),
        context_length: context(entry).map(|(_, length)| length),
        capabilities: union(&capabilities(&entry["capabilities"]), &kind.into_iter().collect()),
    }
}

/// Where a list's entry has the context length, and the length.
fn context(entry: &Value) -> Option<(&'static str, u64)> {
    let mut found = CONTEXT_LENGTH
        .iter()
        .filter_map(|place| Some((*place, length(entry.pointer(place)?)?)));
    found.next()
}

/// What Ollama's `/api/show` says: the context length that is set for the model, or else what it was trained for.
pub(super) fn shown(answer: &Value) -> ModelDetails {
    let parameters = answer["parameters"].as_str().unwrap_or_default().lines();
    let mut set = parameters.filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [NUM_CTX, number] => number.parse().ok(),
        _ => None,
    });
    let facts = answer["model_info"].as_object().into_iter().flatten();
    let mut trained = facts
        .filter(|(key, _)| key.ends_with(".context_length"))
        .filter_map(|(_, value)| length(value));
    ModelDetails {
        created: None,
        context_length: set.next_back().or_else(|| trained.next()),
        capabilities: capabilities(&answer["capabilities"]),
    }
}

fn length(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .filter(|length| (1..=MAX_CONTEXT_LENGTH).contains(length))
}

/// A list of words, or a table of flags by word.
fn capabilities(value: &Value) -> BTreeSet<Capability> {
    let words = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    let flags = value.as_object().into_iter().flatten();
    let flags = flags.filter_map(|(word, flag)| (*flag == Value::Bool(true)).then_some(word.as_str()));
    let all = words.chain(flags);
    let all = all.filter_map(|word| Capability::parse(&word.to_ascii_lowercase()).ok());
    all.collect()
}

/// Both together, as far as they may be published.
pub(super) fn union(one: &BTreeSet<Capability>, other: &BTreeSet<Capability>) -> BTreeSet<Capability> {
    (one | other).into_iter().take(MAX_CAPABILITIES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is read of one entry, as text.
    fn read(entry: &Value) -> String {
        let models = models(&json!({ "data": [entry] })).expect("a list");
        let details = models.values().next().expect("a model");
        text(details)
    }

    fn text(details: &ModelDetails) -> String {
        let capabilities: Vec<_> = details.capabilities.iter().map(Capability::as_str).collect();
        format!(
            "{:?} {:?} {}",
            details.created,
            details.context_length,
            capabilities.join(",")
        )
    }

    #[test]
    fn each_server_is_understood_in_its_own_words() {
        for (entry, is) in [
            (
                json!({"id": "m", "created": 1_700_000_000, "max_model_len": 262_144, "meta": {"n_ctx_train": 32_768}}),
                "Some(1700000000) Some(262144) ",
            ),
            (
                json!({"id": "m", "created": 0, "meta": {"n_ctx": 8192, "n_ctx_train": 32_768}}),
                "None Some(8192) ",
            ),
            (
                json!({"id": "m", "meta": {"n_ctx_train": 32_768}}),
                "None Some(32768) ",
            ),
            (json!({"id": "m", "meta": null}), "None None "),
            (
                json!({"id": "m", "type": "vlm", "max_context_length": 32_768, "capabilities": ["tool_use"]}),
                "None Some(32768) tool_use,vision",
            ),
            (
                json!({"id": "m", "max_context_length": 32_768, "loaded_context_length": 4096}),
                "None Some(4096) ",
            ),
            (
                json!({"id": "m", "context_window": 131_072, "capabilities": {"Vision": true, "tools": false}}),
                "None Some(131072) vision",
            ),
            (
                json!({"id": "m", "created": -1, "max_model_len": "many", "context_length": 0, "capabilities": "all"}),
                "None None ",
            ),
            (
                json!({"id": "m", "created": 1.5, "max_model_len": u64::MAX, "capabilities": ["a b", "", 7, "x\u{202e}"]}),
                "None None ",
            ),
        ] {
            assert_eq!(read(&entry), is, "{entry}");
        }
        let listed = json!({
            "data": [{"id": "a.gguf"}],
            "models": [{"model": "a.gguf", "capabilities": ["completion", "multimodal"]}, {"model": "b"}],
        });
        let models = models(&listed).expect("a list");
        assert_eq!(models.len(), 1);
        assert_eq!(
            text(&models[&ModelName::parse("a.gguf").expect("legal")]),
            "None None completion,multimodal"
        );
    }

    #[test]
    fn a_list_may_be_bare_or_empty_in_a_way_of_its_own() {
        let bare = models(&json!([{"id": "b"}, {"id": "a", "context_length": 7}])).expect("a list");
        let names: Vec<_> = bare.keys().map(ModelName::as_str).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(models(&json!({"object": "list", "data": null})).is_some_and(|models| models.is_empty()));
        let named = json!({"data": [{"id": "m", "aliases": ["a", 7, "b"]}, {"id": "n"}]});
        assert_eq!(aliases(&named).collect::<Vec<_>>(), ["a", "b"]);
        for other in [
            json!([{"id": "a"}, {}]),
            json!([{"id": 7}]),
            json!({"data": null}),
        ] {
            assert_eq!(models(&other), None, "{other}");
        }
    }

    #[test]
    fn an_ollama_model_has_the_context_that_is_set_for_it() {
        let answer = json!({
            "parameters": "stop \"<|im_end|>\"\nnum_ctx                        8192\ntemperature 0.7",
            "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40_960},
            "capabilities": ["completion", "tools", "thinking"],
        });
        assert_eq!(text(&shown(&answer)), "None Some(8192) completion,thinking,tools");
        let answer = json!({ "model_info": {"qwen3.context_length": 40_960, "qwen3.block_count": 36} });
        assert_eq!(text(&shown(&answer)), "None Some(40960) ");
        assert_eq!(text(&shown(&json!({ "error": "not found" }))), "None None ");
    }

    #[test]
    fn whatever_is_listed_only_names_and_few_words_come_of_it() {
        let entries = [json!({"id": "b"}), json!({"id": "a"}), json!({"id": "a\nb"})];
        let more = [
            json!({"name": "none"}),
            json!("m"),
            json!({"id": "b"}),
            json!({"id": 7}),
        ];
        let entries: Vec<_> = entries.into_iter().chain(more).collect();
        let models = models(&json!({ "data": entries })).expect("a list");
        let names: Vec<_> = models.keys().map(ModelName::as_str).collect();
        assert_eq!(names, ["a", "b"]);
        let many: Vec<_> = (0..100).map(|index| format!("c{index:02}")).collect();
        let capable = read(&json!({"id": "m", "capabilities": many}));
        assert!(capable.ends_with("c14,c15"), "{capable}");
        for list in [json!([]), json!({}), json!({"data": {}}), json!({"error": "no"})] {
            assert_eq!(super::models(&list), None, "{list}");
        }
    }
}
