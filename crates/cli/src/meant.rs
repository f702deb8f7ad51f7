//! What was probably meant by a command line that clap doesn't understand: a command that other programs have, or a config file
//! without its flag.

use clap::{
    Error,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};
use reveille_agent::shell;
use std::{ffi::OsString, path::Path};

/// The commands of other programs, and ours.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["ps", "top", "info"], "`reveille status` shows what runs"),
    (
        &["ls", "list", "model", "models"],
        "`reveille llms` lists the models",
    ),
    (
        &["stop", "shutdown", "quit", "kill"],
        "`reveille down` stops `reveille up`, and `reveille sleep PROVIDER` a backend",
    ),
    (
        &["start", "serve", "server", "daemon"],
        "`reveille up` starts everything on this machine, and `reveille wake PROVIDER` a backend",
    ),
    (
        &["run", "chat", "load"],
        "`reveille up` runs everything on this machine; a request for a model wakes it, and so does `reveille wake PROVIDER`",
    ),
    (
        &["restart"],
        "run `reveille down`, then `reveille up` again; `reveille agent reload` is enough for a changed config",
    ),
    (
        &["upgrade", "update"],
        "install the new version as you did this one, then run `reveille down` and `reveille up`; nothing is lost",
    ),
    (&["unload"], "`reveille sleep PROVIDER` puts a backend to sleep"),
    (
        &["log"],
        "`reveille logs` prints what the commands of recipes have printed",
    ),
    (
        &["check", "validate"],
        "`reveille config check` checks a config file, and `reveille doctor` everything",
    ),
    (
        &["setup", "install", "configure"],
        "`reveille init` finds this machine's backends and writes a config",
    ),
    (
        &["pause", "resume", "reload"],
        "`reveille agent pause`, `agent resume` and `agent reload` are for this machine's agent",
    ),
    (&["keys"], "`reveille key list` lists the API keys"),
];

/// Adds a tip to an error if it is known what was meant.
pub fn add_tip(error: &mut Error) {
    let Some(tip) = tip(error) else { return };
    error.remove(ContextKind::SuggestedSubcommand);
    error.remove(ContextKind::SuggestedArg);
    let tip = StyledStr::from(tip);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
}

fn tip(error: &Error) -> Option<String> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let given = word(ContextKind::InvalidSubcommand)?;
            file_tip(given).or_else(|| {
                let (_, tip) = COMMANDS.iter().find(|(words, _)| words.contains(&given))?;
                Some((*tip).to_owned())
            })
        }
        ErrorKind::UnknownArgument => file_tip(word(ContextKind::InvalidArg)?),
        _ => None,
    }
}

/// The flag for a config file that was named without it.
fn file_tip(given: &str) -> Option<String> {
    let is_config = Path::new(given)
        .extension()
        .is_some_and(|extension| extension == "toml");
    (is_config && !given.starts_with('-')).then(|| {
        format!(
            "name a config file with its flag: --config {}",
            shell::word(given)
        )
    })
}

/// The command line as it is meant: help about `help` itself is the help.
pub fn plain(mut words: Vec<OsString>) -> Vec<OsString> {
    let is = |at: usize, names: &[&str]| {
        words
            .get(at)
            .is_some_and(|word| names.iter().any(|name| word == name))
    };
    if is(1, &["help"]) && is(2, &["--help", "-h", "help"]) {
        words.truncate(1);
        words.push("--help".into());
    }
    words
}
