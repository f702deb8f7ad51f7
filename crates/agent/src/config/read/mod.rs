//! Reads the config file into its types.

mod network;
mod provider;
mod recipe;
mod table;
mod verify;

use super::{AgentConfig, Config, ConfigError, NatsUrl, regular_file, suggest::legal_name};
use provider::Names;
use reveille_bus::heartbeats::HEARTBEAT_EVERY;
use reveille_domain::AgentName;
use std::{ops::RangeInclusive, path::Path, time::Duration};
use table::{Source, Table, Value};

/// The bounds of `heartbeat`. Three missing heartbeats must be less than ten minutes.
const HEARTBEAT_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(180);
const AGENT_KEYS: [&str; 7] = [
    "name",
    "nats",
    "allow_plaintext",
    "credentials",
    "ca",
    "heartbeat",
    "quiet_hours",
];
/// The largest config file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The most providers of one agent.
const MAX_PROVIDERS: usize = 64;

impl Config {
    /// Reads a file; variables come from this process's environment.
    ///
    /// # Errors
    /// When the file can't be read or isn't a usable config.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let unreadable = |why: String| ConfigError::of_file(&file, format!("cannot be read: {why}"));
        let bytes =
            regular_file::read(path, MAX_FILE_BYTES).map_err(|error| unreadable(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| unreadable("it isn't UTF-8".to_owned()))?;
        Self::parse(&text, &file, &|name| std::env::var(name).ok())
    }

    /// Reads the text of a config. Errors call it `file`; `env` returns the values of variables.
    ///
    /// # Errors
    /// When it isn't a usable config. The error says where and why, and shows no value.
    pub fn parse(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let source = Source { file, text, env };
        if text.len() as u64 > MAX_FILE_BYTES {
            let reason = format!("is larger than {MAX_FILE_BYTES} bytes");
            return Err(ConfigError::of_file(file, reason));
        }
        let mut root = source.root()?;
        root.only(&[&["agent", "provider"]])?;
        let agent = agent(root.table("agent")?)?;
        let entries = root.optional("provider", |list| list.tables(MAX_PROVIDERS))?;
        let mut names = Names::default();
        let providers = entries
            .unwrap_or_default()
            .into_iter()
            .map(|entry| provider::read(entry, &mut names));
        Ok(Self {
            agent,
            providers: providers.collect::<Result<_, _>>()?,
        })
    }
}

fn agent(mut table: Table<'_>) -> Result<AgentConfig, ConfigError> {
    table.only(&[&AGENT_KEYS])?;
    let name = table.optional("name", |value| value.name(AgentName::parse))?;
    let allow_plaintext = table.optional("allow_plaintext", |value| value.bool())?;
    let allow_plaintext = allow_plaintext.unwrap_or(false);
    let nats = table.optional("nats", |value| {
        value.parsed(|raw| NatsUrl::parse(raw, allow_plaintext))
    })?;
    let credentials = table.optional("credentials", |value| value.absolute_path())?;
    let ca = table.optional("ca", |value| value.absolute_path())?;
    let heartbeat = table.optional("heartbeat", |value| heartbeat(&value))?;
    let quiet_hours = table.optional("quiet_hours", Value::hours)?;
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

fn heartbeat(value: &Value<'_>) -> Result<Duration, ConfigError> {
    let every = value.duration()?;
    if HEARTBEAT_BOUNDS.contains(&every) {
        return Ok(every);
    }
    Err(value.error("must be between 100ms and 3m"))
}

/// This machine's name as a legal agent name.
#[must_use]
pub fn machine_name() -> AgentName {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    agent_name(&host)
}

fn agent_name(host: &str) -> AgentName {
    let first_label = host.split('.').next().unwrap_or_default();
    AgentName::parse(&legal_name(first_label))
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
            assert_eq!(agent_name(host).as_str(), name, "{host}");
        }
    }
}
