//! What an owner is doing with its backend: at most one thing.

use super::{gate::Gate, reported_state::SleepIntent};
use crate::{
    config::millis,
    probe::Verdict,
    recipe::{Before, Ended, Outcome, Progress, Run},
};
use futures::future::BoxFuture;
use reveille_domain::{GROUP_STAGE, Stage, WakeId};
use tokio::time::{Instant, timeout_at};

pub(super) enum Activity {
    /// Only probing now and then.
    Idle,
    /// Probing whether the backend is up already, before a wake.
    Checking {
        wake: WakeId,
        began: Instant,
        check: BoxFuture<'static, Verdict>,
    },
    /// Queueing for its groups, once what ran before has ended.
    Queued {
        wake: WakeId,
        began: Instant,
        /// Ends what ran before; `None` once that has ended.
        earlier: Option<Before>,
        turn: BoxFuture<'static, Result<(), String>>,
    },
    /// Running a wake recipe, possibly after a wait for its groups.
    Waking {
        wake: WakeId,
        waited: Option<Stage>,
        run: Run,
    },
    /// Letting requests finish before a sleep. The gate is closed.
    Draining {
        intent: SleepIntent,
        gate: Gate,
        until: Instant,
    },
    /// Running a sleep recipe.
    Sleeping { intent: SleepIntent, run: Run },
    /// Ending the children of a run whose outcome is known.
    Ending { run: Run },
}

/// The result of an activity.
pub(super) enum Advance {
    Checked(WakeId, Verdict, Stage),
    /// There is room, or why there is none.
    Turn(WakeId, Stage, Result<(), String>),
    Woken(WakeId, Outcome),
    Drained(SleepIntent),
    /// Requests are still inside.
    NotDrained(SleepIntent),
    Slept(SleepIntent, Outcome),
    Ended(Ended),
}

impl Activity {
    pub(super) const fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Whether it is being put to sleep, so that the gate must stay closed.
    pub(super) const fn is_leaving(&self) -> bool {
        matches!(self, Self::Draining { .. } | Self::Sleeping { .. })
    }

    /// Waits for the result; forever when idle. Cancel-safe.
    pub(super) async fn next(&mut self) -> Advance {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Checking { wake, began, check } => {
                let verdict = check.await;
                Advance::Checked(*wake, verdict, stage("check", *began))
            }
            Self::Queued {
                wake,
                began,
                earlier,
                turn,
            } => {
                if let Some(ended) = earlier {
                    ended.await;
                    *earlier = None;
                }
                let come = turn.await;
                Advance::Turn(*wake, stage(GROUP_STAGE, *began), come)
            }
            Self::Waking { wake, waited, run } => match run.next().await {
                Progress::Outcome(outcome) => Advance::Woken(*wake, outcome.after(waited.take())),
                Progress::Ended(ended) => Advance::Ended(ended),
            },
            Self::Draining { intent, gate, until } => match timeout_at(*until, gate.emptied()).await {
                Ok(()) => Advance::Drained(*intent),
                Err(_) => Advance::NotDrained(*intent),
            },
            Self::Sleeping { intent, run } => match run.next().await {
                Progress::Outcome(outcome) => Advance::Slept(*intent, outcome),
                Progress::Ended(ended) => Advance::Ended(ended),
            },
            Self::Ending { run } => loop {
                if let Progress::Ended(ended) = run.next().await {
                    return Advance::Ended(ended);
                }
            },
        }
    }

    /// What goes on when a wake leaves the queue of its groups.
    pub(super) fn after_queue(self) -> Self {
        self.into_run().map_or(Self::Idle, |run| Self::Ending { run })
    }

    pub(super) fn into_run(self) -> Option<Run> {
        match self {
            Self::Idle | Self::Checking { .. } | Self::Draining { .. } => None,
            Self::Queued { earlier, .. } => earlier.map(Run::ending),
            Self::Waking { run, .. } | Self::Sleeping { run, .. } | Self::Ending { run } => Some(run),
        }
    }
}

/// The first stage of a wake, which ends now.
pub(super) fn stage(name: &str, began: Instant) -> Stage {
    Stage {
        name: name.to_owned(),
        started_after_ms: 0,
        took_ms: millis(began.elapsed()),
    }
}
