//! The agent: the Reveille process on a provider's machine.
//!
//! It reads its [`config`], finds out with a [`probe`] whether each backend is available, wakes and puts them to sleep
//! with [`recipe`]s whose commands run as supervised [children](child), tells the hub all of that, and relays requests
//! to the backends. Recipes, keys and what commands print never leave the machine.
//!
//! [`run`] is one [`session`]. Each provider has one [owner](provider::Owner), which alone knows and changes its state;
//! whatever else happens reaches it as an input.

pub mod child;
pub mod config;
mod error;
pub mod fetch;
pub mod hub;
pub mod models;
pub mod probe;
pub mod provider;
pub mod recipe;
pub mod relay;
pub mod rights;
pub mod session;
pub mod state_dir;
pub mod verify;
pub mod wol;

pub use error::AgentError;
pub use session::{Options, run, run_and_tell};
