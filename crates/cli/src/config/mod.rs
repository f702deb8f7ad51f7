//! `reveille config`: what is known of a config file without an agent.

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
    /// Read a config file as the agent would, and say what is wrong with it.
    Check {
        /// The config file.
        #[arg(env = "REVEILLE_CONFIG")]
        file: PathBuf,
    },
    /// Print what a config file comes to, with the defaults; secrets are not shown.
    Show(ConfigShow),
    /// Print the JSON Schema of config files, for editors.
    Schema,
}

/// Runs one of its commands.
pub fn run(command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check { file } => check::run(file),
        ConfigCommand::Show(args) => show::run(args),
        ConfigCommand::Schema => schema::run(),
    }
}

/// A config file that is usable; anything else is exit code 2.
pub fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|error| Failure::Config(error.to_string()))
}
