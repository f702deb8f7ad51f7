//! Reads the commands of steps: what is run, and how.

use super::table::{Table, Value};
use crate::config::{Action, CommandAction, ConfigError, EndCommand, OWN_VARIABLES, Secret};
use std::{path::Path, time::Duration};

/// The keys of every command.
pub(super) const COMMAND_KEYS: [&str; 5] = ["command", "args", "env", "env_pass", "cwd"];
/// The keys of a command that is a step.
pub(super) const RUN_KEYS: [&str; 3] = ["run", "stop_grace", "end"];
/// The default time-out of a step.
pub(super) const DEFAULT_STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// The time-out for starting a served command; `max_wait` is for its boot.
const SERVE_START_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of `stop_grace`: the time between TERM and KILL for a served command.
const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);
const RUNS: [(&str, Run); 3] = [
    ("once", Run::Once),
    ("detach", Run::Detach),
    ("serve", Run::Serve),
];
/// The most arguments, variables or headers of one step.
pub(super) const MAX_ENTRIES: usize = 256;
/// The longest body of an `http` step, and the longest single argument or variable.
pub(super) const MAX_TEXT_BYTES: usize = 64 * 1024;

/// How a command is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Once,
    Detach,
    Serve,
}

/// A command as `run` wants it, how long it may take, and whether it is the backend. Without a `run` that is understood, it is taken
/// for one that runs to its end.
pub(super) fn command(
    table: &mut Table<'_>,
    timeout: Option<&Value<'_>>,
    within: Duration,
) -> (Option<Action>, Duration, Option<bool>) {
    let command = command_action(table);
    let run = match table.has("run") {
        true => table.choice("run", &RUNS),
        false => Some(Run::Once),
    };
    let (grace, end) = (table.take("stop_grace"), table.take("end"));
    if let Some(Run::Once | Run::Detach) = run {
        for value in [&grace, &end].into_iter().flatten() {
            value.lacks("is for run = \"serve\"");
        }
    }
    let grace = grace.and_then(|value| value.note(value.duration()));
    let end = end.and_then(Value::table).and_then(end_command);
    let serves = run.map(|run| run == Run::Serve);
    match run {
        Some(Run::Once) | None => (command.map(Action::Once), within, serves),
        Some(Run::Detach) => (command.map(Action::Detach), within, serves),
        Some(Run::Serve) => {
            if let Some(timeout) = timeout {
                timeout.wrong("is not for run = \"serve\": max_wait says how long it may boot");
            }
            let ends_within = end.as_ref().map_or(Duration::ZERO, |end| end.timeout);
            let serve = command.map(|command| Action::Serve {
                command,
                stop_grace: grace.unwrap_or(DEFAULT_STOP_GRACE),
                end: end.map(Box::new),
            });
            (serve, SERVE_START_TIMEOUT + ends_within, serves)
        }
    }
}

fn end_command(mut table: Table<'_>) -> Option<EndCommand> {
    table.only(&[&COMMAND_KEYS, &["timeout"]]);
    let command = command_action(&mut table);
    let timeout = table.duration("timeout").unwrap_or(DEFAULT_STEP_TIMEOUT);
    command.map(|command| EndCommand { command, timeout })
}

fn command_action(table: &mut Table<'_>) -> Option<CommandAction> {
    let program = table.required("command", |value| value.parsed(legal_program));
    let args = table.list("args", MAX_ENTRIES, text_for_exec);
    let env = table.entries("env", MAX_ENTRIES, |name, value| {
        legal_variable(name).map_err(|reason| value.error(reason))?;
        Ok((name.to_owned(), text_for_exec(value)?))
    });
    let env_pass = table.list("env_pass", MAX_ENTRIES, passed_variable);
    let cwd = table.optional("cwd", Value::absolute_path);
    Some(CommandAction {
        program: program?,
        args,
        env,
        env_pass,
        cwd,
    })
}

fn legal_variable(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("is not a variable's name");
    }
    Ok(())
}

fn passed_variable(value: &Value<'_>) -> Result<String, ConfigError> {
    let name = value.string()?;
    let start = name.strip_suffix('*').unwrap_or(&name);
    legal_variable(start).map_err(|reason| value.error(reason))?;
    if start.contains(|c: char| c.is_whitespace() || matches!(c, '*' | '$' | '{' | '}')) {
        return Err(value.error("is neither a variable's name nor the beginning of names, such as HF_*"));
    }
    if name.starts_with(OWN_VARIABLES) {
        return Err(value.error("is one of Reveille's own variables: they reach no command"));
    }
    Ok(name)
}

fn text_for_exec(value: &Value<'_>) -> Result<Secret, ConfigError> {
    let text = value.bounded(MAX_TEXT_BYTES)?;
    if text.contains('\0') {
        Err(value.error("must not have a NUL in it"))
    } else {
        Ok(Secret::new(text))
    }
}

fn legal_program(raw: &str) -> Result<String, &'static str> {
    if raw.is_empty() || raw.contains('\0') {
        return Err("names no program");
    }
    let name = raw.split('/').next().unwrap_or_default();
    if name.contains(char::is_whitespace) {
        return Err("is only the program: put the words after it into `args`, as in args = [\"serve\"]");
    }
    // A relative path would depend on the directory that the agent was started in.
    if raw.contains('/') && !Path::new(raw).is_absolute() {
        return Err("must be an absolute path, or a bare name that is looked up in PATH");
    }
    Ok(raw.to_owned())
}
