//! What follows each attempt to answer a request. Pure: [`super::dispatch`] carries it out.

use super::{
    InferenceError, InferenceResponse,
    choice::Reach,
    health::{Failure, FailureKind},
    loading::is_loading,
    members::Attempt,
};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use reveille_bus::relay::{FaultCode, RelayError, RelayFault};
use reveille_domain::{ProviderId, ReportId, WakeId, requests::StepKind};
use std::time::Duration;

/// How often a request may be refused because its backend sleeps, while the journal says nothing new of it.
const MAX_ASLEEP: u32 = 5;
/// How often it is sent again to an agent that was away.
const MAX_MISSED: u32 = 1;
/// How often it goes to another backend although one has seen it: a request that breaks backends breaks no more than two.
const MAX_SEEN: u32 = 1;
/// How often a request is sent again to a backend that is loading: for as long as any caller waits.
const MAX_LOADING: u32 = 300;
/// The pause before a request is sent again to an agent at its limit, or to a backend that is loading; it doubles up to the
/// longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How one attempt ended.
pub(super) enum Outcome {
    /// The backend answered, with any status.
    Answered(InferenceResponse, Attempt),
    /// Nothing was sent.
    Refused(InferenceError),
    /// The request was sent, or should have been, and no response came.
    Missed {
        /// The journal sequence of the provider's state that it was sent by.
        sequence: u64,
        wake_id: Option<WakeId>,
        error: RelayError,
    },
}

impl Outcome {
    /// The wake that the request waited for.
    pub(super) const fn wake_id(&self) -> Option<WakeId> {
        match self {
            Self::Answered(response, _) => response.wake_id,
            Self::Missed { wake_id, .. } => *wake_id,
            Self::Refused(_) => None,
        }
    }

    /// Whether a backend may have seen the request, and gave no answer.
    pub(super) fn was_seen(&self) -> bool {
        matches!(self, Self::Missed { error, .. } if !error.never_handed_over())
    }

    /// What a record has of an attempt at `provider` that brought no answer which the caller gets.
    pub(super) fn missed(&self, provider: &ProviderId) -> Option<StepKind> {
        let why = match self {
            Self::Answered(response, _) => {
                let (status, beginning) = (response.head.status, response.body.beginning());
                Failure::in_answer(status, beginning)?.to_string()
            }
            Self::Refused(error) if error.repeats_the_request() => return None,
            Self::Refused(error) => error.to_string(),
            Self::Missed { error, .. } => error.to_string(),
        };
        Some(StepKind::missed(provider.clone(), &why))
    }
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// The outcome is final.
    Finish,
    /// Try a provider of the pool that hasn't been tried; if there is none in reach, the outcome is final. The present one
    /// doesn't get the request again.
    AskAnother(Reach),
    /// Send the request again; if its target doesn't exist, the outcome is final.
    SendAgain(Target),
}

/// Where a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// After a pause, to another one that is awake, or to the same one.
    AnotherOrSame { pause: Duration },
    /// To another one that is awake, or to the same one once the fold shows that it sleeps: by this report, if the agent
    /// has made it already.
    AnotherOrOnceAsleep(Option<ReportId>),
    /// To another one that is awake, or to the same one once its agent is back.
    AnotherOrOnceBack,
    /// To another one that is awake, or to the same one once it is published with what the request asks for, or else to any other.
    AnotherOrOncePublished,
    /// To the same provider once its agent is back.
    OnceBack,
}

/// Counts what a request's attempts came to.
#[derive(Debug)]
pub(super) struct RetryPolicy {
    /// Where the request may go now.
    reach: Reach,
    asleep: u32,
    /// The provider's state at which `asleep` was counted.
    asleep_at: u64,
    missed: u32,
    seen: u32,
    loading: u32,
    pauses: ExponentialBackoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_jitter()
            .without_max_times();
        Self {
            reach: Reach::All,
            asleep: 0,
            asleep_at: 0,
            missed: 0,
            seen: 0,
            loading: 0,
            pauses: pauses.build(),
        }
    }
}

impl RetryPolicy {
    /// Decides what follows `outcome`. `may_wait`: the caller waits for wakes and still has time.
    ///
    /// 1. The backend answered that it is loading, and the caller may wait: send again after a pause, up to [`MAX_LOADING`]
    ///    times.
    /// 2. Any other answer with which no model has worked on the request ([`FailureKind::Declined`]): ask another one that
    ///    works.
    /// 3. An answer with any other 5xx, or a connection that the backend closed before its answer: ask another one that is
    ///    awake, [`MAX_SEEN`] times. The backend has ended the request itself, so nothing works on it any more.
    /// 4. A 404 for another reason than the model, such as an unknown path, or a 501: ask another one that is awake. Any other answer
    ///    is final.
    /// 5. A refusal that concerns one provider alone (its wake failed, its queue is full …): ask another one of the pool, as far as the
    ///    request reached before.
    /// 6. Any other refusal is final: the key's quota, the caller's own time, an unreachable journal.
    /// 7. The agent is at its limit and the caller may wait: send again after a pause, as often as that happens.
    /// 8. The backend is being put to sleep and the caller may wait: send again, as often as that happens.
    /// 9. A backend may be working on the request: final.
    /// 10. The backend was asleep: send again, up to [`MAX_ASLEEP`] times for one state of the provider. After another wake
    ///     the count begins again.
    /// 11. The agent is away: send again, up to [`MAX_MISSED`] times, and then ask another one that works.
    /// 12. The provider doesn't have the model, or means something else by its name: look again who has it now, up to [`MAX_MISSED`]
    ///     times, and then ask another one that works.
    /// 13. No backend was reached: ask another one that works, or else one that is down, unless the error would come again
    ///     anywhere.
    ///
    /// A request that may go only to members that are awake never wakes one again.
    pub(super) fn next_step(&mut self, outcome: &Outcome, may_wait: bool) -> NextStep {
        let (error, sequence) = match outcome {
            Outcome::Answered(response, _) => {
                let (status, beginning) = (response.head.status, response.body.beginning());
                if may_wait && self.still_loads(status, beginning) {
                    return NextStep::SendAgain(self.after_a_pause());
                }
                return self.after_answer(status, beginning);
            }
            Outcome::Refused(error) if error.is_about_one_provider() => {
                return NextStep::AskAnother(self.reach);
            }
            Outcome::Refused(_) => return NextStep::Finish,
            Outcome::Missed { error, sequence, .. } => (error, *sequence),
        };
        if matches!(error, RelayError::Fault(fault) if fault.code == FaultCode::BackendFailed) {
            return self.after_it_was_seen();
        }
        if error.is_agent_full() && may_wait {
            return NextStep::SendAgain(self.after_a_pause());
        }
        if error.is_leaving() && may_wait {
            return NextStep::SendAgain(Target::AnotherOrOnceAsleep(None));
        }
        if !error.never_handed_over() {
            return NextStep::Finish;
        }
        let next = unreached(error);
        match next {
            NextStep::SendAgain(target) if self.is_over_cap(error, sequence) => match target {
                Target::AnotherOrOnceBack | Target::AnotherOrOncePublished => {
                    self.ask_another(Reach::Working)
                }
                Target::AnotherOrOnceAsleep(_) | Target::AnotherOrSame { .. } | Target::OnceBack => {
                    NextStep::Finish
                }
            },
            NextStep::AskAnother(reach) => self.ask_another(reach),
            NextStep::SendAgain(_) | NextStep::Finish => next,
        }
    }

    fn ask_another(&mut self, reach: Reach) -> NextStep {
        if self.reach != Reach::Awake {
            self.reach = reach;
        }
        NextStep::AskAnother(self.reach)
    }

    fn still_loads(&mut self, status: u16, beginning: &[u8]) -> bool {
        let still_loads = is_loading(status, beginning);
        self.loading += u32::from(still_loads);
        still_loads && self.loading <= MAX_LOADING
    }

    fn after_answer(&mut self, status: u16, beginning: &[u8]) -> NextStep {
        match Failure::in_answer(status, beginning).map(|failure| failure.kind) {
            Some(FailureKind::Declined) => self.ask_another(Reach::Working),
            Some(_) => self.after_it_was_seen(),
            None if matches!(status, 404 | 501) => self.ask_another(Reach::Awake),
            None => NextStep::Finish,
        }
    }

    fn after_it_was_seen(&mut self) -> NextStep {
        self.seen += 1;
        if self.seen > MAX_SEEN {
            return NextStep::Finish;
        }
        self.ask_another(Reach::Awake)
    }

    fn after_a_pause(&mut self) -> Target {
        let pause = self.pauses.next().unwrap_or(LONGEST_PAUSE);
        Target::AnotherOrSame { pause }
    }

    fn is_over_cap(&mut self, error: &RelayError, sequence: u64) -> bool {
        if sequence > self.asleep_at {
            (self.asleep, self.asleep_at) = (0, sequence);
        }
        let (times, most) = if error.is_asleep() {
            (&mut self.asleep, MAX_ASLEEP)
        } else {
            (&mut self.missed, MAX_MISSED)
        };
        *times += 1;
        *times > most
    }
}

/// What follows when the request reached no backend.
fn unreached(error: &RelayError) -> NextStep {
    match error {
        RelayError::Fault(RelayFault { code, report, .. }) => match code {
            FaultCode::Asleep if report.is_some() => {
                NextStep::SendAgain(Target::AnotherOrOnceAsleep(*report))
            }
            FaultCode::Asleep | FaultCode::Overloaded | FaultCode::Busy => NextStep::AskAnother(Reach::Awake),
            FaultCode::BackendUnavailable => NextStep::AskAnother(Reach::WorkingOrDown),
            FaultCode::UnknownProvider | FaultCode::ShuttingDown => {
                NextStep::SendAgain(Target::AnotherOrOnceBack)
            }
            FaultCode::UnknownModel => NextStep::SendAgain(Target::AnotherOrOncePublished),
            FaultCode::BackendFailed
            | FaultCode::BackendTimeout
            | FaultCode::FirstByteTimeout
            | FaultCode::Cancelled
            | FaultCode::BadRequest
            | FaultCode::BadFrame
            | FaultCode::Lost
            | FaultCode::Unknown => NextStep::Finish,
        },
        RelayError::NoResponders => NextStep::SendAgain(Target::AnotherOrOnceBack),
        RelayError::Disconnected => NextStep::SendAgain(Target::OnceBack),
        RelayError::Overloaded
        | RelayError::HeadTooLarge
        | RelayError::Gap { .. }
        | RelayError::Silent { .. }
        | RelayError::Overdrawn
        | RelayError::Malformed(_)
        | RelayError::BodyBrokeOff
        | RelayError::Closed => NextStep::Finish,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wakes::WakeError;
    use reveille_domain::{Epoch, ReportSeq};

    const REPORT: ReportId = ReportId {
        epoch: Epoch(1),
        seq: ReportSeq(2),
    };

    fn missed(error: impl Into<RelayError>) -> Outcome {
        missed_at(1, error)
    }

    fn missed_at(sequence: u64, error: impl Into<RelayError>) -> Outcome {
        Outcome::Missed {
            sequence,
            wake_id: None,
            error: error.into(),
        }
    }

    fn fault(code: FaultCode) -> Outcome {
        missed(RelayFault::new(code, "a sentence"))
    }

    fn asleep(sequence: u64) -> Outcome {
        missed_at(sequence, RelayFault::asleep("it slept", REPORT))
    }

    fn refused(error: WakeError) -> Outcome {
        Outcome::Refused(error.into())
    }

    fn first_step(outcome: &Outcome) -> NextStep {
        RetryPolicy::default().next_step(outcome, true)
    }

    #[test]
    fn a_backend_that_loads_for_ever_is_given_up() {
        let mut policy = RetryPolicy::default();
        for _ in 0..MAX_LOADING {
            assert!(policy.still_loads(503, b"Loading model"));
        }
        assert!(!policy.still_loads(503, b"Loading model"));
    }

    #[test]
    fn a_refusal_that_concerns_one_provider_leads_to_the_next_of_the_pool() {
        let provider = || "gpu-box/vllm".parse().expect("legal");
        let (unknown, unavailable) = (
            WakeError::Unknown { provider: provider() },
            WakeError::Unavailable("down".to_owned()),
        );
        let mut policy = RetryPolicy::default();
        for _ in 0..20 {
            assert_eq!(
                policy.next_step(&refused(unknown.clone()), true),
                NextStep::AskAnother(Reach::All)
            );
        }
        assert_eq!(policy.next_step(&refused(unavailable), true), NextStep::Finish);
        let asleep = Outcome::Refused(InferenceError::Asleep { provider: provider() });
        assert_eq!(policy.next_step(&asleep, true), NextStep::Finish);
    }

    #[test]
    fn a_backend_that_is_being_put_to_sleep_is_asked_again_for_as_long_as_its_caller_waits() {
        let mut policy = RetryPolicy::default();
        let leaving = fault(FaultCode::Asleep);
        for _ in 0..20 {
            let next = policy.next_step(&leaving, true);
            assert_eq!(next, NextStep::SendAgain(Target::AnotherOrOnceAsleep(None)));
        }
        let next = policy.next_step(&leaving, false);
        assert_eq!(
            next,
            NextStep::AskAnother(Reach::Awake),
            "nobody waits for this one"
        );
    }

    #[test]
    fn each_reason_to_send_again_has_its_own_cap() {
        let mut policy = RetryPolicy::default();
        let once_asleep = NextStep::SendAgain(Target::AnotherOrOnceAsleep(Some(REPORT)));
        for _ in 0..MAX_ASLEEP {
            assert_eq!(policy.next_step(&asleep(1), true), once_asleep);
        }
        let away = || missed(RelayError::NoResponders);
        assert_eq!(
            policy.next_step(&away(), true),
            NextStep::SendAgain(Target::AnotherOrOnceBack)
        );
        for over in [asleep(1), missed(RelayError::Disconnected)] {
            assert_eq!(policy.next_step(&over, true), NextStep::Finish);
        }
        assert_eq!(
            policy.next_step(&away(), true),
            NextStep::AskAnother(Reach::Working),
            "each of the others once"
        );
        let woken_since = policy.next_step(&asleep(2), true);
        assert_eq!(woken_since, once_asleep, "another wake is another try");
    }

    #[test]
    fn an_agent_at_its_limit_is_asked_again_at_growing_intervals_for_as_long_as_the_caller_waits() {
        let mut policy = RetryPolicy::default();
        let full = fault(FaultCode::Overloaded);
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            let NextStep::SendAgain(Target::AnotherOrSame { pause }) = policy.next_step(&full, true) else {
                panic!("it waits its turn")
            };
            assert!(pause >= FIRST_PAUSE && pause <= 2 * LONGEST_PAUSE, "{pause:?}");
            last = pause;
        }
        assert!(last >= LONGEST_PAUSE, "{last:?}");
        let next = policy.next_step(&full, false);
        assert_eq!(
            next,
            NextStep::AskAnother(Reach::Awake),
            "only to one that is free"
        );
    }

    #[test]
    fn what_a_backend_may_be_working_on_is_final() {
        for outcome in [
            fault(FaultCode::BackendTimeout),
            fault(FaultCode::Lost),
            fault(FaultCode::Unknown),
            missed(RelayError::Gap { expected: 2 }),
            missed(RelayError::Silent { silent_ms: 1 }),
            missed(RelayError::Closed),
        ] {
            assert_eq!(first_step(&outcome), NextStep::Finish);
        }
    }

    #[test]
    fn what_would_fail_anywhere_is_final_and_a_backend_that_is_down_is_left_to_others() {
        for outcome in [missed(RelayError::HeadTooLarge), missed(RelayError::Overloaded)] {
            assert_eq!(first_step(&outcome), NextStep::Finish);
        }
        let unavailable = fault(FaultCode::BackendUnavailable);
        assert_eq!(
            first_step(&unavailable),
            NextStep::AskAnother(Reach::WorkingOrDown)
        );
        for code in [FaultCode::ShuttingDown, FaultCode::UnknownProvider] {
            assert_eq!(
                first_step(&fault(code)),
                NextStep::SendAgain(Target::AnotherOrOnceBack)
            );
        }
        let mut policy = RetryPolicy::default();
        for next in [
            NextStep::SendAgain(Target::AnotherOrOncePublished),
            NextStep::AskAnother(Reach::Working),
        ] {
            assert_eq!(policy.next_step(&fault(FaultCode::UnknownModel), true), next);
        }
    }

    #[test]
    fn a_request_that_a_backend_has_ended_itself_goes_to_one_other_that_is_awake() {
        let mut policy = RetryPolicy::default();
        let other = NextStep::AskAnother(Reach::Awake);
        assert_eq!(policy.next_step(&fault(FaultCode::BackendFailed), true), other);
        for _ in 0..2 {
            let next = policy.next_step(&fault(FaultCode::BackendFailed), true);
            assert_eq!(next, NextStep::Finish);
            assert_eq!(policy.after_answer(500, b""), NextStep::Finish);
        }
        assert_eq!(RetryPolicy::default().after_answer(500, b""), other);
    }

    #[test]
    fn an_answer_of_a_member_that_does_not_serve_leads_on_and_any_other_is_final() {
        let mut policy = RetryPolicy::default();
        for status in [302, 401, 403, 404, 429, 502, 503, 504] {
            for _ in 0..3 {
                let next = policy.after_answer(status, b"no model");
                assert_eq!(next, NextStep::AskAnother(Reach::Working), "{status}");
            }
        }
        for status in [200, 400, 413, 422] {
            assert_eq!(
                policy.after_answer(status, b"no model"),
                NextStep::Finish,
                "{status}"
            );
        }
        for status in [404, 501] {
            let path = policy.after_answer(status, b"no such path");
            assert_eq!(path, NextStep::AskAnother(Reach::Awake), "it wakes nothing");
        }
    }
}
