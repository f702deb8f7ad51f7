//! The agent aggregate: it accepts sessions and numbers them. The number, the epoch, fences everything else.

use crate::{AgentName, Epoch, SessionId, Timestamp};
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many earlier sessions are remembered, so that a late retry of one isn't taken for a new one.
const REMEMBERED_SESSIONS: usize = 16;
/// How much of an agent's version is kept, in characters; longer ones are cut.
const MAX_VERSION_CHARS: usize = 64;

/// Everything known of an agent: nothing, or its current session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Agent {
    /// No session was ever accepted.
    #[default]
    Unknown,
    /// The current session.
    Connected(Session),
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
}

impl DomainEvent for AgentEvent {
    fn event_type(&self) -> String {
        match self {
            Self::AgentConnected { .. } => "AgentConnected".to_owned(),
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
    /// The current session's number; `Epoch(0)` when there never was one.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Unknown => Epoch(0),
            Self::Connected(session) => session.epoch,
        }
    }

    /// What `command` changes.
    ///
    /// # Errors
    /// When it is refused.
    pub fn decide(&self, command: &AgentCommand) -> Result<Vec<AgentEvent>, AgentRejection> {
        let AgentCommand::Connect {
            name,
            session,
            version,
            at,
        } = command;
        match self {
            Self::Connected(current) if current.id == *session => Ok(vec![]),
            Self::Connected(current) if current.earlier.contains(session) => {
                Err(AgentRejection::SessionSuperseded {
                    current: current.epoch,
                })
            }
            Self::Unknown | Self::Connected(_) => Ok(vec![AgentEvent::AgentConnected {
                name: name.clone(),
                session: *session,
                epoch: self.epoch().next(),
                version: version.chars().take(MAX_VERSION_CHARS).collect(),
                at_ms: *at,
            }]),
        }
    }

    /// The state after `event`.
    #[must_use]
    pub fn evolve(self, event: &AgentEvent) -> Self {
        let AgentEvent::AgentConnected {
            name,
            session,
            epoch,
            version,
            at_ms,
        } = event;
        let mut earlier = match self {
            Self::Unknown => vec![],
            Self::Connected(Session { mut earlier, id, .. }) => {
                earlier.push(id);
                earlier
            }
        };
        earlier.drain(..earlier.len().saturating_sub(REMEMBERED_SESSIONS));
        Self::Connected(Session {
            name: name.clone(),
            id: *session,
            epoch: *epoch,
            connected_at_ms: *at_ms,
            version: version.clone(),
            earlier,
        })
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
