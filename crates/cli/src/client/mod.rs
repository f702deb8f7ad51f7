//! The commands that ask a running API, over HTTP like every other client.

mod actions;
mod api;
mod events;
mod format;
mod health;
mod listings;
mod named;
mod output;
mod readiness;
mod sse;
pub mod table;

pub use crate::logging::notice;
pub use actions::{Sleep, Wake, sleep, wake};
pub use api::{ApiClient, is_local};
pub use events::{Events, events};
pub use format::{Row, age, field, moment, printable};
pub use health::health;
pub use listings::{Published, Wakes, llms, providers, wakes};
pub use named::key;
pub use output::{line, print, screen};
pub use readiness::missing;
