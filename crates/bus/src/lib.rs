//! Everything Reveille says over NATS. The only crate that knows a subject.
//!
//! - [`Journal`]: the event store on JetStream; [`Journal::execute`] runs one command, whatever the races.
//! - [`Follower`]: the journal's commits in order, from the latest of each aggregate or from a checkpoint.
//! - [`access`]: who may say what, and the keys by which parties are known.
//! - [`archive`]: the journal as a file, and back; whether it is sound.
//! - [`heartbeats`] and [`NatsClock`]: signs of life, and the time that all replicas share.
//! - [`control`], [`wakes`], [`orders`]: what agents and control say to each other.
//! - [`relay`]: inference requests and responses, frame by frame.
//! - [`Refusals`]: what is said and isn't taken, counted.

pub mod access;
pub mod archive;
mod clock;
pub mod commit;
mod connection;
pub mod control;
mod entry;
mod error;
mod follow;
pub mod heartbeats;
mod journal;
mod loopback;
mod ordered_reader;
pub mod orders;
mod refusals;
pub mod relay;
mod row_source;
mod streams;
mod subjects;
mod upcast;
pub mod wakes;

pub use clock::NatsClock;
pub use connection::{Connection, MIN_SERVER, NatsAccess, NatsOptions, NatsServer};
pub use entry::{Checkpoint, JournalEntry};
pub use error::{BusError, CommandError};
pub use follow::{Follow, Followed, Follower};
pub use journal::{CommitMeta, Executed, Expected, Journal, JournalContext};
pub use loopback::{is_loopback_host, is_loopback_ip};
pub use refusals::{Reason, Refusals, SubjectKind};
pub use streams::{HEARTBEATS_STREAM, JOURNAL_STREAM, StreamHealth, ensure_streams, inspect_streams};
pub use subjects::{AggregateId, FACTS};
