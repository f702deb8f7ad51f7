//! Reads the config file into its types.

mod command;
mod network;
mod preset;
mod provider;
mod recipe;
mod table;
mod unknown;
mod verify;

use super::{AgentConfig, Config, ConfigError, NatsUrl, ProviderConfig, regular_file, suggest::legal_name};
use provider::Names;
use reveille_bus::heartbeats::HEARTBEAT_EVERY;
use reveille_domain::AgentName;
use std::{
    cell::{Cell, RefCell},
    ops::RangeInclusive,
    path::Path,
    time::Duration,
};
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
        Self::load_in_part(path).0
    }

    /// The same, and of an unusable config the providers that could be read, without what is wrong in them.
    pub fn load_in_part(path: &Path) -> (Result<Self, ConfigError>, Vec<ProviderConfig>) {
        let file = path.display().to_string();
        match text_of(path) {
            Ok(text) => read(&text, &file, &|name| std::env::var(name).ok()),
            Err(why) => {
                let error = ConfigError::of_file(&file, format!("cannot be read: {why}"));
                (Err(error), Vec::new())
            }
        }
    }

    /// Reads the text of a config. Errors call it `file`; `env` returns the values of variables.
    ///
    /// # Errors
    /// When it isn't a usable config. The error says where and why, and shows no value.
    pub fn parse(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        read(text, file, env).0
    }
}

fn text_of(path: &Path) -> Result<String, String> {
    let bytes = regular_file::read(path, MAX_FILE_BYTES).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it isn't UTF-8".to_owned())
}

/// Reads a config; of an unusable one also the providers that could be read, without what is wrong in them.
fn read(
    text: &str,
    file: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> (Result<Config, ConfigError>, Vec<ProviderConfig>) {
    if text.len() as u64 > MAX_FILE_BYTES {
        let reason = format!("is larger than {MAX_FILE_BYTES} bytes");
        return (Err(ConfigError::of_file(file, reason)), Vec::new());
    }
    let source = Source {
        file,
        text,
        env,
        wrong: RefCell::default(),
        not_toml: Cell::default(),
    };
    let config = source.root().map(config);
    match (config, ConfigError::all(source.all_wrong())) {
        (Some(config), None) => (Ok(config), Vec::new()),
        (config, wrong) => {
            let usable = config.map(|config| config.providers).unwrap_or_default();
            let wrong = wrong.unwrap_or_else(|| ConfigError::of_file(file, "isn't TOML".to_owned()));
            (Err(wrong), usable)
        }
    }
}

/// The config without what is wrong with it, which is noted.
fn config(mut root: Table<'_>) -> Config {
    root.only(&[&["agent", "provider", "preset"]]);
    let agent = agent(root.table_or_empty("agent"));
    let entries = root.take("provider").map(|list| list.tables(MAX_PROVIDERS));
    let entries = entries.unwrap_or_default();
    let mut names = Names::default();
    let written = entries.len();
    let mut providers: Vec<_> = entries
        .into_iter()
        .filter_map(|entry| provider::read(entry, &mut names))
        .collect();
    let presets = root.take("preset").map(|list| list.tables(preset::MAX_PRESETS));
    let are_all = providers.len() == written;
    let presets = preset::read_all(presets.unwrap_or_default(), &mut providers, are_all);
    Config {
        agent,
        providers,
        presets,
    }
}

fn agent(mut table: Table<'_>) -> AgentConfig {
    table.only(&[&AGENT_KEYS]);
    let name = table.optional("name", |value| value.name(AgentName::parse));
    let allow_plaintext = table.or_default("allow_plaintext", false, Value::bool);
    // What can't be read may allow it.
    let allow_plaintext = allow_plaintext.unwrap_or(true);
    AgentConfig {
        name: name.unwrap_or_else(machine_name),
        nats: table.optional("nats", |value| {
            value.parsed(|raw| NatsUrl::parse(raw, allow_plaintext))
        }),
        allow_plaintext,
        credentials: table.optional("credentials", Value::absolute_path),
        ca: table.optional("ca", Value::absolute_path),
        heartbeat: table.optional("heartbeat", heartbeat).unwrap_or(HEARTBEAT_EVERY),
        quiet_hours: table.hours("quiet_hours"),
    }
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
