//! What happened, one JSON object a line, for tests to count.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use reveille_tests::monotonic_us;
use serde_json::{Value, json};

/// A file, or nothing when none is wanted.
#[derive(Debug)]
pub struct Log(Option<Mutex<File>>);

impl Log {
    /// Opens it for appending: several runs of one backend share a file.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self(Some(Mutex::new(file))))
    }

    /// Adds a line, with the time of day and the time that is comparable to the microsecond between processes.
    pub fn write(&self, entry: &Value) {
        self.write_at(entry, monotonic_us());
    }

    /// The same, for what happened a little earlier.
    pub fn write_at(&self, entry: &Value, at_us: u64) {
        let Some(file) = &self.0 else { return };
        let mut entry = entry.clone();
        entry["monotonic_us"] = json!(at_us);
        entry["at_ms"] = json!(now_ms());
        let line = format!("{entry}\n");
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write, so that lines of several processes don't mix. A test that misses a line fails by itself.
        let _ = file.write_all(line.as_bytes());
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
