//! Finds what a person names: a provider without its agent, a key by its name or the beginning of its id.

use super::{
    ApiClient,
    format::{Row, field, printable},
};
use crate::failure::Failure;
use anyhow::anyhow;
use reveille_agent::config::nearest;
use reveille_domain::{AgentName, KeyId, ProviderId};

/// How much of an id must be given at least.
const MIN_PREFIX: usize = 4;

/// The provider that is called `given`: its id, or its name alone if only one agent has it.
pub async fn provider(client: &ApiClient, given: &str) -> Result<ProviderId, Failure> {
    match client.rows("/reveille/v1/providers", &[], usize::MAX).await {
        Ok(rows) => Ok(provider_of(&rows, given)?),
        // A key may wake what it may not list.
        Err(failure) => given.parse().map_err(|_| failure),
    }
}

/// Fails if a list is empty because nobody knows the agent by which it was filtered, rather than because it has nothing in it.
pub async fn check_agent(client: &ApiClient, given: Option<&AgentName>, rows: usize) -> Result<(), Failure> {
    let Some(given) = given.filter(|_| rows == 0) else {
        return Ok(());
    };
    let mut known = vec![];
    for list in ["/reveille/v1/agents", "/reveille/v1/providers"] {
        // A key may see a list and not the agents.
        let Ok(rows) = client.rows(list, &[], usize::MAX).await else {
            return Ok(());
        };
        known.extend(rows);
    }
    Ok(agent_of(&known, given)?)
}

fn agent_of(rows: &[Row], given: &AgentName) -> anyhow::Result<()> {
    let known = rows.iter().map(|row| field(row, "agent"));
    if known.clone().any(|agent| agent == given.as_str()) {
        return Ok(());
    }
    Err(anyhow!(
        "no agent is called `{given}`{}",
        suggestion(given.as_str(), known, "`reveille agent list` lists them")
    ))
}

/// The key that is called `given`: by its id, the beginning of its id, or its name.
pub async fn key(client: &ApiClient, given: &str) -> Result<KeyId, Failure> {
    Ok(key_of(
        &client.rows("/reveille/v1/keys", &[], usize::MAX).await?,
        given,
    )?)
}

fn provider_of(rows: &[Row], given: &str) -> anyhow::Result<ProviderId> {
    let shown = printable(given);
    let all = |of: &dyn Fn(&Row) -> bool| -> Vec<&str> {
        rows.iter()
            .filter(|row| of(row))
            .map(|row| field(row, "id"))
            .collect()
    };
    let called = all(&|row| field(row, "id") == given || field(row, "provider") == given);
    match called.as_slice() {
        [one] => return Ok(one.parse()?),
        [] => {}
        several => {
            let agents = several.len();
            return Err(anyhow!(
                "{agents} agents have a provider `{shown}`: name one of {}",
                several.join(", ")
            ));
        }
    }
    let has_model = |row: &Row| {
        let behind = |owner: &str| given.strip_prefix(owner).and_then(|rest| rest.strip_prefix('/'));
        let spellings = [Some(given), behind(field(row, "agent")), behind(field(row, "id"))];
        let mut models = row["models"].as_array().into_iter().flatten();
        models.any(|model| spellings.contains(&model.as_str()) && model.is_string())
    };
    match all(&has_model).as_slice() {
        [] => {}
        [of] => {
            return Err(anyhow!(
                "`{shown}` is a model, and its provider is {of}: name that one"
            ));
        }
        several => {
            return Err(anyhow!(
                "`{shown}` is a model of several providers: name one of {}",
                several.join(", ")
            ));
        }
    }
    let known = rows
        .iter()
        .flat_map(|row| [field(row, "id"), field(row, "provider")]);
    Err(anyhow!(
        "no provider is called `{shown}`{}",
        suggestion(given, known, "`reveille providers` lists them")
    ))
}

fn key_of(rows: &[Row], given: &str) -> anyhow::Result<KeyId> {
    let shown = printable(given);
    let ids = |of: &dyn Fn(&Row) -> bool| -> Vec<&str> {
        rows.iter()
            .filter(|row| of(row))
            .map(|row| field(row, "id"))
            .collect()
    };
    let is_usable = |row: &Row| field(row, "status") == "issued";
    let by_name = ids(&|row| field(row, "name") == given && is_usable(row));
    let by_id = ids(&|row| field(row, "id") == given);
    let by_prefix = ids(&|row| given.len() >= MIN_PREFIX && field(row, "id").starts_with(given));
    // Revoking a revoked key again changes nothing, by its name too.
    let once_by_name = ids(&|row| field(row, "name") == given);
    for found in [by_id, by_name, by_prefix, once_by_name] {
        match found.as_slice() {
            [one] => return Ok(one.parse()?),
            [] => {}
            several => {
                return Err(anyhow!(
                    "`{shown}` may be any of the keys {}: name one by its id",
                    several.join(", ")
                ));
            }
        }
    }
    let known = rows
        .iter()
        .filter(|row| is_usable(row))
        .flat_map(|row| [field(row, "id"), field(row, "name")]);
    Err(anyhow!(
        "no key is called `{shown}`{}",
        suggestion(given, known, "`reveille key list` lists them")
    ))
}

/// The known name that was probably meant, or else how to list all.
fn suggestion<'a>(given: &str, known: impl Iterator<Item = &'a str>, list: &str) -> String {
    match nearest(given, known) {
        Some(meant) => format!(", did you mean {}?", printable(meant)),
        None => format!("; {list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_provider_is_found_by_its_id_or_its_name_alone_and_a_model_is_told_from_it() {
        let provider = |id: &str, models: &[&str]| {
            let (agent, name) = id.split_once('/').unwrap();
            json!({"id": id, "agent": agent, "provider": name, "models": models})
        };
        let rows = [
            provider("gpu-box/ollama", &["qwen2.5:7b"]),
            provider("gpu-box/vllm", &["qwen3-8b"]),
            provider("nas/ollama", &["org/phi", "shared"]),
            provider("nas/gpu1", &["shared"]),
        ];
        let found = |given: &str| {
            provider_of(&rows, given).map_or_else(|error| error.to_string(), |id| id.to_string())
        };
        for (given, expected) in [
            ("gpu-box/ollama", "gpu-box/ollama"),
            ("vllm", "gpu-box/vllm"),
            (
                "ollama",
                "2 agents have a provider `ollama`: name one of gpu-box/ollama, nas/ollama",
            ),
            (
                "gpu-box/qwen2.5:7b",
                "`gpu-box/qwen2.5:7b` is a model, and its provider is gpu-box/ollama: name that one",
            ),
            (
                "qwen3-8b",
                "`qwen3-8b` is a model, and its provider is gpu-box/vllm: name that one",
            ),
            (
                "nas/org/phi",
                "`nas/org/phi` is a model, and its provider is nas/ollama: name that one",
            ),
            (
                "nas/ollama/org/phi",
                "`nas/ollama/org/phi` is a model, and its provider is nas/ollama: name that one",
            ),
            (
                "nas/shared",
                "`nas/shared` is a model of several providers: name one of nas/ollama, nas/gpu1",
            ),
            (
                "gpu-box/olama",
                "no provider is called `gpu-box/olama`, did you mean gpu-box/ollama?",
            ),
            ("x", "no provider is called `x`; `reveille providers` lists them"),
            (
                "\u{1b}[2J",
                "no provider is called `\\u001b[2J`; `reveille providers` lists them",
            ),
        ] {
            assert!(found(given).starts_with(expected), "{given}: {}", found(given));
        }
    }

    #[test]
    fn an_agent_that_nobody_knows_is_told_with_a_similar_one() {
        let rows = [
            json!({"agent": "gpu-box"}),
            json!({"agent": "nas", "provider": "ollama"}),
        ];
        let found = |given: &str| {
            let given = AgentName::parse(given).unwrap();
            agent_of(&rows, &given).map_or_else(|error| error.to_string(), |()| "known".to_owned())
        };
        for (given, expected) in [
            ("gpu-box", "known"),
            ("nas", "known"),
            ("gpu-bx", "no agent is called `gpu-bx`, did you mean gpu-box?"),
            (
                "foo",
                "no agent is called `foo`; `reveille agent list` lists them",
            ),
        ] {
            assert_eq!(found(given), expected, "{given}");
        }
    }

    #[test]
    fn a_key_is_found_by_its_id_the_beginning_of_it_or_its_name() {
        let key = |id: &str, name: &str, status: &str| json!({"id": id, "name": name, "status": status});
        let rows = [
            key("k7mq2v9x4a1b", "laptop", "issued"),
            key("k7mq3v9x4a1b", "laptop", "revoked"),
            key("zz00zz00zz00", "ci", "issued"),
            key("zz11zz00zz00", "ci", "issued"),
            key("aa00aa00aa00", "old", "revoked"),
        ];
        let found =
            |given: &str| key_of(&rows, given).map_or_else(|error| error.to_string(), |id| id.to_string());
        for (given, expected) in [
            ("k7mq3v9x4a1b", "k7mq3v9x4a1b"),
            ("k7mq2", "k7mq2v9x4a1b"),
            ("laptop", "k7mq2v9x4a1b"),
            ("old", "aa00aa00aa00"),
            (
                "k7mq",
                "`k7mq` may be any of the keys k7mq2v9x4a1b, k7mq3v9x4a1b: name one by its id",
            ),
            ("none", "no key is called `none`; `reveille key list` lists them"),
            (
                "ci",
                "`ci` may be any of the keys zz00zz00zz00, zz11zz00zz00: name one by its id",
            ),
            ("laptpo", "no key is called `laptpo`, did you mean laptop?"),
        ] {
            assert_eq!(found(given), expected, "{given}");
        }
    }
}
