//! The lock file, as far as a bill of materials goes: cargo writes it line by line and in one form only.

use anyhow::{Context, Result, bail};

/// A package of the lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) name: String,
    pub(super) version: String,
    /// The SHA-256 of what is downloaded, in hex; absent for the workspace's own.
    pub(super) checksum: Option<String>,
}

/// The packages of a lock file's text.
pub(super) fn parse(text: &str) -> Result<Vec<Locked>> {
    let mut entries = text.split("\n[[package]]\n");
    let head = entries.next().unwrap_or_default();
    if !head.lines().any(|line| line == "version = 4") {
        bail!("the lock file is of another version than this program knows");
    }
    entries.map(package).collect()
}

fn package(entry: &str) -> Result<Locked> {
    let value = |key: &str| {
        let quoted = entry
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        quoted.and_then(|rest| rest.strip_suffix('"')).map(str::to_owned)
    };
    let locked = Locked {
        name: value("name").context("a package of the lock file has no name")?,
        version: value("version").context("a package of the lock file has no version")?,
        checksum: value("checksum"),
    };
    if value("source").is_some() && locked.checksum.is_none() {
        bail!(
            "{} comes from elsewhere, and the lock file has no checksum of it",
            locked.name
        );
    }
    Ok(locked)
}
