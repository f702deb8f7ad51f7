//! Enrolls machines that join over NATS. The same tokens work over HTTP, where the hub's API is what machines reach.

use crate::{
    commands::{Admin, AgentCommandAt, Commands},
    registry::Registry,
};
use reveille_bus::{
    CommandError, Reason, Refusals, SubjectKind,
    access::JoinToken,
    enroll::{EnrollAnswer, EnrollRequests, TokenRefusal},
};
use reveille_domain::{AgentCommand, AgentKey, AgentRejection, Timestamp};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The cause of an enrollment's commit.
pub(crate) const ENROLL_CAUSE: &str = "enroll";
/// How long an answer waits until the fold includes the key, and the machine can connect with it.
const FOLD_WAIT: Duration = Duration::from_secs(2);

/// What a machine is told when its key can't be recorded.
const UNAVAILABLE: &str = "its journal is unreachable";

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

/// Answers one machine after the other until `shutdown`, and counts in `refusals` those that it refuses.
pub(crate) async fn serve(
    mut requests: EnrollRequests,
    commands: &Commands,
    registry: &Registry,
    refusals: &Refusals,
    shutdown: &CancellationToken,
) {
    while let Some(Some(request)) = shutdown.run_until_cancelled(requests.next()).await {
        let (token, key) = (request.token.clone(), request.key.clone());
        let spent = spent(registry, commands.clock.try_now(), &token, &key);
        let answer = match spent {
            // Anyone who finds an old token can ask as often as they like, so the journal isn't asked.
            Some(rejection) => Err(CommandError::Rejected(rejection)),
            None => enroll(commands, registry, token.clone(), key).await,
        };
        request.answer(&answered(&token, answer, refusals)).await;
    }
}

/// Why the token enrolls nobody, as far as the fold knows for good.
fn spent(
    registry: &Registry,
    now: Option<Timestamp>,
    token: &JoinToken,
    key: &AgentKey,
) -> Option<AgentRejection> {
    let known = registry.agents().get(&token.agent)?;
    known.access.spent_token(token.id, &token.hash(), key, now?)
}

async fn enroll(
    commands: &Commands,
    registry: &Registry,
    token: JoinToken,
    key: AgentKey,
) -> Result<(), CommandError<AgentRejection>> {
    let (agent, id) = (token.agent.clone(), token.id);
    let done = commands
        .agent(&agent, ENROLL_CAUSE, enrollment(token, key))
        .await?;
    info!(agent.name = %agent, token.id = %id, journal.sequence = done.sequence, "enrolled {agent}");
    let until = Instant::now() + FOLD_WAIT;
    registry.applied_to(done.sequence, until).await;
    Ok(())
}

/// What the machine is told. It isn't trusted yet, so it learns nothing about what is wrong here.
fn answered(
    token: &JoinToken,
    outcome: Result<(), CommandError<AgentRejection>>,
    refusals: &Refusals,
) -> EnrollAnswer {
    let (agent, id) = (&token.agent, token.id);
    let error = match outcome {
        Ok(()) => return EnrollAnswer::Enrolled,
        Err(error) => error,
    };
    if let CommandError::Rejected(rejection) = &error
        && let Some(code) = TokenRefusal::of(rejection)
    {
        if let Some(so_far) = refusals.count(SubjectKind::Control, Reason::Token) {
            info!(
                agent.name = %agent, token.id = %id, reason = %rejection, refused.so_far = so_far,
                "refused to enroll {agent}: {rejection}"
            );
        }
        return EnrollAnswer::Refused { code };
    }
    warn!(agent.name = %agent, token.id = %id, %error, "can't enroll {agent} now");
    EnrollAnswer::Unavailable {
        reason: UNAVAILABLE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_bus::BusError;
    use reveille_domain::{Agent, AgentName, TokenId};
    use uuid::Uuid;

    fn key(letter: char) -> AgentKey {
        AgentKey::parse(&format!("U{}", letter.to_string().repeat(55))).expect("legal")
    }

    fn token(number: u128) -> JoinToken {
        JoinToken {
            agent: AgentName::parse("gpu-box").expect("legal"),
            id: TokenId(Uuid::from_u128(number)),
            secret: "AAAA".to_owned(),
        }
    }

    #[test]
    fn a_spent_token_is_refused_without_the_journal_and_one_that_may_be_new_is_not() {
        let at = Timestamp::from_millis;
        let (used, late, unknown) = (token(1), token(2), token(3));
        let issue = |token: &JoinToken| AgentCommand::IssueToken {
            name: token.agent.clone(),
            token: token.id,
            secret: token.hash(),
            expires_at: at(60_000),
            at: at(0),
        };
        let commands = [
            issue(&used),
            issue(&late),
            enrollment(used.clone(), key('A'))(at(1)),
        ];
        let agent = commands.iter().fold(Agent::default(), |agent, command| {
            let events = agent.decide(command).expect("accepted");
            events.iter().fold(agent, Agent::evolve)
        });
        let registry = Registry::default();
        registry.agents().take(&used.agent, &agent, &[], 3);
        for (token, key, now, refused) in [
            (&used, key('B'), 2, Some(AgentRejection::TokenUsed)),
            (&used, key('A'), 90_000, None),
            (&late, key('B'), 2, None),
            (&late, key('B'), 60_000, Some(AgentRejection::TokenExpired)),
            // Another replica may have issued it just now.
            (&unknown, key('B'), 2, None),
        ] {
            assert_eq!(
                spent(&registry, Some(at(now)), token, &key),
                refused,
                "{token:?} at {now}"
            );
        }
        assert_eq!(spent(&registry, None, &used, &key('B')), None);
    }

    #[test]
    fn a_machine_outside_learns_nothing_of_what_is_wrong_and_a_flood_of_refusals_is_counted() {
        let refusals = Refusals::default();
        let error = BusError::Unavailable("nats://10.0.0.7:4222: connection refused".to_owned());
        let answer = answered(&token(1), Err(error.into()), &refusals);
        let EnrollAnswer::Unavailable { reason } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(reason, UNAVAILABLE);
        assert_eq!(refusals.all().count(), 0);
        for _ in 0..3 {
            let refused = Err(CommandError::Rejected(AgentRejection::TokenUsed));
            let answer = answered(&token(1), refused, &refusals);
            assert_eq!(
                answer,
                EnrollAnswer::Refused {
                    code: TokenRefusal::TokenUsed
                }
            );
        }
        let counted: Vec<_> = refusals.all().collect();
        assert_eq!(counted, [(SubjectKind::Control, Reason::Token, 3)]);
    }
}
