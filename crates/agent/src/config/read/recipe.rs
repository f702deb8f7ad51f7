//! Reads `[provider.wake]` and `[provider.sleep]`, in the flat form or as a list of steps.

use super::{
    network::{self, DEFAULT_WOL_TIMEOUT, TCP_KEYS, WOL_KEYS},
    table::{Table, Value},
    verify,
};
use crate::config::{
    Action, Address, BaseUrl, CommandAction, ConfigError, EndCommand, HttpAction, ModelConfig, OWN_VARIABLES,
    Secret, SleepConfig, Step, Trust, WakeConfig, recipe::DEFAULT_MIN_AWAKE,
};
use http::{HeaderName, HeaderValue, Method};
use reveille_domain::MAX_WAKE_BUDGET;
use std::{ops::RangeInclusive, path::Path, time::Duration};

const WAKE_KEYS: [&str; 3] = ["max_wait", "max_per_day", "verify"];
const SLEEP_KEYS: [&str; 3] = ["idle_after", "min_awake", "keep_warm"];
/// The keys of every step.
const STEP_KEYS: [&str; 2] = ["type", "timeout"];
const HTTP_KEYS: [&str; 5] = ["url", "method", "headers", "body", "accept"];
/// The keys of every command.
const COMMAND_KEYS: [&str; 5] = ["command", "args", "env", "env_pass", "cwd"];
/// The keys of a command that is a step.
const RUN_KEYS: [&str; 3] = ["run", "stop_grace", "end"];
/// The default time-out of a step.
const DEFAULT_STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// The default of `max_wait`: how long to probe after the steps.
const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(60);
/// The time-out for starting a served command; `max_wait` is for its boot.
const SERVE_START_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of `stop_grace`: the time between TERM and KILL for a served command.
const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);
const TYPES: [(&str, Kind); 4] = [
    ("http", Kind::Http),
    ("command", Kind::Command),
    ("wol", Kind::Wol),
    ("tcp", Kind::Tcp),
];
const RUNS: [(&str, Run); 3] = [
    ("once", Run::Once),
    ("detach", Run::Detach),
    ("serve", Run::Serve),
];
/// The most steps of one recipe.
const MAX_STEPS: usize = 16;
/// The most arguments, variables or headers of one step.
const MAX_ENTRIES: usize = 256;
/// The longest body of an `http` step, and the longest single argument or variable.
pub(super) const MAX_TEXT_BYTES: usize = 64 * 1024;
/// How many statuses `accept` may have, and which: those of a service that is asked for what it already does.
const MAX_ACCEPTED: usize = 16;
const ACCEPTED: RangeInclusive<u32> = 300..=599;
/// The bounds of `max_per_day`. More than one wake in eight seconds would be no limit.
const MAX_PER_DAY_BOUNDS: RangeInclusive<u32> = 1..=10_000;

/// Reads `[provider.wake]`.
pub(super) fn wake(
    mut table: Table<'_>,
    base_url: &BaseUrl,
    models: Option<&[ModelConfig]>,
) -> Result<WakeConfig, ConfigError> {
    only_with_steps(&mut table, &WAKE_KEYS, true)?;
    let max_wait = table.noting("max_wait", |value| value.duration());
    let max_per_day = table.noting("max_per_day", |value| value.integer(MAX_PER_DAY_BOUNDS));
    let verify = table.noting("verify", |value| verify::verify(value.table()?, base_url, models));
    let steps = steps(&mut table, true)?;
    if steps.iter().rev().skip(1).any(Step::serves) {
        return Err(table.error("a `serve` command is the backend: only the last step can be one"));
    }
    let wake = WakeConfig {
        steps,
        max_wait: max_wait.unwrap_or(DEFAULT_MAX_WAIT),
        verify,
        max_per_day,
    };
    if wake.budget() > MAX_WAKE_BUDGET {
        return Err(table.error(format!(
            "the time-outs of steps and verify and max_wait sum to more than {MAX_WAKE_BUDGET:?}"
        )));
    }
    Ok(wake)
}

/// Reads `[provider.sleep]` of a provider with that wake recipe.
pub(super) fn sleep(mut table: Table<'_>, wake: Option<&WakeConfig>) -> Result<SleepConfig, ConfigError> {
    // A served backend sleeps when its child is stopped.
    let served = wake.is_some_and(WakeConfig::serves);
    only_with_steps(&mut table, &SLEEP_KEYS, !served)?;
    let idle_after = match table.take("idle_after") {
        Some(value) if wake.is_none() => {
            return Err(value.error("is for a provider with [provider.wake]: nothing would wake it again"));
        }
        value => value.map(|value| value.duration()).transpose()?,
    };
    let min_awake = table.noting("min_awake", |value| value.duration());
    let keep_warm = match table.take("keep_warm") {
        Some(value) if idle_after.is_none() => {
            return Err(
                value.error("is for a provider with `idle_after`: no other is put to sleep for being idle")
            );
        }
        value => value.map(Value::hours).transpose()?.unwrap_or_default(),
    };
    if !served && !table.has("step") && !table.has("type") {
        return Err(match table.is_mistyped() {
            true => ConfigError::noted(),
            false => table.error(without_a_recipe(wake)).of_missing(),
        });
    }
    let steps = steps(&mut table, !served)?;
    for step in &steps {
        let unfit = match step.action {
            Action::Http(_) | Action::Once(_) | Action::Detach(_) => continue,
            Action::Serve { .. } => "a `serve` command can't put a backend to sleep; use run = \"once\"",
            Action::Wol(_) | Action::Tcp(_) => "`wol` and `tcp` wake, and put nothing to sleep",
        };
        return Err(table.error(unfit));
    }
    Ok(SleepConfig {
        steps,
        idle_after,
        min_awake: min_awake.unwrap_or(DEFAULT_MIN_AWAKE),
        keep_warm,
    })
}

/// Why a backend with that wake recipe needs a sleep recipe. Most often its wake recipe lacks `run = "serve"`.
fn without_a_recipe(wake: Option<&WakeConfig>) -> &'static str {
    let last = wake.and_then(|wake| wake.steps.last());
    if last.is_some_and(|step| matches!(step.action, Action::Once(_))) {
        return "nothing says how to put the backend to sleep. If the command of [provider.wake] is the server itself, add \
                run = \"serve\" there, and the backend sleeps when that command is ended. Otherwise give this table a \
                `type` and what puts the backend to sleep";
    }
    "`type` is missing: only a backend with run = \"serve\" is put to sleep without a recipe, by ending its command; name a \
     command or a request that puts this one to sleep"
}

/// Checks that a recipe's table has no other keys than its `own` and those of its steps.
fn only_with_steps(table: &mut Table<'_>, own: &[&'static str], required: bool) -> Result<(), ConfigError> {
    if table.has("step") {
        if table.has("type") {
            return Err(table.error("has both `type` and a list of steps; use one of them"));
        }
        table.only(&[own, &["step"]]);
    } else if !required && !table.has("type") {
        table.only(&[own, &["step", "type"]]);
    } else {
        let kind = kind_keys(table);
        table.only(&[own, &["step"], &STEP_KEYS, &kind]);
    }
    Ok(())
}

/// The keys that only the step's own `type` has; those of all types if it has none.
fn kind_keys(table: &Table<'_>) -> Vec<&'static str> {
    match table.peek("type").as_deref() {
        Some("http") => HTTP_KEYS.to_vec(),
        Some("command") => [&COMMAND_KEYS[..], &RUN_KEYS].concat(),
        Some("wol") => WOL_KEYS.to_vec(),
        Some("tcp") => TCP_KEYS.to_vec(),
        _ => [&HTTP_KEYS[..], &COMMAND_KEYS, &RUN_KEYS, &WOL_KEYS].concat(),
    }
}

/// The steps of a recipe in either form; none if none are required.
fn steps(table: &mut Table<'_>, required: bool) -> Result<Vec<Step>, ConfigError> {
    let Some(list) = table.take("step") else {
        if !required && !table.has("type") {
            return Ok(Vec::new());
        }
        return Ok(vec![step(table)?]);
    };
    let empty = list.error("has no steps");
    let steps: Vec<_> = list
        .tables(MAX_STEPS)?
        .into_iter()
        .map(|mut entry| {
            let kind = kind_keys(&entry);
            entry.only(&[&STEP_KEYS, &kind]);
            let step = step(&mut entry);
            table.note(step)
        })
        .collect();
    if steps.is_empty() {
        return Err(empty);
    }
    steps
        .into_iter()
        .collect::<Option<_>>()
        .ok_or_else(ConfigError::noted)
}

fn step(table: &mut Table<'_>) -> Result<Step, ConfigError> {
    let kind = table.require("type")?;
    let timeout = table.take("timeout");
    let given = timeout.as_ref().map(Value::duration).transpose()?;
    let mut limit = given.unwrap_or(DEFAULT_STEP_TIMEOUT);
    let action = match kind.choice(&TYPES)? {
        Kind::Http => Action::Http(http_action(table)?),
        Kind::Command => {
            let (action, starts_within) = command(table, timeout.as_ref())?;
            limit = starts_within.unwrap_or(limit);
            action
        }
        Kind::Wol => {
            limit = given.unwrap_or(DEFAULT_WOL_TIMEOUT);
            Action::Wol(network::wol(table, limit)?)
        }
        Kind::Tcp => Action::Tcp(network::tcp(table)?),
    };
    Ok(Step {
        timeout: limit,
        action,
    })
}

/// What a step does.
#[derive(Clone, Copy)]
enum Kind {
    Http,
    Command,
    Wol,
    Tcp,
}

/// How a command is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Once,
    Detach,
    Serve,
}

/// A command as `run` wants it; for a served one also how long it may take to start.
fn command(
    table: &mut Table<'_>,
    timeout: Option<&Value<'_>>,
) -> Result<(Action, Option<Duration>), ConfigError> {
    let command = command_action(table)?;
    let run = table.optional("run", |run| run.choice(&RUNS))?;
    let run = run.unwrap_or(Run::Once);
    let (grace, end) = (table.take("stop_grace"), table.take("end"));
    if let (Some(value), Run::Once | Run::Detach) = (grace.as_ref().or(end.as_ref()), run) {
        return Err(value.error("is for run = \"serve\""));
    }
    match run {
        Run::Once => Ok((Action::Once(command), None)),
        Run::Detach => Ok((Action::Detach(command), None)),
        Run::Serve => {
            if let Some(timeout) = timeout {
                return Err(timeout.error("is not for run = \"serve\": max_wait says how long it may boot"));
            }
            let grace = grace.map(|value| value.duration()).transpose()?;
            let end = end.map(|value| end_command(value.table()?)).transpose()?;
            let ends_within = end.as_ref().map_or(Duration::ZERO, |end| end.timeout);
            let serve = Action::Serve {
                command,
                stop_grace: grace.unwrap_or(DEFAULT_STOP_GRACE),
                end: end.map(Box::new),
            };
            Ok((serve, Some(SERVE_START_TIMEOUT + ends_within)))
        }
    }
}

fn end_command(mut table: Table<'_>) -> Result<EndCommand, ConfigError> {
    table.only(&[&COMMAND_KEYS, &["timeout"]]);
    let command = command_action(&mut table)?;
    let timeout = table.duration("timeout")?.unwrap_or(DEFAULT_STEP_TIMEOUT);
    Ok(EndCommand { command, timeout })
}

fn http_action(table: &mut Table<'_>) -> Result<HttpAction, ConfigError> {
    let address = table.require("url")?.parsed(Address::parse)?;
    let method = match table.take("method") {
        None => Method::POST,
        Some(value) => value.parsed(|raw| {
            // Methods are case-sensitive: `post` would be another method, which no server knows.
            Method::from_bytes(raw.to_ascii_uppercase().as_bytes()).map_err(|_| "is not an HTTP method")
        })?,
    };
    let mut headers = Vec::new();
    for (name, value) in entries(table, "headers")? {
        let header = HeaderName::try_from(&name).map_err(|_| value.error("is not a header's name"))?;
        if [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING].contains(&header) {
            return Err(value.error("is set by the agent itself"));
        }
        let mut text =
            value.parsed(|raw| HeaderValue::from_str(raw).map_err(|_| "is not a legal header value"))?;
        text.set_sensitive(true);
        headers.push((header, text));
    }
    let body = table.optional("body", |value| value.bounded(MAX_TEXT_BYTES))?;
    let accept = table.list("accept", MAX_ACCEPTED, |status| {
        status.integer(ACCEPTED).map(|status| status as u16)
    })?;
    Ok(HttpAction {
        method,
        address,
        trust: Trust::default(),
        headers,
        body: body.map(Secret::new),
        accept,
    })
}

fn command_action(table: &mut Table<'_>) -> Result<CommandAction, ConfigError> {
    let program = table.require("command")?.parsed(legal_program)?;
    let args = table.list("args", MAX_ENTRIES, text_for_exec)?;
    let mut env = Vec::new();
    for (name, value) in entries(table, "env")? {
        legal_variable(&name).map_err(|reason| value.error(reason))?;
        env.push((name, text_for_exec(&value)?));
    }
    let env_pass = table.list("env_pass", MAX_ENTRIES, passed_variable)?;
    let cwd = table.optional("cwd", |value| value.absolute_path())?;
    Ok(CommandAction {
        program,
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

/// The entries of a sub-table with free keys, ordered by key.
fn entries<'a>(table: &mut Table<'a>, key: &'static str) -> Result<Vec<(String, Value<'a>)>, ConfigError> {
    let table = table.table(key)?;
    let too_many = table.error(format!("must have at most {MAX_ENTRIES} entries"));
    let entries = table.into_entries();
    if entries.len() > MAX_ENTRIES {
        Err(too_many)
    } else {
        Ok(entries)
    }
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
