//! `[provider.wake]` and `[provider.sleep]`: what is run.

use super::{address::Address, hours::Hours, secret::Secret, trust::Trust};
use crate::wol::WakeOnLan;
use http::{HeaderName, HeaderValue, Method};
use reveille_domain::RecipeKind;
use serde_json::json;
use std::{fmt, path::PathBuf, time::Duration};

/// The prefix of Reveille's own environment variables. None of them reaches a command, whatever the config says.
pub(crate) const OWN_VARIABLES: &str = "REVEILLE_";
/// The default of `min_awake`: how long a backend stays awake at least.
pub(super) const DEFAULT_MIN_AWAKE: Duration = Duration::from_secs(5);

/// The default time-out of a verification.
pub(super) const DEFAULT_VERIFY_TIMEOUT: Duration = Duration::from_secs(30);
/// The paths of inference.
pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";
pub(crate) const COMPLETIONS_PATH: &str = "/v1/completions";
pub(crate) const EMBEDDINGS_PATH: &str = "/v1/embeddings";

/// `[provider.wake]`.
#[derive(Debug, Clone, PartialEq)]
pub struct WakeConfig {
    /// At least one.
    pub steps: Vec<Step>,
    /// How long the probe may take to succeed after the steps.
    pub max_wait: Duration,
    /// The completion that must succeed after the probe.
    pub verify: Option<VerifyConfig>,
    /// How often it may run in 24 hours; unlimited if absent.
    pub max_per_day: Option<u32>,
}

impl WakeConfig {
    /// The longest duration of a wake: the time-outs of its steps and its verification, and `max_wait`.
    #[must_use]
    pub fn budget(&self) -> Duration {
        let steps: Duration = self.steps.iter().map(|step| step.timeout).sum();
        let verify: Duration = self.verify.iter().map(|verify| verify.timeout).sum();
        steps + self.max_wait + verify
    }

    /// The kind that is published.
    #[must_use]
    pub fn kind(&self) -> RecipeKind {
        match &self.steps[..] {
            [Step { action, .. }] => match action {
                Action::Http(_) => RecipeKind::Http,
                Action::Once(_) | Action::Detach(_) => RecipeKind::Command,
                Action::Serve { .. } => RecipeKind::Serve,
                Action::Wol(_) | Action::Tcp(_) => RecipeKind::Steps,
            },
            _ => RecipeKind::Steps,
        }
    }

    /// Whether the backend is a child of the agent.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.steps.iter().any(Step::serves)
    }

    /// What ends a backend that outlives the served command.
    #[must_use]
    pub fn end(&self) -> Option<&EndCommand> {
        self.steps.iter().find_map(|step| match &step.action {
            Action::Serve { end, .. } => end.as_deref(),
            _ => None,
        })
    }
}

/// `[provider.sleep]`. Without steps, the served command is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SleepConfig {
    pub steps: Vec<Step>,
    /// The idle time before sleep; if absent, only orders put it to sleep.
    pub idle_after: Option<Duration>,
    /// How long it stays awake at least, unless an operator puts it to sleep.
    pub min_awake: Duration,
    /// Hours in which it isn't put to sleep for being idle.
    pub keep_warm: Hours,
}

/// One step of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub timeout: Duration,
    pub action: Action,
}

impl Step {
    /// Whether it starts the backend.
    pub(super) const fn serves(&self) -> bool {
        matches!(self.action, Action::Serve { .. })
    }

    /// Whether it starts a program on this machine.
    #[must_use]
    pub fn runs_command(&self) -> bool {
        self.action.commands().next().is_some()
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sends a request. Success is any 2xx, and the statuses in `accept`.
    Http(HttpAction),
    /// Sends magic packets to a sleeping machine.
    Wol(WakeOnLan),
    /// Waits until `host:port` accepts connections.
    Tcp(String),
    /// Runs a command to its end; success is exit code 0. Processes that it leaves running are ended, and the step fails.
    Once(CommandAction),
    /// Runs a command to its end; success is exit code 0. Processes that it leaves running live on.
    Detach(CommandAction),
    /// Starts the command that is the backend, and keeps it running.
    Serve {
        command: CommandAction,
        /// The time between TERM and KILL.
        stop_grace: Duration,
        /// Ends what the command leaves outside of its descendants, such as a container. Boxed: few have one.
        end: Option<Box<EndCommand>>,
    },
}

/// `end` of a served command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndCommand {
    pub command: CommandAction,
    pub timeout: Duration,
}

impl Action {
    /// The programs that it runs on this machine.
    pub fn commands(&self) -> impl Iterator<Item = &CommandAction> {
        let (command, end) = match self {
            Self::Once(command) | Self::Detach(command) => (Some(command), None),
            Self::Serve { command, end, .. } => (Some(command), end.as_deref()),
            Self::Http(_) | Self::Wol(_) | Self::Tcp(_) => (None, None),
        };
        command.into_iter().chain(end.map(|end| &end.command))
    }
}

/// An HTTP request.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpAction {
    pub method: Method,
    pub address: Address,
    /// Which servers it trusts: those of its provider.
    pub trust: Trust,
    /// Marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Option<Secret>,
    /// Statuses that are successes besides 2xx.
    pub accept: Vec<u16>,
}

impl fmt::Debug for HttpAction {
    /// Hides the URL's query, which often contains a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "HttpAction({} {})",
            self.method,
            self.address.without_query("[redacted]")
        )
    }
}

/// A program and its arguments; no shell is involved.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandAction {
    /// An absolute path, or a name to look up in `PATH`.
    pub program: String,
    pub args: Vec<Secret>,
    /// Variables in addition to those that every command gets from the agent.
    pub env: Vec<(String, Secret)>,
    /// Names of further variables of the agent to pass on, or, in the form `HF_*`, the beginning of their names.
    pub env_pass: Vec<String>,
    /// Its working directory, an absolute path; `None` for a folder in the agent's data directory.
    pub cwd: Option<PathBuf>,
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

/// `[provider.wake.verify]`: a completion that the backend must answer before it counts as awake.
#[derive(Clone, PartialEq)]
pub struct VerifyConfig {
    /// Below the base URL.
    pub path: String,
    /// The request, which names a model.
    pub body: serde_json::Value,
    /// What the answer's JSON must contain in addition to a choice.
    pub expect: Option<serde_json::Value>,
    /// Includes repetitions.
    pub timeout: Duration,
}

impl VerifyConfig {
    /// A request for one token, or for one embedding, at one of the paths of inference.
    pub(crate) fn of_one_token(path: &str, model: Option<&str>) -> Self {
        let mut body = match path {
            COMPLETIONS_PATH => json!({ "prompt": "Hi", "max_tokens": 1, "stream": false }),
            EMBEDDINGS_PATH => json!({ "input": "Hi" }),
            _ => {
                json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 1, "stream": false })
            }
        };
        if let Some(model) = model {
            body["model"] = model.into();
        }
        Self {
            path: path.to_owned(),
            body,
            expect: None,
            timeout: DEFAULT_VERIFY_TIMEOUT,
        }
    }
}

impl fmt::Debug for VerifyConfig {
    /// Hides what is sent and expected.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyConfig({})", self.path)
    }
}
