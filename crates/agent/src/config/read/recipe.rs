//! Reads `[provider.wake]` and `[provider.sleep]`, in the flat form or as a list of steps.

use super::{
    network::{self, DEFAULT_WOL_TIMEOUT},
    table::{Table, Value},
    verify::{self, Verified},
};
use crate::config::{
    Action, CommandAction, ConfigError, DEFAULT_MAX_WAIT, DEFAULT_MIN_AWAKE, DEFAULT_STEP_TIMEOUT,
    DEFAULT_STOP_GRACE, HttpAction, OWN_VARIABLES, SERVE_START_TIMEOUT, Secret, SleepConfig, Step,
    WakeConfig, address::http_url,
};
use http::{HeaderName, HeaderValue, Method};
use reveille_domain::MAX_WAKE_BUDGET;
use std::{ops::RangeInclusive, path::Path};

/// The most steps of one recipe.
pub const MAX_STEPS: usize = 16;
/// The most arguments, variables or headers of one step.
pub const MAX_ENTRIES: usize = 256;
/// The longest body of an `http` step, and the longest single argument or variable.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// How many statuses `accept` may have, and which: those of a service that is asked for what it already does.
const MAX_ACCEPTED: usize = 16;
const ACCEPTED: RangeInclusive<u32> = 300..=599;
/// The bounds of `max_per_day`. More than one wake in eight seconds would be no limit.
const MAX_PER_DAY_BOUNDS: RangeInclusive<u32> = 1..=10_000;

/// Reads `[provider.wake]`.
pub(super) fn wake(mut table: Table<'_>, verified: Verified<'_>) -> Result<WakeConfig, ConfigError> {
    let max_wait = table.take("max_wait").map(|value| value.duration()).transpose()?;
    let max_per_day = table
        .take("max_per_day")
        .map(|value| value.integer(MAX_PER_DAY_BOUNDS))
        .transpose()?;
    let verify = table
        .take("verify")
        .map(|value| verify::verify(value, verified))
        .transpose()?;
    let whole = table.error(format!(
        "the time-outs of steps and verify and max_wait sum to more than {MAX_WAKE_BUDGET:?}"
    ));
    let misplaced = table.error("a `serve` command is the backend: only the last step can be one");
    let steps = steps(table, true)?.unwrap_or_default();
    if steps
        .iter()
        .rev()
        .skip(1)
        .any(|step| matches!(step.action, Action::Serve { .. }))
    {
        return Err(misplaced);
    }
    let wake = WakeConfig {
        steps,
        max_wait: max_wait.unwrap_or(DEFAULT_MAX_WAIT),
        verify,
        max_per_day,
    };
    if wake.budget() > MAX_WAKE_BUDGET {
        Err(whole)
    } else {
        Ok(wake)
    }
}

/// Reads `[provider.sleep]` of a provider with that wake recipe.
pub(super) fn sleep(mut table: Table<'_>, wake: Option<&WakeConfig>) -> Result<SleepConfig, ConfigError> {
    let idle_after = match table.take("idle_after") {
        Some(value) if wake.is_none() => {
            return Err(value.error("is for a provider with [provider.wake]: nothing would wake it again"));
        }
        value => value.map(|value| value.duration()).transpose()?,
    };
    let min_awake = table
        .take("min_awake")
        .map(|value| value.duration())
        .transpose()?;
    let keep_warm = match table.take("keep_warm") {
        Some(value) if idle_after.is_none() => {
            return Err(
                value.error("is for a provider with `idle_after`: no other is put to sleep for being idle")
            );
        }
        value => value.map(Value::hours).transpose()?.unwrap_or_default(),
    };
    let no_serve = table.error("a `serve` command can't put a backend to sleep; use run = \"once\"");
    let no_wake = table.error("`wol` and `tcp` wake, and put nothing to sleep");
    // A served backend sleeps when its child is stopped.
    let served = wake.is_some_and(WakeConfig::serves);
    let steps = steps(table, !served)?.unwrap_or_default();
    for step in &steps {
        match step.action {
            Action::Http(_) | Action::Once(_) => {}
            Action::Serve { .. } => return Err(no_serve),
            Action::Wol(_) | Action::Tcp(_) => return Err(no_wake),
        }
    }
    Ok(SleepConfig {
        steps,
        idle_after,
        min_awake: min_awake.unwrap_or(DEFAULT_MIN_AWAKE),
        keep_warm,
    })
}

/// The steps of a recipe in either form; `None` if there are none and none are required.
fn steps(mut table: Table<'_>, required: bool) -> Result<Option<Vec<Step>>, ConfigError> {
    let Some(list) = table.take("step") else {
        if !required && !table.has("type") {
            table.take("type");
            return table.finish().map(|()| None);
        }
        return Ok(Some(vec![step(table)?]));
    };
    if table.has("type") {
        return Err(table.error("has both `type` and a list of steps; use one of them"));
    }
    let empty = list.error("has no steps");
    let steps = list
        .array(MAX_STEPS)?
        .into_iter()
        .map(|value| step(value.table()?));
    let steps: Vec<Step> = steps.collect::<Result<_, _>>()?;
    table.finish()?;
    if steps.is_empty() {
        Err(empty)
    } else {
        Ok(Some(steps))
    }
}

fn step(mut table: Table<'_>) -> Result<Step, ConfigError> {
    let kind = table.require("type")?;
    let timeout = table.take("timeout");
    let given = timeout
        .as_ref()
        .map(Value::duration)
        .transpose()?
        .unwrap_or(DEFAULT_STEP_TIMEOUT);
    let step = match kind.string()?.as_str() {
        "http" => Step {
            timeout: given,
            action: Action::Http(http_action(&mut table)?),
        },
        "command" => {
            let command = command_action(&mut table)?;
            let run = table.take("run");
            let grace = table.take("stop_grace");
            match run.as_ref().map(Value::string).transpose()?.as_deref() {
                None | Some("once") => {
                    if let Some(grace) = grace {
                        return Err(grace.error("is for run = \"serve\""));
                    }
                    Step {
                        timeout: given,
                        action: Action::Once(command),
                    }
                }
                Some("serve") => {
                    if let Some(timeout) = timeout {
                        return Err(
                            timeout.error("is not for run = \"serve\": max_wait says how long it may boot")
                        );
                    }
                    let stop_grace = grace
                        .map(|value| value.duration())
                        .transpose()?
                        .unwrap_or(DEFAULT_STOP_GRACE);
                    Step {
                        timeout: SERVE_START_TIMEOUT,
                        action: Action::Serve { command, stop_grace },
                    }
                }
                Some(_) => {
                    return Err(match run {
                        Some(run) => run.error("must be \"once\" or \"serve\""),
                        None => table.error("must be \"once\" or \"serve\""),
                    });
                }
            }
        }
        "wol" => {
            let timeout = timeout.map_or(DEFAULT_WOL_TIMEOUT, |_| given);
            Step {
                timeout,
                action: Action::Wol(network::wol(&mut table, timeout)?),
            }
        }
        "tcp" => Step {
            timeout: given,
            action: Action::Tcp(network::tcp(&mut table)?),
        },
        _ => return Err(kind.error("must be \"http\", \"command\", \"wol\" or \"tcp\"")),
    };
    table.finish()?;
    Ok(step)
}

fn http_action(table: &mut Table<'_>) -> Result<HttpAction, ConfigError> {
    let url = table.require("url")?.parsed(http_url)?;
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
    let body = table
        .take("body")
        .map(|value| value.bounded(MAX_TEXT_BYTES))
        .transpose()?
        .map(Secret::new);
    let accept = match table.take("accept") {
        None => Vec::new(),
        Some(value) => value
            .array(MAX_ACCEPTED)?
            .iter()
            .map(|status| status.integer(ACCEPTED).map(|status| status as u16))
            .collect::<Result<_, _>>()?,
    };
    Ok(HttpAction {
        method,
        url,
        headers,
        body,
        accept,
    })
}

fn command_action(table: &mut Table<'_>) -> Result<CommandAction, ConfigError> {
    let program = table
        .require("command")?
        .parsed(|raw| legal_program(raw).map(|()| raw.to_owned()))?;
    let args = match table.take("args") {
        None => Vec::new(),
        Some(value) => value
            .array(MAX_ENTRIES)?
            .iter()
            .map(text_for_exec)
            .collect::<Result<_, _>>()?,
    };
    let mut env = Vec::new();
    for (name, value) in entries(table, "env")? {
        legal_variable(&name).map_err(|reason| value.error(reason))?;
        env.push((name, text_for_exec(&value)?));
    }
    let env_pass = match table.take("env_pass") {
        None => Vec::new(),
        Some(value) => value
            .array(MAX_ENTRIES)?
            .iter()
            .map(passed_variable)
            .collect::<Result<_, _>>()?,
    };
    Ok(CommandAction {
        program,
        args,
        env,
        env_pass,
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
    legal_variable(&name).map_err(|reason| value.error(reason))?;
    if name.starts_with(OWN_VARIABLES) {
        return Err(value.error("is one of Reveille's own variables: they reach no command"));
    }
    Ok(name)
}

/// The entries of a sub-table with free keys, ordered by key.
fn entries<'a>(table: &mut Table<'a>, key: &'static str) -> Result<Vec<(String, Value<'a>)>, ConfigError> {
    let Some(value) = table.take(key) else {
        return Ok(Vec::new());
    };
    let too_many = value.error(format!("must have at most {MAX_ENTRIES} entries"));
    let entries = value.table()?.into_entries();
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

fn legal_program(raw: &str) -> Result<(), &'static str> {
    if raw.is_empty() || raw.contains('\0') {
        return Err("names no program");
    }
    // A relative path would depend on the directory that the agent was started in.
    if raw.contains('/') && !Path::new(raw).is_absolute() {
        return Err("must be an absolute path, or a bare name that is looked up in PATH");
    }
    Ok(())
}
