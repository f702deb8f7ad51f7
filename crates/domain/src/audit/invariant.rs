//! The published rules. docs/invariants.md has a paragraph on each, under its code.

use strum::{Display, IntoStaticStr, VariantArray};

/// A rule that every journal keeps. Its code is stable: programs compare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Invariant {
    /// Sequences run from 1 without a gap.
    Sequence,
    /// Each message is a commit of the aggregate that its subject names.
    Readable,
    /// Each commit has the hash of its aggregate's previous commit.
    Chain,
    /// An aggregate's commits and events are numbered without a gap.
    Numbers,
    /// A commit's events lead from the state before it to the state in it.
    Fold,
    /// A command is committed once.
    Command,
    /// An agent's epochs rise, and nothing of an older one is accepted.
    Epoch,
    /// A provider belongs only to sessions that its agent had.
    Issued,
    /// The reports of a session on a provider are numbered upwards.
    Report,
    /// A provider has at most one wake in flight, and an id names one wake.
    OneWake,
    /// Each wake ends once.
    WakeEnd,
    /// A provider's status changes only as documented.
    Status,
    /// Members of a group are never awake together.
    Group,
    /// A token enrolls one key, once, before it expires.
    Enrollment,
    /// A key's id is given once, and a revoked or expired key stays as it is.
    Key,
    /// The rows in Postgres equal the fold of the journal.
    Rows,
}

impl Invariant {
    /// All of them, in the order of docs/invariants.md.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// Its code, such as `one-wake`.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.into()
    }

    /// What it promises, in a few words.
    #[must_use]
    pub const fn promise(self) -> &'static str {
        match self {
            Self::Sequence => "sequences run from 1 without a gap",
            Self::Readable => "each message is a commit of the aggregate that its subject names",
            Self::Chain => "each commit has the hash of its aggregate's previous commit",
            Self::Numbers => "an aggregate's commits and events are numbered without a gap",
            Self::Fold => "a commit's events lead from the state before it to the state in it",
            Self::Command => "a command is committed once",
            Self::Epoch => "an agent's epochs rise, and nothing of an older one is accepted",
            Self::Issued => "a provider belongs only to sessions that its agent had",
            Self::Report => "a session's reports on a provider are numbered upwards",
            Self::OneWake => "a provider has at most one wake in flight, and an id names one wake",
            Self::WakeEnd => "each wake ends once",
            Self::Status => "a provider's status changes only as documented",
            Self::Group => "members of a group are never awake together",
            Self::Enrollment => "a token enrolls one key, once, before it expires",
            Self::Key => "a key's id is given once, and a revoked or expired key stays as it is",
            Self::Rows => "the rows in Postgres equal the fold of the journal",
        }
    }
}
