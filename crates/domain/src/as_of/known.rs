//! An aggregate as it was.

/// An aggregate after a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<A> {
    /// The sequence of the commit.
    pub sequence: u64,
    /// The state after it.
    pub state: A,
}
