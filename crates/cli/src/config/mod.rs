//! `reveille config`: checks and shows config files without an agent.

mod show;

use crate::{client::line, data_dir, failure::Failure};
use clap::Subcommand;
use reveille_agent::{config::Config, local_checks::mistakes};
use show::ConfigShow;
use std::path::{Path, PathBuf};
use tracing::warn;

/// The JSON Schema of config files, for editors that check TOML while it is written. Tests compare it with the agent's
/// reader; what a schema can't express, such as unique names, only the reader checks.
pub const SCHEMA: &str = include_str!("schema.json");

/// `reveille config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a config file as the agent would.
    Check {
        /// The config file.
        #[arg(env = "REVEILLE_CONFIG")]
        file: PathBuf,
    },
    /// Print the effective config, defaults included; secrets are hidden.
    Show(ConfigShow),
    /// Print the JSON Schema of config files, for editors.
    Schema,
}

/// Runs the command.
pub fn run(command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check { file } => check(file),
        ConfigCommand::Show(args) => show::run(args),
        ConfigCommand::Schema => line(SCHEMA.trim_end()),
    }
}

/// Prints what the file publishes and what on this machine doesn't fit it, or fails with the line and the reason why it can't
/// be used. What doesn't fit is no failure: the file may be for another machine.
fn check(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    line(&format!(
        "ok: agent {} with {} provider{}",
        config.agent.name,
        config.providers.len(),
        if config.providers.len() == 1 { "" } else { "s" }
    ))?;
    for provider in &config.providers {
        let wake = provider.wake.as_ref().map_or_else(
            || "never woken".to_owned(),
            |wake| format!("woken within {} s", wake.budget().as_secs()),
        );
        line(&format!("  {}  {}  {wake}", provider.name, provider.base_url))?;
        for mistake in mistakes(provider) {
            line(&format!("    warning: {mistake}"))?;
        }
    }
    Ok(())
}

/// The name of a config file, in the working directory or the data directory.
pub const CONFIG_FILE: &str = "reveille.toml";

/// The config file in the working directory.
pub fn file_here() -> Option<PathBuf> {
    let here = Path::new(CONFIG_FILE);
    here.exists().then(|| here.canonicalize().ok()).flatten()
}

/// The config file where none is named: the one in the working directory, or else the one in the data directory.
pub fn default_file(data_dir: Option<&Path>) -> Option<PathBuf> {
    if let Some(here) = file_here() {
        return Some(here);
    }
    let folder = data_dir.map_or_else(|| data_dir::default_path().ok(), |folder| Some(folder.to_owned()));
    let file = folder?.join(CONFIG_FILE);
    file.exists().then(|| file.canonicalize().ok()).flatten()
}

/// Logs what on this machine doesn't fit the config of the agent that starts.
pub fn warn_of_mistakes(config: &Config) {
    for provider in &config.providers {
        for mistake in mistakes(provider) {
            warn!(provider.name = %provider.name, "{}: {mistake}", provider.name);
        }
    }
}

/// Loads a config file; an unusable one means exit code 2.
pub fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|error| Failure::Config(error.to_string()))
}
