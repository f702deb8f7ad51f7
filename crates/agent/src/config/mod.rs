//! The config of an agent: one TOML file, which is read and checked before anything starts.
//!
//! `reveille up` reads the same file. Unknown keys are errors; `${VAR}` in a string is replaced by the variable's value, and
//! `$${` is a literal `${`. Errors name the file, line and key, and never show a value.

mod address;
mod duration;
mod error;
mod hours;
mod places;
mod read;
mod recipe;
mod secret;
mod types;
mod variables;

pub use address::{BaseUrl, NatsUrl};
pub use duration::parse_duration;
pub use error::ConfigError;
pub use hours::{Hours, Window};
pub use places::{Place, places};
pub use read::{
    DEFAULT_VERIFY_TIMEOUT, DEFAULT_WOL_TIMEOUT, MAX_DURATION, MAX_ENTRIES, MAX_FILE_BYTES, MAX_GROUPS,
    MAX_PROVIDERS, MAX_STEPS, MAX_TEXT_BYTES, MAX_WINDOWS, machine_name,
};
pub(crate) use recipe::OWN_VARIABLES;
pub use recipe::{
    Action, CommandAction, DEFAULT_MAX_WAIT, DEFAULT_MIN_AWAKE, DEFAULT_STEP_TIMEOUT, DEFAULT_STOP_GRACE,
    HttpAction, SERVE_START_TIMEOUT, SleepConfig, Step, VerifyConfig, WakeConfig,
};
pub use secret::Secret;
pub use types::{
    AgentConfig, Config, DEFAULT_MAX_GROUP_WAIT, DEFAULT_PROBE_INTERVAL, DEFAULT_PROBE_PATH,
    DEFAULT_PROBE_TIMEOUT, ModelConfig, ProbeConfig, ProviderConfig,
};
