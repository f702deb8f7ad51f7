//! The rules of an agent.

use super::{findings::Findings, invariant::Invariant};
use crate::{
    agent::{Agent, AgentEvent, Sessions},
    ids::{Epoch, SessionId, TokenId},
    names::AgentName,
    time::Timestamp,
};

pub(super) fn check(id: &AgentName, before: &Agent, event: &AgentEvent, found: &mut Findings) {
    let kind = <&str>::from(event);
    let (AgentEvent::AgentConnected { name, .. }
    | AgentEvent::AgentEpochAdvanced { name, .. }
    | AgentEvent::AgentTokenIssued { name, .. }
    | AgentEvent::AgentEnrolled { name, .. }
    | AgentEvent::AgentRevoked { name, .. }) = event;
    found.apply(Invariant::Readable, name == id, || {
        format!("{kind} names the agent {name}")
    });
    match event {
        AgentEvent::AgentConnected { epoch, session, .. } => {
            rises(kind, *epoch, before.epoch(), found);
            found.apply(Invariant::Epoch, !had(&before.sessions, *session), || {
                format!("{kind} has session {session}, which was accepted before")
            });
        }
        AgentEvent::AgentEpochAdvanced { epoch, .. } => rises(kind, *epoch, before.epoch(), found),
        AgentEvent::AgentEnrolled {
            token: Some(token),
            at_ms,
            ..
        } => {
            let refused = refused(before, *token, *at_ms);
            found.apply(Invariant::Enrollment, refused.is_none(), || {
                format!(
                    "{kind} shows token {token}, which {}",
                    refused.unwrap_or_default()
                )
            });
        }
        // Without a token it is the hub's own machine.
        AgentEvent::AgentEnrolled { token: None, .. }
        | AgentEvent::AgentTokenIssued { .. }
        | AgentEvent::AgentRevoked { .. } => {}
    }
}

fn rises(kind: &str, epoch: Epoch, before: Epoch, found: &mut Findings) {
    found.apply(Invariant::Epoch, epoch > before, || {
        format!("{kind} has epoch {epoch} after epoch {before}")
    });
}

/// Whether the session was accepted before, as far as the state remembers.
fn had(sessions: &Sessions, session: SessionId) -> bool {
    match sessions {
        Sessions::Unknown => false,
        Sessions::Connected(current) => current.id == session || current.earlier.contains(&session),
        Sessions::Fenced(fence) => fence.earlier.contains(&session),
    }
}

/// Why the token may not enroll a key.
fn refused(before: &Agent, token: TokenId, at: Timestamp) -> Option<&'static str> {
    match before.access.token(token) {
        None => Some("was never issued, or was revoked"),
        Some(token) if token.used_by.is_some() => Some("had enrolled a key before"),
        Some(token) if at >= token.expires_at_ms => Some("had expired"),
        Some(_) => None,
    }
}
