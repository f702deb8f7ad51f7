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
mod requests;
mod sse;
pub mod table;
mod why;

pub use crate::logging::notice;
pub use actions::{Sleep, Wake, sleep, wake};
pub use api::{ApiClient, NOT_RUNNING, is_local};
pub use events::{Events, events};
pub use format::{Row, age, ago, field, moment, printable, timestamp};
pub use health::health;
pub use listings::{Agents, Published, Wakes, agents, llms, providers, wakes};
pub use named::{check_agent, key};
pub use output::{line, print, print_one, screen};
pub use readiness::missing;
pub use requests::{Requests, UsageByHour, requests, usage};
pub use why::{Why, why};
