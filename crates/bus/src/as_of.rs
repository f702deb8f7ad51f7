//! Everything as of a moment of the past. A commit carries the state after it, so the last commit of each aggregate up to
//! then is enough: the server finds them, without a fold.

use crate::{
    archive::ArchivedCommit,
    commit::{self, AnyCommit, Commit, CommitError},
    error::BusError,
    journal::Journal,
    streams::{self, JOURNAL_STREAM},
    subjects::{self, AggregateId},
    upcast,
};
use async_nats::{
    HeaderMap, Message,
    header::{NATS_SEQUENCE, NATS_SUBJECT},
    jetstream::stream::Stream,
};
use cqrs_es::Aggregate;
use futures::{StreamExt, TryStreamExt};
use reveille_domain::{
    Agent, Key, Provider, Timestamp,
    as_of::{Author, Changes, Known, Moment, World},
};
use serde::Serialize;
use std::time::Duration;

/// How many aggregates a question names. The server answers for at most 1,024.
const SUBJECTS_A_QUESTION: usize = 512;
/// How long the server may take to send the next message of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The status of the message behind the last one of an answer.
const END_OF_BATCH: u16 = 204;
/// The status of an answer without messages.
const NOTHING_FOUND: u16 = 404;

/// A question for messages of a stream.
#[derive(Serialize)]
struct Question<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    multi_last: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    up_to_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<u32>,
}

impl Journal {
    /// Everything as of `moment`. A sequence behind the end means the end.
    ///
    /// # Errors
    /// When NATS isn't available.
    pub async fn as_of(&self, moment: Moment) -> Result<World, BusError> {
        let stream = streams::open(self.jetstream(), JOURNAL_STREAM).await?;
        let sequence = self.sequence_as_of(moment).await?;
        let mut world = World {
            sequence,
            ..World::default()
        };
        if sequence == 0 {
            return Ok(world);
        }
        let subjects = stream.info_with_subjects(subjects::EVENTS).await;
        let subjects: Vec<String> = subjects
            .map_err(BusError::unavailable)?
            .map_ok(|(subject, _)| subject)
            .try_collect()
            .await
            .map_err(BusError::unavailable)?;
        for subjects in subjects.chunks(SUBJECTS_A_QUESTION) {
            let question = Question {
                multi_last: subjects,
                up_to_seq: Some(sequence),
                next_by_subj: None,
                start_time: None,
                batch: None,
            };
            for message in self.ask(&question).await? {
                take_message(&mut world, &stream, &message).await?;
            }
        }
        Ok(world)
    }

    /// The sequence of the last commit at `moment`; 0 before the first.
    ///
    /// # Errors
    /// When NATS isn't available.
    pub async fn sequence_as_of(&self, moment: Moment) -> Result<u64, BusError> {
        let last = self.last_sequence().await?;
        match moment {
            Moment::Sequence(sequence) => Ok(sequence.min(last)),
            Moment::Time(at) => self.sequence_at(at, last).await,
        }
    }

    /// The sequence of the last commit that was stored by `at`.
    async fn sequence_at(&self, at: Timestamp, last: u64) -> Result<u64, BusError> {
        // `at` means all of its millisecond.
        let question = Question {
            multi_last: &[],
            up_to_seq: None,
            next_by_subj: Some(subjects::EVENTS),
            start_time: Some(Moment::Time(at.plus(Duration::from_millis(1))).to_string()),
            batch: Some(1),
        };
        let next = self.ask(&question).await?;
        let next = next
            .first()
            .and_then(|message| sequence_of(message.headers.as_ref()?));
        Ok(next.map_or(last, |next| next.saturating_sub(1)))
    }

    /// Asks the server for messages, and returns all that it sends.
    async fn ask(&self, question: &Question<'_>) -> Result<Vec<Message>, BusError> {
        let client = self.jetstream().client();
        let question = serde_json::to_vec(question).map_err(BusError::unavailable)?;
        let inbox = client.new_inbox();
        let mut answers = client
            .subscribe(inbox.clone())
            .await
            .map_err(BusError::unavailable)?;
        let subject = format!("$JS.API.DIRECT.GET.{JOURNAL_STREAM}");
        let asked = client.publish_with_reply(subject, inbox, question.into()).await;
        asked.map_err(BusError::unavailable)?;
        let mut messages = vec![];
        loop {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.next()).await;
            let answer = answer.map_err(|_| BusError::unavailable("the journal's server doesn't answer"))?;
            let answer = answer.ok_or_else(|| BusError::unavailable("the connection was closed"))?;
            match answer.status.map(|status| status.as_u16()) {
                None => messages.push(answer),
                Some(END_OF_BATCH | NOTHING_FOUND) => return Ok(messages),
                Some(status) => {
                    let description = answer.description.unwrap_or_default();
                    return Err(BusError::unavailable(format!("{status} {description}")));
                }
            }
        }
    }
}

fn sequence_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(NATS_SEQUENCE)?.as_str().parse().ok()
}

async fn take_message(world: &mut World, stream: &Stream, message: &Message) -> Result<(), BusError> {
    let headers = message.headers.as_ref();
    let subject = headers.and_then(|headers| Some(headers.get(NATS_SUBJECT)?.as_str()));
    let (Some(subject), Some(sequence)) = (subject, headers.and_then(sequence_of)) else {
        return Err(BusError::unavailable(
            "the server's answer lacks a subject or a sequence",
        ));
    };
    let Some(id) = AggregateId::of_subject(subject) else {
        return Ok(());
    };
    let commit = match AnyCommit::decode(&id, &message.payload) {
        Err(CommitError::OlderState { .. }) => match &id {
            AggregateId::Agent(_) => upcast::commit_at::<Agent, _>(stream, &id, sequence)
                .await?
                .map(AnyCommit::Agent),
            AggregateId::Provider(_) => upcast::commit_at::<Provider, _>(stream, &id, sequence)
                .await?
                .map(AnyCommit::Provider),
            AggregateId::Key(_) => upcast::commit_at::<Key, _>(stream, &id, sequence)
                .await?
                .map(AnyCommit::Key),
        },
        decoded => decoded,
    };
    take(world, id, sequence, commit);
    Ok(())
}

/// Puts an aggregate's last commit into the world.
fn take(world: &mut World, id: AggregateId, sequence: u64, commit: Result<AnyCommit, CommitError>) {
    match (id, commit) {
        (AggregateId::Agent(id), Ok(AnyCommit::Agent(commit))) => {
            let state = commit.state;
            world.agents.insert(id, Known { sequence, state });
        }
        (AggregateId::Provider(id), Ok(AnyCommit::Provider(commit))) => {
            let state = commit.state;
            world.providers.insert(id, Known { sequence, state });
        }
        (AggregateId::Key(id), Ok(AnyCommit::Key(commit))) => {
            let state = commit.state;
            world.keys.insert(id, Known { sequence, state });
        }
        (id, Err(error)) => {
            world.unreadable.insert(id.to_string(), error.to_string());
        }
        (id, Ok(_)) => {
            let wrong = "it has a commit of another kind".to_owned();
            world.unreadable.insert(id.to_string(), wrong);
        }
    }
}

/// Puts a commit of an archive into the world, in the place of the aggregate's commit before it. A state of an older format
/// can't be read from one commit alone.
pub fn put(world: &mut World, commit: &ArchivedCommit) {
    world.sequence = commit.sequence;
    let Some(id) = AggregateId::of_subject(&commit.subject) else {
        return;
    };
    world.unreadable.remove(&id.to_string());
    let decoded = AnyCommit::decode(&id, &commit.payload);
    take(world, id, commit.sequence, decoded);
}

/// Takes a commit of an archive in as a change. One that can't be read changes nothing that could be shown.
pub fn change(changes: &mut Changes, commit: &ArchivedCommit) {
    let Some(id) = AggregateId::of_subject(&commit.subject) else {
        return;
    };
    let sequence = commit.sequence;
    let decoded = AnyCommit::decode(&id, &commit.payload);
    match (id, decoded) {
        (AggregateId::Agent(id), Ok(AnyCommit::Agent(commit))) => {
            changes.agent(&id, &commit.state, author(sequence, &commit));
        }
        (AggregateId::Provider(id), Ok(AnyCommit::Provider(commit))) => {
            let by = author(sequence, &commit).of_events(&commit.events);
            changes.provider(&id, &commit.state, by);
        }
        (AggregateId::Key(id), Ok(AnyCommit::Key(commit))) => {
            changes.key(&id, &commit.state, author(sequence, &commit));
        }
        (_, Ok(_) | Err(_)) => {}
    }
}

fn author<A: Aggregate>(sequence: u64, commit: &Commit<A>) -> Author {
    Author {
        sequence,
        at_ms: commit.at,
        command_id: commit.command_id,
        cause: commit.cause.clone(),
        key: None,
        request_id: None,
    }
}

/// When a commit of an archive was stored, or decided if that is all that is known.
#[must_use]
pub fn time_of(commit: &ArchivedCommit) -> Option<Timestamp> {
    let decided = || commit::outline(&commit.payload).map(|outline| outline.at);
    commit.stored_at.or_else(decided)
}
