//! What requests show of a backend that answers its probe. Shared by a provider's owner and its requests.
//!
//! An HTTP front may answer probes while the engine behind it is dead. So failed requests are counted, and after a few in a row
//! the owner asks for a completion of its own.

use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// After how many failed requests in a row a completion verifies the backend. One or two may be the fault of what was asked.
pub(super) const FAILURES_IN_A_ROW: u32 = 3;
/// After how many callers in a row that left without anything of an answer.
pub(crate) const LEFT_IN_A_ROW: u32 = 5;
/// How long a backend that was verified isn't verified again, whatever its requests show: a caller may repeat one that always
/// fails.
const VERIFIED_FOR: Duration = Duration::from_secs(30);

/// The requests of one backend, as far as they show whether it works.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    asked: Option<Asked>,
    failures: u32,
    /// How many callers have left since the backend last said anything.
    left: u32,
    why: String,
    verified: Option<Instant>,
}

/// What a request asks its backend for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// One of the paths of inference.
    pub path: &'static str,
    /// The backend's name for the model.
    pub model: Option<String>,
}

impl Health {
    /// A request is handed to the backend.
    pub fn asked(&self, asked: Asked) {
        self.0.lock().asked = Some(asked);
    }

    /// The backend has answered a request.
    pub fn succeeded(&self) {
        let mut state = self.0.lock();
        (state.failures, state.left) = (0, 0);
    }

    /// The backend has sent something of a completion.
    pub fn heard(&self) {
        self.0.lock().left = 0;
    }

    /// A caller has left after a while, without anything of an answer. Returns whether it is time to verify the backend.
    pub fn was_left(&self) -> bool {
        let mut state = self.0.lock();
        state.left = state.left.saturating_add(1);
        state.is_left()
    }

    /// Whether callers leave so that the backend should be verified.
    pub(super) fn is_left(&self) -> bool {
        self.0.lock().is_left()
    }

    /// A request has failed in a way that may show that the backend is dead. Returns whether it is time to verify that.
    pub fn failed(&self, why: String) -> bool {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        state.why = why;
        state.is_doubtful()
    }

    /// Whether requests fail so that the backend should be verified.
    pub(super) fn is_doubtful(&self) -> bool {
        self.0.lock().is_doubtful()
    }

    /// The backend has shown that it works.
    pub(super) fn verified(&self) {
        let mut state = self.0.lock();
        (state.failures, state.left, state.verified) = (0, 0, Some(Instant::now()));
    }

    /// What the last request has asked for.
    pub(super) fn last_asked(&self) -> Option<Asked> {
        self.0.lock().asked.clone()
    }

    /// How requests fail, for people; empty if none has.
    pub(super) fn failures(&self) -> String {
        let state = self.0.lock();
        match state.failures {
            0 if state.left >= LEFT_IN_A_ROW => {
                format!(
                    "{} callers in a row left without any part of an answer",
                    state.left
                )
            }
            0 => String::new(),
            1 => format!("a request failed ({})", state.why),
            count => format!("{count} requests in a row failed (the last: {})", state.why),
        }
    }
}

impl State {
    fn is_doubtful(&self) -> bool {
        self.failures >= FAILURES_IN_A_ROW && !self.is_verified()
    }

    fn is_left(&self) -> bool {
        self.left >= LEFT_IN_A_ROW && !self.is_verified()
    }

    fn is_verified(&self) -> bool {
        self.verified
            .is_some_and(|verified| verified.elapsed() < VERIFIED_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_raise_doubts_until_a_success_or_a_verification() {
        let health = Health::default();
        let fail = || health.failed("HTTP status 500".to_owned());
        assert!(!fail() && !fail());
        assert_eq!(
            health.failures(),
            "2 requests in a row failed (the last: HTTP status 500)"
        );
        health.succeeded();
        assert!(!fail() && !fail() && fail(), "not in a row before");
        assert!(health.is_doubtful());
        health.verified();
        assert_eq!(health.failures(), "");
        assert!(!fail() && !fail() && !fail(), "it was verified just now");
        tokio::time::advance(VERIFIED_FOR).await;
        assert!(health.is_doubtful() && fail());
        for _ in 1..LEFT_IN_A_ROW {
            assert!(!health.was_left());
        }
        assert!(health.was_left() && health.is_left());
        health.heard();
        assert!(
            !health.is_left() && health.is_doubtful(),
            "an answer may still fail"
        );
        health.verified();
        assert!((0..LEFT_IN_A_ROW).all(|_| !health.was_left()));
    }
}
