//! The models that a provider publishes: those of its config, or those that its backend lists, and what the backend says of
//! them. Remembered while the backend sleeps.

mod dialects;
mod discover;
mod identity;
mod listed;
mod memory;

pub(crate) use discover::MAX_LIST_BYTES;
pub use discover::discover;
pub(crate) use identity::pull_command;
pub use identity::{Identity, Mismatch};
pub use listed::{Listed, Server};
pub use memory::{Memory, Served};
