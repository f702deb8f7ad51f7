//! This machine: the config file, the data directory, its disk, and the nats-server program.

use super::{Findings, hub::CheckedHub};
use crate::{
    config, data_dir,
    up::{disk::RESTART_NOTE, nats_program},
};
use reveille_agent::{
    config::{Config, places},
    owner_policy::OwnerPolicy,
    shell,
    state_dir::StateDir,
};
use reveille_bus::private_file;
use reveille_domain::counted;
use rustix::fs::statvfs;
use serde_json::Value;
use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    time::Duration,
};
use url::Url;

/// Below this the journal will soon run out of space.
const LITTLE_SPACE: u64 = 1024 * 1024 * 1024;
/// For how long a restart of the NATS server is worth a word.
const LATELY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Below this the journal may fail at any time.
const NO_SPACE: u64 = 64 * 1024 * 1024;

/// Checks the config; returns it if it is usable.
pub fn config(file: &Path, findings: &mut Findings) -> Option<Config> {
    let shown = file.display();
    let config = match config::load(file) {
        Ok(config) => config,
        Err(failure) => {
            findings.problem(
                "config",
                failure.to_string(),
                format!(
                    "correct it, checking with `reveille config check {}`; or write a new one with `reveille \
                     init`",
                    shell::path(file)
                ),
            );
            return None;
        }
    };
    findings.ok(
        "config",
        format!(
            "{shown} is valid, with {}",
            counted(config.providers.len(), "provider")
        ),
    );
    if !holds_secrets(file) {
        return Some(config);
    }
    if others_may_read(file) {
        findings.warning(
            "secrets",
            format!("{shown} contains secrets, and other users of this machine can read it"),
            format!("run `chmod 600 {}`", shell::path(file)),
        );
    } else {
        findings.ok(
            "secrets",
            format!("{shown} contains secrets, and only its owner can read it"),
        );
    }
    Some(config)
}

/// Whether the file contains a secret itself, rather than the name of an environment variable.
fn holds_secrets(file: &Path) -> bool {
    let places = places(&fs::read_to_string(file).unwrap_or_default());
    places.iter().any(|(key, place)| {
        let literal = place.text.as_ref().filter(|_| place.variables.is_empty());
        literal.is_some_and(|text| is_secret(key, text.reveal()))
    })
}

/// Whether a text may be a secret: an API key, a header, a URL with a password, or a variable or a body with one that is named so.
fn is_secret(key: &str, text: &str) -> bool {
    let name_in = |table: &str| key.split_once(table).map(|(_, name)| name);
    let is_plain = |header: &str| PLAIN_HEADERS.contains(&header.to_ascii_lowercase().as_str());
    key.ends_with(".api_key")
        || name_in(".headers.").is_some_and(|header| !is_plain(header))
        || name_in(".env.").is_some_and(is_secretive)
        || key.ends_with(".body") && has_secret(text)
        || Url::parse(text).is_ok_and(|url| url.password().is_some())
}

/// Headers that are nobody's secret.
const PLAIN_HEADERS: [&str; 3] = ["content-type", "accept", "user-agent"];
/// What the names of secrets contain, and the words that are names of secrets.
const SECRETIVE: [&str; 6] = [
    "token",
    "secret",
    "password",
    "passphrase",
    "credential",
    "apikey",
];
const SECRETIVE_WORDS: [&str; 8] = [
    "key",
    "keys",
    "auth",
    "authorization",
    "pass",
    "passwd",
    "pwd",
    "pat",
];

/// Whether a variable or a key of JSON is named like a secret.
fn is_secretive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    SECRETIVE.iter().any(|part| name.contains(part)) || words.any(|word| SECRETIVE_WORDS.contains(&word))
}

/// Whether a body may contain a secret: JSON has one in a text that is named like one, and in anything else nobody knows.
fn has_secret(body: &str) -> bool {
    fn is_in(value: &Value, named: bool) -> bool {
        match value {
            Value::Object(fields) => fields
                .iter()
                .any(|(name, value)| is_in(value, named || is_secretive(name))),
            Value::Array(values) => values.iter().any(|value| is_in(value, named)),
            Value::String(_) => named,
            Value::Number(_) | Value::Bool(_) | Value::Null => false,
        }
    }
    serde_json::from_str(body).map_or(true, |value| is_in(&value, false))
}

fn others_may_read(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| private_file::is_exposed(&found))
}

/// Checks the data directory, who uses it, and its free space.
pub async fn data_dir(path: &Path, checked: &CheckedHub, findings: &mut Findings) {
    data_dir_itself(path, findings);
    space(path, findings);
    if matches!(checked, CheckedHub::Named(_) | CheckedHub::Given(_)) {
        return;
    }
    match nats_program::find().await {
        Ok(found) => findings.ok(
            "nats-server",
            format!("{} {}", found.path.display(), found.version),
        ),
        Err(error) => {
            let found = error.to_string();
            findings.problem(
                "nats-server",
                found.lines().next().unwrap_or_default(),
                nats_program::REMEDY,
            );
        }
    }
}

/// Checks the data directory as `up` does, and who uses it.
fn data_dir_itself(path: &Path, findings: &mut Findings) {
    let shown = path.display();
    if let Some(problem) = data_dir::unusable(path) {
        return findings.problem("data directory", problem, data_dir::USE_ANOTHER);
    }
    if path.is_dir() {
        if others_may_read(path) {
            findings.warning(
                "data directory",
                format!("other users of this machine can read {shown}, which holds the journal"),
                format!("run `chmod 700 {}`", shell::path(path)),
            );
        }
        stale(path, findings);
        restarted(path, findings);
    } else {
        findings.ok(
            "data directory",
            format!("{shown} doesn't exist yet; the first start creates it"),
        );
    }
}

/// Whether a run holds the folder, or an earlier one left something in the way of the next.
fn stale(path: &Path, findings: &mut Findings) {
    let holder = data_dir::holder(path).unwrap_or_default();
    let shown = path.display();
    match (data_dir::is_locked(path), holder) {
        (true, Some(pid)) if data_dir::is_alive(&pid) => {
            findings.ok(
                "data directory",
                format!("{shown} is in use by `reveille up` (process {pid})"),
            );
        }
        (true, _) => findings.warning(
            "data directory",
            format!("{shown} is still locked by processes of a killed run"),
            "none needed: they end within 30 s, and the next `reveille up` waits for them",
        ),
        (false, _) => match data_dir::nats_port(path) {
            Some(port) if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() => findings.warning(
                "data directory",
                format!("{shown} is free, but another program has port {port}, which its NATS server used"),
                format!(
                    "free port {port} if agents connect to it; otherwise the next `reveille up` chooses another"
                ),
            ),
            _ => findings.ok(
                "data directory",
                format!("{shown} is free for the next `reveille up`"),
            ),
        },
    }
}

/// Whether `up` had to restart its NATS server lately, because the disk had been full.
fn restarted(path: &Path, findings: &mut Findings) {
    let note = path.join(RESTART_NOTE);
    let written = note.metadata().and_then(|found| found.modified()).ok();
    let age = written.and_then(|written| written.elapsed().ok());
    if age.is_some_and(|age| age < LATELY)
        && let Ok(text) = fs::read_to_string(note)
    {
        findings.warning(
            "nats-server",
            text.trim(),
            "none needed now; keep more space free on the disk of the data directory",
        );
    }
}

/// Whether the machine's owner allows wakes now.
pub fn owner(owner_policy: &OwnerPolicy, state: &StateDir, findings: &mut Findings) {
    if let Err(error) = fs::read_dir(state.path())
        && error.kind() == ErrorKind::PermissionDenied
    {
        return findings.warning(
            "owner",
            format!(
                "unknown whether the agent is paused: {} belongs to another user",
                state.path().display()
            ),
            "run `reveille doctor` as the agent's user",
        );
    }
    match owner_policy.refusal() {
        None => findings.ok("owner", "wakes are allowed (no pause, no quiet hours)"),
        Some(refusal) => findings.warning(
            "owner",
            format!("wakes are refused: {refusal}"),
            "none needed if this is intended; `reveille agent resume` ends a pause, agent.quiet_hours in the config \
             sets the quiet hours",
        ),
    }
}

fn space(path: &Path, findings: &mut Findings) {
    let Some(there) = path.ancestors().find(|folder| folder.is_dir()) else {
        return;
    };
    let Ok(found) = statvfs(there) else { return };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let text = format!(
        "{:.1} GiB free for the journal",
        free as f64 / LITTLE_SPACE as f64
    );
    let remedy =
        "free some space, or move the journal with --data-dir; while it can't be written, no wake succeeds";
    match free {
        ..NO_SPACE => findings.problem("disk", text, remedy),
        NO_SPACE..LITTLE_SPACE => findings.warning("disk", text, remedy),
        LITTLE_SPACE.. => findings.ok("disk", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_data_directory_that_up_would_refuse_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "").unwrap();
        symlink(at("nowhere"), at("link")).unwrap();
        for (name, level) in [
            ("file", Level::Problem),
            ("link", Level::Problem),
            ("link/data", Level::Problem),
            ("new", Level::Ok),
        ] {
            let mut findings = Findings::default();
            data_dir_itself(&at(name), &mut findings);
            let levels: Vec<_> = findings.all().iter().map(|finding| finding.level).collect();
            assert_eq!(levels, [level], "{name}");
        }
    }

    #[test]
    fn a_file_contains_a_secret_unless_it_names_a_variable() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reveille.toml");
        let head = "[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n";
        let wake = "[provider.wake]\ntype = \"http\"\nurl = \"http://127.0.0.1:1/\"\n";
        let serve = "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = \"true\"\n";
        for (text, holds) in [
            (head.to_owned(), false),
            (format!("{head}api_key = \"k\"\n"), true),
            (format!("{head}api_key = \"${{K}}\"\n"), false),
            (format!("{head}{wake}"), false),
            (format!("{head}{wake}headers = {{ x = \"k\" }}\n"), true),
            (
                format!("{head}{wake}headers = {{ x = \"Bearer ${{K}}\" }}\n"),
                false,
            ),
            (format!("{head}{wake}body = \"k\"\n"), true),
            (
                format!("{head}{wake}body = '{{\"model\": \"m\", \"keep_alive\": -1}}'\n"),
                false,
            ),
            (
                format!("{head}{wake}body = '{{\"login\": {{\"password\": \"p\"}}}}'\n"),
                true,
            ),
            (
                format!("{head}{wake}headers = {{ content-type = \"application/json\" }}\n"),
                false,
            ),
            (
                format!("{head}{serve}env = {{ OLLAMA_HOST = \"127.0.0.1:1\" }}\n"),
                false,
            ),
            (format!("{head}{serve}env = {{ HF_TOKEN = \"t\" }}\n"), true),
            (format!("{head}{serve}env = {{ HF_TOKEN = \"${{K}}\" }}\n"), false),
            (
                format!("{head}{serve}env = {{ DB_PASS = \"p\", N = \"1\" }}\n"),
                true,
            ),
            (
                format!("{head}{serve}env = {{ DB = \"postgres://u:p@h/d\" }}\n"),
                true,
            ),
            (
                format!("{head}{serve}env = {{ DB = \"postgres://u@h/d\" }}\n"),
                false,
            ),
            (
                format!("{head}{wake}body = '{{\"auth\": {{\"user\": \"a\"}}}}'\n"),
                true,
            ),
            (format!("{head}{wake}body = '{{\"tokens\": [\"x\"]}}'\n"), true),
            (
                format!(
                    "{head}{wake}body = '{{\"key\": \"${{K}}\"}}'\n[provider.sleep]\ntype = \"http\"\n\
                     url = \"http://127.0.0.1:1/\"\nbody = '{{\"model\": \"m\"}}'\n"
                ),
                false,
            ),
        ] {
            fs::write(&file, &text).unwrap();
            Config::parse(&text, "f", &|_| Some("v".to_owned())).unwrap();
            assert_eq!(holds_secrets(&file), holds, "{text}");
        }
    }
}
