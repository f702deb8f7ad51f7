//! Canaries: what each replica sends to itself, and what others learn from it.

use crate::{
    error::BusError,
    ordered_reader::OrderedReader,
    streams::{self, HEARTBEATS_STREAM},
    subjects::{self, Sign},
};
use async_nats::jetstream::{Context, Message, consumer::DeliverPolicy};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

/// How often a replica sends its canary.
pub const CANARY_EVERY: Duration = Duration::from_secs(1);
/// How long a stream takes to send what it keeps.
const STORED_WITHIN: Duration = Duration::from_secs(1);
/// How long to listen to the other replicas. One that loses its journal finds that out within two seconds, or as it reconnects,
/// and its next canary says so.
const LISTEN: Duration = Duration::from_secs(5);
/// How long to listen to replicas that have never read a commit, so that they have none to lose: until each that runs has said so
/// again.
const LISTEN_TO_NEW: Duration = Duration::from_millis(1_250);

#[derive(Serialize, Deserialize)]
pub(crate) struct Canary {
    pub(crate) nonce: Uuid,
    /// Whether the replica has lost the journal, so that it appends nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) without_journal: bool,
    /// Whether the replica has read a commit; absent from replicas that don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) has_read: Option<bool>,
}

/// The name of a running replica, other than `own`, that has lost the journal. Returns at once if no other replica has ever sent a
/// canary.
pub(crate) async fn replica_without_journal(
    js: &Context,
    own: Option<&str>,
) -> Result<Option<String>, BusError> {
    let Some(stream) = streams::find(js, HEARTBEATS_STREAM).await? else {
        return Ok(None);
    };
    if stream.cached_info().state.messages == 0 {
        return Ok(None);
    }
    let mut canaries = OrderedReader::new(&stream, subjects::CANARIES, DeliverPolicy::LastPerSubject).await?;
    let begun = Instant::now();
    let (mut is_live, mut others, mut listens) = (false, false, STORED_WITHIN);
    loop {
        let Ok(message) = timeout_at(begun + listens, canaries.next()).await else {
            return Ok(None);
        };
        let message = message?;
        if let Some((replica, canary)) = read(&message).filter(|(replica, _)| Some(*replica) != own) {
            others = true;
            listens = listens.max(match canary.has_read {
                Some(false) => LISTEN_TO_NEW,
                Some(true) | None => LISTEN,
            });
            // What the stream has kept may be from a replica that no longer runs.
            if is_live && canary.without_journal {
                return Ok(Some(replica.to_owned()));
            }
        }
        is_live |= message.info().map_err(BusError::unavailable)?.pending == 0;
        if is_live && !others {
            return Ok(None);
        }
    }
}

fn read(message: &Message) -> Option<(&str, Canary)> {
    match subjects::sign(&message.subject)? {
        Sign::Canary(replica) => Some((replica, serde_json::from_slice(&message.payload).ok()?)),
        Sign::Heartbeat(_) => None,
    }
}
