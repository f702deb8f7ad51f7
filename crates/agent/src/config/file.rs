//! A config file that is read again while the agent runs.

use super::{Config, ConfigError};
use std::path::PathBuf;

/// Where the config is, and what the command line has of it.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// Whether a flag allows plaintext NATS, whatever the file says.
    pub allow_plaintext: bool,
}

impl ConfigFile {
    /// The config as the file has it now.
    ///
    /// # Errors
    /// When the file can't be read or isn't a usable config.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(&self.path)?;
        config.agent.allow_plaintext |= self.allow_plaintext;
        Ok(config)
    }
}
