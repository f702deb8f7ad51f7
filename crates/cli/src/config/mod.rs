//! `reveille config`: checks and shows config files without an agent.

mod check;
mod schema;
mod show;

#[cfg(test)]
pub(crate) use schema::SCHEMA;

use crate::failure::Failure;
use clap::Subcommand;
use reveille_agent::config::Config;
use show::ConfigShow;
use std::path::{Path, PathBuf};

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
        ConfigCommand::Check { file } => check::run(file),
        ConfigCommand::Show(args) => show::run(args),
        ConfigCommand::Schema => schema::run(),
    }
}

/// Loads a config file; an unusable one means exit code 2.
pub fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|error| Failure::Config(error.to_string()))
}
