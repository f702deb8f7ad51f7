//! The two streams: created when they are missing, checked when they exist.

use crate::{error::BusError, subjects};
use async_nats::jetstream::{
    Context,
    context::GetStreamErrorKind,
    stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType, Stream},
};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use tracing::{info, warn};

/// The stream of the journal, the only source of truth.
pub const JOURNAL_STREAM: &str = "REVEILLE_EVENTS";
/// The stream of each agent's last heartbeat and each replica's last canary.
pub const HEARTBEATS_STREAM: &str = "REVEILLE_HEARTBEATS";

/// The settings of the journal.
pub(crate) fn journal() -> Config {
    Config {
        name: JOURNAL_STREAM.to_owned(),
        description: Some("Reveille's journal: every commit, forever".to_owned()),
        subjects: vec![subjects::EVENTS.to_owned()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        // A full journal refuses writes and keeps every commit.
        discard: DiscardPolicy::New,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        republish: Some(Republish {
            source: subjects::EVENTS.to_owned(),
            destination: subjects::FACTS.to_owned(),
            headers_only: false,
        }),
        ..Config::default()
    }
}

fn heartbeats() -> Config {
    Config {
        name: HEARTBEATS_STREAM.to_owned(),
        description: Some("Reveille's heartbeats: the last one of each agent and replica".to_owned()),
        subjects: vec![subjects::HEARTBEATS.to_owned()],
        // A memory stream wouldn't survive a server's restart.
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_messages_per_subject: 1,
        // An acknowledgement would go to any reply subject that the sender names.
        no_ack: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// Copies of each stream in a cluster. A server can't tell whether it has two peers or still waits for them, so the
/// streams are never created with fewer; an operator who wants another number creates them by hand.
const REPLICAS: usize = 3;

/// Creates the streams that are missing (with three replicas in a cluster) and checks those that exist.
///
/// # Errors
/// When NATS isn't available, or a stream has other settings.
pub async fn ensure_streams(js: &Context) -> Result<(), BusError> {
    ensure(js, JOURNAL_STREAM, journal()).await?;
    ensure(js, HEARTBEATS_STREAM, heartbeats()).await
}

/// Creates the streams that are missing; a role that may not create them checks instead whether they exist.
pub(crate) async fn ready_streams(js: &Context, makes_streams: bool) -> Result<(), BusError> {
    if makes_streams {
        return ensure_streams(js).await;
    }
    for (stream, look) in inspect_streams(js).await? {
        match look {
            StreamHealth::Missing => return Err(BusError::NoStream { stream }),
            StreamHealth::Differs(difference) => return Err(BusError::StreamMismatch { stream, difference }),
            StreamHealth::Sound { .. } => {}
        }
    }
    Ok(())
}

/// What an inspection finds out about a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamHealth {
    /// The stream doesn't exist.
    Missing,
    /// The stream has the settings that Reveille's guarantees depend on.
    Sound {
        /// The number of its copies.
        replicas: usize,
        /// The usual number of copies on this server or cluster.
        usual: usize,
        /// The sequence of its last message; 0 before the first.
        last_sequence: u64,
    },
    /// The stream has other settings, named in the text.
    Differs(String),
}

/// Inspects both streams without creating any.
///
/// # Errors
/// When NATS isn't available.
pub async fn inspect_streams(js: &Context) -> Result<[(&'static str, StreamHealth); 2], BusError> {
    Ok([
        (JOURNAL_STREAM, look(js, JOURNAL_STREAM, &journal()).await?),
        (
            HEARTBEATS_STREAM,
            look(js, HEARTBEATS_STREAM, &heartbeats()).await?,
        ),
    ])
}

async fn look(js: &Context, name: &'static str, ours: &Config) -> Result<StreamHealth, BusError> {
    let stream = match js.get_stream(name).await {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                GetStreamErrorKind::JetStream(ref api) if is_not_found(api) => Ok(StreamHealth::Missing),
                _ => Err(BusError::unavailable(error)),
            };
        }
    };
    let info = stream.cached_info();
    let clustered = js.client().server_info().cluster.is_some();
    Ok(match check(name, ours, &info.config) {
        Err(BusError::StreamMismatch { difference, .. }) => StreamHealth::Differs(difference),
        Err(error) => return Err(error),
        Ok(()) => StreamHealth::Sound {
            replicas: info.config.num_replicas,
            usual: if clustered { REPLICAS } else { 1 },
            last_sequence: info.state.last_sequence,
        },
    })
}

/// A stream with its current state.
pub(crate) async fn open(js: &Context, name: &str) -> Result<Stream, BusError> {
    js.get_stream(name).await.map_err(BusError::unavailable)
}

async fn ensure(js: &Context, name: &'static str, ours: Config) -> Result<(), BusError> {
    let clustered = js.client().server_info().cluster.is_some();
    let num_replicas = if clustered { REPLICAS } else { 1 };
    match js.get_stream(name).await {
        Ok(stream) => {
            let theirs = &stream.cached_info().config;
            check(name, &ours, theirs)?;
            report_replicas(name, theirs.num_replicas, num_replicas);
            Ok(())
        }
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(ref api) if is_not_found(api) => {
                let config = Config { num_replicas, ..ours };
                js.create_stream(config).await.map_err(BusError::unavailable)?;
                info!(
                    nats.stream = name,
                    stream.replicas = num_replicas,
                    "created the stream {name}"
                );
                Ok(())
            }
            _ => Err(BusError::unavailable(error)),
        },
    }
}

/// The warnings given so far. One per process is enough, and every follower ensures its streams.
static REPORTED: Mutex<BTreeSet<(&str, usize)>> = Mutex::new(BTreeSet::new());

/// Warns of an unusual number of replicas: an operator may want it so, or may not know.
fn report_replicas(name: &'static str, found: usize, usual: usize) {
    if found == usual {
        return;
    }
    let mut reported = REPORTED.lock();
    if reported.insert((name, found)) {
        warn!(
            nats.stream = name,
            stream.replicas = found,
            "the stream {name} has {found} replicas instead of the usual {usual}"
        );
    }
}

/// Marks a journal that is being restored.
pub(crate) const IMPORTING: &str = "reveille.importing";

/// Whether an import into this stream was started and hasn't finished.
pub(crate) fn is_importing(config: &Config) -> bool {
    config.metadata.contains_key(IMPORTING)
}

pub(crate) fn is_not_found(error: &async_nats::jetstream::Error) -> bool {
    error.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND
}

/// Compares the settings that the guarantees depend on. Replicas, placement, sizes and descriptions may differ.
fn check(stream: &'static str, ours: &Config, theirs: &Config) -> Result<(), BusError> {
    if is_importing(theirs) {
        return Err(BusError::StreamMismatch {
            stream,
            difference: "an import into it was started and never finished; run the import again".to_owned(),
        });
    }
    let mut differences = vec![];
    let mut compare = |setting: &str, ours: String, theirs: String| {
        if ours != theirs {
            differences.push(format!("{setting} is {theirs}, should be {ours}"));
        }
    };
    macro_rules! compare {
        ($($setting:ident),*) => {
            $(compare(stringify!($setting), format!("{:?}", ours.$setting), format!("{:?}", theirs.$setting));)*
        };
    }
    compare!(
        subjects,
        storage,
        retention,
        discard,
        deny_delete,
        deny_purge,
        no_ack,
        max_age
    );
    compare!(
        allow_rollup,
        allow_message_ttl,
        allow_message_schedules,
        sealed,
        republish,
        mirror,
        sources
    );
    compare!(
        subject_transform,
        persist_mode,
        allow_atomic_publish,
        allow_message_counter
    );
    let unlimited = |limit: i64| if limit <= 0 { -1 } else { limit };
    compare(
        "max_messages_per_subject",
        unlimited(ours.max_messages_per_subject).to_string(),
        unlimited(theirs.max_messages_per_subject).to_string(),
    );
    if differences.is_empty() {
        return Ok(());
    }
    Err(BusError::StreamMismatch {
        stream,
        difference: differences.join("; "),
    })
}
