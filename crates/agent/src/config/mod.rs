//! The config of an agent: one TOML file, which is read and checked before anything starts.
//!
//! `reveille up` reads the same file. Unknown keys are errors; `${VAR}` in a string is replaced by the variable's value, and
//! `$${` is a literal `${`. Errors name the file, line and key, and never show a value.

mod address;
mod changes;
mod duration;
mod error;
mod file;
mod hours;
mod parameter_names;
mod places;
mod preset;
mod read;
mod recipe;
mod regular_file;
mod secret;
mod suggest;
mod trust;
mod types;
mod variables;

pub use address::{Address, BaseUrl, NatsUrl, Server};
pub use changes::{Change, changes, fixed_keys};
pub(crate) use duration::millis;
pub use duration::parse_duration;
pub use error::ConfigError;
pub use file::ConfigFile;
pub use hours::{Hours, Window};
pub(crate) use parameter_names::{nested, synonyms};
pub use places::{Place, places};
pub use preset::{Parameters, Preset};
pub use read::machine_name;
pub use recipe::{
    Action, CommandAction, EndCommand, HttpAction, SleepConfig, Step, VerifyConfig, WakeConfig,
};
pub(crate) use recipe::{CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH, OWN_VARIABLES};
pub use secret::Secret;
pub use suggest::nearest;
pub use trust::Trust;
pub(crate) use types::MODELS_PATH;
pub use types::{AgentConfig, AnswerModelName, CancelWake, Config, ModelConfig, ProbeConfig, ProviderConfig};
