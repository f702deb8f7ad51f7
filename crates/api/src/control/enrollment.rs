//! Enrolls machines that join over NATS. The same tokens work over HTTP, where the hub's API is what machines reach.

use crate::{
    commands::{Admin, AgentCommandAt, Commands},
    registry::Registry,
};
use reveille_bus::{
    CommandError,
    access::JoinToken,
    enroll::{EnrollAnswer, EnrollRequests, TokenRefusal},
};
use reveille_domain::{AgentCommand, AgentKey, Timestamp};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The cause of an enrollment's commit.
pub(crate) const ENROLL_CAUSE: &str = "enroll";
/// How long an answer waits until the fold includes the key, and the machine can connect with it.
const FOLD_WAIT: Duration = Duration::from_secs(2);

/// The command that enrolls `key` by `token`.
pub(crate) fn enrollment(token: JoinToken, key: AgentKey) -> AgentCommandAt {
    let secret = token.hash();
    Box::new(move |at: Timestamp| AgentCommand::Enroll {
        name: token.agent,
        token: token.id,
        secret,
        key,
        at,
    })
}

/// Answers one machine after the other until `shutdown`.
pub(crate) async fn serve(
    mut requests: EnrollRequests,
    commands: &Commands,
    registry: &Registry,
    shutdown: &CancellationToken,
) {
    while let Some(Some(request)) = shutdown.run_until_cancelled(requests.next()).await {
        let answer = enroll(commands, registry, request.token.clone(), request.key.clone()).await;
        request.answer(&answer).await;
    }
}

async fn enroll(commands: &Commands, registry: &Registry, token: JoinToken, key: AgentKey) -> EnrollAnswer {
    let (agent, id) = (token.agent.clone(), token.id);
    match commands.agent(&agent, ENROLL_CAUSE, enrollment(token, key)).await {
        Ok(done) => {
            info!(agent.name = %agent, token.id = %id, journal.sequence = done.sequence, "enrolled {agent}");
            let until = Instant::now() + FOLD_WAIT;
            registry.applied_to(done.sequence, until).await;
            EnrollAnswer::Enrolled
        }
        Err(CommandError::Rejected(rejection)) => match TokenRefusal::of(&rejection) {
            Some(code) => {
                info!(agent.name = %agent, token.id = %id, reason = %rejection, "refused to enroll {agent}: {rejection}");
                EnrollAnswer::Refused { code }
            }
            None => EnrollAnswer::Unavailable {
                reason: rejection.to_string(),
            },
        },
        Err(CommandError::Bus(error)) => EnrollAnswer::Unavailable {
            reason: error.to_string(),
        },
    }
}
