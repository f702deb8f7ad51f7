//! What there was at a moment of the past: aggregates as their last commits up to then left them, and rows of them.
//!
//! Rows have what the journal knows, under the names of the present's lists. What only running processes know, such as
//! heartbeats and waiting requests, is left out.

mod changes;
mod known;
mod moment;
mod rows;
mod world;

#[cfg(test)]
mod tests;

pub use changes::{Author, Change, Changes};
pub use known::Known;
pub use moment::{InvalidMoment, Moment};
pub use rows::{PastAgent, PastAgentStatus, PastKey, PastProvider};
pub use world::World;
