//! The API process: the OpenAI-compatible surface, the queries, and control.
//!
//! [`Registry`] folds the journal in memory, [`keys`] included; [`Wakes`] brings providers up; `control` turns what agents say, and passing
//! time, into commands. Inference never depends on Postgres: the row store is only asked by queries.

mod commands;
mod control;
mod history;
pub mod http;
pub mod identities;
mod inference;
pub mod keys;
mod metrics;
pub mod registry;
pub mod server;
mod service;
pub mod wakes;

pub use registry::{Known, Registry};
pub use service::{AgentHub, ApiFailure, Config, Doors, run};
pub use wakes::{WakeError, Wakes};
