//! The journal as an event store. An append names the commit it builds on, so of two concurrent writers one wins; the
//! loser reads again and decides again. An append whose answer was lost is found in the journal, or tried again.
//!
//! - `context`: what is known of an aggregate, and what its next commit holds.
//! - `load`: [`Journal`] itself, and one read of an aggregate's last commit.
//! - `append`: compare-and-set on the aggregate's subject.
//! - `execute`: load, decide, append, until the command has taken effect.
//! - `read`: old commits, for queries that go further back than a fold.

mod append;
mod context;
mod execute;
mod load;
mod read;

pub use context::{CommitMeta, Executed, Expected, JournalContext};
pub use load::Journal;
