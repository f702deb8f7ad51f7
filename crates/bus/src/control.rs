//! Requests of agents to control, and the answers: JSON over request and reply on `reveille.control.<agent>.<verb>`.
//! Every request names the agent's epoch. A request whose payload and subject name different agents is refused.

use crate::{
    error::BusError,
    hub_id::HubId,
    messages,
    refusals::{Reason, Refusals, SubjectKind},
    subjects,
    wakes::WakeMessage,
};
use async_nats::{Client, Message, Subscriber};
use futures::StreamExt;
use reveille_domain::{
    AgentName, Availability, Epoch, ProviderName, ProviderSpec, ReportId, ReportSeq, SessionId, SleepReason,
    WakeId, WakeOutcome, provider::StatusName,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use strum::IntoStaticStr;
use thiserror::Error;

/// The queue group in which all API replicas share the requests.
const QUEUE_GROUP: &str = "reveille-control";
/// How long an agent waits for an answer before it sends the request again.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// A request of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(tag = "verb", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ControlRequest {
    /// This process takes the agent's name. Answered with [`ControlAnswer::Connected`].
    Connect {
        /// The session; a retry keeps it.
        session: SessionId,
        /// The version of the agent program.
        version: String,
    },
    /// The agent publishes a provider. Answered with [`ControlAnswer::Done`].
    Register {
        /// The agent's epoch.
        epoch: Epoch,
        /// The provider's name.
        provider: ProviderName,
        /// The registration's number among what the session reports on the provider; absent when it has none.
        #[serde(default, skip_serializing_if = "ReportSeq::is_zero")]
        seq: ReportSeq,
        /// What the provider offers, and how it can be woken.
        spec: ProviderSpec,
        /// What the probe found; `None` before the first.
        availability: Option<Availability>,
    },
    /// Something happened to a provider. Answered with [`ControlAnswer::Done`], even when it changed nothing.
    Report {
        /// The provider's name.
        provider: ProviderName,
        /// The report's number; a retry keeps it. A provider has one report outstanding at a time.
        id: ReportId,
        /// What happened.
        report: Report,
    },
    /// A provider that counted as lost is back. Answered with [`ControlAnswer::Done`].
    Resume {
        /// The provider's name.
        provider: ProviderName,
        /// The report's number.
        id: ReportId,
        /// What the probe found.
        availability: Availability,
    },
    /// The agent stops cleanly, and all its providers become inactive. Answered with [`ControlAnswer::Stopped`].
    Stop {
        /// The agent's epoch.
        epoch: Epoch,
    },
    /// The agent no longer publishes a provider. Answered with [`ControlAnswer::Done`].
    Deregister {
        /// The agent's epoch.
        epoch: Epoch,
        /// The provider's name.
        provider: ProviderName,
    },
}

/// What happened to a provider, in an agent's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Report {
    /// A wake ended.
    Wake {
        /// The id of the wake.
        wake_id: WakeId,
        /// Whether it succeeded, and if not, why.
        #[serde(flatten)]
        outcome: WakeOutcome,
    },
    /// The backend fell asleep. Without a wake recipe it is down.
    Asleep {
        /// What put it to sleep, or showed that it is down.
        reason: SleepReason,
        /// The wake of another member of its group that needs the room.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_wake: Option<WakeId>,
    },
    /// The backend woke without a wake of ours.
    Awake,
}

impl ControlRequest {
    /// The epoch of the session that sends the request; `None` for `connect`, which asks for one.
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

/// Control's answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ControlAnswer {
    /// The session is accepted.
    Connected {
        /// The session's epoch.
        epoch: Epoch,
        /// The providers that the agent published before; it deregisters those that are no longer in its config.
        providers: Vec<ProviderName>,
        /// The hub's id, by which the agent recognises a backend that is the hub itself. Older replicas name none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hub: Option<HubId>,
    },
    /// The request has taken effect.
    Done {
        /// The provider's status after it.
        status: Option<StatusName>,
        /// The journal sequence of the provider's last commit.
        sequence: u64,
        /// The last report of this session that changed something. The next one needs a higher number.
        last_seq: ReportSeq,
        /// The wake in flight, which the agent may not know yet.
        wake: Option<WakeMessage>,
        /// Whether this ended a wake that requests may wait for. If the agent doesn't know that wake, the backend stays awake
        /// until the first of them arrives.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        awaited: bool,
    },
    /// The agent's providers are inactive.
    Stopped,
    /// Control refuses the request.
    Refused {
        /// Control's reason.
        refusal: ControlError,
    },
}

/// Why control refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum ControlError {
    /// A later session took the agent's name, or the agent was revoked, and this process must exit; or the journal was
    /// restored.
    #[error("superseded by a later session of the same agent (epoch {current})")]
    Superseded {
        /// The current epoch.
        current: Epoch,
        /// Whether no later session took the name: the journal was restored or the agent forgotten, and this process may begin a new
        /// session.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        restored: bool,
        /// Whether no later session took the name: the agent was revoked.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        revoked: bool,
    },
    /// This session hasn't registered the provider.
    #[error("register the provider first")]
    RegisterFirst,
    /// The provider is inactive.
    #[error("resume the provider first")]
    ResumeFirst,
    /// The request is illegal; a retry won't help.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// This replica can't read what the journal has of the provider. A retry may reach a replica that can; other
    /// providers don't wait for it.
    #[error("not by this replica: {reason}")]
    Unreadable {
        /// What it can't read.
        reason: String,
    },
    /// Control can't carry the request out now; a retry may succeed.
    #[error("not now: {reason}")]
    Unavailable {
        /// What is in the way.
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

/// Sends a request to control once, without a retry.
///
/// # Errors
/// When no answer comes in time. The request may have taken effect all the same; a retry is safe.
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
    let subject = subjects::control(agent, request.into());
    let inbox = format!("{}.{}", subjects::agent_inbox(agent), messages::nonce());
    messages::request(client, subject, inbox, ANSWER_TIMEOUT, &envelope).await
}

/// The requests of all agents, shared among the replicas.
pub struct ControlRequests {
    client: Client,
    subscription: Subscriber,
    refusals: Refusals,
}

/// A request that awaits its answer.
pub struct ReceivedRequest {
    /// The agent by the request's subject, which the server's permissions guarantee.
    pub agent: AgentName,
    /// What the agent asks for.
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
        // A sender can name any reply subject, and control may publish to every agent's inbox, so an answer goes only to
        // the inbox of the agent that asked.
        let asking = subjects::control_parts(&self.message.subject);
        let own = asking.map(|(agent, _)| format!("{}.", subjects::agent_inbox(&agent)));
        if !own.is_some_and(|own| reply.starts_with(&own)) {
            if let Some(so_far) = self.refusals.count(SubjectKind::Control, Reason::ReplySubject) {
                tracing::warn!(
                    nats.subject = %self.message.subject, refused.so_far = so_far,
                    "dropped an answer: its reply subject is not in the agent's inbox"
                );
            }
            return;
        }
        if let Err(error) = self.client.publish(reply, payload.into()).await {
            tracing::debug!(%error, "can't answer a control request");
        }
    }
}

impl ReceivedRequest {
    /// Answers the request.
    pub async fn answer(self, answer: &ControlAnswer) {
        self.reply.send(answer).await;
    }
}

impl ControlRequests {
    /// Joins the replicas that answer requests, and counts in `refusals` those that it refuses.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn subscribe(client: &Client, refusals: &Refusals) -> Result<Self, BusError> {
        Ok(Self {
            client: client.clone(),
            subscription: messages::subscribe(client, subjects::CONTROL, Some(QUEUE_GROUP)).await?,
            refusals: refusals.clone(),
        })
    }

    /// The next well-formed request; malformed ones are answered with the reason. `None` when the connection is closed.
    pub async fn next(&mut self) -> Option<ReceivedRequest> {
        loop {
            let message = self.subscription.next().await?;
            // Requests to join have a subscription of their own.
            if subjects::joining_key(&message.subject).is_some() {
                continue;
            }
            let parsed = parse(&message);
            let reply = Reply {
                client: self.client.clone(),
                message,
                refusals: self.refusals.clone(),
            };
            match parsed {
                Ok((agent, request)) => {
                    return Some(ReceivedRequest {
                        agent,
                        request,
                        reply,
                    });
                }
                Err((why, reason)) => {
                    // The text may quote the message, so only its sender gets it.
                    if let Some(so_far) = self.refusals.count(SubjectKind::Control, why) {
                        tracing::warn!(
                            nats.subject = %reply.message.subject, reason = <&str>::from(why), refused.so_far = so_far,
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
    if envelope.agent != agent || verb != <&str>::from(&envelope.body) {
        let text = "the payload names another agent or verb than the subject".to_owned();
        return Err((Reason::OtherName, text));
    }
    Ok((agent, envelope.body))
}
