//! What an owner is doing with its backend: nothing, or one thing.

use super::{Gate, belief::Departure};
use crate::{
    probe::Verdict,
    recipe::{Outcome, Progress, Run},
};
use futures::future::BoxFuture;
use reveille_domain::{GROUP_STAGE, Stage, WakeId};
use std::fmt;
use tokio::time::{Instant, timeout_at};

/// What the owner is doing.
pub(super) enum Activity {
    /// Nothing but probing now and then.
    Idle,
    /// Looking whether the backend of a wake is up already.
    Checking {
        wake: WakeId,
        began: Instant,
        check: BoxFuture<'static, Verdict>,
    },
    /// Waiting until its group has room.
    Queued {
        wake: WakeId,
        began: Instant,
        turn: BoxFuture<'static, Result<(), String>>,
    },
    /// Running a wake recipe, after a wait for its group.
    Waking {
        wake: WakeId,
        waited: Option<Stage>,
        run: Run,
    },
    /// Letting the requests that are there finish, and nobody in, before it is put to sleep.
    Draining {
        departure: Departure,
        gate: Gate,
        until: Instant,
    },
    /// Running a sleep recipe.
    Sleeping { departure: Departure, run: Run },
    /// Ending what a recipe has left; its outcome is known.
    Ending { run: Run },
}

/// What becomes of it.
pub(super) enum Advance {
    Checked(WakeId, Verdict, Stage),
    /// Its turn has come, or who doesn't make room.
    Turn(WakeId, Stage, Result<(), String>),
    Woken(WakeId, Outcome),
    /// Nobody is there any more.
    Drained(Departure),
    /// Somebody still is.
    NotDrained(Departure),
    Slept(Departure, Outcome),
    Ended(Option<crate::child::Child>),
}

impl Activity {
    pub(super) const fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Whether it is being put to sleep: nobody is let in then.
    pub(super) const fn is_leaving(&self) -> bool {
        matches!(self, Self::Draining { .. } | Self::Sleeping { .. })
    }

    /// Waits for what comes next; forever when idle. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Advance {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Checking { wake, began, check } => {
                let verdict = check.await;
                Advance::Checked(*wake, verdict, stage("check", *began))
            }
            Self::Queued { wake, began, turn } => {
                let come = turn.await;
                Advance::Turn(*wake, stage(GROUP_STAGE, *began), come)
            }
            Self::Waking { wake, waited, run } => match run.next().await {
                Progress::Outcome(outcome) => Advance::Woken(*wake, outcome.after(waited.take())),
                Progress::Ended(child) => Advance::Ended(child),
            },
            Self::Draining {
                departure,
                gate,
                until,
            } => match timeout_at(*until, gate.emptied()).await {
                Ok(()) => Advance::Drained(*departure),
                Err(_) => Advance::NotDrained(*departure),
            },
            Self::Sleeping { departure, run } => match run.next().await {
                Progress::Outcome(outcome) => Advance::Slept(*departure, outcome),
                Progress::Ended(child) => Advance::Ended(child),
            },
            Self::Ending { run } => loop {
                if let Progress::Ended(child) = run.next().await {
                    return Advance::Ended(child);
                }
            },
        }
    }

    /// The run, if there is one.
    pub(super) fn into_run(self) -> Option<Run> {
        match self {
            Self::Idle | Self::Checking { .. } | Self::Queued { .. } | Self::Draining { .. } => None,
            Self::Waking { run, .. } | Self::Sleeping { run, .. } | Self::Ending { run } => Some(run),
        }
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Checking { .. } => "Checking",
            Self::Queued { .. } => "Queued",
            Self::Waking { .. } => "Waking",
            Self::Draining { .. } => "Draining",
            Self::Sleeping { .. } => "Sleeping",
            Self::Ending { .. } => "Ending",
        })
    }
}

/// The first stage of a wake, which began then and ends now.
fn stage(name: &str, began: Instant) -> Stage {
    Stage {
        name: name.to_owned(),
        started_after_ms: 0,
        took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}
