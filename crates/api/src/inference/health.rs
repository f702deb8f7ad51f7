//! What this replica's requests have seen of one member of a pool, and when one of them may try it again. Pure: the time
//! comes in.

use reveille_bus::relay::{FaultCode, RelayError};
use reveille_domain::ModelName;
use serde::Serialize;
use std::{fmt, time::Duration};
use strum::IntoStaticStr;
use tokio::time::Instant;

/// How long after its first failure a member gets a trial. The pause doubles with each trial that fails, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After this many failures in a row that a request itself may have caused, the member is the cause.
const SURE_AFTER: u32 = 3;
/// What the body of a 404 contains if the backend lacks the model, in any case of letters, rather than the path.
const MODEL: &[u8] = b"model";

/// How a request fails at a member, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub(crate) enum FailureKind {
    /// No connection to its backend.
    Unreachable,
    /// Its backend closed the connection before the end of the answer.
    BrokeOff,
    /// Its backend was silent for longer than its `answer_timeout`.
    TimedOut,
    /// Its agent isn't connected, or went silent.
    AgentAway,
    /// A status with which no model has worked on the request: a redirect, a missing model, a wrong key, or a proxy without
    /// a working server behind it.
    Declined,
    /// Any other 5xx, or a success that has an error in it, or nothing of a completion.
    Errored,
}

/// A failure that says something about the member, not about the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub kind: FailureKind,
    what: What,
}

/// What was seen, for people; has no prompt, answer or URL.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// A 404 about the model, by its published name once that is known.
    LacksModel(Option<ModelName>),
    /// Anything else, in words.
    Seen(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::LacksModel(model) => {
                f.write_str("HTTP status 404: it doesn't have the model")?;
                model.as_ref().map_or(Ok(()), |model| write!(f, " `{model}`"))
            }
            What::Seen(what) => f.write_str(what),
        }
    }
}

impl Failure {
    /// What an answer says about the member; `None` if nothing. Of its body only the beginning of a 404 counts.
    pub fn in_answer(status: u16, beginning: &[u8]) -> Option<Self> {
        let lacks_model = || {
            beginning
                .windows(MODEL.len())
                .any(|word| word.eq_ignore_ascii_case(MODEL))
        };
        let seen = || What::Seen(format!("HTTP status {status}"));
        let (kind, what) = match status {
            404 if lacks_model() => (FailureKind::Declined, What::LacksModel(None)),
            300..=399 | 401 | 403 | 429 | 502 | 503 | 504 => (FailureKind::Declined, seen()),
            // It lacks what this request asks for, such as reranking, and works otherwise.
            501 => return None,
            500..=599 => (FailureKind::Errored, seen()),
            _ => return None,
        };
        Some(Self { kind, what })
    }

    /// The same about a request for that model, by its published name.
    pub fn about(mut self, model: Option<&ModelName>) -> Self {
        if let What::LacksModel(lacking) = &mut self.what {
            *lacking = model.cloned();
        }
        self
    }

    /// An answer with a 2xx that has `content` instead of a completion.
    pub fn in_success(status: u16, content: &str) -> Self {
        Self {
            kind: FailureKind::Errored,
            what: What::Seen(format!("HTTP status {status} with {content}")),
        }
    }

    /// What a missing or broken answer says about the member; `None` if nothing, such as an agent at its limit.
    pub fn in_error(error: &RelayError) -> Option<Self> {
        let kind = match error {
            RelayError::NoResponders | RelayError::Silent { .. } => FailureKind::AgentAway,
            RelayError::Fault(fault) => match fault.code {
                FaultCode::BackendUnavailable => FailureKind::Unreachable,
                FaultCode::BackendFailed => FailureKind::BrokeOff,
                FaultCode::BackendTimeout | FaultCode::FirstByteTimeout => FailureKind::TimedOut,
                FaultCode::Asleep
                | FaultCode::Cancelled
                | FaultCode::UnknownProvider
                | FaultCode::UnknownModel
                | FaultCode::Overloaded
                | FaultCode::Busy
                | FaultCode::ShuttingDown
                | FaultCode::BadRequest
                | FaultCode::BadFrame
                | FaultCode::Lost
                | FaultCode::Unknown => return None,
            },
            RelayError::Disconnected
            | RelayError::Overloaded
            | RelayError::HeadTooLarge
            | RelayError::Gap { .. }
            | RelayError::Overdrawn
            | RelayError::Malformed(_)
            | RelayError::BodyBrokeOff
            | RelayError::Closed => return None,
        };
        let what = match error {
            RelayError::Fault(fault) => fault.message.clone(),
            other => other.to_string(),
        };
        Some(Self {
            kind,
            what: What::Seen(what),
        })
    }
}

/// The failures in a row that make a member suspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspicion {
    /// The journal sequence of the provider's state that the failures are about.
    sequence: u64,
    pub failures: u32,
    pub last: Failure,
    pub first_at: Instant,
    /// How long the request that failed first had waited by then.
    first_waited: Duration,
    pub last_at: Instant,
    pause: Duration,
    trial_at: Instant,
}

impl Suspicion {
    /// After a failure of a request that was sent by the provider's state at `sequence`, and that had `waited` in vain.
    pub fn first(failure: Failure, sequence: u64, waited: Duration, now: Instant) -> Self {
        let pause = waited.clamp(FIRST_PAUSE, LONGEST_PAUSE);
        Self {
            sequence,
            failures: 1,
            last: failure,
            first_at: now,
            first_waited: waited,
            last_at: now,
            pause,
            trial_at: now + pause,
        }
    }

    /// After another failure, of a request that was sent at `sent_at`. Only one that was sent after the last failure doubles the
    /// pause: many requests may have been on their way at once. Up to its longest, the pause is no shorter than the failed
    /// request has waited, since somebody waited for that.
    pub fn and(&mut self, failure: Failure, sequence: u64, sent_at: Instant, waited: Duration, now: Instant) {
        if self.is_void(sequence) {
            *self = Self::first(failure, sequence, waited, now);
            return;
        }
        if sequence < self.sequence {
            return;
        }
        if sent_at >= self.last_at {
            self.pause *= 2;
        }
        self.pause = self.pause.max(waited).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.last = failure;
        self.last_at = now;
        self.trial_at = now + self.pause;
    }

    /// For how long requests have failed: since the first of them began to wait.
    pub fn lasts(&self) -> Duration {
        self.first_at.elapsed() + self.first_waited
    }

    /// Whether the member fails, rather than the requests that it got.
    pub const fn is_sure(&self) -> bool {
        match self.last.kind {
            FailureKind::Unreachable | FailureKind::AgentAway | FailureKind::Declined => true,
            FailureKind::BrokeOff | FailureKind::TimedOut | FailureKind::Errored => {
                self.failures >= SURE_AFTER
            }
        }
    }

    /// Whether the provider has changed since: its backend was found down, put to sleep, woken, or published again.
    pub const fn is_void(&self, sequence: u64) -> bool {
        self.sequence < sequence
    }

    /// Whether a request may try the member again.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.trial_at
    }

    /// A request tries the member. Others follow only after another pause, if it doesn't end before.
    pub fn tried(&mut self, now: Instant) {
        self.trial_at = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_bus::relay::RelayFault;

    const AT: u64 = 7;

    fn failure() -> Failure {
        Failure::in_answer(500, b"").expect("a failure")
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_status_tells_a_broken_member_from_a_bad_request() {
        use FailureKind::{Declined, Errored};
        for (status, kind) in [
            (200, None),
            (204, None),
            (400, None),
            (413, None),
            (422, None),
            (501, None),
            (302, Some(Declined)),
            (401, Some(Declined)),
            (429, Some(Declined)),
            (502, Some(Declined)),
            (503, Some(Declined)),
            (500, Some(Errored)),
            (529, Some(Errored)),
        ] {
            let seen = Failure::in_answer(status, b"").map(|failure| failure.kind);
            assert_eq!(seen, kind, "{status}");
        }
        for (body, kind) in [
            (
                r#"{"error":{"message":"The Model `m` does not exist."}}"#,
                Some(Declined),
            ),
            (r#"{"error":"model \"m\" not found"}"#, Some(Declined)),
            (r#"{"detail":"Not Found"}"#, None),
            ("404 page not found", None),
        ] {
            let seen = Failure::in_answer(404, body.as_bytes()).map(|failure| failure.kind);
            assert_eq!(seen, kind, "{body}");
        }
    }

    #[test]
    fn only_a_missing_model_is_named_in_what_was_seen() {
        let model = ModelName::parse("org/m").expect("legal");
        let said = |status, body: &[u8]| {
            let failure = Failure::in_answer(status, body).expect("a failure");
            failure.about(Some(&model)).to_string()
        };
        assert_eq!(
            said(404, b"no such model"),
            "HTTP status 404: it doesn't have the model `org/m`"
        );
        assert_eq!(said(503, b"no such model"), "HTTP status 503");
    }

    #[test]
    fn a_few_failures_in_a_row_are_the_members_own_and_what_no_request_can_cause_is_at_once() {
        let now = Instant::now();
        let unreachable = RelayFault::new(FaultCode::BackendUnavailable, "a sentence");
        let unreachable = Failure::in_error(&unreachable.into()).expect("a failure");
        assert!(Suspicion::first(unreachable, AT, Duration::ZERO, now).is_sure());
        let mut suspicion = Suspicion::first(failure(), AT, Duration::ZERO, now);
        for failures in 1..SURE_AFTER {
            assert!(!suspicion.is_sure(), "{failures}");
            suspicion.and(failure(), AT, now, Duration::ZERO, now);
        }
        assert!(suspicion.is_sure());
    }

    #[test]
    fn an_error_of_the_way_says_nothing_about_the_member() {
        let fault = |code| RelayError::from(RelayFault::new(code, "a sentence"));
        for (error, kind) in [
            (
                fault(FaultCode::BackendUnavailable),
                Some(FailureKind::Unreachable),
            ),
            (fault(FaultCode::BackendFailed), Some(FailureKind::BrokeOff)),
            (fault(FaultCode::BackendTimeout), Some(FailureKind::TimedOut)),
            (RelayError::NoResponders, Some(FailureKind::AgentAway)),
            (fault(FaultCode::Asleep), None),
            (fault(FaultCode::Overloaded), None),
            (RelayError::Disconnected, None),
            (RelayError::Closed, None),
        ] {
            let seen = Failure::in_error(&error).map(|failure| failure.kind);
            assert_eq!(seen, kind, "{error}");
        }
    }

    #[test]
    fn trials_come_at_growing_intervals_and_one_at_a_time() {
        let mut now = Instant::now();
        let mut suspicion = Suspicion::first(failure(), AT, Duration::ZERO, now);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(!suspicion.is_due(now + secs(pause) - Duration::from_millis(1)));
            now += secs(pause);
            assert!(suspicion.is_due(now));
            suspicion.tried(now);
            assert!(!suspicion.is_due(now), "one request at a time");
            suspicion.and(failure(), AT, now, Duration::ZERO, now);
        }
        assert_eq!(suspicion.failures, 9);
    }

    #[test]
    fn requests_that_fail_together_count_as_one_step() {
        let now = Instant::now();
        let mut suspicion = Suspicion::first(failure(), AT, secs(1), now + secs(1));
        for _ in 0..9 {
            suspicion.and(failure(), AT, now, secs(1), now + secs(1));
        }
        assert_eq!(suspicion.failures, 10);
        assert!(suspicion.is_due(now + secs(2)));
    }

    #[test]
    fn a_member_that_keeps_a_request_waiting_is_tried_no_more_often_than_that_up_to_the_longest_pause() {
        let now = Instant::now();
        for (waited, pause) in [(0, 1), (20, 20), (600, 60)] {
            let mut suspicion = Suspicion::first(failure(), AT, secs(waited), now);
            assert!(!suspicion.is_due(now + secs(pause - 1)) && suspicion.is_due(now + secs(pause)));
            suspicion.and(failure(), AT, now, secs(600), now);
            assert!(!suspicion.is_due(now + secs(59)) && suspicion.is_due(now + secs(60)));
        }
    }

    #[test]
    fn a_later_commit_of_the_provider_begins_afresh() {
        let now = Instant::now();
        let mut suspicion = Suspicion::first(failure(), AT, Duration::ZERO, now);
        suspicion.and(failure(), AT, now, Duration::ZERO, now);
        assert!(!suspicion.is_void(AT) && suspicion.is_void(AT + 1));
        suspicion.and(failure(), AT + 1, now, Duration::ZERO, now);
        assert_eq!(suspicion.failures, 1);
        suspicion.and(failure(), AT, now, Duration::ZERO, now);
        assert_eq!(suspicion.failures, 1, "it is about the backend as it was before");
    }
}
