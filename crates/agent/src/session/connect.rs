//! Connecting to control with a session.

use crate::{AgentError, config::ProviderConfig, hub::Hub, own_hub::OwnHub};
use reveille_bus::control::{ControlAnswer, ControlError, ControlRequest};
use reveille_domain::{AgentName, Epoch, ProviderName, SessionId};
use std::collections::HashSet;
use tracing::{info, warn};

pub(super) fn request(session: SessionId) -> ControlRequest {
    ControlRequest::Connect {
        session,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Whether the session was ended by a restore of the journal, so that another one may begin.
pub(super) const fn is_restored(answer: &ControlAnswer) -> bool {
    matches!(
        answer,
        ControlAnswer::Refused {
            refusal: ControlError::Superseded { restored: true, .. }
        }
    )
}

/// The session's epoch, and the providers that control has of earlier sessions. Takes over which hub control belongs to.
pub(super) fn accepted(
    answer: ControlAnswer,
    agent: &AgentName,
    own_hub: &OwnHub,
) -> Result<(Epoch, Vec<ProviderName>), AgentError> {
    match answer {
        ControlAnswer::Connected {
            epoch,
            providers,
            hub,
        } => {
            own_hub.connected(hub);
            Ok((epoch, providers))
        }
        ControlAnswer::Refused {
            refusal: ControlError::Superseded { revoked: true, .. },
        } => Err(AgentError::Revoked),
        ControlAnswer::Refused {
            refusal: ControlError::Superseded { current, .. },
        } => Err(AgentError::Superseded {
            agent: agent.clone(),
            current,
        }),
        ControlAnswer::Refused { refusal } => Err(AgentError::Refused(refusal)),
        ControlAnswer::Done { .. } | ControlAnswer::Stopped => {
            let reason = "its answer doesn't fit the question".to_owned();
            Err(AgentError::Refused(ControlError::Invalid { reason }))
        }
    }
}

/// Withdraws providers that are no longer in the config.
pub(super) async fn withdraw(
    hub: &dyn Hub,
    epoch: Epoch,
    known: Vec<ProviderName>,
    configured: &[ProviderConfig],
) {
    let configured: HashSet<_> = configured.iter().map(|provider| &provider.name).collect();
    for provider in known.into_iter().filter(|name| !configured.contains(name)) {
        let deregister = ControlRequest::Deregister {
            epoch,
            provider: provider.clone(),
        };
        match hub.ask(deregister).await {
            ControlAnswer::Refused { refusal } => {
                warn!(provider.name = %provider, %refusal, "{provider} could not be withdrawn");
            }
            _ => info!(provider.name = %provider, "{provider} is no longer published"),
        }
    }
}
