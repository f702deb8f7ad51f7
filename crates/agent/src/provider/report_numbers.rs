//! Numbers of reports across the owners of one session.

use reveille_domain::ReportSeq;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The highest report number of the session's owners that have ended. The next owner of a provider continues after it, since
/// control takes each number once in a session.
#[derive(Debug, Clone, Default)]
pub struct ReportNumbers(Arc<AtomicU64>);

impl ReportNumbers {
    pub(super) fn last(&self) -> ReportSeq {
        ReportSeq(self.0.load(Ordering::SeqCst))
    }

    /// An owner has ended, whose highest number is `last`.
    pub(super) fn raise(&self, last: ReportSeq) {
        self.0.fetch_max(last.0, Ordering::SeqCst);
    }
}
