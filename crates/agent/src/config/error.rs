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
    /// Whether it is that something is missing.
    pub is_missing: bool,
    /// What else is wrong with the same file, in the order of its lines.
    pub others: Vec<ConfigError>,
}

impl ConfigError {
    /// An error about a file as a whole.
    pub(super) fn of_file(file: &str, reason: String) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            key: None,
            reason,
            is_missing: false,
            others: vec![],
        }
    }

    /// The same, about what is missing.
    pub(super) fn of_missing(self) -> Self {
        Self {
            is_missing: true,
            ..self
        }
    }

    /// All that is wrong, as one error; `None` if nothing is.
    pub(super) fn all(mut errors: Vec<Self>) -> Option<Self> {
        errors.sort_by_key(|error| error.line);
        errors.dedup();
        let mut errors = errors.into_iter();
        let first = errors.next()?;
        Some(Self {
            others: errors.collect(),
            ..first
        })
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
        write!(f, ": {}", self.reason)?;
        self.others.iter().try_for_each(|other| write!(f, "\n{other}"))
    }
}

impl std::error::Error for ConfigError {}
