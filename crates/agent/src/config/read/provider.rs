//! `[[provider]]`: a backend, its models, its probe and its groups.

use super::{
    recipe::{self, MAX_TEXT_BYTES},
    table::{Table, Value},
};
use crate::config::{
    AnswerModelName, BaseUrl, ConfigError, MODELS_PATH, ModelConfig, ProbeConfig, ProviderConfig, Secret,
    Trust, WakeConfig,
};
use reveille_domain::{
    Balancing, CONCURRENCIES, GroupName, MAX_GROUPS, MAX_MODELS, MAX_WAKE_BUDGET, ModelName, PRIORITIES,
    ProviderName, WEIGHTS,
};
use std::{collections::HashSet, time::Duration};

/// How long a backend may stay silent during a request unless `answer_timeout` says otherwise: the default of OpenAI's SDKs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// The default of `max_group_wait`: an answer of a large model may take minutes, and callers wait less than five.
const DEFAULT_MAX_GROUP_WAIT: Duration = Duration::from_secs(120);
/// The default pause between two probes of an idle backend.
const DEFAULT_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The default time-out of a probe.
const DEFAULT_PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// In the place of a base URL that can't be used.
const STAND_IN: &str = "http://127.0.0.1";

const PROVIDER_KEYS: [&str; 17] = [
    "name",
    "base_url",
    "ca",
    "insecure_skip_verify",
    "api_key",
    "models",
    "answer_model",
    "answer_timeout",
    "weight",
    "priority",
    "max_concurrency",
    "probe",
    "wake",
    "sleep",
    "exclusive",
    "persistent",
    "max_group_wait",
];

const ANSWER_MODELS: [(&str, AnswerModelName); 2] = [
    ("backend", AnswerModelName::Backend),
    ("public", AnswerModelName::Public),
];

/// The names used so far.
#[derive(Default)]
pub(super) struct Names {
    providers: HashSet<ProviderName>,
}

pub(super) fn read(mut table: Table<'_>, names: &mut Names) -> Result<ProviderConfig, ConfigError> {
    table.only(&[&PROVIDER_KEYS]);
    let name = table.required("name", |value| {
        let name = value.name(ProviderName::parse)?;
        match names.providers.insert(name.clone()) {
            true => Ok(name),
            false => Err(value.error("another provider has the same name")),
        }
    });
    let base_url = table.required("base_url", |value| value.parsed(BaseUrl::parse));
    let api_key = table.noting("api_key", |value| api_key(&value));
    let models = table.noting("models", models);
    let answer_model = table.noting("answer_model", |value| value.choice(&ANSWER_MODELS));
    let answer_timeout = table.noting("answer_timeout", |value| value.duration());
    let balancing = balancing(&mut table);
    let trust = match &base_url {
        Some(base_url) => {
            let trust = trust(&mut table, base_url);
            table.note(trust)
        }
        None => None,
    };
    // The rest is read for its own mistakes.
    let base_url = base_url.or_else(|| BaseUrl::parse(STAND_IN).ok());
    let base_url = base_url.ok_or_else(ConfigError::noted)?;
    let is_woken = table.has("wake");
    let wake = table.noting("wake", |value| {
        recipe::wake(value.table()?, &base_url, models.as_deref())
    });
    let probe_table = table.table("probe");
    let probe = table
        .note(probe_table)
        .map(|table| probe(table, &base_url, is_woken));
    // What follows depends on these.
    if wake.is_none() && (is_woken || table.means("wake")) {
        return Err(ConfigError::noted());
    }
    let served = wake.as_ref().is_some_and(WakeConfig::serves);
    let sleep = table.optional("sleep", |value| recipe::sleep(value.table()?, wake.as_ref()))?;
    let can_sleep = served || sleep.as_ref().is_some_and(|sleep| !sleep.steps.is_empty());
    let exclusive = table.optional("exclusive", |value| exclusive(value, wake.is_some() && can_sleep))?;
    let exclusive = exclusive.unwrap_or_default();
    let (persistent, max_group_wait) = group_options(&mut table, &exclusive)?;
    let (Some(name), Some(trust), Some(probe)) = (name, trust, probe) else {
        return Err(ConfigError::noted());
    };
    let provider = ProviderConfig {
        name,
        base_url,
        trust,
        api_key,
        models,
        answer_model,
        answer_timeout: answer_timeout.unwrap_or(ANSWER_TIMEOUT),
        balancing,
        probe,
        wake,
        sleep,
        exclusive,
        persistent,
        max_group_wait,
    };
    match provider.wake_spec() {
        Some(spec) if spec.budget() > MAX_WAKE_BUDGET => Err(table.error(format!(
            "the wake's budget and max_group_wait sum to more than {MAX_WAKE_BUDGET:?}"
        ))),
        Some(_) | None => {
            let trust = provider.trust.clone();
            Ok(provider.with_trust_in_steps(&trust))
        }
    }
}

/// `weight`, `priority` and `max_concurrency`.
fn balancing(table: &mut Table<'_>) -> Balancing {
    let weight = table.noting("weight", |value| value.integer(WEIGHTS));
    let priority = table.noting("priority", |value| value.integer(PRIORITIES));
    let max_concurrency = table.noting("max_concurrency", |value| value.integer(CONCURRENCIES));
    let default = Balancing::default();
    let balancing = Balancing::new(
        weight.unwrap_or(default.weight()),
        priority.unwrap_or(default.priority()),
        max_concurrency,
    );
    // Each is within its bounds.
    balancing.unwrap_or_default()
}

/// `exclusive`: the name of a group, or a list of them.
fn exclusive(value: Value<'_>, comes_and_goes: bool) -> Result<Vec<GroupName>, ConfigError> {
    if !comes_and_goes {
        return Err(value.error(
            "is for a provider that can be woken and put to sleep: it needs [provider.wake], and a sleep recipe unless \
             its backend is served by the agent",
        ));
    }
    if !value.is_array() {
        return Ok(vec![value.name(GroupName::parse)?]);
    }
    let empty = value.error("names no group");
    let mut groups = Vec::new();
    for entry in value.array(MAX_GROUPS)? {
        let group = entry.name(GroupName::parse)?;
        if groups.contains(&group) {
            return Err(entry.error("names a group twice"));
        }
        groups.push(group);
    }
    if groups.is_empty() { Err(empty) } else { Ok(groups) }
}

/// `persistent` and `max_group_wait`, which are only for members of groups.
fn group_options(table: &mut Table<'_>, groups: &[GroupName]) -> Result<(bool, Duration), ConfigError> {
    let (persistent, wait) = (table.take("persistent"), table.take("max_group_wait"));
    if groups.is_empty()
        && let Some(value) = persistent.as_ref().or(wait.as_ref())
    {
        return Err(value.error("is for a provider with `exclusive`"));
    }
    let persistent = persistent.map(|value| value.bool()).transpose()?;
    let wait = wait.map(|value| value.duration()).transpose()?;
    Ok((
        persistent.unwrap_or(false),
        wait.unwrap_or(DEFAULT_MAX_GROUP_WAIT),
    ))
}

/// `ca` and `insecure_skip_verify`.
fn trust(table: &mut Table<'_>, base_url: &BaseUrl) -> Result<Trust, ConfigError> {
    let mut trust = Trust::default();
    if let Some(value) = table.take("ca") {
        let file = value.file()?;
        trust.certificates = Trust::read(&file).map_err(|reason| value.error(reason))?;
        trust.file = Some(file);
    }
    if let Some(value) = table.take("insecure_skip_verify") {
        trust.skip_verify = value.bool()?;
        if trust.skip_verify && !base_url.is_https() {
            return Err(value.error("is for a base_url that begins with https://"));
        }
    }
    Ok(trust)
}

fn api_key(value: &Value<'_>) -> Result<Secret, ConfigError> {
    let key = value.bounded(MAX_TEXT_BYTES)?;
    if key.is_empty() || http::HeaderValue::from_str(&key).is_err() {
        return Err(value.error("is not a key that fits into a header"));
    }
    Ok(Secret::new(key))
}

fn models(value: Value<'_>) -> Result<Vec<ModelConfig>, ConfigError> {
    let empty = value.error("names no model; leave it out to publish what the backend lists");
    let (mut models, mut taken) = (Vec::new(), HashSet::new());
    for entry in value.array(MAX_MODELS)? {
        let twice = entry.error("another model of this provider has the same public name");
        let model = model(entry)?;
        if !taken.insert(model.public.clone()) {
            return Err(twice);
        }
        models.push(model);
    }
    if models.is_empty() { Err(empty) } else { Ok(models) }
}

fn model(entry: Value<'_>) -> Result<ModelConfig, ConfigError> {
    if !entry.is_table() {
        let id = entry.parsed(ModelName::parse)?;
        return Ok(ModelConfig {
            public: id.clone(),
            id,
        });
    }
    let mut table = entry.table()?;
    table.only(&[&["id", "as"]]);
    let id = table.require("id")?.parsed(ModelName::parse)?;
    let public = table.optional("as", |value| value.parsed(ModelName::parse))?;
    Ok(ModelConfig {
        public: public.unwrap_or_else(|| id.clone()),
        id,
    })
}

fn probe(mut table: Table<'_>, base_url: &BaseUrl, is_woken: bool) -> ProbeConfig {
    table.only(&[&["path", "expect", "check_models", "interval", "timeout"]]);
    let path = table.noting("path", |path| path.parsed(|raw| base_url.legal_path(raw)));
    ProbeConfig {
        // Every OpenAI-compatible backend lists its models.
        path: path.unwrap_or_else(|| MODELS_PATH.to_owned()),
        expect: table.noting("expect", Value::json),
        check_models: table
            .noting("check_models", |value| value.bool())
            .unwrap_or(is_woken),
        interval: table
            .noting("interval", |value| value.duration())
            .unwrap_or(DEFAULT_PROBE_INTERVAL),
        timeout: table
            .noting("timeout", |value| value.duration())
            .unwrap_or(DEFAULT_PROBE_TIMEOUT),
    }
}
