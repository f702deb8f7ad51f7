//! `[provider.wake]` and `[provider.sleep]`: what is run, in the flat form or as a list of steps.

use super::{
    ConfigError, DEFAULT_WOL_TIMEOUT, Hours, Secret, VerifyConfig,
    address::http_url,
    network,
    table::{Table, Value},
    verify::{self, Verified},
    windows,
};
use crate::{child::OWN_VARIABLES, wol::WakeOnLan};
use http::{HeaderName, HeaderValue, Method};
use reveille_domain::{MAX_WAKE_BUDGET, RecipeKind, WakeSpec};
use std::{fmt, ops::RangeInclusive, path::Path, time::Duration};
use url::Url;

/// The most steps of one recipe.
pub const MAX_STEPS: usize = 16;
/// The most arguments, variables or headers of one step.
pub const MAX_ENTRIES: usize = 256;
/// The longest body of an `http` step, and the longest single argument or variable.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// How long a step may take unless its `timeout` says otherwise.
pub const DEFAULT_STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to probe after the steps unless `max_wait` says otherwise.
pub const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(60);
/// How long the start of a served command may take; its boot is waited for by `max_wait`.
pub const SERVE_START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a backend stays awake at least unless `min_awake` says otherwise: long enough for those who waited for it to
/// reach it.
pub const DEFAULT_MIN_AWAKE: Duration = Duration::from_secs(5);
/// How long a served command has between TERM and KILL unless `stop_grace` says otherwise.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

/// The most statuses that an `http` step accepts beside 2xx, and which they may be: what a service answers that is asked for
/// what it does already.
const MAX_ACCEPTED: usize = 16;
const ACCEPTED: RangeInclusive<u32> = 300..=599;

/// What `max_per_day` may be. More than one wake in eight seconds is no limit.
const MAX_PER_DAY_BOUNDS: RangeInclusive<u32> = 1..=10_000;

/// How a backend is woken.
#[derive(Debug, Clone, PartialEq)]
pub struct WakeConfig {
    /// What is done, in order; at least one.
    pub steps: Vec<Step>,
    /// How long the probe may then take to succeed.
    pub max_wait: Duration,
    /// The completion that must then succeed, if any.
    pub verify: Option<VerifyConfig>,
    /// How many times in 24 hours it is run at most; as often as it is asked for when absent.
    pub max_per_day: Option<u32>,
}

impl WakeConfig {
    /// The longest that a wake takes: the time-outs of its steps and of its verification, and `max_wait`.
    #[must_use]
    pub fn budget(&self) -> Duration {
        let steps: Duration = self.steps.iter().map(|step| step.timeout).sum();
        let verify = self
            .verify
            .as_ref()
            .map_or(Duration::ZERO, |verify| verify.timeout);
        steps + self.max_wait + verify
    }

    /// What is published of the recipe.
    #[must_use]
    pub fn spec(&self) -> WakeSpec {
        let kind = match self.steps.as_slice() {
            [
                Step {
                    action: Action::Http(_),
                    ..
                },
            ] => RecipeKind::Http,
            [
                Step {
                    action: Action::Once(_),
                    ..
                },
            ] => RecipeKind::Command,
            [
                Step {
                    action: Action::Serve { .. },
                    ..
                },
            ] => RecipeKind::Serve,
            _ => RecipeKind::Steps,
        };
        WakeSpec {
            kind,
            budget_ms: u64::try_from(self.budget().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Whether the backend is a child of the agent.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(step.action, Action::Serve { .. }))
    }
}

/// How a backend is put to sleep. Without steps, its served command is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SleepConfig {
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// After how long without requests; only on demand when absent.
    pub idle_after: Option<Duration>,
    /// How long it stays awake at least, unless somebody puts it to sleep.
    pub min_awake: Duration,
    /// When it isn't put to sleep for having nothing to do.
    pub keep_warm: Hours,
}

/// One step of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How long it may take.
    pub timeout: Duration,
    /// What it does.
    pub action: Action,
}

impl Step {
    /// Whether it starts a program of this machine.
    #[must_use]
    pub const fn runs_command(&self) -> bool {
        matches!(self.action, Action::Once(_) | Action::Serve { .. })
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sends a request; any 2xx is success, and what else it accepts.
    Http(HttpAction),
    /// Sends magic packets to a machine that is off or sleeps.
    Wol(WakeOnLan),
    /// Waits until a host accepts connections at a port: `host:port`.
    Tcp(String),
    /// Runs a command to its end; exit code 0 is success. What it leaves running is ended.
    Once(CommandAction),
    /// Starts the command that is the backend, and keeps it.
    Serve {
        /// The command.
        command: CommandAction,
        /// The time between TERM and KILL when it is stopped.
        stop_grace: Duration,
    },
}

/// An HTTP request.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpAction {
    /// Its method.
    pub method: Method,
    /// Where it goes.
    pub url: Url,
    /// Its headers, marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Option<Secret>,
    /// What statuses are success beside 2xx.
    pub accept: Vec<u16>,
}

impl fmt::Debug for HttpAction {
    /// Without the URL's query, which often holds a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(self.url.query().map(|_| "[redacted]"));
        write!(f, "HttpAction({} {url})", self.method)
    }
}

/// A program and its arguments; no shell reads them.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandAction {
    /// An absolute path, or a bare name to look up in `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<Secret>,
    /// Its variables, beside what a list of the agent's own passes to every command.
    pub env: Vec<(String, Secret)>,
    /// The names of more variables of the agent that are passed to it.
    pub env_pass: Vec<String>,
}

impl fmt::Debug for CommandAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CommandAction({}, {} arguments)",
            self.program,
            self.args.len()
        )
    }
}

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

/// Reads `[provider.sleep]` of a provider that is woken by `wake`.
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
        value => value.map(windows).transpose()?.unwrap_or_default(),
    };
    let no_serve = table.error("a `serve` command can't put a backend to sleep; use run = \"once\"");
    let no_wake = table.error("`wol` and `tcp` wake, and put nothing to sleep");
    // One that is served is put to sleep by ending its child.
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

/// The steps of a recipe in either form; `None` when there are none and none are needed.
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
            // Methods are case-sensitive: `post` would be a method of its own that no server knows.
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

/// The entries of a sub-table with free keys, in the order of their names.
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
    // A relative path would depend on the directory that the agent happens to be started in.
    if raw.contains('/') && !Path::new(raw).is_absolute() {
        return Err("must be an absolute path, or a bare name that is looked up in PATH");
    }
    Ok(())
}
