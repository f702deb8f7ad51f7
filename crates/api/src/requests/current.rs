//! The recording of the request that is worked on.

use super::Recording;
use std::thread;

tokio::task_local! {
    static CURRENT: Recording;
}

/// The recording of the present request; an empty one outside of requests.
pub(crate) fn current() -> Recording {
    CURRENT.try_with(Recording::clone).unwrap_or_default()
}

/// Notes something in the recording of the present request, if there is one.
pub(crate) fn note(what: impl FnOnce(&Recording)) {
    // Outside of requests there is nothing to be noted.
    let _ = CURRENT.try_with(what);
}

/// Works on a request with this recording, which has it if that panics.
pub(crate) async fn within<F: Future>(recording: Recording, work: F) -> F::Output {
    let _unwinding = Unwinding(&recording);
    CURRENT.scope(recording.clone(), work).await
}

/// Records a panic that it is dropped by.
pub(super) struct Unwinding<'a>(pub &'a Recording);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.panicked();
        }
    }
}

/// Work on the present request that goes on elsewhere.
pub(crate) fn in_current<F: Future>(work: F) -> impl Future<Output = F::Output> {
    within(current(), work)
}
