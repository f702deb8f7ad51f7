//! Appending: of two commits that stand on the same one the server takes one, and the writer learns which, even when the
//! answer is lost.

use super::{CommitMeta, Journal, JournalContext, unreadable};
use crate::{AggregateId, BusError, commit::Commit, streams};
use async_nats::{
    HeaderMap,
    client::{Request, RequestError, RequestErrorKind},
    jetstream::stream::RawMessageErrorKind,
};
use bytes::Bytes;
use cqrs_es::{Aggregate, DomainEvent};
use serde::Deserialize;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// How long one append waits for its acknowledgement; then the subject is read again.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// For how long an append is tried whose outcome isn't known, or that the server can't take now.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A lost compare-and-set: the plain code, and the one that a clustered stream answers.
const CONFLICT_CODES: [u64; 2] = [10071, 10164];
/// The message is larger than the stream takes.
const TOO_LARGE_CODE: u64 = 10054;

/// How an append ended.
pub(super) enum Appended {
    /// It is in the journal at this sequence, or the command was before.
    At(u64),
    /// Another commit came first.
    Conflict,
}

/// What the server says to a message.
enum Answer {
    Stored(u64),
    /// The expected commit isn't the last one. A copy of this message may be the reason.
    Conflict,
    /// A copy of this message came before.
    Duplicate,
    TooLarge,
    /// This copy isn't in the journal and never will be.
    Refused(String),
    /// None, or none that can be understood: it may be in the journal.
    None(String),
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl From<PubAck> for Answer {
    fn from(ack: PubAck) -> Self {
        match ack.error {
            Some(error) if CONFLICT_CODES.contains(&error.err_code) => Self::Conflict,
            Some(error) if error.err_code == TOO_LARGE_CODE => Self::TooLarge,
            Some(error) => Self::Refused(format!("{} (code {})", error.description, error.err_code)),
            None if ack.duplicate => Self::Duplicate,
            None if ack.seq == 0 => Self::None("the acknowledgement names no sequence".to_owned()),
            None => Self::Stored(ack.seq),
        }
    }
}

impl From<&RequestError> for Answer {
    fn from(error: &RequestError) -> Self {
        match error.kind() {
            RequestErrorKind::MaxPayloadExceeded => Self::TooLarge,
            RequestErrorKind::NoResponders => Self::Refused("nobody keeps the journal".to_owned()),
            RequestErrorKind::InvalidSubject => Self::Refused(error.to_string()),
            RequestErrorKind::TimedOut | RequestErrorKind::Other => Self::None(error.to_string()),
        }
    }
}

impl Journal {
    /// Appends the events that `context.aggregate()` has already applied.
    pub(super) async fn append<A: Aggregate + Clone>(
        &self,
        context: &JournalContext<A>,
        events: Vec<A::Event>,
        meta: &CommitMeta,
    ) -> Result<Appended, BusError> {
        let commit = context.next(events, meta);
        let payload = commit.encode().map_err(|error| unreadable(&context.id, &error))?;
        let headers = headers(&commit, context, meta);
        let give_up_at = Instant::now() + GIVE_UP_AFTER;
        let mut ambiguous = false;
        let mut attempt = 0;
        loop {
            let answer = self.publish(&context.id, payload.clone(), headers.clone()).await;
            let reason = match answer {
                Answer::Stored(sequence) => return Ok(Appended::At(sequence)),
                Answer::TooLarge => return Err(BusError::TooLarge { bytes: payload.len() }),
                Answer::Conflict => match self.resolve(context, meta).await {
                    Ok(found) => return Ok(found.unwrap_or(Appended::Conflict)),
                    // An earlier copy may be what this one stumbled over.
                    Err(error) if ambiguous => error.to_string(),
                    Err(error) => return Err(error),
                },
                Answer::Duplicate => "a copy of it came before".to_owned(),
                Answer::Refused(reason) => reason,
                Answer::None(reason) => {
                    ambiguous = true;
                    reason
                }
            };
            // It may be in the journal, or still on its way there. Trying the same message again is safe, since at most
            // one of the copies stands on the expected commit.
            match self.resolve(context, meta).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) => {
                    warn!(aggregate.id = %context.id, %error, "can't tell yet whether an append took effect");
                }
            }
            if Instant::now() >= give_up_at {
                return Err(match ambiguous {
                    true => BusError::Unknown(reason),
                    false => BusError::Unavailable(reason),
                });
            }
            warn!(aggregate.id = %context.id, %reason, "an append did not succeed, trying again");
            tokio::time::sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    async fn publish(&self, id: &AggregateId, payload: Bytes, headers: HeaderMap) -> Answer {
        let request = Request::new()
            .payload(payload)
            .headers(headers)
            .timeout(Some(ACK_TIMEOUT));
        let answer = match self.js.client().send_request(id.subject(), request).await {
            Ok(answer) => answer,
            Err(error) => return Answer::from(&error),
        };
        match serde_json::from_slice::<PubAck>(&answer.payload) {
            Ok(ack) => {
                if let Some(error) = &ack.error {
                    debug!(aggregate.id = %id, nats.code = error.err_code, "an append was refused");
                }
                Answer::from(ack)
            }
            Err(error) => Answer::None(error.to_string()),
        }
    }

    /// What became of an append: it can stand in one place only, directly behind the commit that it expects. `None` when
    /// nothing stands there. (The ids that commits remember would not do: while an answer is waited for, others may
    /// append more commits than those reach back.)
    async fn resolve<A: Aggregate>(
        &self,
        context: &JournalContext<A>,
        meta: &CommitMeta,
    ) -> Result<Option<Appended>, BusError> {
        let stream = self.stream().await?;
        let read = stream
            .raw_message_builder()
            .sequence(context.expected.sequence() + 1)
            .next_by_subject(context.id.subject())
            .send()
            .await;
        let error = match read {
            Ok(message) => {
                let commit = Commit::<A>::decode(&message.payload);
                let ours = commit.is_ok_and(|commit| commit.command_id == meta.command_id);
                return Ok(Some(match ours {
                    true => Appended::At(message.sequence),
                    false => Appended::Conflict,
                }));
            }
            Err(error) => error,
        };
        match error.kind() {
            RawMessageErrorKind::NoMessageFound => Ok(None),
            RawMessageErrorKind::JetStream(api) if streams::is_not_found(&api) => {
                streams::ensure_streams(&self.js).await?;
                Ok(None)
            }
            _ => Err(BusError::unavailable(error)),
        }
    }
}

fn headers<A: Aggregate>(commit: &Commit<A>, context: &JournalContext<A>, meta: &CommitMeta) -> HeaderMap {
    let types = commit
        .events
        .iter()
        .map(DomainEvent::event_type)
        .collect::<Vec<_>>()
        .join(",");
    let mut headers = HeaderMap::new();
    headers.insert(
        "Nats-Expected-Last-Subject-Sequence",
        context.expected.sequence().to_string(),
    );
    // The sequence belongs to the id: a command decided anew after a conflict is another message.
    headers.insert(
        "Nats-Msg-Id",
        format!("{}-{}", meta.command_id, context.expected.sequence()),
    );
    headers.insert("Reveille-Event-Types", types);
    headers
}

/// The pause before a further attempt: doubling, half of it random, so that rivals part.
pub(super) fn pause(attempt: u32) -> Duration {
    let pause = FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(attempt))
        .min(LONGEST_PAUSE);
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ack: &str) -> Answer {
        serde_json::from_str::<PubAck>(ack).expect("an answer").into()
    }

    fn refusal(code: u64) -> Answer {
        answer(&format!(
            r#"{{"error":{{"code":400,"err_code":{code},"description":"why"}},"stream":"S","seq":0}}"#
        ))
    }

    #[test]
    fn every_answer_of_a_server_is_understood() {
        assert!(matches!(answer(r#"{"stream":"S","seq":7}"#), Answer::Stored(7)));
        let duplicate = answer(r#"{"stream":"S","seq":7,"duplicate":true}"#);
        assert!(matches!(duplicate, Answer::Duplicate));
        // What one server and what a cluster say of a lost race.
        assert!(matches!(refusal(10071), Answer::Conflict));
        assert!(matches!(refusal(10164), Answer::Conflict));
        assert!(matches!(refusal(10054), Answer::TooLarge));
        assert!(matches!(refusal(10077), Answer::Refused(reason) if reason.contains("why")));
        // Nothing that can be relied on.
        assert!(matches!(answer("{}"), Answer::None(_)));
    }
}
