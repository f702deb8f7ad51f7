//! What a person asks a running API: over HTTP, like everybody else.

mod actions;
mod api;
mod events;
mod format;
mod health;
mod listings;
mod output;
mod sse;
pub mod table;

pub use actions::{Sleep, Wake, sleep, wake};
pub use api::{ApiClient, is_local};
pub use events::{Events, events};
pub use format::{Row, field};
pub use health::health;
pub use listings::{Published, Wakes, llms, providers, wakes};
pub use output::{line, print};
