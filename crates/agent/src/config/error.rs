//! What is wrong with a config file, and where. Never holds a value: it may be a secret.

use std::fmt;

/// A config that can't be used. The command line answers it with exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1; absent when the file as a whole is at fault.
    pub line: Option<usize>,
    /// The key's path, such as `provider[0].wake.url`; absent when it isn't about one key.
    pub key: Option<String>,
    /// What is wrong, without the value.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for ConfigError {}
