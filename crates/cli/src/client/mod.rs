//! What a person asks a running API: over HTTP, like everybody else.

mod actions;
mod api;
mod events;
mod health;
mod listings;
mod output;
mod sse;
pub mod table;
mod words;

pub use actions::{sleep, wake};
pub use api::{ApiClient, is_loopback};
pub use events::events;
pub use health::health;
pub use listings::{llms, providers, wakes};
pub use output::{line, print};
pub use words::{Row, field};
