//! Every subject. Names are proven tokens, so none of them can reach another party's subject.

use reveille_domain::{AgentName, KeyId, ProviderId, ProviderName};
use std::fmt;

/// Every journal subject.
pub(crate) const EVENTS: &str = "reveille.events.>";
/// Every accepted commit, republished by the server for subscribers.
pub const FACTS: &str = "reveille.facts.>";
/// Every heartbeat and canary.
pub(crate) const HEARTBEATS: &str = "reveille.heartbeats.>";
/// Every heartbeat of an agent, without the canaries.
pub(crate) const AGENTS_HEARTBEATS: &str = "reveille.heartbeats.*";
/// What every replica says of its requests.
pub(crate) const REQUESTS: &str = "reveille.requests.*";
/// Every control request.
pub(crate) const CONTROL: &str = "reveille.control.*.*";
/// Where a server asks about connections that its config doesn't know.
pub(crate) const CALLOUT: &str = "$SYS.REQ.USER.AUTH";

const EVENTS_PREFIX: &str = "reveille.events.";
/// Every canary.
pub(crate) const CANARIES: &str = "reveille.heartbeats._canary.>";
/// A token that is no legal agent name, so that a canary never looks like an agent's heartbeat.
const CANARY: &str = "_canary";

/// Which aggregate a commit belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AggregateId {
    /// The agent of this name.
    Agent(AgentName),
    /// The provider of this id.
    Provider(ProviderId),
    /// The key of this id.
    Key(KeyId),
}

impl AggregateId {
    /// The aggregate's kind: `agent`, `provider` or `key`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::Provider(_) => "provider",
            Self::Key(_) => "key",
        }
    }

    /// The id as subjects have it behind the kind: `gpu-box`, `gpu-box.vllm` or `k7mq2v9x`.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Agent(agent) => agent.to_string(),
            Self::Provider(id) => format!("{}.{}", id.agent, id.provider),
            Self::Key(key) => key.to_string(),
        }
    }

    /// The subject of its commits.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{EVENTS_PREFIX}{}.{}", self.kind(), self.id())
    }

    /// The aggregate of `kind` with `id`; `None` when either is illegal.
    #[must_use]
    pub fn parse(kind: &str, id: &str) -> Option<Self> {
        match (kind, id.split_once('.')) {
            ("agent", None) => AgentName::parse(id).ok().map(Self::Agent),
            ("provider", Some((agent, provider))) => {
                let agent = AgentName::parse(agent).ok()?;
                Some(Self::Provider(ProviderId::new(
                    agent,
                    ProviderName::parse(provider).ok()?,
                )))
            }
            ("key", None) => KeyId::parse(id).ok().map(Self::Key),
            _ => None,
        }
    }

    /// The aggregate with this journal subject.
    #[must_use]
    pub fn of_subject(subject: &str) -> Option<Self> {
        let (kind, id) = subject.strip_prefix(EVENTS_PREFIX)?.split_once('.')?;
        Self::parse(kind, id)
    }
}

impl fmt::Display for AggregateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(agent) => write!(f, "agent {agent}"),
            Self::Provider(id) => write!(f, "provider {id}"),
            Self::Key(key) => write!(f, "key {key}"),
        }
    }
}

pub(crate) fn heartbeat(agent: &AgentName) -> String {
    format!("reveille.heartbeats.{agent}")
}

pub(crate) fn canary(replica: &str) -> String {
    format!("reveille.heartbeats.{CANARY}.{replica}")
}

/// The sender of a heartbeat or a canary.
pub(crate) enum Sign<'a> {
    Heartbeat(AgentName),
    Canary(&'a str),
}

pub(crate) fn sign(subject: &str) -> Option<Sign<'_>> {
    let rest = subject.strip_prefix("reveille.heartbeats.")?;
    match rest.strip_prefix(CANARY).and_then(|rest| rest.strip_prefix('.')) {
        Some(replica) => Some(Sign::Canary(replica)),
        None => AgentName::parse(rest).ok().map(Sign::Heartbeat),
    }
}

pub(crate) fn requests(replica: &str) -> String {
    format!("reveille.requests.{replica}")
}

pub(crate) fn wakes_of(agent: &AgentName) -> String {
    format!("reveille.wakes.{agent}.*")
}

pub(crate) fn wake(id: &ProviderId) -> String {
    format!("reveille.wakes.{}.{}", id.agent, id.provider)
}

pub(crate) fn orders(agent: &AgentName) -> String {
    format!("reveille.orders.{agent}")
}

pub(crate) fn infer(agent: &AgentName) -> String {
    format!("reveille.infer.{agent}")
}

/// Where an agent acknowledges a wake or an order; no other party may publish there.
pub(crate) fn ack(agent: &AgentName, question: &str) -> String {
    format!("reveille.acks.{agent}.{question}")
}

/// The prefix of the subjects on which an agent receives answers; no other agent may subscribe there.
pub(crate) fn agent_inbox(agent: &AgentName) -> String {
    format!("_INBOX.agent.{agent}")
}

pub(crate) fn control(agent: &AgentName, verb: &str) -> String {
    format!("reveille.control.{agent}.{verb}")
}

/// A token that is no legal agent name, so that no agent's subject looks like that of a machine that joins.
const JOINING: &str = "_join";
/// Every request to join. It is a control subject, so replicas may subscribe to it with the permissions that they have.
pub(crate) const JOIN_REQUESTS: &str = "reveille.control._join.*";

/// Where the machine with this public key asks to join; no other party may publish there.
pub(crate) fn join_request(key: &str) -> String {
    format!("reveille.control.{JOINING}.{key}")
}

/// The public key of the machine that asks to join, by the subject of its request.
pub(crate) fn joining_key(subject: &str) -> Option<&str> {
    let (joining, key) = subject.strip_prefix("reveille.control.")?.split_once('.')?;
    (joining == JOINING).then_some(key)
}

/// The prefix of the subjects on which the machine with this public key receives answers; no other party may subscribe there.
pub(crate) fn joining_inbox(key: &str) -> String {
    format!("_INBOX.agent.{JOINING}.{key}")
}

/// The agent and the verb of a control subject.
pub(crate) fn control_parts(subject: &str) -> Option<(AgentName, &str)> {
    let (agent, verb) = subject.strip_prefix("reveille.control.")?.split_once('.')?;
    Some((AgentName::parse(agent).ok()?, verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_read_back_from_their_subjects() {
        for subject in [
            "reveille.events.agent.gpu-box",
            "reveille.events.provider.gpu-box.vllm",
            "reveille.events.key.k7mq2v9x",
        ] {
            assert_eq!(
                AggregateId::of_subject(subject).map(|id| id.subject()).as_deref(),
                Some(subject)
            );
        }
        for subject in [
            "reveille.events.agent.a.b",
            "reveille.events.provider.a",
            "reveille.events.key.a",
            "reveille.events.key.k7mq2v9x.b",
            "reveille.events.lock.k7mq2v9x",
            "x",
        ] {
            assert_eq!(AggregateId::of_subject(subject), None, "{subject}");
        }
    }

    #[test]
    fn no_agent_can_be_named_like_a_machine_that_joins() {
        assert!(AgentName::parse(JOINING).is_err());
        assert_eq!(joining_key(&join_request("UKEY")), Some("UKEY"));
        assert_eq!(control_parts(&join_request("UKEY")), None);
        assert_eq!(joining_key("reveille.control.gpu-box.connect"), None);
    }

    #[test]
    fn no_agent_can_be_named_like_a_canary() {
        assert!(AgentName::parse(CANARY).is_err());
        assert!(matches!(sign(&canary("r1")), Some(Sign::Canary("r1"))));
    }
}
