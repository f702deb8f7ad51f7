//! What is wrong with a config file, and where. It never contains a value, which may be a secret.

use std::fmt;

/// An unusable config. The command line exits with code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name, as it was given.
    pub file: String,
    /// Counted from 1; absent if the error isn't about one line.
    pub line: Option<usize>,
    /// The key's path, such as `provider[0].wake.url`; absent if the error isn't about one key.
    pub key: Option<String>,
    /// Without the value.
    pub reason: String,
}

impl ConfigError {
    /// An error about a file as a whole.
    pub(super) fn of_file(file: &str, reason: String) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            key: None,
            reason,
        }
    }
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
