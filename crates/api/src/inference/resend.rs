//! Where a request goes that has to be sent again.

use super::{Inference, InferenceError, Phase, choice::Reach, dispatch::Run, retry_policy::Target};
use crate::registry::{Kind, ProviderSnapshot};
use reveille_domain::{ProviderId, ReportId, provider::StatusName};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

impl Inference {
    /// The best provider of the request's pool in `reach`, except `not`.
    pub(super) fn another(
        &self,
        run: &Run<'_>,
        reach: Reach,
        not: &[ProviderId],
    ) -> Option<Arc<ProviderSnapshot>> {
        let pool = self.pool_now(run);
        self.members.choose_for(|| run.conversation(), &pool, reach, not)
    }

    /// The members of the request's pool as it is now that may be asked for its path. There is none if its model's name has come to mean
    /// something of another kind.
    pub(super) fn pool_now(&self, run: &Run<'_>) -> Vec<Arc<ProviderSnapshot>> {
        let asked = run.request.model.as_str();
        let mut pool = self.registry.pool(asked);
        let is_of_its_kind = |snapshot: &ProviderSnapshot| {
            run.kind
                .get()
                .is_none_or(|kind| Kind::at(snapshot, asked) == *kind)
        };
        pool.retain(|snapshot| is_of_its_kind(snapshot));
        run.request.at_its_path(pool)
    }

    /// What a request gets once nobody has what it asks for.
    pub(super) fn no_longer_served(&self, run: &Run<'_>) -> InferenceError {
        let unknown = || InferenceError::UnknownModel {
            model: run.request.model.clone(),
            nearest: vec![],
        };
        self.choose(run).err().unwrap_or_else(unknown)
    }

    /// Whether a provider is still one of them.
    pub(super) fn still_serves(&self, id: &ProviderId, run: &Run<'_>) -> bool {
        let pool = self.pool_now(run);
        pool.iter().any(|snapshot| snapshot.provider.id == *id)
    }

    /// The provider that `target` means for a request that `missed` didn't get, except those that are `ruled_out`; `None` when there
    /// is none.
    pub(super) async fn find(
        &self,
        target: Target,
        run: &Run<'_>,
        missed: &ProviderSnapshot,
        ruled_out: &[ProviderId],
    ) -> Option<Arc<ProviderSnapshot>> {
        let id = &missed.provider.id;
        let another = || {
            let not: Vec<_> = ruled_out.iter().chain([id]).cloned().collect();
            self.another(run, Reach::Awake, &not)
        };
        match target {
            Target::OnceBack => self.once_back(missed, run).await,
            Target::AnotherOrSame { pause } => {
                run.phase.enter(Phase::Queued(id.clone(), None));
                sleep_until(run.until.min(Instant::now() + pause)).await;
                another().or_else(|| self.registry.get(id))
            }
            Target::AnotherOrOnceBack => match another() {
                Some(another) => Some(another),
                None => self.once_back(missed, run).await,
            },
            Target::AnotherOrOncePublished => match another() {
                Some(another) => Some(another),
                None => self.once_published(missed, run, ruled_out).await,
            },
            Target::AnotherOrOnceAsleep(report) => match another() {
                Some(another) => Some(another),
                None => self.once_asleep(missed, report, run).await,
            },
        }
    }

    /// The provider once the fold shows that it sleeps. A report that the fold had when the request was sent says nothing of
    /// this sleep.
    async fn once_asleep(
        &self,
        missed: &ProviderSnapshot,
        report: Option<ReportId>,
        run: &Run<'_>,
    ) -> Option<Arc<ProviderSnapshot>> {
        let id = &missed.provider.id;
        if report.is_none() {
            run.phase.enter(Phase::FallingAsleep(id.clone()));
        }
        let sleeps = |snapshot: &Arc<ProviderSnapshot>| {
            let reported = report.is_some_and(|report| snapshot.provider.last_report() >= report);
            reported && snapshot.sequence > missed.sequence
                || snapshot.provider.status.name() != StatusName::Active
        };
        self.changed(id, self.timings.report, run, sleeps).await
    }

    /// The provider once it is published anew and has what the request asks for, or else another one.
    async fn once_published(
        &self,
        missed: &ProviderSnapshot,
        run: &Run<'_>,
        ruled_out: &[ProviderId],
    ) -> Option<Arc<ProviderSnapshot>> {
        let id = &missed.provider.id;
        if self.still_serves(id, run) {
            let now = self.once_back(missed, run).await;
            let is_new = |now: &Arc<ProviderSnapshot>| now.sequence > missed.sequence;
            if let Some(now) = now.filter(is_new).filter(|_| self.still_serves(id, run)) {
                return Some(now);
            }
        }
        let not: Vec<_> = ruled_out.iter().chain([id]).cloned().collect();
        self.another(run, Reach::Working, &not)
    }

    /// The provider once its agent has reported something new, or after as long as a reconnect takes.
    async fn once_back(&self, missed: &ProviderSnapshot, run: &Run<'_>) -> Option<Arc<ProviderSnapshot>> {
        let id = &missed.provider.id;
        run.phase.enter(Phase::Reaching(id.clone()));
        let is_new = |snapshot: &Arc<ProviderSnapshot>| snapshot.sequence > missed.sequence;
        self.changed(id, self.timings.absence, run, is_new).await
    }

    /// The provider as it is now, once its agent has published it in its present session, or after as long as a reconnect takes. An
    /// agent drops a request for an earlier session, and nobody could say whether the backend has seen it.
    pub(super) async fn in_this_session(
        &self,
        id: &ProviderId,
        run: &Run<'_>,
    ) -> Option<Arc<ProviderSnapshot>> {
        let current = self.registry.get(id)?;
        if self.is_in_this_session(&current) {
            return Some(current);
        }
        run.phase.enter(Phase::Reaching(id.clone()));
        let published = |snapshot: &Arc<ProviderSnapshot>| self.is_in_this_session(snapshot);
        self.changed(id, self.timings.absence, run, published).await
    }

    pub(super) fn is_in_this_session(&self, snapshot: &ProviderSnapshot) -> bool {
        let agent = self.registry.agents().get(&snapshot.provider.id.agent);
        // After a restore of the journal the session from before it serves until the agent begins the next one.
        let connected = agent.filter(|agent| agent.session.is_some());
        connected.is_none_or(|agent| snapshot.provider.epoch >= agent.epoch)
    }

    /// The provider once `condition` holds, or after `most`; `None` when it is gone.
    async fn changed(
        &self,
        id: &ProviderId,
        most: Duration,
        run: &Run<'_>,
        condition: impl FnMut(&Arc<ProviderSnapshot>) -> bool,
    ) -> Option<Arc<ProviderSnapshot>> {
        let mut states = self.registry.watch(id)?;
        let deadline = run.until.min(Instant::now() + most);
        // Whether the condition came to hold or not, the fold's present state decides.
        let _ = tokio::time::timeout_at(deadline, states.wait_for(condition)).await;
        self.registry.get(id)
    }
}
