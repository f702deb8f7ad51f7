//! The agent aggregate: it accepts sessions and numbers them. The number, the epoch, fences everything else.

use crate::{AgentName, Epoch, SessionId, Timestamp};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many earlier sessions are remembered, so that a late retry of one isn't taken for a new one.
const REMEMBERED_SESSIONS: usize = 16;
/// How much of an agent's version is kept, in characters; longer ones are cut.
const MAX_VERSION_CHARS: usize = 64;

/// Everything known of an agent: nothing, its current session, or that it has none because all were fenced off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Agent {
    /// No session was ever accepted.
    #[default]
    Unknown,
    /// The current session.
    Connected(Session),
    /// Every session that was is superseded, and none came since.
    Fenced(Fence),
}

/// What is left of an agent whose epoch was advanced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The agent's name.
    pub name: AgentName,
    /// The lowest epoch that is not refused; no session has it.
    pub epoch: Epoch,
    /// When it was advanced.
    pub fenced_at_ms: Timestamp,
    /// The sessions before, latest last.
    pub earlier: Vec<SessionId>,
}

/// Why an epoch is advanced without a session that takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvanceReason {
    /// The journal was restored and may lack the latest sessions: their epochs must not be given again.
    JournalRestored,
}

/// An agent's current session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The agent's name.
    pub name: AgentName,
    /// The session's id.
    pub id: SessionId,
    /// Its number.
    pub epoch: Epoch,
    /// When it was accepted.
    pub connected_at_ms: Timestamp,
    /// The version of the agent program.
    pub version: String,
    /// The sessions before it, latest last.
    pub earlier: Vec<SessionId>,
}

/// What can be asked of an agent aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentCommand {
    /// An agent process asks to be *the* process of its name.
    Connect {
        /// The agent's name.
        name: AgentName,
        /// The process's session; repeated as it is when the request is retried.
        session: SessionId,
        /// The version of the agent program.
        version: String,
        /// Now.
        at: Timestamp,
    },
    /// Supersede every session up to an epoch, those that this journal never saw included.
    Advance {
        /// The first epoch that may still be accepted.
        to: Epoch,
        /// Why.
        reason: AdvanceReason,
        /// Now.
        at: Timestamp,
    },
}

/// What happened to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum AgentEvent {
    /// A session was accepted; every earlier one is superseded.
    AgentConnected {
        /// The agent's name.
        name: AgentName,
        /// The session.
        session: SessionId,
        /// Its number.
        epoch: Epoch,
        /// The version of the agent program.
        version: String,
        /// When.
        at_ms: Timestamp,
    },
    /// Every session up to now is superseded, and the next one gets an epoch above this.
    AgentEpochAdvanced {
        /// The agent's name.
        name: AgentName,
        /// The epoch that is reached.
        epoch: Epoch,
        /// Why.
        reason: AdvanceReason,
        /// When.
        at_ms: Timestamp,
    },
}

impl DomainEvent for AgentEvent {
    fn event_type(&self) -> String {
        match self {
            Self::AgentConnected { .. } => "AgentConnected".to_owned(),
            Self::AgentEpochAdvanced { .. } => "AgentEpochAdvanced".to_owned(),
        }
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

/// Why an agent's command is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AgentRejection {
    /// A later session of the same name was accepted.
    #[error("this session was superseded: the agent's current epoch is {current}")]
    SessionSuperseded {
        /// The current epoch.
        current: Epoch,
    },
}

impl Agent {
    /// The number that everything the agent says must have or exceed; `Epoch(0)` when there never was a session.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Unknown => Epoch(0),
            Self::Connected(session) => session.epoch,
            Self::Fenced(fence) => fence.epoch,
        }
    }

    /// The agent's name; `None` when there never was a session.
    #[must_use]
    pub const fn name(&self) -> Option<&AgentName> {
        match self {
            Self::Unknown => None,
            Self::Connected(session) => Some(&session.name),
            Self::Fenced(fence) => Some(&fence.name),
        }
    }

    /// What `command` changes.
    ///
    /// # Errors
    /// When it is refused.
    pub fn decide(&self, command: &AgentCommand) -> Result<Vec<AgentEvent>, AgentRejection> {
        match (self, command) {
            (Self::Connected(current), AgentCommand::Connect { session, .. }) if current.id == *session => {
                Ok(vec![])
            }
            (
                Self::Connected(Session { earlier, .. }) | Self::Fenced(Fence { earlier, .. }),
                AgentCommand::Connect { session, .. },
            ) if earlier.contains(session) => Err(AgentRejection::SessionSuperseded {
                current: self.epoch(),
            }),
            (
                Self::Unknown | Self::Connected(_) | Self::Fenced(_),
                AgentCommand::Connect {
                    name,
                    session,
                    version,
                    at,
                },
            ) => Ok(vec![AgentEvent::AgentConnected {
                name: name.clone(),
                session: *session,
                epoch: self.epoch().next(),
                version: version.chars().take(MAX_VERSION_CHARS).collect(),
                at_ms: *at,
            }]),
            // There is nobody to supersede.
            (Self::Unknown, AgentCommand::Advance { .. }) => Ok(vec![]),
            (
                Self::Connected(Session { name, epoch, .. }) | Self::Fenced(Fence { name, epoch, .. }),
                AgentCommand::Advance { to, reason, at },
            ) => Ok((to > epoch)
                .then(|| AgentEvent::AgentEpochAdvanced {
                    name: name.clone(),
                    epoch: *to,
                    reason: *reason,
                    at_ms: *at,
                })
                .into_iter()
                .collect()),
        }
    }

    /// The state after `event`.
    #[must_use]
    pub fn evolve(self, event: &AgentEvent) -> Self {
        let mut earlier = match self {
            Self::Unknown => vec![],
            Self::Connected(Session { mut earlier, id, .. }) => {
                earlier.push(id);
                earlier
            }
            Self::Fenced(Fence { earlier, .. }) => earlier,
        };
        earlier.drain(..earlier.len().saturating_sub(REMEMBERED_SESSIONS));
        match event {
            AgentEvent::AgentConnected {
                name,
                session,
                epoch,
                version,
                at_ms,
            } => Self::Connected(Session {
                name: name.clone(),
                id: *session,
                epoch: *epoch,
                connected_at_ms: *at_ms,
                version: version.clone(),
                earlier,
            }),
            AgentEvent::AgentEpochAdvanced {
                name, epoch, at_ms, ..
            } => Self::Fenced(Fence {
                name: name.clone(),
                epoch: *epoch,
                fenced_at_ms: *at_ms,
                earlier,
            }),
        }
    }
}

impl Aggregate for Agent {
    const TYPE: &'static str = "agent";
    type Command = AgentCommand;
    type Event = AgentEvent;
    type Error = AgentRejection;
    type Services = ();

    async fn handle(
        &mut self,
        command: AgentCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), AgentRejection> {
        for event in self.decide(&command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: AgentEvent) {
        *self = std::mem::take(self).evolve(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn connect(session: u128) -> AgentCommand {
        AgentCommand::Connect {
            name: AgentName::parse("gpu-box").expect("legal"),
            session: SessionId(Uuid::from_u128(session)),
            version: "0.1.0".into(),
            at: Timestamp::from_millis(7),
        }
    }

    fn after(commands: &[AgentCommand]) -> Agent {
        commands.iter().fold(Agent::default(), |agent, command| {
            let events = agent.decide(command).expect("accepted");
            events.iter().fold(agent, Agent::evolve)
        })
    }

    #[test]
    fn each_new_session_gets_the_next_epoch() {
        assert_eq!(after(&[connect(1)]).epoch(), Epoch(1));
        assert_eq!(after(&[connect(1), connect(2)]).epoch(), Epoch(2));
    }

    #[test]
    fn a_repeated_connect_of_the_current_session_changes_nothing() {
        assert_eq!(after(&[connect(1)]).decide(&connect(1)), Ok(vec![]));
    }

    #[test]
    fn a_superseded_session_never_comes_back() {
        let current = Epoch(2);
        assert_eq!(
            after(&[connect(1), connect(2)]).decide(&connect(1)),
            Err(AgentRejection::SessionSuperseded { current })
        );
    }

    fn advance(to: u64) -> AgentCommand {
        AgentCommand::Advance {
            to: Epoch(to),
            reason: AdvanceReason::JournalRestored,
            at: Timestamp::from_millis(8),
        }
    }

    #[test]
    fn an_advanced_epoch_supersedes_every_session_and_the_next_one_gets_a_higher_one() {
        let fenced = after(&[connect(1), connect(2), advance(1_000)]);
        let current = Epoch(1_000);
        for session in [1, 2] {
            let refused = Err(AgentRejection::SessionSuperseded { current });
            assert_eq!(fenced.decide(&connect(session)), refused);
        }
        let next = after(&[connect(1), connect(2), advance(1_000), connect(3)]);
        assert_eq!(next.epoch(), Epoch(1_001));
        assert!(next.decide(&connect(2)).is_err());
    }

    #[test]
    fn an_epoch_is_never_lowered_nor_advanced_twice() {
        let fenced = after(&[connect(1), advance(1_000)]);
        assert_eq!(fenced.decide(&advance(1_000)), Ok(vec![]));
        assert_eq!(fenced.decide(&advance(7)), Ok(vec![]));
        assert_eq!(Agent::Unknown.decide(&advance(7)), Ok(vec![]));
    }

    #[test]
    fn remembered_sessions_are_bounded() {
        let Agent::Connected(session) = after(&(1..100).map(connect).collect::<Vec<_>>()) else {
            panic!("connected")
        };
        assert_eq!(
            (session.epoch, session.earlier.len()),
            (Epoch(99), REMEMBERED_SESSIONS)
        );
    }
}
