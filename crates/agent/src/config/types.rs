//! The config as the rest of the agent sees it.

use super::{
    address::{BaseUrl, NatsUrl},
    duration::millis,
    hours::Hours,
    preset::Preset,
    recipe::{Action, DEFAULT_MIN_AWAKE, SleepConfig, Step, WakeConfig},
    secret::Secret,
    trust::Trust,
};
use reveille_domain::{AgentName, Balancing, ExtraPath, GroupName, ModelName, ProviderName, WakeSpec};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// The whole file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[agent]`.
    pub agent: AgentConfig,
    /// `[[provider]]`, in the file's order; their names are unique.
    pub providers: Vec<ProviderConfig>,
    /// `[[preset]]`, in the file's order; their names are unique.
    pub presets: Vec<Arc<Preset>>,
}

/// `[agent]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// This machine's name unless the file has another.
    pub name: AgentName,
    /// The hub's NATS; may be given on the command line instead.
    pub nats: Option<NatsUrl>,
    /// Whether plaintext NATS to another machine is allowed.
    pub allow_plaintext: bool,
    /// The file with this agent's key for the hub; absent if the hub needs none.
    pub credentials: Option<PathBuf>,
    /// A PEM file of authorities to trust for `tls://` and `wss://`, in addition to the system's.
    pub ca: Option<PathBuf>,
    /// The interval between heartbeats; after three missing ones the agent counts as lost.
    pub heartbeat: Duration,
    /// Hours in which no wake begins.
    pub quiet_hours: Hours,
}

/// One `[[provider]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderConfig {
    /// Unique in the file.
    pub name: ProviderName,
    pub base_url: BaseUrl,
    /// Which certificates of servers it trusts.
    pub trust: Trust,
    /// The bearer token for the backend; nobody else gets it.
    pub api_key: Option<Secret>,
    /// The published models; `None` to publish what the backend lists.
    pub models: Option<Vec<ModelConfig>>,
    /// The presets that it serves as long as it publishes their models.
    pub presets: Vec<Arc<Preset>>,
    /// Which name of the model answers have; `None` for the public one of a model with another name at the backend, and else
    /// whatever the backend says.
    pub answer_model: Option<AnswerModelName>,
    /// How long the backend may stay silent during a request.
    pub answer_timeout: Duration,
    /// How long it may take to begin its answer, if not as long as that.
    pub first_byte_timeout: Option<Duration>,
    /// Its share of the requests for its models, beside others that publish them.
    pub balancing: Balancing,
    pub probe: ProbeConfig,
    /// Without a wake recipe, the provider is `down` while its backend is unavailable.
    pub wake: Option<WakeConfig>,
    pub sleep: Option<SleepConfig>,
    /// The paths by which clients may reach it beside those that every backend may have.
    pub extra_paths: Vec<ExtraPath>,
    /// Its groups: in each, one provider is awake at a time.
    pub exclusive: Vec<GroupName>,
    /// Whether it never makes room for others of its groups.
    pub persistent: bool,
    /// How long its wake may wait for its groups.
    pub max_group_wait: Duration,
    /// When a wake ends whose recipe runs already.
    pub cancel_wake: CancelWake,
}

impl ProviderConfig {
    /// How long the backend may stay silent before it begins its answer.
    pub(crate) fn first_byte_timeout(&self) -> Duration {
        self.first_byte_timeout.unwrap_or(self.answer_timeout)
    }

    /// The longest silence of the backend that shows nothing.
    pub(crate) fn longest_silence(&self) -> Duration {
        self.answer_timeout.max(self.first_byte_timeout())
    }

    /// The published part of its wake recipe: the kind, and the budget including the wait for its groups.
    #[must_use]
    pub fn wake_spec(&self) -> Option<WakeSpec> {
        let wake = self.wake.as_ref()?;
        let group_wait = if self.exclusive.is_empty() {
            Duration::ZERO
        } else {
            self.max_group_wait
        };
        Some(WakeSpec {
            kind: wake.kind(),
            budget_ms: millis(wake.budget() + group_wait),
        })
    }

    /// The same with the `http` steps of its recipes trusting these servers. Only at the backend's own host they may do without
    /// verification.
    #[must_use]
    pub(super) fn with_trust_in_steps(mut self, trust: &Trust) -> Self {
        let wake = self.wake.iter_mut().flat_map(|wake| &mut wake.steps);
        let sleep = self.sleep.iter_mut().flat_map(|sleep| &mut sleep.steps);
        for step in wake.chain(sleep) {
            if let Action::Http(http) = &mut step.action {
                http.trust = if self.base_url.has_host_of(&http.address) {
                    trust.clone()
                } else {
                    trust.verifying()
                };
            }
        }
        self
    }

    /// Whether its recipes start programs on this machine.
    #[must_use]
    pub fn runs_commands(&self) -> bool {
        let wake = self.wake.iter().flat_map(|wake| &wake.steps);
        let sleep = self.sleep.iter().flat_map(|sleep| &sleep.steps);
        wake.chain(sleep).any(Step::runs_command)
    }

    /// How long it stays awake at least, unless an operator puts it to sleep.
    #[must_use]
    pub fn min_awake(&self) -> Duration {
        let sleep = self.sleep.as_ref();
        sleep.map_or(DEFAULT_MIN_AWAKE, |sleep| sleep.min_awake)
    }
}

/// `answer_model`: the name of the model in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerModelName {
    /// What the backend says.
    Backend,
    /// The public name.
    Public,
}

/// `cancel_wake`: when a wake ends whose recipe runs already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CancelWake {
    /// Only by its own end.
    #[default]
    Never,
    /// When nobody wants it any longer.
    WhenUnwanted,
}

/// A published model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    /// The backend's name for it.
    pub id: ModelName,
    /// The clients' name for it.
    pub public: ModelName,
}

/// Where backends list their models.
pub(crate) const MODELS_PATH: &str = "/v1/models";

/// `probe`: how the agent finds out whether the backend is available.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeConfig {
    /// Below the base URL; may have a query.
    pub path: String,
    /// What the answer's JSON must contain; if absent, any 2xx will do.
    pub expect: Option<serde_json::Value>,
    /// Whether the list of the backend's models must show that it is the provider's.
    pub check_models: bool,
    /// The pause between two probes of an idle backend.
    pub interval: Duration,
    pub timeout: Duration,
}

impl ProbeConfig {
    /// Whether its answer is the list of the backend's models.
    #[must_use]
    pub fn asks_for_models(&self) -> bool {
        let path = self.path.split('?').next();
        path == Some(MODELS_PATH)
    }
}
