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
mod committed;
mod connection;
pub mod control;
mod error;
mod follow;
pub mod heartbeats;
mod in_order;
mod journal;
pub mod orders;
mod read;
mod refold;
mod refusals;
pub mod relay;
mod streams;
mod subjects;
pub mod wakes;

pub use clock::NatsClock;
pub use connection::{Connection, MIN_SERVER, NatsAccess, NatsOptions, NatsServer};
pub use error::{BusError, CommandError};
pub use follow::{Checkpoint, Follow, Followed, Follower, JournalEntry};
pub use journal::{CommitMeta, Executed, Expected, Journal, JournalContext, JournalStore};
pub use refusals::{Reason, Refusals, SubjectKind};
pub use streams::{HEARTBEATS_STREAM, JOURNAL_STREAM, StreamHealth, ensure_streams, inspect_streams};
pub use subjects::{AggregateId, FACTS};
