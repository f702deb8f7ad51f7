//! The agent: the Reveille process on a provider's machine.
//!
//! It reads its [`config`], finds out with a [`probe`] whether each backend is available, wakes and puts them to sleep
//! with [`recipe`]s whose commands run as supervised [children](child), tells the hub all of that, and relays requests
//! to the backends. Recipes, keys and what commands print never leave the machine.

pub mod child;
pub mod config;
pub mod fetch;
pub mod probe;
pub mod recipe;
