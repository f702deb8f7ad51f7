//! A machine that joins asks a replica to enroll its key: JSON over request and reply on `reveille.control._join.<key>`. Its
//! permissions let it ask there and nowhere else, so the key in the subject is the one it has proven to hold.

use crate::{
    access::{JoinToken, NatsKey},
    connection::Connection,
    error::BusError,
    messages,
    refusals::{Reason, Refusals, SubjectKind},
    subjects,
};
use async_nats::{Client, Subject, Subscriber};
use backon::{BackoffBuilder, ConstantBuilder};
use futures::StreamExt;
use reveille_domain::{AgentKey, AgentRejection};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::sleep;
use tracing::{debug, warn};

/// The queue group in which all API replicas share the requests.
const QUEUE_GROUP: &str = "reveille-join";
/// How long a replica may take before the request is sent again: it appends to the journal.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How often the request is sent again, and after which pause. A server that reads its config again ends connections, and with them
/// a request on its way; the replicas are back within seconds.
const RETRIES: ConstantBuilder = ConstantBuilder::new()
    .with_delay(Duration::from_secs(2))
    .with_max_times(2);

/// The answer to a request to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum EnrollAnswer {
    /// The machine's key is the agent's key now.
    Enrolled,
    /// The token enrolls nobody, or no longer.
    Refused {
        /// Why.
        code: TokenRefusal,
    },
    /// The hub can't enroll anybody now.
    Unavailable {
        /// What is in the way, in words that tell a machine outside nothing about the hub.
        reason: String,
    },
}

/// Why a token enrolls nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenRefusal {
    /// It doesn't exist, has another secret, was revoked, or was forgotten for later ones.
    TokenUnknown,
    /// It has enrolled another machine.
    TokenUsed,
    /// It has expired.
    TokenExpired,
}

impl TokenRefusal {
    /// The refusal as the journal's rules have it; `None` for what isn't about a token.
    #[must_use]
    pub const fn of(rejection: &AgentRejection) -> Option<Self> {
        match rejection {
            AgentRejection::TokenUnknown => Some(Self::TokenUnknown),
            AgentRejection::TokenUsed => Some(Self::TokenUsed),
            AgentRejection::TokenExpired => Some(Self::TokenExpired),
            AgentRejection::SessionSuperseded { .. } | AgentRejection::TokenTooLong => None,
        }
    }
}

/// Asks to enroll `key`, over a connection that was made with this key and this token.
///
/// # Errors
/// When no answer comes in time. The machine may be enrolled all the same; the same request again is safe.
pub async fn ask(
    connection: &Connection,
    key: &NatsKey,
    token: &JoinToken,
) -> Result<EnrollAnswer, BusError> {
    let public = key.public();
    let attempt = async || {
        let inbox = format!("{}.{}", subjects::joining_inbox(&public), messages::nonce());
        let subject = subjects::join_request(&public);
        messages::request(connection.client(), subject, inbox, ANSWERS_WITHIN, token).await
    };
    retried(attempt).await
}

/// Repeats a failed attempt. If none succeeds, the first error tells most: later ones may only follow from it.
async fn retried<A>(mut attempt: impl AsyncFnMut() -> Result<A, BusError>) -> Result<A, BusError> {
    let first = match attempt().await {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    for pause in RETRIES.build() {
        sleep(pause).await;
        if let Ok(answer) = attempt().await {
            return Ok(answer);
        }
    }
    Err(first)
}

/// The requests of machines that join, shared among the replicas.
pub struct EnrollRequests {
    client: Client,
    subscription: Subscriber,
    refusals: Refusals,
}

/// A request that awaits its answer.
pub struct EnrollRequest {
    /// The machine's public key, which the server's permissions guarantee.
    pub key: AgentKey,
    /// The token that it has shown.
    pub token: JoinToken,
    client: Client,
    reply: Subject,
}

impl EnrollRequests {
    /// Joins the replicas that answer, and counts in `refusals` the requests it drops.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn subscribe(client: &Client, refusals: &Refusals) -> Result<Self, BusError> {
        Ok(Self {
            client: client.clone(),
            subscription: messages::subscribe(client, subjects::JOIN_REQUESTS, Some(QUEUE_GROUP)).await?,
            refusals: refusals.clone(),
        })
    }

    /// The next well-formed request. `None` when the connection is closed.
    pub async fn next(&mut self) -> Option<EnrollRequest> {
        loop {
            let message = self.subscription.next().await?;
            let key = subjects::joining_key(&message.subject)
                .filter(|key| NatsKey::is_public_user_key(key))
                .and_then(|key| AgentKey::parse(key).ok());
            let token = serde_json::from_slice(&message.payload).ok();
            let (Some(key), Some(token), Some(reply)) = (key, token, message.reply) else {
                self.dropped(Reason::Malformed);
                continue;
            };
            // A sender can name any reply subject, and replicas may publish to every agent's inbox.
            let own = format!("{}.", subjects::joining_inbox(key.as_str()));
            if !reply.starts_with(&own) {
                self.dropped(Reason::ReplySubject);
                continue;
            }
            return Some(EnrollRequest {
                key,
                token,
                client: self.client.clone(),
                reply,
            });
        }
    }

    fn dropped(&self, reason: Reason) {
        if let Some(so_far) = self.refusals.count(SubjectKind::Control, reason) {
            let reason: &str = reason.into();
            warn!(reason, refused.so_far = so_far, "dropped a request to join");
        }
    }
}

impl EnrollRequest {
    /// Answers the request.
    pub async fn answer(self, answer: &EnrollAnswer) {
        let Ok(payload) = serde_json::to_vec(answer) else {
            return;
        };
        if let Err(error) = self.client.publish(self.reply, payload.into()).await {
            debug!(%error, "can't answer a request to join");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_nobody_answers_is_repeated_after_a_pause_and_the_first_error_is_kept() {
        let began = Instant::now();
        let answered_at = |at: usize| async move {
            let mut attempts = 0;
            let outcome = retried(async || {
                attempts += 1;
                match attempts == at {
                    true => Ok(()),
                    false => Err(BusError::Unavailable(format!("no responders, {attempts}"))),
                }
            });
            let outcome = outcome.await.map_err(|error| error.to_string());
            (outcome, attempts)
        };
        assert_eq!(answered_at(3).await, (Ok(()), 3));
        assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
        let (outcome, attempts) = answered_at(9).await;
        assert_eq!(attempts, 3);
        assert!(outcome.unwrap_err().ends_with("no responders, 1"));
    }
}
