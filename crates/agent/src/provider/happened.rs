//! The times by which a group's reports are put in order.

use tokio::time::Instant;

/// When something happened to a backend. Of what happened at once, falling asleep comes before waking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Happened {
    /// `None` for what was so already when the agent started.
    pub at: Option<Instant>,
    /// Whether the backend came up.
    pub up: bool,
}

impl Happened {
    /// A backend that was never probed: it may have been asleep since before the agent started.
    pub(super) const UNKNOWN: Self = Self { at: None, up: false };
}
