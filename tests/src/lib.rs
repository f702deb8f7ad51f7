//! What the tests stand on: private servers, processes that cannot be left behind, and readers of what happened.
//!
//! A [`World`] is one test's own NATS server, optional database, folder and `reveille` processes. Nothing is shared
//! between tests but one PostgreSQL cluster, in which each has a database of its own. Only the model server is not
//! the real thing: see [`Backend`].
//!
//! Everything here panics when it cannot do its work, because then the test has failed. Every child runs under a
//! guard process, so that a test that is killed by `-9` leaves nothing either.

#![expect(clippy::missing_panics_doc, reason = "a panic is how everything here fails")]

mod api;
mod backend;
mod descendants;
mod exclusivity;
mod journal;
pub mod long_answer;
mod measuring;
mod nats;
mod pgbouncer;
mod pooler;
mod ports;
mod postgres;
mod process;
mod programs;
mod python;
mod stepped_clock;
mod waiting;
mod wake_controller;
mod world;

pub use api::{Answer, Api, StreamedAnswer, http_client};
pub use backend::{Backend, BackendLog, BackendRequest};
pub use descendants::descendants;
pub use exclusivity::{Breach, assert_exclusive, breaches};
pub use journal::{Commit, FACTS, Facts, JOURNAL, read_journal};
pub use measuring::{load_average, monotonic_us};
pub use nats::Nats;
pub use pgbouncer::PgBouncer;
pub use pooler::TransactionPooler;
pub use ports::Port;
pub use postgres::{Cluster, Database};
pub use process::{Exit, Folder, Launch, Process, is_alive, is_stopped};
pub use programs::{chromium, llama_cpp_path, nats_server, openai_path, packages, program, write_script};
pub use python::{Script, python_path, run_python};
pub use stepped_clock::SteppedClock;
pub use waiting::{SOON, hold_for, wait_until};
pub use wake_controller::{Post, WakeController};
pub use world::{AgentConfig, World};
