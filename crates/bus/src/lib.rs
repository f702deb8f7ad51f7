//! Everything Reveille sends over NATS. No other crate knows a subject.
//!
//! - [`Journal`]: the event store on JetStream; [`Journal::execute`] runs one command to its end, whatever the races.
//! - [`Follower`]: the journal's commits in order, from each aggregate's latest or from a checkpoint.
//! - [`access`]: what each role may publish and subscribe to, and the keys that prove who connects.
//! - [`as_of`]: everything as of a moment of the past.
//! - [`archive`]: exporting the journal to a file, importing it again, verifying it.
//! - [`enroll`]: how a machine that joins over NATS gets its key enrolled.
//! - [`heartbeats`] and [`NatsClock`]: who is alive, and the time that all replicas share.
//! - [`control`], [`wakes`], [`orders`]: the messages between agents and control.
//! - [`open_files`]: the limit of open files, in every process.
//! - [`permits`]: fair queues of those that wait for a resource, in replicas and agents.
//! - [`private_file`]: files and folders for their owner alone, in every process.
//! - [`relay`]: inference requests and responses, frame by frame.
//! - [`requests`]: what replicas say of the requests that have ended.
//! - [`JournalHealth`]: what keeps a process from using its journal.
//! - [`HubId`] and [`Via`]: which hub answers, and which hubs a request has passed.
//! - [`Refusals`]: counts of the messages that were refused.

pub mod access;
pub mod archive;
pub mod as_of;
mod canaries;
mod clock;
pub mod commit;
mod connection;
pub mod control;
pub mod enroll;
mod entry;
mod error;
mod follow;
mod health;
pub mod heartbeats;
mod hub_id;
mod journal;
mod loopback;
mod messages;
pub mod open_files;
mod ordered_reader;
pub mod orders;
pub mod permits;
pub mod private_file;
mod refusals;
pub mod relay;
pub mod requests;
mod retry_log;
mod row_source;
mod search;
mod streams;
mod subjects;
mod upcast;
pub mod wakes;

pub use clock::{Hearing, NatsClock};
pub use connection::{Connection, JOIN_ANEW, MIN_SERVER, NatsAccess, NatsOptions, NatsServer};
pub use entry::{Checkpoint, JournalEntry};
pub use error::{BusError, CommandError, JETSTREAM_OFF, TURN_JETSTREAM_ON};
pub use follow::{Follow, Followed, Follower};
pub use health::{JournalHealth, JournalTrouble};
pub use hub_id::{HUB_HEADER, HubId, InvalidHubId, LOOP_DETECTED, MAX_HUBS, VIA_HEADER, Via};
pub use journal::{CommitMeta, Executed, Expected, Journal, JournalContext};
pub use loopback::{is_loopback_host, is_loopback_ip};
pub use refusals::{Reason, Refusals, SubjectKind};
pub use search::Beginning;
pub use streams::{
    HEARTBEATS_STREAM, JOURNAL_STREAM, REQUESTS_STREAM, StreamHealth, ensure_streams, hub_id, inspect_streams,
};
pub use subjects::{AggregateId, FACTS};
