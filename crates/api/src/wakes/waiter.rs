//! One caller's wait: what each state of its provider means for it.

use super::{WakeError, WakeTicket, time_until_awake};
use crate::registry::{ProviderSnapshot, Registry};
use reveille_domain::{ProviderId, Status, WakeFailure, WakeFailureKind, WakeId};
use std::time::Duration;
use tokio::time::Instant;

/// How long after a wake's deadline its end is in the journal, if it can be.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Waiter {
    pub(super) provider: ProviderId,
    pub(super) begun: Instant,
    /// The wake that is waited for.
    pub(super) wake: Option<WakeId>,
    /// States older than this sequence are ignored.
    pub(super) past: u64,
    /// The wake in flight, and when this caller stops waiting for its end to be recorded.
    pub(super) recorded_by: Option<(WakeId, Instant)>,
}

pub(super) enum WaitState {
    Awake,
    Waking,
    Asleep,
}

impl Waiter {
    pub(super) fn look(
        &mut self,
        registry: &Registry,
        snapshot: &ProviderSnapshot,
    ) -> Result<WaitState, WakeError> {
        let status = &snapshot.provider.status;
        let ours_goes_on = status
            .wake()
            .is_some_and(|wake| self.wake.is_none_or(|id| id == wake.id));
        let awake = matches!(status, Status::Active { .. });
        if !ours_goes_on
            && !awake
            && let Some(error) = self.outcome(snapshot)
        {
            return Err(error);
        }
        // The outcome may be in a commit that this replica can't read.
        if !awake && let Some(reason) = &snapshot.unreadable {
            let (provider, reason) = (self.provider.clone(), reason.clone());
            return Err(WakeError::Unreadable { provider, reason });
        }
        match status {
            Status::Active { .. } => Ok(WaitState::Awake),
            // If ours succeeded and the backend slept again meanwhile, this joins the next one.
            Status::Waking { wake } => {
                self.wake = Some(wake.id);
                Ok(WaitState::Waking)
            }
            Status::Hibernating { .. } => Ok(WaitState::Asleep),
            Status::Down { .. } => Err(WakeError::NoRecipe {
                provider: self.provider.clone(),
            }),
            Status::Inactive { reason, .. } => Err(WakeError::Inactive {
                provider: self.provider.clone(),
                absence: registry.absence(&self.provider.agent, *reason),
            }),
        }
    }

    /// Why the wake that was waited for failed, if it did. One that ended for want of a waiter ended as this caller joined it, who
    /// needs another.
    fn outcome(&self, snapshot: &ProviderSnapshot) -> Option<WakeError> {
        let wake_id = self.wake?;
        let record = snapshot.provider.ended_wake(wake_id)?;
        let failure = record.failure.clone();
        let failure = Box::new(failure.filter(|failure| failure.kind != WakeFailureKind::NotNeeded)?);
        // One that timed out has kept this caller waiting enough.
        let is_late = failure.kind == WakeFailureKind::TimedOut;
        let retry_after = snapshot.provider.failures.backoff_at(record.ended_at_ms);
        Some(WakeError::Failed {
            provider: self.provider.clone(),
            wake_id: Some(wake_id),
            failure,
            retry_after: retry_after.filter(|_| !is_late),
            spent: self.begun.elapsed(),
        })
    }

    /// The caller waits for the wake, of which so much time is left. That is fixed when it first sees the wake: if the journal
    /// can't record the end, the deadline itself may never come.
    pub(super) fn bound(&mut self, wake: WakeId, left: Duration) {
        if self.recorded_by.is_none_or(|(known, _)| known != wake) {
            self.recorded_by = Some((wake, Instant::now() + left + RECORDED_WITHIN));
        }
    }

    /// When the caller stops waiting.
    pub(super) fn waits_until(&self, until: Instant) -> Instant {
        self.recorded_by.map_or(until, |(_, by)| by.min(until))
    }

    /// What the caller gets when it stops waiting: its own time has passed, or the wake's deadline has, and the journal doesn't
    /// say how it ended.
    pub(super) fn gave_up(&self, snapshot: &ProviderSnapshot, until: Instant) -> WakeError {
        if self.waits_until(until) == until {
            return self.timed_out(snapshot);
        }
        WakeError::Failed {
            provider: self.provider.clone(),
            wake_id: self.wake,
            failure: Box::new(WakeFailure::new(
                WakeFailureKind::TimedOut,
                "deadline",
                "its end was not recorded by its deadline",
            )),
            retry_after: None,
            spent: self.begun.elapsed(),
        }
    }

    pub(super) fn began(&mut self, begun: &WakeTicket) {
        self.past = begun.sequence;
        self.wake = begun.wake.as_ref().map(|wake| wake.id);
    }

    /// The provider is no longer published, or the journal is being read from its beginning.
    pub(super) fn withdrawn(&self, journal_is_read: bool) -> WakeError {
        let provider = self.provider.clone();
        match self.wake {
            _ if !journal_is_read => WakeError::Unavailable("the journal is being read again".to_owned()),
            None => WakeError::Unknown { provider },
            wake_id @ Some(_) => WakeError::Failed {
                failure: Box::new(WakeFailure::new(
                    WakeFailureKind::Withdrawn,
                    "wake",
                    "its agent no longer publishes it",
                )),
                provider,
                wake_id,
                retry_after: None,
                spent: self.begun.elapsed(),
            },
        }
    }

    pub(super) fn timed_out(&self, snapshot: &ProviderSnapshot) -> WakeError {
        let (provider, wake_id) = (self.provider.clone(), self.wake);
        WakeError::CallerTimedOut {
            provider,
            wake_id,
            spent: self.begun.elapsed(),
            left: time_until_awake(snapshot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;
    use uuid::Uuid;

    #[tokio::test(start_paused = true)]
    async fn a_caller_waits_for_a_wake_no_longer_than_until_its_end_must_be_recorded() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let mut waiter = Waiter {
            provider: "gpu-box/vllm".parse().expect("legal"),
            begun: now,
            wake: None,
            past: 0,
            recorded_by: None,
        };
        let (soon, late) = (now + second, now + second * 290);
        assert_eq!(waiter.waits_until(late), late, "it knows of no wake");
        let [one, other] = [(); 2].map(|()| WakeId(Uuid::now_v7()));
        waiter.bound(one, second * 10);
        let recorded = now + second * 10 + RECORDED_WITHIN;
        assert_eq!(
            (waiter.waits_until(late), waiter.waits_until(soon)),
            (recorded, soon)
        );
        advance(second * 8).await;
        waiter.bound(one, second * 10);
        assert_eq!(
            waiter.waits_until(late),
            recorded,
            "a deadline that moves is none"
        );
        waiter.bound(other, second * 10);
        assert_eq!(
            waiter.waits_until(late),
            recorded + second * 8,
            "another wake has its own"
        );
    }
}
