//! `[[provider]]`: a backend, its models, its probe and its groups.

use super::{
    recipe::{self, MAX_TEXT_BYTES},
    table::{Table, Value},
    verify::Verified,
};
use crate::config::{
    BaseUrl, ConfigError, DEFAULT_MAX_GROUP_WAIT, DEFAULT_PROBE_INTERVAL, DEFAULT_PROBE_PATH,
    DEFAULT_PROBE_TIMEOUT, ModelConfig, ProbeConfig, ProviderConfig, Secret, WakeConfig,
};
use reveille_domain::{GroupName, MAX_MODELS, MAX_WAKE_BUDGET, ModelName, ProviderName};
use std::{collections::HashSet, time::Duration};

/// How long a backend may stay silent during a request unless `answer_timeout` says otherwise: the default of OpenAI's SDKs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// The most groups of one provider.
pub const MAX_GROUPS: usize = reveille_domain::MAX_GROUPS;

/// The names used so far.
#[derive(Default)]
pub(super) struct Names {
    providers: HashSet<ProviderName>,
    models: HashSet<ModelName>,
}

pub(super) fn read(mut table: Table<'_>, names: &mut Names) -> Result<ProviderConfig, ConfigError> {
    let name_value = table.require("name")?;
    let name = name_value.parsed(ProviderName::parse)?;
    if !names.providers.insert(name.clone()) {
        return Err(name_value.error("another provider has the same name"));
    }
    let base_url = table.require("base_url")?.parsed(BaseUrl::parse)?;
    let api_key = table.take("api_key").map(|value| api_key(&value)).transpose()?;
    let models = table
        .take("models")
        .map(|value| models(value, &mut names.models))
        .transpose()?;
    let answer_timeout = table
        .take("answer_timeout")
        .map(|value| value.duration())
        .transpose()?;
    let probe = probe(table.take("probe"), &base_url)?;
    let verified = Verified {
        base_url: &base_url,
        models: models.as_deref(),
    };
    let wake = table
        .take("wake")
        .map(|value| recipe::wake(value.table()?, verified))
        .transpose()?;
    let served = wake.as_ref().is_some_and(WakeConfig::serves);
    let sleep = table
        .take("sleep")
        .map(|value| recipe::sleep(value.table()?, wake.as_ref()))
        .transpose()?;
    let can_sleep = served || sleep.as_ref().is_some_and(|sleep| !sleep.steps.is_empty());
    let exclusive = table
        .take("exclusive")
        .map(|value| exclusive(value, wake.is_some() && can_sleep))
        .transpose()?
        .unwrap_or_default();
    let (persistent, max_group_wait) = group_options(&mut table, &exclusive)?;
    let over_budget = table.error(format!(
        "the wake's budget and max_group_wait sum to more than {MAX_WAKE_BUDGET:?}"
    ));
    table.finish()?;
    let provider = ProviderConfig {
        name,
        base_url,
        api_key,
        models,
        answer_timeout: answer_timeout.unwrap_or(ANSWER_TIMEOUT),
        probe,
        wake,
        sleep,
        exclusive,
        persistent,
        max_group_wait,
    };
    match provider.wake_spec() {
        Some(spec) if spec.budget() > MAX_WAKE_BUDGET => Err(over_budget),
        Some(_) | None => Ok(provider),
    }
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
        return Ok(vec![value.parsed(GroupName::parse)?]);
    }
    let empty = value.error("names no group");
    let mut groups = Vec::new();
    for entry in value.array(MAX_GROUPS)? {
        let group = entry.parsed(GroupName::parse)?;
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

fn api_key(value: &Value<'_>) -> Result<Secret, ConfigError> {
    let key = value.bounded(MAX_TEXT_BYTES)?;
    if key.is_empty() || http::HeaderValue::from_str(&key).is_err() {
        return Err(value.error("is not a key that fits into a header"));
    }
    Ok(Secret::new(key))
}

fn models(value: Value<'_>, taken: &mut HashSet<ModelName>) -> Result<Vec<ModelConfig>, ConfigError> {
    let empty = value.error("names no model; leave it out to publish what the backend lists");
    let mut models = Vec::new();
    for entry in value.array(MAX_MODELS)? {
        let twice = entry.error("another model of this agent has the same public name");
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
    let id = table.require("id")?.parsed(ModelName::parse)?;
    let public = table
        .take("as")
        .map(|value| value.parsed(ModelName::parse))
        .transpose()?;
    table.finish()?;
    Ok(ModelConfig {
        public: public.unwrap_or_else(|| id.clone()),
        id,
    })
}

fn probe(value: Option<Value<'_>>, base_url: &BaseUrl) -> Result<ProbeConfig, ConfigError> {
    let mut probe = ProbeConfig {
        path: DEFAULT_PROBE_PATH.to_owned(),
        expect: None,
        interval: DEFAULT_PROBE_INTERVAL,
        timeout: DEFAULT_PROBE_TIMEOUT,
    };
    let Some(value) = value else { return Ok(probe) };
    let mut table = value.table()?;
    if let Some(path) = table.take("path") {
        probe.path = path.parsed(|raw| base_url.at(raw).map(|_| raw.to_owned()))?;
    }
    probe.expect = table.take("expect").map(Value::json).transpose()?;
    if let Some(interval) = table.take("interval") {
        probe.interval = interval.duration()?;
    }
    if let Some(timeout) = table.take("timeout") {
        probe.timeout = timeout.duration()?;
    }
    table.finish()?;
    Ok(probe)
}
