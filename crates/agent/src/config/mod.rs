//! The config of an agent: one TOML file, read and checked before anything is started.
//!
//! `reveille up` reads the same file. Unknown keys are errors; `${VAR}` in a string is the variable's value, and
//! `$${` a literal `${`. Errors name file, line and key and never show a value.

mod address;
mod error;
mod hours;
mod network;
mod places;
mod recipe;
mod secret;
mod table;
mod verify;

pub use address::{BaseUrl, NatsUrl};
pub use error::ConfigError;
pub use hours::{Hours, Window};
pub use network::DEFAULT_WOL_TIMEOUT;
pub use places::{Place, places};
pub use recipe::{
    Action, CommandAction, DEFAULT_MAX_WAIT, DEFAULT_MIN_AWAKE, DEFAULT_STEP_TIMEOUT, DEFAULT_STOP_GRACE,
    HttpAction, MAX_ENTRIES, MAX_STEPS, MAX_TEXT_BYTES, SERVE_START_TIMEOUT, SleepConfig, Step, WakeConfig,
};
pub use secret::Secret;
pub use table::MAX_DURATION;
pub use verify::{DEFAULT_VERIFY_TIMEOUT, VerifyConfig};

use reveille_bus::heartbeats::HEARTBEAT_EVERY;
use reveille_domain::{
    AgentName, GroupName, MAX_MODELS, MAX_TOKEN_BYTES, MAX_WAKE_BUDGET, ModelName, ProviderName, WakeSpec,
};
use std::{
    collections::HashSet,
    fs::File,
    io::Read,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};
use table::{Source, Table, Value};

/// How long a backend may say nothing to a request: what OpenAI's SDKs wait unless told otherwise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// How often a heartbeat may be sent. Three missing ones must be less than ten minutes.
const HEARTBEAT_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(180);

/// The largest config file.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The most providers of one agent.
pub const MAX_PROVIDERS: usize = 64;
/// The most windows of `quiet_hours` or `keep_warm`.
pub const MAX_WINDOWS: usize = 64;
/// The most groups of one provider.
pub const MAX_GROUPS: usize = 16;
/// How long a wake waits for its groups unless `max_group_wait` says otherwise: an answer of a large model may take
/// minutes, and callers wait less than five.
pub const DEFAULT_MAX_GROUP_WAIT: Duration = Duration::from_secs(120);
/// The probe unless the config has another: every OpenAI-compatible backend lists its models.
pub const DEFAULT_PROBE_PATH: &str = "/v1/models";
/// How often an idle backend is probed unless `interval` says otherwise.
pub const DEFAULT_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// How long one probe may take unless `timeout` says otherwise.
pub const DEFAULT_PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// All that the file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[agent]`.
    pub agent: AgentConfig,
    /// `[[provider]]`, in the file's order; their names and their models' public names are unique.
    pub providers: Vec<ProviderConfig>,
}

/// `[agent]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// The agent's name; this machine's unless the file says otherwise.
    pub name: AgentName,
    /// Where the hub's NATS is; absent when only the command line says it.
    pub nats: Option<NatsUrl>,
    /// Whether NATS may be spoken in plaintext to another machine.
    pub allow_plaintext: bool,
    /// The file with the key that proves to the hub who this agent is; absent when the hub asks for none.
    pub credentials: Option<PathBuf>,
    /// Whose certificates are trusted for `tls://`: a PEM file, beside the system's own roots.
    pub ca: Option<PathBuf>,
    /// How often the agent says that it is there; after three missing ones it counts as lost.
    pub heartbeat: Duration,
    /// When no wake of any of its providers begins.
    pub quiet_hours: Hours,
}

/// One `[[provider]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderConfig {
    /// Its name, unique in the file.
    pub name: ProviderName,
    /// Where the backend answers.
    pub base_url: BaseUrl,
    /// Sent to the backend as a bearer token, and to nobody else.
    pub api_key: Option<Secret>,
    /// What it publishes; `None` when the backend is to be asked for its models.
    pub models: Option<Vec<ModelConfig>>,
    /// How long it may say nothing while it works on a request.
    pub answer_timeout: Duration,
    /// How its availability is found out.
    pub probe: ProbeConfig,
    /// How it is woken; without it, it is active whenever its agent is there.
    pub wake: Option<WakeConfig>,
    /// How it is put to sleep.
    pub sleep: Option<SleepConfig>,
    /// The groups that it belongs to: of each, one provider is awake at a time.
    pub exclusive: Vec<GroupName>,
    /// Whether it is never put to sleep to make room for another of its group.
    pub persistent: bool,
    /// How long its wake waits for room in its groups.
    pub max_group_wait: Duration,
}

impl ProviderConfig {
    /// What is published of its wake recipe: the kind, and the budget of a whole wake, the wait for its groups included.
    #[must_use]
    pub fn wake_spec(&self) -> Option<WakeSpec> {
        let spec = self.wake.as_ref().map(WakeConfig::spec)?;
        let group_wait = if self.exclusive.is_empty() {
            Duration::ZERO
        } else {
            self.max_group_wait
        };
        let budget = spec.budget().saturating_add(group_wait);
        Some(WakeSpec {
            budget_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
            ..spec
        })
    }

    /// Whether its recipes start programs of this machine.
    #[must_use]
    pub fn runs_commands(&self) -> bool {
        let wake = self.wake.iter().flat_map(|wake| &wake.steps);
        let sleep = self.sleep.iter().flat_map(|sleep| &sleep.steps);
        wake.chain(sleep).any(Step::runs_command)
    }

    /// How long it stays awake at least, unless somebody puts it to sleep.
    #[must_use]
    pub fn min_awake(&self) -> Duration {
        let sleep = self.sleep.as_ref();
        sleep.map_or(DEFAULT_MIN_AWAKE, |sleep| sleep.min_awake)
    }
}

/// A model and its public name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    /// What the backend calls it.
    pub id: ModelName,
    /// What clients call it.
    pub public: ModelName,
}

/// How a backend's availability is found out.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeConfig {
    /// A path below the base URL, which may have a query.
    pub path: String,
    /// What the answer's JSON must contain; any 2xx when absent.
    pub expect: Option<serde_json::Value>,
    /// How often an idle backend is probed.
    pub interval: Duration,
    /// How long one probe may take.
    pub timeout: Duration,
}

impl Config {
    /// Reads a file, with variables from this process's environment.
    ///
    /// # Errors
    /// When the file can't be read or isn't a usable config.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let fail = |reason: String| ConfigError {
            file: file.clone(),
            line: None,
            key: None,
            reason,
        };
        let mut text = String::new();
        File::open(path)
            .and_then(|open| open.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
            .map_err(|error| fail(format!("cannot be read: {error}")))?;
        Self::parse(&text, &file, &|name| std::env::var(name).ok())
    }

    /// Reads a config's text; `file` is how errors call it, `env` gives the values of variables.
    ///
    /// # Errors
    /// When it isn't a usable config; the error says where and why, and shows no value.
    pub fn parse(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let source = Source { file, text, env };
        if text.len() as u64 > MAX_FILE_BYTES {
            let reason = format!("is larger than {MAX_FILE_BYTES} bytes");
            return Err(ConfigError {
                file: file.to_owned(),
                line: None,
                key: None,
                reason,
            });
        }
        let mut root = source.root()?;
        let agent = agent(root.take("agent").map(Value::table).transpose()?)?;
        let entries = root
            .take("provider")
            .map(|list| list.array(MAX_PROVIDERS))
            .transpose()?;
        root.finish()?;
        let mut names = Names::default();
        let providers = entries
            .unwrap_or_default()
            .into_iter()
            .map(|entry| provider(entry.table()?, &mut names));
        Ok(Self {
            agent,
            providers: providers.collect::<Result<_, _>>()?,
        })
    }
}

/// The names that are taken so far.
#[derive(Default)]
struct Names {
    providers: HashSet<ProviderName>,
    models: HashSet<ModelName>,
}

fn agent(table: Option<Table<'_>>) -> Result<AgentConfig, ConfigError> {
    let Some(mut table) = table else {
        return Ok(AgentConfig {
            name: machine_name(),
            nats: None,
            allow_plaintext: false,
            credentials: None,
            ca: None,
            heartbeat: HEARTBEAT_EVERY,
            quiet_hours: Hours::default(),
        });
    };
    let name = table
        .take("name")
        .map(|value| value.parsed(AgentName::parse))
        .transpose()?;
    let allow_plaintext = table
        .take("allow_plaintext")
        .map(|value| value.bool())
        .transpose()?
        .unwrap_or(false);
    let nats = table
        .take("nats")
        .map(|value| value.parsed(|raw| NatsUrl::parse(raw, allow_plaintext)))
        .transpose()?;
    let mut file = |key| table.take(key).map(|value| value.parsed(absolute)).transpose();
    let (credentials, ca) = (file("credentials")?, file("ca")?);
    let heartbeat = table
        .take("heartbeat")
        .map(|value| heartbeat(&value))
        .transpose()?;
    let quiet_hours = table.take("quiet_hours").map(windows).transpose()?;
    table.finish()?;
    Ok(AgentConfig {
        name: name.unwrap_or_else(machine_name),
        nats,
        allow_plaintext,
        credentials,
        ca,
        heartbeat: heartbeat.unwrap_or(HEARTBEAT_EVERY),
        quiet_hours: quiet_hours.unwrap_or_default(),
    })
}

/// Windows of a week.
fn windows(value: Value<'_>) -> Result<Hours, ConfigError> {
    let entries = value.array(MAX_WINDOWS)?.into_iter();
    entries.map(|entry| entry.parsed(str::parse)).collect()
}

/// A file's path. A relative one would depend on the folder that the agent was started in.
fn absolute(raw: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(raw);
    path.is_absolute()
        .then_some(path)
        .ok_or("must be an absolute path")
}

fn heartbeat(value: &Value<'_>) -> Result<Duration, ConfigError> {
    let every = value.duration()?;
    if HEARTBEAT_BOUNDS.contains(&every) {
        return Ok(every);
    }
    Err(value.error("must be between 100ms and 3m"))
}

fn provider(mut table: Table<'_>, names: &mut Names) -> Result<ProviderConfig, ConfigError> {
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
    let verified = verify::Verified {
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
    let (persistent, max_group_wait) = group_terms(&mut table, &exclusive)?;
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

/// `persistent` and `max_group_wait`, which say nothing outside of a group.
fn group_terms(table: &mut Table<'_>, groups: &[GroupName]) -> Result<(bool, Duration), ConfigError> {
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

/// This machine's name, made into a legal agent name.
fn machine_name() -> AgentName {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    legal_name(&host)
}

fn legal_name(host: &str) -> AgentName {
    let first_label = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
            c
        } else {
            '-'
        }
    };
    let name: String = first_label
        .chars()
        .map(legal)
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(MAX_TOKEN_BYTES)
        .collect();
    AgentName::parse(&name)
        .or_else(|_| AgentName::parse("agent"))
        .expect("`agent` is a legal name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_becomes_a_legal_agent_name() {
        for (host, name) in [
            ("gpu-box", "gpu-box"),
            ("GPU Box.lan", "gpu-box"),
            ("_x", "x"),
            ("", "agent"),
            ("...", "agent"),
            ("日本", "agent"),
        ] {
            assert_eq!(legal_name(host).as_str(), name, "{host}");
        }
    }
}
