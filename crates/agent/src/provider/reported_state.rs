//! What the agent knows about one backend, what control knows, and so what to report next. Pure, except for the clock.
//!
//! Only the outcome of a wake is queued. Otherwise the two states are compared, and the difference is reported.

use super::{happened::Happened, last_sleep::Attempt};
use crate::probe::{Unavailable, Verdict};
use reveille_bus::control::Report;
use reveille_domain::{
    Availability, Epoch, ReportId, ReportSeq, SleepReason, WakeId, WakeOutcome, provider::StatusName,
};
use tokio::time::Instant;

/// After this many probes in a row without a clear answer, a backend counts as unreachable.
const UNCLEAR_PROBES: u32 = 3;

/// What the agent knows about the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Unknown,
    /// Its sleep recipe failed, but it may sleep all the same.
    Doubted,
    Up,
    Down(SleepIntent),
}

/// Why a backend is put to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SleepIntent {
    pub reason: SleepReason,
    /// The wake that needs its room.
    pub for_wake: Option<WakeId>,
    /// The attempt of an operator or a pause that it is.
    pub attempt: Option<Attempt>,
}

impl SleepIntent {
    /// An operator or a pause wants it.
    pub(super) fn ordered(attempt: Attempt) -> Self {
        Self {
            attempt: Some(attempt),
            ..SleepReason::Operator.into()
        }
    }
}

impl From<SleepReason> for SleepIntent {
    fn from(reason: SleepReason) -> Self {
        Self {
            reason,
            for_wake: None,
            attempt: None,
        }
    }
}

/// What requests show of the backend when a probe of it ends.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signs {
    /// Requests work at it, so it may be slow to answer probes.
    pub busy: bool,
    /// A request got a part of its answer while the probe waited.
    pub heard: bool,
    /// It broke off a request since it was last found available.
    pub broke_off: bool,
    /// A request couldn't reach it since it was last found available.
    pub unreachable: bool,
}

/// A question to control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Register(ReportSeq, Availability),
    Resume(ReportId, Availability),
    Report(ReportId, Report),
    /// Control forgets the provider.
    Withdraw,
}

/// What the agent and control know about one backend.
#[derive(Debug)]
pub(super) struct ReportedState {
    wakeable: bool,
    backend: Backend,
    /// Since when; `None` for what the first probe found.
    since: Option<Instant>,
    unclear: u32,
    /// What control last said; `None` while the provider isn't registered.
    status: Option<StatusName>,
    /// Whether it is to be registered next. What control answers to an earlier question doesn't change that.
    must_register: bool,
    /// Whether control has the provider of this session, if only with an earlier spec.
    is_registered: bool,
    /// The highest report number so far.
    seq: ReportSeq,
    /// The last report that changed something.
    last_seq: ReportSeq,
    /// The outcome of the last wake, until control has heard it.
    outcome: Option<(WakeId, WakeOutcome)>,
    outcome_at: Option<Instant>,
    /// The outcome of the last wake, in case control asks again.
    ended: Option<(WakeId, WakeOutcome)>,
    /// Everything was reported, until something new is found out.
    quiet: bool,
}

impl ReportedState {
    pub(super) const fn new(wakeable: bool) -> Self {
        Self {
            wakeable,
            backend: Backend::Unknown,
            since: None,
            unclear: 0,
            status: None,
            must_register: true,
            is_registered: false,
            seq: ReportSeq(0),
            last_seq: ReportSeq(0),
            outcome: None,
            outcome_at: None,
            ended: None,
            quiet: false,
        }
    }

    /// Numbers its reports after those that an earlier owner of the session has used.
    #[must_use]
    pub(super) const fn numbered_after(mut self, last: ReportSeq) -> Self {
        self.seq = last;
        self
    }

    /// The highest report number so far.
    pub(super) fn last_number(&self) -> ReportSeq {
        self.seq.max(self.last_seq)
    }

    /// A probe has found something. An unclear answer says nothing of a backend that a request hears, and a busy one may be slow
    /// to answer probes. But a backend that neither a request nor then the probe can reach is gone. One that broke off a request
    /// and now refuses connections has crashed.
    pub(super) fn probed(&mut self, verdict: &Verdict, signs: Signs) {
        self.quiet = false;
        match verdict {
            Ok(()) => {
                self.unclear = 0;
                self.turn(Backend::Up);
            }
            Err(why) if why.refused && signs.broke_off => self.down(SleepReason::Crashed),
            Err(why) if why.is_clear() => self.down(why.sleep_reason()),
            Err(why) => {
                let known = matches!(self.backend, Backend::Up | Backend::Down(_));
                let gone = signs.unreachable && !signs.heard;
                self.unclear = match signs {
                    Signs { heard: true, .. } | Signs { busy: true, .. } => 0,
                    Signs { .. } => self.unclear.saturating_add(1),
                };
                if !known || gone || self.unclear >= UNCLEAR_PROBES {
                    self.down(why.sleep_reason());
                }
            }
        }
    }

    /// The backend is down. If it was before, the earlier reason stays.
    pub(super) fn down(&mut self, intent: impl Into<SleepIntent>) {
        self.quiet = false;
        self.unclear = 0;
        if !matches!(self.backend, Backend::Down(_)) {
            self.turn(Backend::Down(intent.into()));
        }
    }

    fn turn(&mut self, backend: Backend) {
        if self.backend != backend {
            self.since = (self.backend != Backend::Unknown).then(Instant::now);
            self.backend = backend;
        }
    }

    /// The backend may sleep; the next probe will tell. Until then no request should reach it.
    pub(super) fn doubt(&mut self) {
        self.turn(Backend::Doubted);
    }

    pub(super) fn is_up(&self) -> bool {
        self.backend == Backend::Up
    }

    /// Whether the backend sleeps, and the journal has it asleep, as far as control has answered. An unreported outcome of a
    /// wake would make it awake there first.
    pub(super) fn is_recorded_asleep(&self) -> bool {
        matches!(self.backend, Backend::Down(_))
            && self.outcome.is_none()
            && matches!(self.status, Some(StatusName::Hibernating | StatusName::Waking))
    }

    /// Whether control hasn't heard yet what has become of a wake.
    pub(super) const fn owes_outcome(&self) -> bool {
        self.outcome.is_some()
    }

    /// Whether control has refused the registration for good.
    pub(super) const fn is_unpublished(&self) -> bool {
        self.status.is_none() && self.quiet
    }

    pub(super) const fn status(&self) -> Option<StatusName> {
        self.status
    }

    /// Whether requests may try the backend. Without a wake recipe they always may.
    pub(super) fn is_open(&self) -> bool {
        !self.wakeable || matches!(self.backend, Backend::Unknown | Backend::Up)
    }

    pub(super) const fn availability(&self) -> Option<Availability> {
        match self.backend {
            Backend::Unknown | Backend::Doubted => None,
            Backend::Up => Some(Availability::Available),
            Backend::Down(_) => Some(Availability::Unavailable),
        }
    }

    /// A wake is in flight. Returns whether to work on it: the outcome of an ended one is only reported again.
    pub(super) fn wake_asked(&mut self, wake: WakeId) -> bool {
        self.status = Some(StatusName::Waking);
        match &self.ended {
            Some((id, outcome)) if *id == wake => {
                self.outcome = Some((*id, outcome.clone()));
                self.quiet = false;
                false
            }
            Some(_) | None => true,
        }
    }

    /// A wake ended.
    pub(super) fn wake_ended(&mut self, wake: WakeId, outcome: WakeOutcome) {
        match outcome {
            WakeOutcome::Succeeded { .. } => {
                self.unclear = 0;
                self.turn(Backend::Up);
            }
            WakeOutcome::Failed { .. } => self.down(SleepReason::Unreachable),
        }
        self.quiet = false;
        self.outcome_at = Some(Instant::now());
        self.outcome = Some((wake, outcome.clone()));
        self.ended = Some((wake, outcome));
    }

    /// The next question to control, if any. Must not be called while control is answering another.
    pub(super) fn next_ask(&mut self, epoch: Epoch) -> Option<Ask> {
        if self.quiet {
            return None;
        }
        let availability = self.availability();
        let outcome = self.outcome.clone();
        let outcome = outcome.map(|(wake_id, outcome)| Report::Wake { wake_id, outcome });
        let Some(status) = self.status else {
            // Registering an available backend would end the wake as well, without its stages.
            if let Some(outcome) = outcome.filter(|_| self.is_registered) {
                return Some(Ask::Report(self.next_id(epoch), outcome));
            }
            let found = availability?;
            self.must_register = false;
            return Some(Ask::Register(self.next_id(epoch).seq, found));
        };
        if status == StatusName::Inactive {
            return availability.map(|found| Ask::Resume(self.next_id(epoch), found));
        }
        let report = outcome.or_else(|| self.difference(status))?;
        Some(Ask::Report(self.next_id(epoch), report))
    }

    /// When the oldest unreported event happened. A backend that was never probed counts until it is registered.
    pub(super) fn unreported(&self) -> Option<Happened> {
        if self.quiet {
            return None;
        }
        let differs = match self.status {
            None | Some(StatusName::Inactive) => true,
            Some(status) => self.difference(status).is_some(),
        };
        let turned = differs.then_some(Happened {
            at: self.since,
            up: self.is_up(),
        });
        let outcome = self.outcome.as_ref().map(|(_, outcome)| Happened {
            at: self.outcome_at,
            up: matches!(outcome, WakeOutcome::Succeeded { .. }),
        });
        turned.into_iter().chain(outcome).min()
    }

    fn difference(&self, status: StatusName) -> Option<Report> {
        match (status, self.backend) {
            (StatusName::Active, Backend::Down(SleepIntent { reason, for_wake, .. })) => {
                Some(Report::Asleep { reason, for_wake })
            }
            (StatusName::Hibernating | StatusName::Waking | StatusName::Down, Backend::Up) => {
                Some(Report::Awake)
            }
            (
                StatusName::Active
                | StatusName::Hibernating
                | StatusName::Waking
                | StatusName::Down
                | StatusName::Inactive,
                Backend::Unknown | Backend::Doubted | Backend::Up | Backend::Down(_),
            ) => None,
        }
    }

    fn next_id(&mut self, epoch: Epoch) -> ReportId {
        self.seq = self.last_number().next();
        ReportId { epoch, seq: self.seq }
    }

    /// Control has accepted a question.
    pub(super) fn done(&mut self, ask: &Ask, status: Option<StatusName>, last_seq: ReportSeq) {
        self.status = status.filter(|_| !self.must_register);
        self.last_seq = last_seq;
        match ask {
            Ask::Register(..) => self.is_registered = true,
            Ask::Resume(..) | Ask::Withdraw => {}
            Ask::Report(_, Report::Wake { wake_id, .. }) => self.outcome_heard(*wake_id),
            // Reported once for each finding, even if control disagrees.
            Ask::Report(_, Report::Asleep { .. } | Report::Awake) => self.quiet = !self.must_register,
        }
    }

    /// Control has refused a question for good. Nothing more is asked before something new is found out.
    pub(super) fn refused(&mut self, ask: &Ask) {
        self.quiet = true;
        if let Ask::Report(_, Report::Wake { wake_id, .. }) = ask {
            self.quiet = !self.must_register;
            self.outcome_heard(*wake_id);
        }
    }

    fn outcome_heard(&mut self, wake: WakeId) {
        if self.outcome.as_ref().is_some_and(|(id, _)| *id == wake) {
            self.outcome = None;
        }
    }

    /// Control doesn't know the provider in this session.
    pub(super) fn unregistered(&mut self) {
        self.is_registered = false;
        self.register_again();
    }

    /// What is to be published has changed, or what control has of it is uncertain.
    pub(super) fn register_again(&mut self) {
        self.quiet = false;
        self.must_register = true;
        self.status = None;
    }

    /// Control has counted the agent as lost.
    pub(super) fn inactive(&mut self) {
        self.quiet = false;
        self.is_registered &= !self.must_register;
        self.status = Some(StatusName::Inactive).filter(|_| !self.must_register);
    }

    /// The report that tells control what a request has found: no backend. `None` if the backend is up or can't be woken, `Err`
    /// while the report isn't acknowledged.
    pub(super) fn asleep(&self, epoch: Epoch) -> Result<Option<ReportId>, ()> {
        match (self.status, self.backend) {
            (_, Backend::Up) => Ok(None),
            (_, Backend::Unknown | Backend::Doubted) => Err(()),
            _ if !self.wakeable => Ok(None),
            // While the outcome of a wake is unreported, the journal will have the backend awake first, so the last report is
            // about an earlier sleep.
            (Some(StatusName::Hibernating | StatusName::Waking), Backend::Down(_))
                if self.outcome.is_none() =>
            {
                Ok(Some(ReportId {
                    epoch,
                    seq: self.last_seq,
                }))
            }
            (_, Backend::Down(_)) => Err(()),
        }
    }
}

impl Unavailable {
    /// Whether the backend surely isn't available: it says that it sleeps, refuses connections, answers no completion, or is
    /// the hub itself or another server.
    const fn is_clear(&self) -> bool {
        self.asleep || self.refused || self.failed || self.stranger || self.is_hub_itself()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;
    use uuid::Uuid;

    const EPOCH: Epoch = Epoch(3);
    const BUSY: Signs = Signs {
        busy: true,
        heard: false,
        broke_off: false,
        unreachable: false,
    };

    fn unclear() -> Verdict {
        Err(Unavailable {
            asleep: false,
            refused: false,
            failed: false,
            no_files: false,
            is_hub: None,
            stranger: false,
            other_models: false,
            reason: "slow".to_owned(),
        })
    }

    fn refused() -> Verdict {
        Err(Unavailable {
            asleep: false,
            refused: true,
            failed: false,
            no_files: false,
            is_hub: None,
            stranger: false,
            other_models: false,
            reason: "nobody".to_owned(),
        })
    }

    /// A state that control shares: registered with `status`.
    fn registered(verdict: &Verdict, status: StatusName) -> ReportedState {
        let mut state = ReportedState::new(true);
        assert_eq!(state.next_ask(EPOCH), None, "nothing is known yet");
        state.probed(verdict, Signs::default());
        let ask = state.next_ask(EPOCH).expect("a registration");
        assert!(matches!(ask, Ask::Register(..)));
        state.done(&ask, Some(status), ReportSeq(0));
        state
    }

    fn report(state: &mut ReportedState) -> Option<(u64, Report)> {
        state.next_ask(EPOCH).map(|ask| match ask {
            Ask::Report(id, report) => (id.seq.0, report),
            ask => panic!("{ask:?}"),
        })
    }

    fn failed() -> WakeOutcome {
        use reveille_domain::{WakeFailure, WakeFailureKind};
        WakeOutcome::Failed {
            failure: WakeFailure::new(WakeFailureKind::Recipe, "s", "r"),
            stages: vec![],
        }
    }

    #[test]
    fn a_registration_that_is_due_outlasts_the_answer_to_an_earlier_question() {
        let mut state = registered(&refused(), StatusName::Hibernating);
        state.probed(&Ok(()), Signs::default());
        let awake = state.next_ask(EPOCH).expect("a report");
        assert!(matches!(awake, Ask::Report(_, Report::Awake)));
        state.unregistered();
        state.inactive();
        state.done(&awake, Some(StatusName::Active), ReportSeq(2));
        let ask = state.next_ask(EPOCH).expect("a registration");
        assert!(matches!(ask, Ask::Register(..)), "{ask:?}");

        // It changes again while control answers that.
        state.unregistered();
        state.done(&ask, Some(StatusName::Active), ReportSeq(3));
        let ask = state.next_ask(EPOCH).expect("a registration");
        assert!(matches!(ask, Ask::Register(..)), "{ask:?}");
        state.done(&ask, Some(StatusName::Active), ReportSeq(4));
        assert_eq!(state.next_ask(EPOCH), None);
    }

    #[test]
    fn only_differences_are_reported_and_each_once() {
        let mut state = registered(&Ok(()), StatusName::Active);
        assert_eq!(report(&mut state), None);
        state.probed(&refused(), Signs::default());
        let ask = state.next_ask(EPOCH).expect("a report");
        assert_eq!(
            ask,
            Ask::Report(
                ReportId {
                    epoch: EPOCH,
                    seq: ReportSeq(2)
                },
                Report::Asleep {
                    reason: SleepReason::Unreachable,
                    for_wake: None,
                }
            )
        );
        state.done(&ask, Some(StatusName::Hibernating), ReportSeq(2));
        assert_eq!(report(&mut state), None);
        state.probed(&Ok(()), Signs::default());
        assert_eq!(report(&mut state), Some((3, Report::Awake)));
    }

    #[test]
    fn a_backend_that_broke_off_a_request_and_then_refuses_connections_has_crashed() {
        let mut state = registered(&Ok(()), StatusName::Active);
        let broke_off = Signs {
            broke_off: true,
            ..Signs::default()
        };
        state.probed(&refused(), broke_off);
        let crashed = Report::Asleep {
            reason: SleepReason::Crashed,
            for_wake: None,
        };
        assert_eq!(report(&mut state), Some((2, crashed)));
    }

    #[test]
    fn a_slow_backend_is_given_time_and_a_busy_one_more() {
        let mut state = registered(&Ok(()), StatusName::Active);
        for _ in 0..10 {
            state.probed(&unclear(), BUSY);
        }
        state.probed(&unclear(), Signs::default());
        state.probed(&unclear(), Signs::default());
        assert!(state.is_open() && report(&mut state).is_none());
        state.probed(&unclear(), Signs::default());
        assert!(!state.is_open());
        assert_eq!(
            report(&mut state),
            Some((
                2,
                Report::Asleep {
                    reason: SleepReason::Unreachable,
                    for_wake: None,
                }
            ))
        );
    }

    #[test]
    fn a_backend_that_neither_a_request_nor_the_probe_can_reach_is_gone_however_many_requests_try() {
        let unreachable = Signs {
            unreachable: true,
            ..BUSY
        };
        let mut state = registered(&Ok(()), StatusName::Active);
        let heard = Signs {
            heard: true,
            ..unreachable
        };
        for _ in 0..10 {
            state.probed(&unclear(), heard);
        }
        assert!(state.is_open(), "another request is being answered");
        state.probed(&unclear(), unreachable);
        let gone = Report::Asleep {
            reason: SleepReason::Unreachable,
            for_wake: None,
        };
        assert_eq!(report(&mut state), Some((2, gone)));
    }

    #[test]
    fn without_a_recipe_a_backend_is_reported_down_and_back_and_requests_may_always_try() {
        let mut state = ReportedState::new(false);
        state.probed(&refused(), Signs::default());
        let ask = state.next_ask(EPOCH).expect("a registration");
        assert_eq!(ask, Ask::Register(ReportSeq(1), Availability::Unavailable));
        state.done(&ask, Some(StatusName::Down), ReportSeq(1));
        assert_eq!(state.next_ask(EPOCH), None);
        assert!(state.is_open());
        assert_eq!(state.asleep(EPOCH), Ok(None));

        state.probed(&Ok(()), Signs::default());
        let ask = state.next_ask(EPOCH).expect("a report");
        assert!(matches!(ask, Ask::Report(_, Report::Awake)), "{ask:?}");
        state.done(&ask, Some(StatusName::Active), ReportSeq(2));
        state.probed(&refused(), Signs::default());
        let down = Report::Asleep {
            reason: SleepReason::Unreachable,
            for_wake: None,
        };
        assert_eq!(report(&mut state), Some((3, down)));
        assert!(state.is_open());
    }

    #[test]
    fn an_outcome_is_told_until_it_is_heard_and_again_when_asked_again() {
        let wake = WakeId(Uuid::now_v7());
        let mut state = registered(&refused(), StatusName::Hibernating);
        assert!(state.wake_asked(wake));
        state.wake_ended(wake, failed());
        let told = state.next_ask(EPOCH).expect("a report");
        state.inactive();
        let ask = state.next_ask(EPOCH).expect("a resumption");
        assert!(
            matches!(ask, Ask::Resume(_, Availability::Unavailable)),
            "{ask:?}"
        );
        state.done(&ask, Some(StatusName::Hibernating), ReportSeq(2));
        let again = state.next_ask(EPOCH).expect("the outcome");
        assert_ne!(told, again, "with a number of its own");
        state.done(&again, Some(StatusName::Hibernating), ReportSeq(3));
        assert_eq!(state.next_ask(EPOCH), None);
        assert!(!state.wake_asked(wake), "it has ended");
        assert_eq!(
            report(&mut state),
            Some((
                5,
                Report::Wake {
                    wake_id: wake,
                    outcome: failed()
                }
            ))
        );
    }

    #[test]
    fn what_has_become_of_a_wake_is_told_before_a_registration_that_would_end_it_without_its_stages() {
        let wake = WakeId(Uuid::now_v7());
        let woken = || {
            let mut state = registered(&refused(), StatusName::Hibernating);
            assert!(state.wake_asked(wake));
            state.wake_ended(wake, WakeOutcome::Succeeded { stages: vec![] });
            // It lists models that it didn't before.
            state.register_again();
            state
        };
        let is_outcome = |ask: &Ask| matches!(ask, Ask::Report(_, Report::Wake { .. }));

        let mut state = woken();
        let ask = state.next_ask(EPOCH).expect("the outcome");
        assert!(is_outcome(&ask), "{ask:?}");
        state.done(&ask, Some(StatusName::Active), ReportSeq(2));
        let ask = state.next_ask(EPOCH).expect("the models");
        assert_eq!(ask, Ask::Register(ReportSeq(3), Availability::Available));
        state.done(&ask, Some(StatusName::Active), ReportSeq(3));
        assert_eq!(state.next_ask(EPOCH), None);

        // Control, which has forgotten the provider or counts it as lost, takes no report before a registration.
        for refuse in [ReportedState::unregistered, ReportedState::inactive] {
            let mut state = woken();
            let ask = state.next_ask(EPOCH).expect("the outcome");
            assert!(is_outcome(&ask), "{ask:?}");
            refuse(&mut state);
            let ask = state.next_ask(EPOCH).expect("a registration");
            assert!(matches!(ask, Ask::Register(..)), "{ask:?}");
        }

        // A refusal of the outcome for good doesn't keep the models back.
        let mut state = woken();
        let ask = state.next_ask(EPOCH).expect("the outcome");
        state.refused(&ask);
        let ask = state.next_ask(EPOCH).expect("the models");
        assert!(matches!(ask, Ask::Register(..)), "{ask:?}");
    }

    #[test]
    fn a_lost_registration_is_made_again() {
        let mut state = registered(&Ok(()), StatusName::Active);
        state.unregistered();
        assert_eq!(
            state.next_ask(EPOCH),
            Some(Ask::Register(ReportSeq(2), Availability::Available))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_event_is_unreported_until_control_has_answered_and_only_then_the_next() {
        let moment = Duration::from_millis(1);
        let wake = WakeId(Uuid::now_v7());
        let mut state = ReportedState::new(true);
        assert_eq!(state.unreported(), Some(Happened::UNKNOWN), "nobody has looked");
        state.probed(&refused(), Signs::default());
        assert_eq!(
            state.unreported(),
            Some(Happened::UNKNOWN),
            "the first look finds what was so"
        );
        let ask = state.next_ask(EPOCH).expect("a registration");
        state.done(&ask, Some(StatusName::Hibernating), ReportSeq(1));
        assert!(state.unreported().is_none() && state.is_recorded_asleep());

        state.wake_asked(wake);
        assert!(state.is_recorded_asleep(), "until its recipe has brought it up");
        advance(moment).await;
        let woke = Happened {
            at: Some(Instant::now()),
            up: true,
        };
        state.wake_ended(wake, WakeOutcome::Succeeded { stages: vec![] });
        advance(moment).await;
        let slept = Happened {
            at: Some(Instant::now()),
            up: false,
        };
        state.down(SleepReason::Idle);
        assert!(
            !state.is_recorded_asleep(),
            "the journal is about to say that it is awake"
        );
        assert_eq!(state.unreported(), Some(woke));
        let ask = state.next_ask(EPOCH).expect("the outcome");
        state.done(&ask, Some(StatusName::Active), ReportSeq(2));
        assert!(!state.is_recorded_asleep());
        assert_eq!(state.unreported(), Some(slept));
        state.inactive();
        assert_eq!(
            state.unreported(),
            Some(slept),
            "whatever control makes of the agent"
        );
        assert!(!state.is_recorded_asleep());
        let ask = state.next_ask(EPOCH).expect("a resumption");
        state.done(&ask, Some(StatusName::Hibernating), ReportSeq(3));
        assert!(state.unreported().is_none() && state.is_recorded_asleep());
    }

    #[test]
    fn a_request_that_found_nobody_waits_for_the_report() {
        let mut state = registered(&Ok(()), StatusName::Active);
        assert_eq!(state.asleep(EPOCH), Ok(None), "it is up: try again");
        state.probed(&refused(), Signs::default());
        assert_eq!(state.asleep(EPOCH), Err(()));
        let ask = state.next_ask(EPOCH).expect("a report");
        state.done(&ask, Some(StatusName::Hibernating), ReportSeq(1));
        assert_eq!(
            state.asleep(EPOCH),
            Ok(Some(ReportId {
                epoch: EPOCH,
                seq: ReportSeq(1)
            }))
        );
    }

    #[test]
    fn a_request_never_gets_the_report_of_an_earlier_sleep() {
        let mut state = registered(&refused(), StatusName::Hibernating);
        let wake = WakeId(Uuid::now_v7());
        assert!(state.wake_asked(wake));
        state.wake_ended(wake, WakeOutcome::Succeeded { stages: vec![] });
        state.down(SleepReason::Idle);
        assert_eq!(
            state.asleep(EPOCH),
            Err(()),
            "the journal doesn't have it awake yet"
        );
        let ask = state.next_ask(EPOCH).expect("the outcome");
        state.done(&ask, Some(StatusName::Active), ReportSeq(2));
        assert_eq!(state.asleep(EPOCH), Err(()));
        let ask = state.next_ask(EPOCH).expect("the sleep");
        state.done(&ask, Some(StatusName::Hibernating), ReportSeq(3));
        let seq = ReportSeq(3);
        assert_eq!(state.asleep(EPOCH), Ok(Some(ReportId { epoch: EPOCH, seq })));
    }
}
