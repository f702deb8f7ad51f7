//! The streams: created when they are missing. The two that the hub depends on are checked when they exist.

use crate::{error::BusError, hub_id::HubId, subjects};
use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind},
    stream::{
        Config, DiscardPolicy, LastRawMessageErrorKind, Republish, RetentionPolicy, StorageType, Stream,
    },
};
use backon::{ConstantBuilder, Retryable};
use parking_lot::Mutex;
use std::{collections::BTreeSet, time::Duration};
use tracing::{info, warn};

/// The stream of the journal, the only source of truth.
pub const JOURNAL_STREAM: &str = "REVEILLE_EVENTS";
/// The stream of each agent's last heartbeat and each replica's last canary.
pub const HEARTBEATS_STREAM: &str = "REVEILLE_HEARTBEATS";

/// The stream of what replicas say of their requests.
pub const REQUESTS_STREAM: &str = "REVEILLE_REQUESTS";
/// How long requests are kept.
const REQUESTS_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How much space they may take, in bytes.
const REQUESTS_BYTES: i64 = 1024 * 1024 * 1024;

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

fn requests() -> Config {
    Config {
        name: REQUESTS_STREAM.to_owned(),
        description: Some("Reveille's requests: what was asked, of whom, and what came of it".to_owned()),
        subjects: vec![subjects::REQUESTS.to_owned()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_age: REQUESTS_KEPT,
        max_bytes: REQUESTS_BYTES,
        allow_direct: true,
        ..Config::default()
    }
}

/// Copies of each stream in a cluster. A server can't tell whether it has two peers or still waits for them, so the
/// streams are never created with fewer; an operator who wants another number creates them by hand.
const REPLICAS: usize = 3;
/// How often a stream whose store the server couldn't create is tried again, and the pause between: two seconds in all.
const CREATE_AGAIN: (usize, Duration) = (20, Duration::from_millis(100));

/// Creates the streams that are missing (with three replicas in a cluster) and checks those that exist.
///
/// # Errors
/// When NATS isn't available, or a stream has other settings.
pub async fn ensure_streams(js: &Context) -> Result<(), BusError> {
    ensure_journal(js).await?;
    ensure_heartbeats(js).await
}

/// Creates the journal if it is missing. Only for who knows that there is none to lose.
pub(crate) async fn ensure_journal(js: &Context) -> Result<(), BusError> {
    ensure(js, JOURNAL_STREAM, journal()).await
}

/// Creates the stream of heartbeats if it is missing.
pub(crate) async fn ensure_heartbeats(js: &Context) -> Result<(), BusError> {
    ensure(js, HEARTBEATS_STREAM, heartbeats()).await
}

/// Creates the stream of requests if it is missing. One that exists may have any settings: nothing depends on them.
pub(crate) async fn ensure_requests(js: &Context) -> Result<(), BusError> {
    if find(js, REQUESTS_STREAM).await?.is_some() {
        return Ok(());
    }
    ensure(js, REQUESTS_STREAM, requests()).await
}

/// The journal's health.
pub(crate) async fn inspect_journal(js: &Context) -> Result<StreamHealth, BusError> {
    look(js, JOURNAL_STREAM, &journal()).await
}

/// Whether these settings are still those of a journal that isn't being restored.
pub(crate) fn is_journal(config: &Config) -> bool {
    difference(&journal(), config).is_none()
}

/// Whether an agent was ever connected: an agent sends heartbeats only after control has committed its session, so there
/// was a journal that had it.
pub(crate) async fn had_agents(js: &Context) -> Result<bool, BusError> {
    let stream = js.get_stream_no_info(HEARTBEATS_STREAM).await;
    let stream = stream.map_err(BusError::unavailable)?;
    match stream
        .get_last_raw_message_by_subject(subjects::AGENTS_HEARTBEATS)
        .await
    {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(false),
            LastRawMessageErrorKind::JetStream(api) if is_not_found(&api) => Ok(false),
            _ => Err(BusError::unavailable(error)),
        },
    }
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
    /// The stream has other settings, named in the text, or is being restored.
    Differs(String),
}

/// The id of the hub, from its journal; `None` if there is none.
///
/// # Errors
/// When NATS isn't available.
pub async fn hub_id(js: &Context) -> Result<Option<HubId>, BusError> {
    let stream = find(js, JOURNAL_STREAM).await?;
    Ok(stream.map(|stream| HubId::of_journal(stream.cached_info())))
}

/// Inspects both streams without creating any.
///
/// # Errors
/// When NATS isn't available.
pub async fn inspect_streams(js: &Context) -> Result<[(&'static str, StreamHealth); 2], BusError> {
    Ok([
        (JOURNAL_STREAM, inspect_journal(js).await?),
        (
            HEARTBEATS_STREAM,
            look(js, HEARTBEATS_STREAM, &heartbeats()).await?,
        ),
    ])
}

async fn look(js: &Context, name: &str, ours: &Config) -> Result<StreamHealth, BusError> {
    let Some(stream) = find(js, name).await? else {
        return Ok(StreamHealth::Missing);
    };
    let info = stream.cached_info();
    Ok(match difference(ours, &info.config) {
        Some(difference) => StreamHealth::Differs(difference),
        None => StreamHealth::Sound {
            replicas: info.config.num_replicas,
            usual: usual_replicas(js),
            last_sequence: info.state.last_sequence,
        },
    })
}

fn usual_replicas(js: &Context) -> usize {
    let clustered = js.client().server_info().cluster.is_some();
    if clustered { REPLICAS } else { 1 }
}

/// A stream with its current state, if it exists.
pub(crate) async fn find(js: &Context, name: &str) -> Result<Option<Stream>, BusError> {
    match js.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(api) if is_not_found(&api) => Ok(None),
            _ => Err(BusError::unavailable(error)),
        },
    }
}

/// A stream with its current state.
pub(crate) async fn open(js: &Context, name: &str) -> Result<Stream, BusError> {
    js.get_stream(name).await.map_err(BusError::unavailable)
}

async fn ensure(js: &Context, stream: &'static str, ours: Config) -> Result<(), BusError> {
    let num_replicas = usual_replicas(js);
    if let Some(found) = find(js, stream).await? {
        let theirs = &found.cached_info().config;
        if let Some(difference) = difference(&ours, theirs) {
            return Err(BusError::StreamMismatch { stream, difference });
        }
        report_replicas(stream, theirs.num_replicas, num_replicas);
        return Ok(());
    }
    let config = Config { num_replicas, ..ours };
    create(js, config).await.map_err(BusError::unavailable)?;
    info!(
        nats.stream = stream,
        stream.replicas = num_replicas,
        "created the stream {stream}"
    );
    Ok(())
}

/// Creates a stream. After an account's last stream was deleted, the server removes the folder of its streams in the background;
/// a stream that is created just then finds no folder, and is refused.
async fn create(js: &Context, config: Config) -> Result<(), CreateStreamError> {
    let (times, pause) = CREATE_AGAIN;
    let again = ConstantBuilder::default().with_delay(pause).with_max_times(times);
    let create = || js.create_stream(config.clone());
    create.retry(again).when(is_without_store).await.map(drop)
}

/// Whether the server couldn't create the stream's store. Only its own log says why.
fn is_without_store(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(api)
        if api.error_code() == ErrorCode::STREAM_CREATE && api.to_string().contains("creating store"))
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
    error.error_code() == ErrorCode::STREAM_NOT_FOUND
}

/// Compares the settings that the guarantees depend on. Replicas, placement, sizes and descriptions may differ.
fn difference(ours: &Config, theirs: &Config) -> Option<String> {
    if is_importing(theirs) {
        let text = "an import into it was started and never finished; run the import again";
        return Some(text.to_owned());
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
        max_age,
        allow_rollup,
        allow_message_ttl,
        allow_message_schedules,
        sealed,
        republish,
        mirror,
        sources,
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
    (!differences.is_empty()).then(|| differences.join("; "))
}
