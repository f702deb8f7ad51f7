//! `[[provider]]`: a backend, its models, its probe and its groups.

use super::{
    command::MAX_TEXT_BYTES,
    recipe::{self, Woken},
    table::{Table, Value},
};
use crate::config::{
    AnswerModelName, BaseUrl, CancelWake, ConfigError, MODELS_PATH, ModelConfig, ProbeConfig, ProviderConfig,
    Secret, Trust, WakeConfig,
};
use reveille_bus::relay::{UselessPath, useless_path};
use reveille_domain::{
    Balancing, CONCURRENCIES, ExtraPath, GroupName, MAX_EXTRA_PATHS, MAX_GROUPS, MAX_MODELS, MAX_WAKE_BUDGET,
    ModelName, PRIORITIES, ProviderName, WEIGHTS,
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

const PROVIDER_KEYS: [&str; 20] = [
    "name",
    "base_url",
    "ca",
    "insecure_skip_verify",
    "api_key",
    "models",
    "answer_model",
    "answer_timeout",
    "first_byte_timeout",
    "extra_paths",
    "weight",
    "priority",
    "max_concurrency",
    "probe",
    "wake",
    "sleep",
    "exclusive",
    "persistent",
    "max_group_wait",
    "cancel_wake",
];

const CANCEL_WAKE: [(&str, CancelWake); 2] = [
    ("never", CancelWake::Never),
    ("when_unwanted", CancelWake::WhenUnwanted),
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

/// A provider without what is wrong with it, which is noted; `None` if it has no name.
pub(super) fn read(mut table: Table<'_>, names: &mut Names) -> Option<ProviderConfig> {
    table.only(&[&PROVIDER_KEYS]);
    let name = table.required("name", |value| {
        let name = value.name(ProviderName::parse)?;
        match names.providers.insert(name.clone()) {
            true => Ok(name),
            false => Err(value.error("another provider has the same name")),
        }
    });
    let base_url = table.required("base_url", |value| value.parsed(BaseUrl::parse));
    let api_key = table.optional("api_key", api_key);
    let models = table.take("models").map(models_of);
    let answer_model = table.choice("answer_model", &ANSWER_MODELS);
    let answer_timeout = table.duration("answer_timeout");
    let first_byte_timeout = table.duration("first_byte_timeout");
    let extra_paths = table.take("extra_paths").map(extra_paths_of);
    let balancing = balancing(&mut table);
    let trust = trust(&mut table, base_url.as_ref());
    // The rest is read for its own mistakes.
    let base_url = base_url.or_else(|| BaseUrl::parse(STAND_IN).ok())?;
    let (is_woken, is_put_to_sleep) = (table.has("wake"), table.has("sleep"));
    let wake = table.table("wake");
    let wake = wake.map(|table| recipe::wake(table, &base_url, models.as_deref()));
    let probe = probe(table.table_or_empty("probe"), &base_url, is_woken);
    let serves = match &wake {
        Some(wake) => wake.serves,
        None => (!is_woken).then_some(false),
    };
    let woken = Woken {
        is_woken,
        serves,
        last: wake.as_ref().and_then(|wake| wake.config.steps.last()),
    };
    let sleep = table.table("sleep").map(|table| recipe::sleep(table, &woken));
    let comes_and_goes = is_woken && (is_put_to_sleep || serves != Some(false));
    let is_grouped = table.has("exclusive");
    let exclusive = table.take("exclusive");
    let exclusive = exclusive.map(|value| exclusive_groups(value, comes_and_goes));
    let (persistent, max_group_wait) = group_options(&mut table, is_grouped);
    let cancel_wake = table.choice("cancel_wake", &CANCEL_WAKE);
    let provider = ProviderConfig {
        name: name?,
        base_url,
        trust: trust.clone(),
        api_key,
        models,
        presets: Vec::new(),
        answer_model,
        answer_timeout: answer_timeout.unwrap_or(ANSWER_TIMEOUT),
        first_byte_timeout,
        extra_paths: extra_paths.unwrap_or_default(),
        balancing,
        probe,
        wake: wake.map(|wake| wake.config),
        sleep,
        exclusive: exclusive.unwrap_or_default(),
        persistent,
        max_group_wait,
        cancel_wake: cancel_wake.unwrap_or_default(),
    };
    let budget = provider.wake_spec().map(|spec| spec.budget());
    let own = provider.wake.as_ref().map(WakeConfig::budget);
    // What is too long without its groups is told as that.
    if budget > Some(MAX_WAKE_BUDGET) && own <= Some(MAX_WAKE_BUDGET) {
        table.wrong(format!(
            "the wake's budget and max_group_wait sum to more than {MAX_WAKE_BUDGET:?}"
        ));
    }
    Some(provider.with_trust_in_steps(&trust))
}

/// `extra_paths`: a list of paths by which requests come for this backend that would come for no other.
fn extra_paths_of(value: Value<'_>) -> Vec<ExtraPath> {
    let mut paths = Vec::new();
    for entry in value.items(MAX_EXTRA_PATHS) {
        let Some(path) = entry.note(entry.parsed(ExtraPath::parse)) else {
            continue;
        };
        match useless_path(path.as_str()) {
            Some(UselessPath::Relayed) => entry.wrong("is relayed in any case: leave it out"),
            Some(UselessPath::Own) => {
                entry.wrong("is a path of Reveille's own, so no request for it reaches a backend");
            }
            Some(UselessPath::ReadAs(_)) => {
                entry.wrong("is read with one `/v1` before it, whatever its client writes: write it so");
            }
            None if paths.contains(&path) => entry.wrong("names a path twice"),
            None => paths.push(path),
        }
    }
    paths
}

/// `weight`, `priority` and `max_concurrency`.
fn balancing(table: &mut Table<'_>) -> Balancing {
    let weight = table.optional("weight", |value| value.integer(WEIGHTS));
    let priority = table.optional("priority", |value| value.integer(PRIORITIES));
    let max_concurrency = table.optional("max_concurrency", |value| value.integer(CONCURRENCIES));
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
fn exclusive_groups(value: Value<'_>, comes_and_goes: bool) -> Vec<GroupName> {
    if !comes_and_goes {
        value.lacks(
            "is for a provider that can be woken and put to sleep: it needs [provider.wake], and a sleep recipe unless \
             its backend is served by the agent",
        );
    }
    if !value.is_array() {
        let name = value.note(value.name(GroupName::parse));
        return name.into_iter().collect();
    }
    if value.is_empty() {
        value.wrong("names no group");
    }
    let mut groups = Vec::new();
    for entry in value.items(MAX_GROUPS) {
        match entry.note(entry.name(GroupName::parse)) {
            Some(group) if groups.contains(&group) => entry.wrong("names a group twice"),
            group => groups.extend(group),
        }
    }
    groups
}

/// `persistent` and `max_group_wait`, which are only for members of groups.
fn group_options(table: &mut Table<'_>, is_grouped: bool) -> (bool, Duration) {
    let (persistent, wait) = (table.take("persistent"), table.take("max_group_wait"));
    for value in [&persistent, &wait].into_iter().flatten() {
        if !is_grouped {
            value.lacks("is for a provider with `exclusive`");
        }
    }
    let persistent = persistent.and_then(|value| value.note(value.bool()));
    let wait = wait.and_then(|value| value.note(value.duration()));
    (
        persistent.unwrap_or(false),
        wait.unwrap_or(DEFAULT_MAX_GROUP_WAIT),
    )
}

/// `ca` and `insecure_skip_verify`, of a provider with that URL if it could be read.
fn trust(table: &mut Table<'_>, base_url: Option<&BaseUrl>) -> Trust {
    let trusted = table.optional("ca", |value| {
        let file = value.file()?;
        let certificates = Trust::read(&file).map_err(|reason| value.error(reason))?;
        Ok((file, certificates))
    });
    let skip_verify = table.optional("insecure_skip_verify", |value| {
        let skip_verify = value.bool()?;
        if skip_verify && base_url.is_some_and(|base_url| !base_url.is_https()) {
            return Err(value.error("is for a base_url that begins with https://"));
        }
        Ok(skip_verify)
    });
    let (file, certificates) = trusted.unzip();
    Trust {
        file,
        certificates: certificates.unwrap_or_default(),
        skip_verify: skip_verify.unwrap_or(false),
    }
}

fn api_key(value: &Value<'_>) -> Result<Secret, ConfigError> {
    let key = value.bounded(MAX_TEXT_BYTES)?;
    if key.is_empty() || http::HeaderValue::from_str(&key).is_err() {
        return Err(value.error("is not a key that fits into a header"));
    }
    Ok(Secret::new(key))
}

fn models_of(value: Value<'_>) -> Vec<ModelConfig> {
    if value.is_empty() {
        value.wrong("names no model; leave it out to publish what the backend lists");
    }
    let (mut models, mut taken) = (Vec::new(), HashSet::new());
    for entry in value.items(MAX_MODELS) {
        let Some(model) = model(entry.clone()) else {
            continue;
        };
        if taken.insert(model.public.clone()) {
            models.push(model);
        } else {
            entry.wrong("another model of this provider has the same public name");
        }
    }
    models
}

fn model(entry: Value<'_>) -> Option<ModelConfig> {
    if !entry.is_table() {
        let id = entry.note(entry.parsed(ModelName::parse))?;
        return Some(ModelConfig {
            public: id.clone(),
            id,
        });
    }
    let mut table = entry.table()?;
    table.only(&[&["id", "as"]]);
    let id = table.required("id", |value| value.parsed(ModelName::parse));
    let public = table.or_default("as", None, |value| value.parsed(ModelName::parse).map(Some));
    let (id, public) = (id?, public?);
    Some(ModelConfig {
        public: public.unwrap_or_else(|| id.clone()),
        id,
    })
}

fn probe(mut table: Table<'_>, base_url: &BaseUrl, is_woken: bool) -> ProbeConfig {
    table.only(&[&["path", "expect", "check_models", "interval", "timeout"]]);
    let path = table.optional("path", |path| path.parsed(|raw| base_url.legal_path(raw)));
    ProbeConfig {
        // Every OpenAI-compatible backend lists its models.
        path: path.unwrap_or_else(|| MODELS_PATH.to_owned()),
        expect: table.take("expect").and_then(Value::json),
        check_models: table.optional("check_models", Value::bool).unwrap_or(is_woken),
        interval: table.duration("interval").unwrap_or(DEFAULT_PROBE_INTERVAL),
        timeout: table.duration("timeout").unwrap_or(DEFAULT_PROBE_TIMEOUT),
    }
}
