//! What agents tell control, and its answers: JSON over request and reply on `reveille.control.<agent>.<verb>`.
//! Every request names the agent's epoch; one whose payload names another agent than its subject is refused.

use crate::{
    error::BusError,
    refusals::{Reason, Refusals, SubjectKind},
    subjects,
    wakes::WakeMessage,
};
use async_nats::{Client, Message, Subscriber, client::Request};
use futures::StreamExt;
use reveille_domain::{
    AgentName, Availability, Epoch, ProviderName, ProviderSpec, ReportId, ReportSeq, SessionId, SleepReason,
    WakeId, WakeOutcome, provider::StatusName,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thiserror::Error;
use uuid::Uuid;

/// All API replicas share the requests.
const QUEUE_GROUP: &str = "reveille-control";
/// How long an agent waits for an answer before it asks again.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// A request of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum ControlRequest {
    /// I am the process of my name from now on. Answered with [`ControlAnswer::Connected`].
    Connect {
        /// The session; the same when asked again.
        session: SessionId,
        /// The version of the agent program.
        version: String,
    },
    /// This is a provider of mine. Answered with [`ControlAnswer::Done`].
    Register {
        /// The agent's epoch.
        epoch: Epoch,
        /// The provider.
        provider: ProviderName,
        /// What it publishes.
        spec: ProviderSpec,
        /// What the probe found.
        availability: Option<Availability>,
    },
    /// Something happened to a provider. Answered with [`ControlAnswer::Done`], also when it changed nothing.
    Report {
        /// The provider.
        provider: ProviderName,
        /// The report's number: one outstanding per provider, the same when told again.
        id: ReportId,
        /// What happened.
        report: Report,
    },
    /// I am there after all. Answered with [`ControlAnswer::Done`].
    Resume {
        /// The provider.
        provider: ProviderName,
        /// The report's number.
        id: ReportId,
        /// What the probe found.
        availability: Availability,
    },
    /// I stop cleanly: all my providers become inactive. Answered with [`ControlAnswer::Stopped`].
    Stop {
        /// The agent's epoch.
        epoch: Epoch,
    },
    /// I no longer publish this provider. Answered with [`ControlAnswer::Done`].
    Deregister {
        /// The agent's epoch.
        epoch: Epoch,
        /// The provider.
        provider: ProviderName,
    },
}

/// What happened to a provider, in an agent's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Report {
    /// A wake ended.
    Wake {
        /// Which.
        wake_id: WakeId,
        /// How.
        #[serde(flatten)]
        outcome: WakeOutcome,
    },
    /// The backend sleeps.
    Asleep {
        /// Why.
        reason: SleepReason,
        /// The wake of another member of its group that it makes room for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_wake: Option<WakeId>,
    },
    /// The backend came up by itself.
    Awake,
}

impl ControlRequest {
    const fn verb(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Register { .. } => "register",
            Self::Report { .. } => "report",
            Self::Resume { .. } => "resume",
            Self::Stop { .. } => "stop",
            Self::Deregister { .. } => "deregister",
        }
    }

    /// The epoch that the request is made under; `None` for `connect`, which asks for one.
    #[must_use]
    pub const fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Connect { .. } => None,
            Self::Register { epoch, .. } | Self::Stop { epoch } | Self::Deregister { epoch, .. } => {
                Some(*epoch)
            }
            Self::Report { id, .. } | Self::Resume { id, .. } => Some(id.epoch),
        }
    }
}

/// Control's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ControlAnswer {
    /// The session is accepted.
    Connected {
        /// Its epoch.
        epoch: Epoch,
        /// The providers that the agent published before: what isn't in its config any more it deregisters.
        providers: Vec<ProviderName>,
    },
    /// It is so now.
    Done {
        /// The provider's status.
        status: Option<StatusName>,
        /// The journal sequence of its last commit.
        sequence: u64,
        /// The last report of this session that changed something: the next one has a higher number.
        last_seq: ReportSeq,
        /// The wake in flight, which the agent may not have heard of.
        wake: Option<WakeMessage>,
        /// Whether this ended a wake of an earlier session that requests may wait for: the backend then stays awake
        /// until the first of them has come.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        awaited: bool,
    },
    /// The agent's providers are inactive.
    Stopped,
    /// It is refused.
    Refused {
        /// Why.
        refusal: ControlError,
    },
}

/// Why control refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum ControlError {
    /// A later session took the name: this process must exit.
    #[error("superseded by a later session of the same agent (epoch {current})")]
    Superseded {
        /// The current epoch.
        current: Epoch,
    },
    /// The session has not registered the provider.
    #[error("register the provider first")]
    RegisterFirst,
    /// The provider is inactive.
    #[error("resume the provider first")]
    ResumeFirst,
    /// The request isn't legal; asking again won't help.
    #[error("{reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// Control can't do it now; ask again.
    #[error("not now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    agent: AgentName,
    #[serde(flatten)]
    body: T,
}

const VERSION: u32 = 1;

/// Asks control once.
///
/// # Errors
/// When nobody answers in time; it may have taken effect all the same, and asking again is safe.
pub async fn ask(
    client: &Client,
    agent: &AgentName,
    request: &ControlRequest,
) -> Result<ControlAnswer, BusError> {
    let envelope = Envelope {
        v: VERSION,
        agent: agent.clone(),
        body: request,
    };
    let payload = serde_json::to_vec(&envelope).map_err(BusError::unavailable)?;
    let subject = subjects::control(agent, request.verb());
    let request = Request::new()
        .payload(payload.into())
        .inbox(format!(
            "{}.{}",
            subjects::agent_inbox(agent),
            Uuid::now_v7().simple()
        ))
        .timeout(Some(ANSWER_TIMEOUT));
    let answer = client
        .send_request(subject, request)
        .await
        .map_err(BusError::unavailable)?;
    serde_json::from_slice(&answer.payload).map_err(BusError::unavailable)
}

/// Control's side: the requests of all agents, shared among the replicas.
pub struct ControlRequests {
    client: Client,
    subscription: Subscriber,
    refusals: Refusals,
}

/// A request that waits for its answer.
pub struct Asked {
    /// Who asks, by the subject: the server's permissions stand behind it.
    pub agent: AgentName,
    /// What.
    pub request: ControlRequest,
    reply: Reply,
}

struct Reply {
    client: Client,
    message: Message,
    refusals: Refusals,
}

impl Reply {
    async fn send(self, answer: &ControlAnswer) {
        let (Some(reply), Ok(payload)) = (self.message.reply, serde_json::to_vec(answer)) else {
            return;
        };
        // Anybody can name any reply subject, and control may publish to every agent's inbox: an answer goes to the
        // asking agent's own only.
        let asking = subjects::control_parts(&self.message.subject);
        let own = asking.map(|(agent, _)| format!("{}.", subjects::agent_inbox(&agent)));
        if !own.is_some_and(|own| reply.starts_with(&own)) {
            if let Some(so_far) = self.refusals.count(SubjectKind::Control, Reason::ReplySubject) {
                tracing::warn!(
                    nats.subject = %self.message.subject, refused.so_far = so_far,
                    "didn't answer to a subject that is not the agent's inbox"
                );
            }
            return;
        }
        if let Err(error) = self.client.publish(reply, payload.into()).await {
            tracing::debug!(%error, "can't answer a control request");
        }
    }
}

impl Asked {
    /// Answers.
    pub async fn answer(self, answer: &ControlAnswer) {
        self.reply.send(answer).await;
    }
}

impl ControlRequests {
    /// Joins the replicas that answer.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn subscribe(client: &Client) -> Result<Self, BusError> {
        let subscription = client
            .queue_subscribe(subjects::CONTROL, QUEUE_GROUP.to_owned())
            .await
            .map_err(BusError::unavailable)?;
        Ok(Self {
            client: client.clone(),
            subscription,
            refusals: Refusals::default(),
        })
    }

    /// Counts in `refusals` what it doesn't take.
    #[must_use]
    pub fn counting(mut self, refusals: &Refusals) -> Self {
        self.refusals = refusals.clone();
        self
    }

    /// The next legal request; others are refused, with the reason on the sender's own inbox. `None` at the end.
    pub async fn next(&mut self) -> Option<Asked> {
        loop {
            let message = self.subscription.next().await?;
            let parsed = parse(&message);
            let reply = Reply {
                client: self.client.clone(),
                message,
                refusals: self.refusals.clone(),
            };
            match parsed {
                Ok((agent, request)) => {
                    return Some(Asked {
                        agent,
                        request,
                        reply,
                    });
                }
                Err((why, reason)) => {
                    // The text may quote the message, and is for its sender alone.
                    if let Some(so_far) = self.refusals.count(SubjectKind::Control, why) {
                        tracing::warn!(
                            nats.subject = %reply.message.subject, reason = why.name(), refused.so_far = so_far,
                            "refused a control request"
                        );
                    }
                    let refusal = ControlError::Invalid { reason };
                    reply.send(&ControlAnswer::Refused { refusal }).await;
                }
            }
        }
    }
}

fn parse(message: &Message) -> Result<(AgentName, ControlRequest), (Reason, String)> {
    let malformed = |text: String| (Reason::Malformed, text);
    let (agent, verb) = subjects::control_parts(&message.subject)
        .ok_or_else(|| malformed("the subject names no agent and verb".to_owned()))?;
    let envelope: Envelope<ControlRequest> = serde_json::from_slice(&message.payload)
        .map_err(|error| malformed(format!("not a control request: {error}")))?;
    if envelope.v != VERSION {
        let text = format!("version {} is not known, {VERSION} is", envelope.v);
        return Err((Reason::UnknownVersion, text));
    }
    if envelope.agent != agent || envelope.body.verb() != verb {
        let text = "the payload names another agent or verb than the subject".to_owned();
        return Err((Reason::OtherName, text));
    }
    Ok((agent, envelope.body))
}
