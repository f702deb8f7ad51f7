//! What Reveille knows about agents, providers, keys and wakes, as pure data and rules.
//!
//! Three aggregates: [`Agent`] accepts sessions, numbers them with epochs, and knows the key that authenticates the
//! agent; [`Provider`] owns the status transitions and the single wake in flight; [`Key`] defines what a client may do.
//! Each has a pure `decide(&self, command) -> events` and `evolve(self, event) -> self`; time and ids come in with the
//! command. [`rows`] derives from their commits what the query API shows, [`as_of`] what there was at a moment of the past,
//! and [`audit`] checks them afterwards; [`requests`] are remembered apart from them. This crate knows nothing of NATS, Postgres,
//! tokio or clocks.

mod agent;
mod aggregate;
pub mod as_of;
pub mod audit;
mod balancing;
mod counted;
mod fair;
mod ids;
pub mod key;
mod model;
mod names;
pub mod provider;
pub mod requests;
pub mod rows;
mod secret;
mod spec;
mod time;
mod wake;

pub use agent::{
    Access, AdvanceReason, Agent, AgentCommand, AgentEvent, AgentKey, AgentRejection, EnrolledKey,
    EnrollmentToken, Fence, InvalidAgentKey, MAX_TOKEN_LIFETIME, Session, Sessions,
};
pub use balancing::{Balancing, CONCURRENCIES, InvalidBalancing, PRIORITIES, WEIGHTS};
pub use counted::counted;
pub use fair::{FairLine, Line, Turns};
pub use ids::{CommandId, Epoch, RecordId, ReportId, ReportSeq, SessionId, TokenId, WakeId};
pub use key::{Key, KeyCommand, KeyEvent, KeyRejection, Priority, Scope, Scopes};
pub use model::{MAX_CAPABILITIES, ModelDetails, latest_alias, named};
pub use names::{
    AgentName, Capability, ExtraPath, GroupName, InvalidName, KeyId, KeyName, MAX_CAPABILITY_BYTES,
    MAX_KEY_NAME_BYTES, MAX_MODEL_NAME_BYTES, MAX_PATH_BYTES, MAX_TOKEN_BYTES, ModelName, PRESET_HASH_DIGITS,
    PresetHash, ProviderId, ProviderName,
};
pub use provider::{Provider, ProviderCommand, ProviderEvent, Rejection, Status};
pub use secret::SecretHash;
pub use spec::{
    Availability, InvalidSpec, MAX_EXTRA_PATHS, MAX_GROUPS, MAX_MODELS, MAX_WAKE_BUDGET, PresetSpec,
    ProviderSpec, RecipeKind, WakeSpec,
};
pub use time::Timestamp;
pub use wake::{
    Failures, GROUP_STAGE, MODELS_STAGE, PAUSED_STAGE, QUIET_HOURS_STAGE, SleepReason, Stage, Wake,
    WakeCause, WakeFailure, WakeFailureKind, WakeOutcome, WakeRecord,
};
