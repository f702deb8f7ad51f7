//! What an owner is doing with its backend: nothing, or one thing.

use crate::{
    probe::Verdict,
    recipe::{Outcome, Progress, Run},
};
use futures::future::BoxFuture;
use reveille_domain::{SleepReason, Stage, WakeId};
use std::fmt;
use tokio::time::Instant;

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
    /// Running a wake recipe.
    Waking { wake: WakeId, run: Run },
    /// Running a sleep recipe.
    Sleeping { reason: SleepReason, run: Run },
    /// Ending what a recipe has left; its outcome is known.
    Ending { run: Run },
}

/// What becomes of it.
pub(super) enum Advance {
    Checked(WakeId, Verdict, Stage),
    Woken(WakeId, Outcome),
    Slept(SleepReason, Outcome),
    Ended(Option<crate::child::Child>),
}

impl Activity {
    pub(super) const fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Waits for what comes next; forever when idle. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Advance {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Checking { wake, began, check } => {
                let verdict = check.await;
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                let stage = Stage {
                    name: "check".to_owned(),
                    started_after_ms: 0,
                    took_ms,
                };
                Advance::Checked(*wake, verdict, stage)
            }
            Self::Waking { wake, run } => match run.next().await {
                Progress::Outcome(outcome) => Advance::Woken(*wake, outcome),
                Progress::Ended(child) => Advance::Ended(child),
            },
            Self::Sleeping { reason, run } => match run.next().await {
                Progress::Outcome(outcome) => Advance::Slept(*reason, outcome),
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
            Self::Idle | Self::Checking { .. } => None,
            Self::Waking { run, .. } | Self::Sleeping { run, .. } | Self::Ending { run } => Some(run),
        }
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Checking { .. } => "Checking",
            Self::Waking { .. } => "Waking",
            Self::Sleeping { .. } => "Sleeping",
            Self::Ending { .. } => "Ending",
        })
    }
}
