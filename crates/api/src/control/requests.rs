//! Agents' requests, as commands, and the answers to them.

use super::Control;
use crate::commands::Admin;
use reveille_bus::{
    AggregateId, BusError, CommandError, Executed, Reason, SubjectKind,
    control::{ControlAnswer, ControlError, ControlRequest, ControlRequests, ReceivedRequest, Report},
    orders,
};
use reveille_domain::{
    AdvanceReason, Agent, AgentCommand, AgentName, AgentRejection, Availability, Epoch, Provider,
    ProviderCommand, ProviderEvent, ProviderId, ProviderSpec, Rejection, ReportId, SessionId, Timestamp,
    WakeFailure, WakeFailureKind, WakeOutcome,
};
use std::{cmp::Ordering, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};

/// How many requests are handled at once; the others wait in their subscription.
const CONCURRENCY: usize = 256;
/// How long a connect waits until the fold includes the agent's earlier providers.
const FOLD_WAIT: Duration = Duration::from_secs(2);

/// Answers agents until `shutdown`.
pub(crate) async fn serve(
    control: Control,
    mut requests: ControlRequests,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let asked = tokio::select! {
            asked = requests.next() => asked,
            () = shutdown.cancelled() => return,
        };
        let Some(asked) = asked else { return };
        let control = control.clone();
        tasks.spawn(async move {
            control.answer(asked).await;
            drop(permit);
        });
    }
}

impl Control {
    async fn answer(&self, asked: ReceivedRequest) {
        let agent = asked.agent.clone();
        let answer = match self.carry_out(&agent, asked.request.clone()).await {
            Ok(answer) => answer,
            Err(refusal) => {
                let refusal = self.with_reason(&agent, refusal);
                debug!(agent.name = %agent, %refusal, "refused a request of {agent}");
                if let Some(reason) = counted(&refusal) {
                    self.commands.metrics.refusals.count(SubjectKind::Control, reason);
                }
                ControlAnswer::Refused { refusal }
            }
        };
        asked.answer(&answer).await;
    }

    /// Tells a session that was superseded whether its process may begin another, or was revoked.
    fn with_reason(&self, agent: &AgentName, refusal: ControlError) -> ControlError {
        match refusal {
            ControlError::Superseded { current, .. } => {
                let known = self.registry.agents().get(agent);
                let ended_by = known.and_then(|known| known.ended_by);
                ControlError::Superseded {
                    current,
                    restored: matches!(
                        ended_by,
                        Some(AdvanceReason::JournalRestored | AdvanceReason::Forgotten)
                    ),
                    revoked: ended_by == Some(AdvanceReason::Revoked),
                }
            }
            refusal => refusal,
        }
    }

    async fn carry_out(
        &self,
        agent: &AgentName,
        request: ControlRequest,
    ) -> Result<ControlAnswer, ControlError> {
        // The providers' own epochs fence too, but only once the later session has registered them.
        let current = self.registry.agent_epoch(agent).unwrap_or_default();
        if request.epoch().is_some_and(|epoch| epoch < current) {
            return Err(superseded(current));
        }
        let provider = |provider| ProviderId::new(agent.clone(), provider);
        match request {
            ControlRequest::Connect { session, version } => self.connect(agent, session, &version).await,
            ControlRequest::Register {
                epoch,
                provider: name,
                seq,
                spec,
                availability,
            } => {
                let said = ReportId { epoch, seq };
                self.register(provider(name), said, spec, availability).await
            }
            ControlRequest::Report {
                provider: name,
                id,
                report,
            } => {
                self.execute(provider(name), "report", |at| reported(id, report, at))
                    .await
            }
            ControlRequest::Resume {
                provider: name,
                id,
                availability,
            } => {
                let command = |at| ProviderCommand::Resume {
                    report: id,
                    availability,
                    at,
                };
                self.execute(provider(name), "resume", command).await
            }
            ControlRequest::Stop { epoch } => {
                self.was_issued(agent, epoch, current).await?;
                self.stop(agent, epoch).await
            }
            ControlRequest::Deregister {
                epoch,
                provider: name,
            } => {
                self.was_issued(agent, epoch, current).await?;
                let command = |at| ProviderCommand::Deregister { epoch, at };
                self.execute(provider(name), "deregister", command).await
            }
        }
    }

    async fn connect(
        &self,
        agent: &AgentName,
        session: SessionId,
        version: &str,
    ) -> Result<ControlAnswer, ControlError> {
        let (name, version) = (agent.clone(), version.to_owned());
        let command = move |at| AgentCommand::Connect {
            name,
            session,
            version,
            at,
        };
        let done = self
            .commands
            .agent(agent, "connect", Box::new(command))
            .await
            .map_err(refused_agent)?;
        let epoch = done.state.epoch();
        if !done.events.is_empty() {
            info!(agent.name = %agent, agent.epoch = %epoch, "{agent} connected");
        }
        // With every connect, in case an earlier announcement was lost.
        orders::announce_session(&self.client, agent, epoch)
            .await
            .map_err(unavailable)?;
        self.registry
            .applied_to(done.sequence, Instant::now() + FOLD_WAIT)
            .await;
        let published = self.registry.of_agent(agent);
        let providers = published
            .iter()
            .map(|known| known.provider.id.provider.clone())
            .collect();
        Ok(ControlAnswer::Connected {
            epoch,
            providers,
            hub: self.commands.journal.health().hub(),
        })
    }

    /// Fails if `epoch` is above every epoch of the agent. A provider would believe it, and never again a session below it.
    /// The fold, in which the agent's epoch is `known`, may be behind.
    async fn was_issued(&self, agent: &AgentName, epoch: Epoch, known: Epoch) -> Result<(), ControlError> {
        match epoch > known {
            true => is_current(epoch, self.current_epoch(agent).await?),
            false => Ok(()),
        }
    }

    /// The agent's epoch by its own aggregate.
    async fn current_epoch(&self, agent: &AgentName) -> Result<Epoch, ControlError> {
        let aggregate = AggregateId::Agent(agent.clone());
        let agent = self.commands.journal.load::<Agent>(&aggregate).await;
        Ok(agent.map_err(unavailable)?.state().epoch())
    }

    /// The agent's own aggregate decides which session may register; the provider's decides for every later command.
    async fn register(
        &self,
        id: ProviderId,
        said: ReportId,
        spec: ProviderSpec,
        availability: Option<Availability>,
    ) -> Result<ControlAnswer, ControlError> {
        let epoch = said.epoch;
        is_current(epoch, self.current_epoch(&id.agent).await?)?;
        let provider = id.clone();
        let command = |at| ProviderCommand::Register {
            id: provider,
            epoch,
            seq: said.seq,
            spec,
            availability,
            at,
        };
        self.execute(id, "register", command).await
    }

    async fn stop(&self, agent: &AgentName, epoch: Epoch) -> Result<ControlAnswer, ControlError> {
        // One that this replica can't read doesn't keep the others from being inactive at once.
        let mut refused = None;
        for known in self.registry.of_agent(agent) {
            let id = known.provider.id.clone();
            let command = |at| ProviderCommand::AgentStopped { epoch, at };
            refused = self.execute(id, "stop", command).await.err().or(refused);
        }
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        info!(agent.name = %agent, agent.epoch = %epoch, "{agent} stopped");
        Ok(ControlAnswer::Stopped)
    }

    async fn execute(
        &self,
        id: ProviderId,
        cause: &str,
        command: impl FnOnce(Timestamp) -> ProviderCommand,
    ) -> Result<ControlAnswer, ControlError> {
        let done = self
            .commands
            .provider(&id, cause, command)
            .await
            .map_err(refused)?;
        for event in &done.events {
            info!(provider.name = %id, journal.sequence = done.sequence, "{}: {id}", <&str>::from(event));
        }
        Ok(self.done(&done))
    }

    fn done(&self, done: &Executed<Provider>) -> ControlAnswer {
        let provider = done.state.registered();
        let woken = |event: &ProviderEvent| matches!(event, ProviderEvent::WakeSucceeded { .. });
        ControlAnswer::Done {
            status: provider.map(|provider| provider.status.name()),
            sequence: done.sequence,
            last_seq: provider.map(|provider| provider.last_seq).unwrap_or_default(),
            wake: provider.and_then(|provider| self.wakes.message(provider, done.sequence)),
            awaited: done.events.iter().any(woken),
        }
    }
}

/// The reason that a refusal is counted by; one that only wants another request first, or patience, isn't counted.
const fn counted(refusal: &ControlError) -> Option<Reason> {
    match refusal {
        ControlError::Superseded { .. } => Some(Reason::OtherEpoch),
        ControlError::RegisterFirst => Some(Reason::Undeclared),
        ControlError::Invalid { .. } => Some(Reason::Invalid),
        ControlError::ResumeFirst | ControlError::Unreadable { .. } | ControlError::Unavailable { .. } => {
            None
        }
    }
}

fn reported(report: ReportId, what: Report, at: Timestamp) -> ProviderCommand {
    match what {
        Report::Wake { wake_id, outcome } => ProviderCommand::ReportWake {
            wake_id,
            report,
            outcome: as_reported(outcome),
            at,
        },
        Report::Asleep { reason, for_wake } => ProviderCommand::ReportAsleep {
            report,
            reason,
            for_wake,
            at,
        },
        Report::Awake => ProviderCommand::ReportAwake { report, at },
    }
}

/// An agent's outcome, with a kind that agents may report: the others are control's. The domain bounds the texts.
fn as_reported(outcome: WakeOutcome) -> WakeOutcome {
    match outcome {
        WakeOutcome::Succeeded { .. } => outcome,
        WakeOutcome::Failed { failure, stages } => {
            let kind = match failure.kind {
                kind @ (WakeFailureKind::Recipe
                | WakeFailureKind::Unavailable
                | WakeFailureKind::NotAllowed
                | WakeFailureKind::GroupBlocked
                | WakeFailureKind::NotNeeded) => kind,
                WakeFailureKind::TimedOut
                | WakeFailureKind::AgentLost
                | WakeFailureKind::AgentStopped
                | WakeFailureKind::Withdrawn
                | WakeFailureKind::Died => WakeFailureKind::Recipe,
            };
            let failure = WakeFailure { kind, ..failure };
            WakeOutcome::Failed { failure, stages }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn unavailable(error: BusError) -> ControlError {
    ControlError::Unavailable {
        reason: error.to_string(),
    }
}

/// Fails unless `epoch` is that of the current session.
fn is_current(epoch: Epoch, current: Epoch) -> Result<(), ControlError> {
    match epoch.cmp(&current) {
        Ordering::Less => Err(superseded(current)),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(ControlError::Invalid {
            reason: format!("epoch {epoch} was never issued: connect first"),
        }),
    }
}

const fn superseded(current: Epoch) -> ControlError {
    ControlError::Superseded {
        current,
        restored: false,
        revoked: false,
    }
}

fn refused_agent(error: CommandError<AgentRejection>) -> ControlError {
    match error {
        CommandError::Bus(error) => unavailable(error),
        CommandError::Rejected(AgentRejection::SessionSuperseded { current }) => superseded(current),
        CommandError::Rejected(rejection) => ControlError::Invalid {
            reason: rejection.to_string(),
        },
    }
}

fn refused(error: CommandError<Rejection>) -> ControlError {
    match error {
        CommandError::Bus(BusError::Unreadable { reason, .. }) => ControlError::Unreadable { reason },
        CommandError::Bus(error) => unavailable(error),
        CommandError::Rejected(Rejection::SessionSuperseded { current }) => superseded(current),
        CommandError::Rejected(Rejection::NotRegistered | Rejection::RegisterFirst { .. }) => {
            ControlError::RegisterFirst
        }
        CommandError::Rejected(Rejection::ResumeFirst) => ControlError::ResumeFirst,
        CommandError::Rejected(rejection) => ControlError::Invalid {
            reason: rejection.to_string(),
        },
    }
}
