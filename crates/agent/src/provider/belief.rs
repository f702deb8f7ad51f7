//! What an agent knows of one backend, what control knows of it, and so what control is to be told next. Pure, but for
//! the clock.
//!
//! Apart from the outcome of a wake, nothing is queued: the two are compared, and the difference is reported.

use super::report_order::Happened;
use crate::probe::{Unavailable, Verdict};
use reveille_bus::control::Report;
use reveille_domain::{
    Availability, Epoch, ReportId, ReportSeq, SleepReason, WakeId, WakeOutcome, provider::StatusName,
};
use tokio::time::Instant;

/// After so many probes in a row without a clear answer a backend counts as unreachable.
const UNCLEAR_PROBES: u32 = 3;

/// What the agent knows of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Unknown,
    /// Its sleep recipe has failed, and it may sleep all the same.
    Doubted,
    Up,
    Down(Departure),
}

/// Why a backend sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Departure {
    pub reason: SleepReason,
    /// The wake that it makes room for.
    pub for_wake: Option<WakeId>,
}

impl From<SleepReason> for Departure {
    fn from(reason: SleepReason) -> Self {
        Self {
            reason,
            for_wake: None,
        }
    }
}

/// Something to ask of control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Register(ReportSeq, Availability),
    Resume(ReportId, Availability),
    Report(ReportId, Report),
}

/// What the agent knows of one backend, and what control does.
#[derive(Debug)]
pub(super) struct Belief {
    wakeable: bool,
    backend: Backend,
    /// Since when; `None` for what the first look at it found.
    since: Option<Instant>,
    unclear: u32,
    /// What control last said; `None` when the provider isn't registered with it.
    status: Option<StatusName>,
    /// The highest number given to a report.
    seq: ReportSeq,
    /// The last report that changed something.
    last_seq: ReportSeq,
    /// How the last wake ended, until control has heard it.
    outcome: Option<(WakeId, WakeOutcome)>,
    outcome_at: Option<Instant>,
    /// How the last wake ended, should control ask again.
    ended: Option<(WakeId, WakeOutcome)>,
    /// What there was to say was said, until something new is found out.
    quiet: bool,
}

impl Belief {
    pub(super) const fn new(wakeable: bool) -> Self {
        Self {
            wakeable,
            backend: Backend::Unknown,
            since: None,
            unclear: 0,
            status: None,
            seq: ReportSeq(0),
            last_seq: ReportSeq(0),
            outcome: None,
            outcome_at: None,
            ended: None,
            quiet: false,
        }
    }

    /// What a probe found. A busy backend may be slow to answer probes, so an unclear answer says nothing then. One that
    /// broke off in the middle of a request and isn't there any more has crashed.
    pub(super) fn probed(&mut self, verdict: &Verdict, busy: bool, broke_off: bool) {
        self.quiet = false;
        match verdict {
            Verdict::Available => {
                self.unclear = 0;
                self.turn(Backend::Up);
            }
            Verdict::Unavailable(why) if why.refused && broke_off => self.down(SleepReason::Crashed),
            Verdict::Unavailable(why) if why.is_clear() => self.down(why.sleep_reason()),
            Verdict::Unavailable(why) => {
                self.unclear = if busy { 0 } else { self.unclear.saturating_add(1) };
                let known = matches!(self.backend, Backend::Up | Backend::Down(_));
                if !known || self.unclear >= UNCLEAR_PROBES {
                    self.down(why.sleep_reason());
                }
            }
        }
    }

    /// The backend is down; the first reason stays.
    pub(super) fn down(&mut self, departure: impl Into<Departure>) {
        self.quiet = false;
        self.unclear = 0;
        if !matches!(self.backend, Backend::Down(_)) {
            self.turn(Backend::Down(departure.into()));
        }
    }

    fn turn(&mut self, backend: Backend) {
        if self.backend != backend {
            self.since = (self.backend != Backend::Unknown).then(Instant::now);
            self.backend = backend;
        }
    }

    /// The backend may sleep, until the next probe tells: one that half sleeps may not take a request well.
    pub(super) fn doubt(&mut self) {
        self.turn(Backend::Doubted);
    }

    pub(super) fn is_up(&self) -> bool {
        self.backend == Backend::Up
    }

    /// Whether the backend sleeps and the journal has it so, as far as control has answered: with the outcome of a
    /// wake still to report, it will have it awake first.
    pub(super) fn is_recorded_asleep(&self) -> bool {
        matches!(self.backend, Backend::Down(_))
            && self.outcome.is_none()
            && matches!(self.status, Some(StatusName::Hibernating | StatusName::Waking))
    }

    /// What control last said.
    pub(super) const fn status(&self) -> Option<StatusName> {
        self.status
    }

    /// Whether requests may try the backend. Without a recipe there is nothing else to do for them.
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

    /// A wake is in flight. Whether it has to be worked on: one that has ended is only told of again.
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

    /// What control is to be told now, if anything. Asked only while nothing else is under way to it.
    pub(super) fn next_ask(&mut self, epoch: Epoch) -> Option<Ask> {
        if self.quiet {
            return None;
        }
        let availability = self.availability();
        let Some(status) = self.status else {
            return availability.map(|found| Ask::Register(self.next_id(epoch).seq, found));
        };
        if status == StatusName::Inactive {
            return availability.map(|found| Ask::Resume(self.next_id(epoch), found));
        }
        let outcome = self.outcome.clone();
        let report = outcome
            .map(|(wake_id, outcome)| Report::Wake { wake_id, outcome })
            .or_else(|| self.difference(status))?;
        Some(Ask::Report(self.next_id(epoch), report))
    }

    /// When the oldest event happened that control has yet to hear. A backend that nobody has probed counts, until it
    /// is registered.
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
            (StatusName::Active, Backend::Down(Departure { reason, for_wake })) if self.wakeable => {
                Some(Report::Asleep { reason, for_wake })
            }
            (StatusName::Hibernating | StatusName::Waking, Backend::Up) => Some(Report::Awake),
            (
                StatusName::Active | StatusName::Hibernating | StatusName::Waking | StatusName::Inactive,
                Backend::Unknown | Backend::Doubted | Backend::Up | Backend::Down(_),
            ) => None,
        }
    }

    fn next_id(&mut self, epoch: Epoch) -> ReportId {
        self.seq = self.seq.max(self.last_seq).next();
        ReportId { epoch, seq: self.seq }
    }

    /// Control has done what it was asked.
    pub(super) fn done(&mut self, ask: &Ask, status: Option<StatusName>, last_seq: ReportSeq) {
        self.status = status;
        self.last_seq = last_seq;
        match ask {
            Ask::Register(..) | Ask::Resume(..) => {}
            Ask::Report(_, Report::Wake { wake_id, .. }) => self.outcome_heard(*wake_id),
            // Said once for each time that something is found out, even if control sees it otherwise.
            Ask::Report(_, Report::Asleep { .. } | Report::Awake) => self.quiet = true,
        }
    }

    /// Control will never do it: it isn't asked again before something new is found out.
    pub(super) fn refused(&mut self, ask: &Ask) {
        self.quiet = true;
        if let Ask::Report(_, Report::Wake { wake_id, .. }) = ask {
            self.outcome_heard(*wake_id);
        }
    }

    fn outcome_heard(&mut self, wake: WakeId) {
        if self.outcome.as_ref().is_some_and(|(id, _)| *id == wake) {
            self.outcome = None;
        }
    }

    /// Control doesn't know the provider, or not in this session.
    pub(super) fn unregistered(&mut self) {
        self.quiet = false;
        self.status = None;
    }

    /// Control takes the agent for lost.
    pub(super) fn inactive(&mut self) {
        self.quiet = false;
        self.status = Some(StatusName::Inactive);
    }

    /// Where a request that found no backend should look next: behind the report that says so. `Err` while that
    /// isn't settled.
    pub(super) fn asleep(&self, epoch: Epoch) -> Result<Option<ReportId>, ()> {
        match (self.status, self.backend) {
            (_, Backend::Up) => Ok(None),
            (_, Backend::Unknown | Backend::Doubted) => Err(()),
            _ if !self.wakeable => Ok(None),
            // With the outcome of a wake still to report, the journal is about to have it awake: an earlier report is none of
            // this sleep.
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
    /// Whether there is no doubt: the backend says that it sleeps, or nobody listens.
    const fn is_clear(&self) -> bool {
        self.asleep || self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;
    use uuid::Uuid;

    const EPOCH: Epoch = Epoch(3);

    fn unclear() -> Verdict {
        Verdict::Unavailable(Unavailable {
            asleep: false,
            refused: false,
            reason: "slow".to_owned(),
        })
    }

    fn refused() -> Verdict {
        Verdict::Unavailable(Unavailable {
            asleep: false,
            refused: true,
            reason: "nobody".to_owned(),
        })
    }

    /// A belief that control shares: registered with `status`.
    fn registered(verdict: &Verdict, status: StatusName) -> Belief {
        let mut belief = Belief::new(true);
        assert_eq!(belief.next_ask(EPOCH), None, "nothing is known yet");
        belief.probed(verdict, false, false);
        let ask = belief.next_ask(EPOCH).expect("a registration");
        assert!(matches!(ask, Ask::Register(..)));
        belief.done(&ask, Some(status), ReportSeq(0));
        belief
    }

    fn report(belief: &mut Belief) -> Option<(u64, Report)> {
        belief.next_ask(EPOCH).map(|ask| match ask {
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
    fn only_differences_are_reported_and_each_once() {
        let mut belief = registered(&Verdict::Available, StatusName::Active);
        assert_eq!(report(&mut belief), None);
        belief.probed(&refused(), false, false);
        let ask = belief.next_ask(EPOCH).expect("a report");
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
        belief.done(&ask, Some(StatusName::Hibernating), ReportSeq(2));
        assert_eq!(report(&mut belief), None);
        belief.probed(&Verdict::Available, false, false);
        assert_eq!(report(&mut belief), Some((3, Report::Awake)));
    }

    #[test]
    fn a_slow_backend_is_given_time_and_a_busy_one_more() {
        let mut belief = registered(&Verdict::Available, StatusName::Active);
        for _ in 0..10 {
            belief.probed(&unclear(), true, false);
        }
        belief.probed(&unclear(), false, false);
        belief.probed(&unclear(), false, false);
        assert!(belief.is_open() && report(&mut belief).is_none());
        belief.probed(&unclear(), false, false);
        assert!(!belief.is_open());
        assert_eq!(
            report(&mut belief),
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
    fn without_a_recipe_nothing_is_reported_and_requests_may_always_try() {
        let mut belief = Belief::new(false);
        belief.probed(&refused(), false, false);
        let ask = belief.next_ask(EPOCH).expect("a registration");
        belief.done(&ask, Some(StatusName::Active), ReportSeq(0));
        assert_eq!(belief.next_ask(EPOCH), None);
        assert!(belief.is_open());
        assert_eq!(belief.asleep(EPOCH), Ok(None));
    }

    #[test]
    fn an_outcome_is_told_until_it_is_heard_and_again_when_asked_again() {
        let wake = WakeId(Uuid::now_v7());
        let mut belief = registered(&refused(), StatusName::Hibernating);
        assert!(belief.wake_asked(wake));
        belief.wake_ended(wake, failed());
        let told = belief.next_ask(EPOCH).expect("a report");
        belief.inactive();
        let ask = belief.next_ask(EPOCH).expect("a resumption");
        assert!(
            matches!(ask, Ask::Resume(_, Availability::Unavailable)),
            "{ask:?}"
        );
        belief.done(&ask, Some(StatusName::Hibernating), ReportSeq(2));
        let again = belief.next_ask(EPOCH).expect("the outcome");
        assert_ne!(told, again, "with a number of its own");
        belief.done(&again, Some(StatusName::Hibernating), ReportSeq(3));
        assert_eq!(belief.next_ask(EPOCH), None);
        assert!(!belief.wake_asked(wake), "it has ended");
        assert_eq!(
            report(&mut belief),
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
    fn a_lost_registration_is_made_again() {
        let mut belief = registered(&Verdict::Available, StatusName::Active);
        belief.unregistered();
        assert_eq!(
            belief.next_ask(EPOCH),
            Some(Ask::Register(ReportSeq(2), Availability::Available))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_event_is_unreported_until_control_has_answered_and_only_then_the_next() {
        let moment = Duration::from_millis(1);
        let wake = WakeId(Uuid::now_v7());
        let mut belief = Belief::new(true);
        assert_eq!(belief.unreported(), Some(Happened::UNKNOWN), "nobody has looked");
        belief.probed(&refused(), false, false);
        assert_eq!(
            belief.unreported(),
            Some(Happened::UNKNOWN),
            "the first look finds what was so"
        );
        let ask = belief.next_ask(EPOCH).expect("a registration");
        belief.done(&ask, Some(StatusName::Hibernating), ReportSeq(1));
        assert!(belief.unreported().is_none() && belief.is_recorded_asleep());

        belief.wake_asked(wake);
        assert!(belief.is_recorded_asleep(), "until its recipe has brought it up");
        advance(moment).await;
        let woke = Happened {
            at: Some(Instant::now()),
            up: true,
        };
        belief.wake_ended(wake, WakeOutcome::Succeeded { stages: vec![] });
        advance(moment).await;
        let slept = Happened {
            at: Some(Instant::now()),
            up: false,
        };
        belief.down(SleepReason::Idle);
        assert!(
            !belief.is_recorded_asleep(),
            "the journal is about to say that it is awake"
        );
        assert_eq!(belief.unreported(), Some(woke));
        let ask = belief.next_ask(EPOCH).expect("the outcome");
        belief.done(&ask, Some(StatusName::Active), ReportSeq(2));
        assert!(!belief.is_recorded_asleep());
        assert_eq!(belief.unreported(), Some(slept));
        belief.inactive();
        assert_eq!(
            belief.unreported(),
            Some(slept),
            "whatever control makes of the agent"
        );
        assert!(!belief.is_recorded_asleep());
        let ask = belief.next_ask(EPOCH).expect("a resumption");
        belief.done(&ask, Some(StatusName::Hibernating), ReportSeq(3));
        assert!(belief.unreported().is_none() && belief.is_recorded_asleep());
    }

    #[test]
    fn a_request_that_found_nobody_waits_for_the_report() {
        let mut belief = registered(&Verdict::Available, StatusName::Active);
        assert_eq!(belief.asleep(EPOCH), Ok(None), "it is up: try again");
        belief.probed(&refused(), false, false);
        assert_eq!(belief.asleep(EPOCH), Err(()));
        let ask = belief.next_ask(EPOCH).expect("a report");
        belief.done(&ask, Some(StatusName::Hibernating), ReportSeq(1));
        assert_eq!(
            belief.asleep(EPOCH),
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
