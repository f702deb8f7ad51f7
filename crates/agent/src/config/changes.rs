//! What a config changes of the one before it, provider by provider.
//!
//! Both structures are taken apart field by field, so that a new key has to be given its place here.

use super::{
    trust::Trust,
    types::{AgentConfig, Config, ProviderConfig},
};
use reveille_domain::ProviderName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a config changes of one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added,
    /// It is no longer there.
    Removed,
    /// Some of its keys differ, and its backend can go on as it is.
    Adjusted {
        /// The keys, such as `sleep`.
        keys: Vec<String>,
    },
    /// Some of its keys differ, and at least one of them says what its backend is or whom it shares with. So requests
    /// finish, a served backend ends, and the provider starts again.
    Restarted {
        /// The keys, such as `wake`.
        keys: Vec<String>,
    },
}

/// The keys of `[agent]` that differ and that a running agent can't change, such as `agent.name`.
#[must_use]
pub fn fixed_keys(old: &AgentConfig, new: &AgentConfig) -> Vec<&'static str> {
    let AgentConfig {
        name,
        nats,
        allow_plaintext,
        credentials,
        ca,
        heartbeat: _,
        quiet_hours: _,
    } = old;
    [
        ("agent.name", *name != new.name),
        ("agent.nats", *nats != new.nats),
        ("agent.allow_plaintext", *allow_plaintext != new.allow_plaintext),
        ("agent.credentials", *credentials != new.credentials),
        ("agent.ca", *ca != new.ca),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

/// The providers that differ, by name.
#[must_use]
pub fn changes(old: &Config, new: &Config) -> BTreeMap<ProviderName, Change> {
    let [old, new] = [old, new].map(|config| {
        let named = config.providers.iter().map(|provider| (&provider.name, provider));
        named.collect::<BTreeMap<_, _>>()
    });
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let change = |name| match (old.get(name), new.get(name)) {
        (Some(old), Some(new)) => changed(old, new),
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        (None, None) => None,
    };
    names
        .into_iter()
        .filter_map(|name| Some(((**name).clone(), change(*name)?)))
        .collect()
}

fn changed(old: &ProviderConfig, new: &ProviderConfig) -> Option<Change> {
    // The steps of its recipes trust what the provider does, which is compared by itself.
    let [old, new] = [old, new].map(|provider| provider.clone().with_trust_in_steps(&Trust::default()));
    let ProviderConfig {
        name: _,
        base_url,
        trust,
        api_key,
        models,
        presets,
        answer_model,
        answer_timeout,
        first_byte_timeout,
        extra_paths,
        balancing,
        probe,
        wake,
        sleep,
        exclusive,
        persistent,
        max_group_wait,
        cancel_wake,
    } = &old;
    let steps = |provider: &ProviderConfig| provider.wake.as_ref().map(|wake| wake.steps.clone());
    let keys = [
        ("base_url", *base_url != new.base_url),
        (
            "ca",
            (&trust.file, &trust.certificates) != (&new.trust.file, &new.trust.certificates),
        ),
        ("insecure_skip_verify", trust.skip_verify != new.trust.skip_verify),
        ("api_key", *api_key != new.api_key),
        ("models", *models != new.models),
        ("preset", *presets != new.presets),
        ("answer_model", *answer_model != new.answer_model),
        ("answer_timeout", *answer_timeout != new.answer_timeout),
        (
            "first_byte_timeout",
            *first_byte_timeout != new.first_byte_timeout,
        ),
        ("extra_paths", *extra_paths != new.extra_paths),
        ("weight", balancing.weight() != new.balancing.weight()),
        ("priority", balancing.priority() != new.balancing.priority()),
        (
            "max_concurrency",
            balancing.max_concurrency() != new.balancing.max_concurrency(),
        ),
        ("probe", *probe != new.probe),
        ("wake", *wake != new.wake),
        ("sleep", *sleep != new.sleep),
        ("exclusive", *exclusive != new.exclusive),
        ("persistent", *persistent != new.persistent),
        ("max_group_wait", *max_group_wait != new.max_group_wait),
        ("cancel_wake", *cancel_wake != new.cancel_wake),
    ];
    let keys: Vec<_> = keys
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| key.to_owned())
        .collect();
    let another = *base_url != new.base_url || *exclusive != new.exclusive || steps(&old) != steps(&new);
    match keys {
        keys if keys.is_empty() => None,
        keys if another => Some(Change::Restarted { keys }),
        keys => Some(Change::Adjusted { keys }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"
        [agent]
        name = "box"
        [[provider]]
        name = "p"
        base_url = "http://127.0.0.1:1"
        models = ["m"]
        [provider.wake]
        type = "http"
        url = "http://127.0.0.1:1/wake"
        [provider.sleep]
        type = "http"
        url = "http://127.0.0.1:1/sleep"
    "#;

    fn config(text: &str) -> Config {
        Config::parse(text, "test.toml", &|_| None).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// What this replacement in the file changes of `p`.
    fn change(from: &str, to: &str) -> Option<Change> {
        assert!(BASE.contains(from), "{from}");
        let name = ProviderName::parse("p").expect("legal");
        changes(&config(BASE), &config(&BASE.replace(from, to))).remove(&name)
    }

    #[test]
    fn what_a_backend_is_and_whom_it_shares_with_need_a_restart_of_its_provider_and_the_rest_does_not() {
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        let restarted = |names: &[&str]| Some(Change::Restarted { keys: keys(names) });
        let adjusted = |names: &[&str]| Some(Change::Adjusted { keys: keys(names) });
        assert_eq!(change("\"m\"", "\"m\" "), None);
        assert_eq!(
            change(
                "base_url = \"http://127.0.0.1:1\"",
                "base_url = \"http://127.0.0.1:2\""
            ),
            restarted(&["base_url"])
        );
        assert_eq!(change("/wake", "/wake2"), restarted(&["wake"]));
        assert_eq!(
            change("models = [\"m\"]", "models = [\"m\"]\nexclusive = \"gpu0\""),
            restarted(&["exclusive"])
        );
        let without_wake = "type = \"http\"\n        url = \"http://127.0.0.1:1/wake\"";
        assert!(BASE.contains(without_wake));
        assert_eq!(
            change("models = [\"m\"]", "models = [\"m\", \"n\"]"),
            adjusted(&["models"])
        );
        assert_eq!(
            change("models = [\"m\"]", "api_key = \"k\"\nmodels = [\"m\"]"),
            adjusted(&["api_key"])
        );
        let folder = tempfile::tempdir().expect("a folder");
        let pem = folder.path().join("box.pem");
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&pem, certificate).expect("written");
        let trusting = format!("ca = \"{}\"\nmodels = [\"m\"]", pem.display());
        assert_eq!(change("models = [\"m\"]", &trusting), adjusted(&["ca"]));
        let before = config(&BASE.replace("models = [\"m\"]", &trusting));
        std::fs::write(&pem, certificate.replace("AAAA", "BBBB")).expect("renewed");
        let after = config(&BASE.replace("models = [\"m\"]", &trusting));
        let renewed = changes(&before, &after).into_values().next();
        assert_eq!(renewed, adjusted(&["ca"]), "the file's content counts");
        assert_eq!(
            change("/sleep\"", "/sleep\"\nidle_after = \"1m\""),
            adjusted(&["sleep"])
        );
        assert_eq!(
            change("/wake\"", "/wake\"\nmax_wait = \"9s\"\nmax_per_day = 3"),
            adjusted(&["wake"])
        );
        let both = "models = [\"n\"]\nanswer_timeout = \"1m\"\nprobe = { interval = \"1m\" }";
        assert_eq!(
            change("models = [\"m\"]", both),
            adjusted(&["models", "answer_timeout", "probe"])
        );
    }

    #[test]
    fn a_changed_preset_adjusts_the_providers_that_serve_it_and_no_other() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = |more: &str| {
            let other =
                "[[provider]]\nname = \"other\"\nbase_url = \"http://127.0.0.1:3\"\nmodels = [\"n\"]\n";
            let path = file.path().display();
            format!(
                "{BASE}{other}[[preset]]\nname = \"bot\"\nmodel = \"m\"\nsystem = {{ file = \"{path}\" }}\n{more}"
            )
        };
        std::fs::write(file.path(), "You are terse.\n").expect("written");
        let before = config(&text(""));
        let of = |new: &Config| changes(&before, new).into_iter().collect::<Vec<_>>();
        let p = ProviderName::parse("p").expect("legal");
        let keys = vec!["preset".to_owned()];
        let adjusted = [(p, Change::Adjusted { keys })];
        assert_eq!(of(&config(&text(""))), []);
        assert_eq!(of(&config(&text("pinned = { seed = 1 }\n"))), adjusted);
        std::fs::write(file.path(), "You are terse.\n\n").expect("written");
        assert_eq!(
            of(&config(&text(""))),
            [],
            "an editor's white space means nothing"
        );
        std::fs::write(file.path(), "You are very terse.\n").expect("written");
        assert_eq!(of(&config(&text(""))), adjusted, "the file's content counts");
    }

    #[test]
    fn added_and_removed_providers_are_named_and_their_order_means_nothing() {
        let other = "[[provider]]\nname = \"other\"\nbase_url = \"http://127.0.0.1:3\"\n";
        let (one, two) = (config(BASE), config(&format!("{BASE}{other}")));
        let mut turned = two.clone();
        turned.providers.reverse();
        let of = |old, new| {
            changes(old, new)
                .into_iter()
                .map(|(name, change)| (name.to_string(), change))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&one, &two), [("other".to_owned(), Change::Added)]);
        assert_eq!(of(&turned, &one), [("other".to_owned(), Change::Removed)]);
        assert_eq!(of(&two, &turned), []);
    }

    #[test]
    fn keys_that_only_a_restart_of_the_agent_changes_are_named() {
        let fixed = |lines: &str| {
            let new = BASE.replace("name = \"box\"", lines);
            fixed_keys(&config(BASE).agent, &config(&new).agent)
        };
        assert_eq!(
            fixed("name = \"box\"\nheartbeat = \"5s\"\nquiet_hours = [\"22:00-06:00\"]"),
            Vec::<&str>::new()
        );
        assert_eq!(
            fixed("name = \"other\"\nnats = \"nats://127.0.0.1:1\"\ncredentials = \"/k\""),
            ["agent.name", "agent.nats", "agent.credentials"]
        );
        assert_eq!(
            fixed("name = \"box\"\nallow_plaintext = true\nca = \"/ca\""),
            ["agent.allow_plaintext", "agent.ca"]
        );
    }
}
