//! The API process: the OpenAI-compatible API, the queries, and control.
//!
//! `registry` folds the journal in memory, [`keys`] included; [`wakes`] brings providers up; `control` turns what agents
//! report, and passing time, into commands. Inference never depends on Postgres: only queries ask the row store.

#![expect(
    missing_docs,
    reason = "this is no library: the names in it say what they are"
)]

mod agents;
mod commands;
mod config;
mod control;
mod guarded_body;
mod history;
mod http;
mod inference;
pub mod keys;
mod metrics;
pub mod origin;
mod owner_refusals;
mod registry;
mod requests;
pub mod server;
mod service;
mod staying_awake;
pub mod wakes;
mod why;

pub use config::{AgentAuth, AgentHub, Config, DEFAULT_BODY_BYTES, Database, JoinAddresses};
pub use inference::endpoint::{ServedPath, served_paths};
pub use service::{ApiFailure, run};
