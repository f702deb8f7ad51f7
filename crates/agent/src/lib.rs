//! The agent: the Reveille process on a provider's machine.
//!
//! It reads its [`config`], [probes](probe) whether each backend is available, wakes backends and puts them to sleep with
//! [`recipe`]s, whose commands run as supervised [children](child), reports all of that to the hub, and relays requests to the
//! backends. Recipes, keys and the output of commands never leave the machine.
//!
//! [`run`] is one [`session`]. Each provider has one [owner](provider::Owner), which alone knows and changes the provider's
//! state; everything else reaches it as an input.

#![expect(
    missing_docs,
    reason = "not a library for others: names that speak for themselves need no comment"
)]

mod backend_client;
pub mod child;
pub mod config;
mod error;
pub mod fetch;
mod http1;
pub mod hub;
mod json_match;
mod lenient_json;
pub mod listeners;
pub mod local_checks;
pub mod models;
pub mod output;
mod own_hub;
pub mod owner_policy;
pub mod probe;
pub mod processes;
pub mod provider;
pub mod recipe;
pub mod relay;
pub mod reload;
pub mod session;
pub mod shell;
pub mod state_dir;
mod tls;
pub mod verify;
pub mod wol;

pub use backend_client::{BackendClient, hub_of};
pub use error::AgentError;
pub use own_hub::OwnHub;
pub use session::{Options, run};
pub use tls::speaks_other_scheme;
