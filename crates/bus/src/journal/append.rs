//! Appending: of two commits that build on the same one, the server stores one, and each writer learns which, even when
//! the answer is lost.

use super::{
    context::{CommitMeta, JournalContext, unreadable},
    load::{Journal, NO_JOURNAL},
};
use crate::{
    commit::Commit,
    error::BusError,
    health::{JournalExtent, JournalTrouble, NotStored},
    streams::{self, JOURNAL_STREAM},
    subjects::AggregateId,
};
use async_nats::{
    HeaderMap,
    client::{Request, RequestError, RequestErrorKind},
    jetstream::stream::RawMessageErrorKind,
};
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use cqrs_es::{Aggregate, DomainEvent};
use serde::Deserialize;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// How long one append waits for its acknowledgement before the subject is read again.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an append is retried while its outcome is unknown, or while the server can't take it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);
/// How long it is retried while the journal is read and doesn't store it. A nats-server whose disk is full doesn't answer
/// at all, and so is told from one that elects a leader, which can't be read either.
const GIVE_UP_STORING_AFTER: Duration = Duration::from_secs(4);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A lost compare-and-set: the plain code, and the one that a clustered stream answers.
const CONFLICT_CODES: [u64; 2] = [10071, 10164];
/// The message is larger than the stream takes.
const TOO_LARGE_CODE: u64 = 10054;
/// The server is at a limit or can't write: another attempt would end the same.
const UNABLE_CODES: [u64; 3] = [10023, 10047, 10077];
/// The stream is sealed.
const SEALED_CODE: u64 = 10109;
/// How the server begins the text of a code that also stands for a full disk, if the stream is at a limit of its own.
const AT_A_LIMIT: &str = "maximum ";

/// How an append ended.
pub(super) enum Appended {
    /// The commit is in the journal at this sequence.
    At(u64),
    /// Another commit came first.
    Conflict,
}

/// What the server answers to a published commit.
enum PublishOutcome {
    Stored(u64),
    /// The expected commit isn't the last one. A copy of this message may be the reason.
    Conflict,
    /// A copy of this message came before.
    Duplicate,
    TooLarge,
    /// This copy isn't in the journal and never will be.
    Refused(String),
    /// Nor will another one be, until somebody has changed something.
    NotStored(NotStored),
    /// There was no answer, or none that makes sense: the message may be in the journal.
    Unknown(String),
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

impl From<PubAck> for PublishOutcome {
    fn from(ack: PubAck) -> Self {
        match ack.error {
            Some(error) if CONFLICT_CODES.contains(&error.err_code) => Self::Conflict,
            Some(error) if error.err_code == TOO_LARGE_CODE => Self::TooLarge,
            Some(error) => {
                let why = format!("{} (code {})", error.description, error.err_code);
                let by_settings = error.err_code == SEALED_CODE || error.description.starts_with(AT_A_LIMIT);
                if by_settings || UNABLE_CODES.contains(&error.err_code) {
                    Self::NotStored(NotStored {
                        why,
                        by_settings,
                        journal: None,
                    })
                } else {
                    Self::Refused(why)
                }
            }
            None if ack.duplicate => Self::Duplicate,
            None if ack.seq == 0 => Self::Unknown("the acknowledgement names no sequence".to_owned()),
            None => Self::Stored(ack.seq),
        }
    }
}

impl From<&RequestError> for PublishOutcome {
    fn from(error: &RequestError) -> Self {
        match error.kind() {
            RequestErrorKind::MaxPayloadExceeded => Self::TooLarge,
            RequestErrorKind::NoResponders => {
                Self::Refused("no stream takes the journal's subjects".to_owned())
            }
            RequestErrorKind::InvalidSubject => Self::Refused(error.to_string()),
            RequestErrorKind::TimedOut => Self::Unknown("NATS acknowledges no commit".to_owned()),
            RequestErrorKind::Other => Self::Unknown(error.to_string()),
        }
    }
}

impl Journal {
    /// Appends the events that the context's aggregate has already applied.
    pub(super) async fn append<A: Aggregate + Clone>(
        &self,
        context: &JournalContext<A>,
        events: Vec<A::Event>,
        meta: &CommitMeta,
    ) -> Result<Appended, BusError> {
        let commit = context.next(events, meta);
        let payload = commit.encode().map_err(|error| unreadable(&context.id, &error))?;
        let headers = headers(&commit, context, meta);
        let begun = Instant::now();
        let mut ambiguous = false;
        let mut pauses = backoff().build();
        loop {
            let mut is_final = None;
            let outcome = self.publish(&context.id, payload.clone(), headers.clone()).await;
            let reason = match outcome {
                PublishOutcome::Stored(sequence) => return Ok(self.stored_at(sequence)),
                PublishOutcome::TooLarge => return Err(BusError::TooLarge { bytes: payload.len() }),
                PublishOutcome::Conflict => match self.find(context, meta).await {
                    Ok(found) => return Ok(found.unwrap_or(Appended::Conflict)),
                    // An earlier copy of this message may have caused the conflict.
                    Err(error) if ambiguous => error.to_string(),
                    Err(error) => return Err(error),
                },
                PublishOutcome::Duplicate => "a copy of the commit came before".to_owned(),
                PublishOutcome::Refused(reason) => reason,
                PublishOutcome::NotStored(refusal) => is_final.insert(refusal).why.clone(),
                PublishOutcome::Unknown(reason) => {
                    ambiguous = true;
                    reason
                }
            };
            // The commit may be in the journal, or still on its way there. Sending the same message again is safe: at
            // most one of the copies builds on the expected commit.
            match self.find(context, meta).await {
                Ok(Some(Appended::At(sequence))) => return Ok(self.stored_at(sequence)),
                Ok(Some(Appended::Conflict)) => return Ok(Appended::Conflict),
                Ok(None) => {
                    let unable = || NotStored {
                        why: reason.clone(),
                        by_settings: false,
                        journal: None,
                    };
                    let given_up = is_final.or_else(|| self.stores_nothing(begun).then(unable));
                    if let Some(given_up) = given_up {
                        return Err(self.not_stored(given_up).await);
                    }
                }
                Err(error @ BusError::NoStream { .. }) => return Err(error),
                Err(error) => {
                    warn!(aggregate.id = %context.id, %error, "can't tell yet whether an append took effect");
                }
            }
            if begun.elapsed() >= GIVE_UP_AFTER {
                return Err(match ambiguous {
                    true => BusError::Unknown(reason),
                    false => BusError::Unavailable(reason),
                });
            }
            warn!(aggregate.id = %context.id, %reason, "an append failed, trying again");
            tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    fn stored_at(&self, sequence: u64) -> Appended {
        self.health.stored(Ok(()));
        Appended::At(sequence)
    }

    /// Whether an append that began then and isn't in the journal is given up. If the journal has stored nothing before, one
    /// attempt is enough.
    fn stores_nothing(&self, begun: Instant) -> bool {
        let known = matches!(self.health.trouble(), Some(JournalTrouble::Full(_)));
        known || begun.elapsed() >= GIVE_UP_STORING_AFTER
    }

    async fn not_stored(&self, refusal: NotStored) -> BusError {
        let why = JournalTrouble::Full(refusal.why.clone());
        let stream = streams::open(&self.js, JOURNAL_STREAM).await.ok();
        let journal = stream.map(|stream| JournalExtent::of(stream.cached_info()));
        self.health.stored(Err(NotStored { journal, ..refusal }));
        self.health.trouble().unwrap_or(why).into()
    }

    async fn publish(&self, id: &AggregateId, payload: Bytes, headers: HeaderMap) -> PublishOutcome {
        let request = Request::new()
            .payload(payload)
            .headers(headers)
            .timeout(Some(ACK_TIMEOUT));
        let answer = match self.js.client().send_request(id.subject(), request).await {
            Ok(answer) => answer,
            Err(error) => return PublishOutcome::from(&error),
        };
        match serde_json::from_slice::<PubAck>(&answer.payload) {
            Ok(ack) => {
                if let Some(error) = &ack.error {
                    debug!(aggregate.id = %id, nats.code = error.err_code, "the server refused an append");
                }
                PublishOutcome::from(ack)
            }
            Err(error) => PublishOutcome::Unknown(error.to_string()),
        }
    }

    /// Finds out what became of an append. Its commit can be in one place only, directly behind the one that it builds
    /// on; `None` when that place is empty. (The command ids in later commits wouldn't do: while an answer is missing,
    /// other writers may append more commits than those ids reach back.)
    async fn find<A: Aggregate>(
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
            RawMessageErrorKind::JetStream(api) if streams::is_not_found(&api) => Err(NO_JOURNAL),
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
    // The sequence is part of the id: a command that is decided again after a conflict is another message.
    headers.insert(
        "Nats-Msg-Id",
        format!("{}-{}", meta.command_id, context.expected.sequence()),
    );
    headers.insert("Reveille-Event-Types", types);
    headers
}

/// The pauses between attempts: each one doubles, and part of it is random, so that rivals fall out of step.
pub(super) fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ack: &str) -> PublishOutcome {
        serde_json::from_str::<PubAck>(ack).expect("an answer").into()
    }

    fn refusal(code: u64) -> PublishOutcome {
        outcome(&format!(
            r#"{{"error":{{"code":400,"err_code":{code},"description":"why"}},"stream":"S","seq":0}}"#
        ))
    }

    #[test]
    fn every_answer_of_a_server_is_understood() {
        assert!(matches!(
            outcome(r#"{"stream":"S","seq":7}"#),
            PublishOutcome::Stored(7)
        ));
        let duplicate = outcome(r#"{"stream":"S","seq":7,"duplicate":true}"#);
        assert!(matches!(duplicate, PublishOutcome::Duplicate));
        // What a single server and a cluster answer to a lost race.
        assert!(matches!(refusal(10071), PublishOutcome::Conflict));
        assert!(matches!(refusal(10164), PublishOutcome::Conflict));
        assert!(matches!(refusal(10054), PublishOutcome::TooLarge));
        assert!(matches!(refusal(10008), PublishOutcome::Refused(reason) if reason.contains("why")));
        for code in UNABLE_CODES {
            assert!(matches!(refusal(code), PublishOutcome::NotStored(why) if !why.by_settings));
        }
        assert!(matches!(refusal(SEALED_CODE), PublishOutcome::NotStored(why) if why.by_settings));
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#;
        assert!(matches!(outcome(full), PublishOutcome::NotStored(why) if why.by_settings));
        // An answer that can't be relied on.
        assert!(matches!(outcome("{}"), PublishOutcome::Unknown(_)));
    }
}
