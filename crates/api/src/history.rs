//! The past without Postgres: rows and recent wakes from memory, which are recalled from the journal after a start; older events
//! from the journal. And events as they are committed.

use async_trait::async_trait;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use reveille_bus::{AggregateId, BusError, Connection, Follow, Followed, Follower, Journal, JournalEntry};
use reveille_domain::{
    WakeId,
    as_of::{Moment, World},
    rows::{
        EventQuery, EventRange, EventRow, LlmQuery, LlmRow, LoadedAt, MAX_HELD_WAKES, MemoryRows, Page,
        READ_WAIT, Rows, RowsError, SourceBody, WakeChange, WakeQuery, WakeRow, event_rows, wake_changes,
    },
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Reads the past.
#[async_trait]
pub(crate) trait Past: Send + Sync {
    /// Everything as of a moment.
    async fn as_of(&self, moment: Moment) -> Result<World, BusError>;
}

#[async_trait]
impl Past for Journal {
    async fn as_of(&self, moment: Moment) -> Result<World, BusError> {
        Self::as_of(self, moment).await
    }
}

/// How long the search of the journal for one page of events may take.
const READ_TIME: Duration = Duration::from_secs(5);
/// How many commits are read first in search of the newest events.
const STRETCH: u64 = 1_000;
/// How far back the journal is searched for wakes from before the start, in commits.
const RECALLED_COMMITS: u64 = 100_000;
/// How many clients may follow the events of one replica at once: each has a consumer of its own.
const MAX_FOLLOWERS: usize = 256;

/// [`Rows`] of a replica without Postgres.
pub(crate) struct JournalRows {
    pub(crate) memory: Arc<MemoryRows>,
    pub(crate) journal: Journal,
    /// Where the rows were loaded whose wakes from before are recalled.
    pub(crate) recalled: watch::Receiver<Option<LoadedAt>>,
}

#[async_trait]
impl Rows for JournalRows {
    async fn llms(&self, query: &LlmQuery) -> Result<Page<LlmRow>, RowsError> {
        self.memory.llms(query).await
    }

    async fn wakes(&self, query: &WakeQuery) -> Result<Page<WakeRow>, RowsError> {
        self.recalled().await;
        self.memory.wakes(query).await
    }

    async fn wake(&self, id: WakeId) -> Result<Option<WakeRow>, RowsError> {
        self.recalled().await;
        self.memory.wake(id).await
    }

    async fn events(&self, query: &EventQuery) -> Result<Page<EventRow>, RowsError> {
        match self.memory.events(query).await {
            Err(RowsError::NotHeld { .. }) => {
                let late = |_| RowsError::Unavailable("the journal took too long to search".to_owned());
                tokio::time::timeout(READ_TIME, self.read(query))
                    .await
                    .map_err(late)?
            }
            answered => answered,
        }
    }

    async fn applied(&self) -> Result<u64, RowsError> {
        self.memory.applied().await
    }
}

impl JournalRows {
    /// Waits until the wakes from before the start are there. That takes long only while the journal can't be read, and then
    /// the wakes that are there have to do.
    async fn recalled(&self) {
        let mut recalled = self.recalled.clone();
        let here = recalled.wait_for(|at| *at == Some(self.memory.loaded_at()));
        let _ = tokio::time::timeout(READ_WAIT, here).await;
    }

    async fn read(&self, query: &EventQuery) -> Result<Page<EventRow>, RowsError> {
        let applied = self.applied().await?;
        let cut = |rows| {
            Page::cut(rows, query.limit, applied, |row: &EventRow| {
                row.position().cursor()
            })
        };
        let aggregate = match (&query.aggregate_type, &query.aggregate_id) {
            (Some(kind), Some(id)) => match AggregateId::parse(kind, id) {
                Some(aggregate) => Some(aggregate),
                None => return Ok(cut(vec![])),
            },
            (None | Some(_), None) | (None, Some(_)) => None,
        };
        let rows = if query.sort.descending {
            self.newest(query, aggregate.as_ref()).await?
        } else {
            self.oldest(query, aggregate.as_ref()).await?
        };
        Ok(cut(rows))
    }

    /// The first matching events: one more than a page holds, which tells whether there are more.
    async fn oldest(
        &self,
        query: &EventQuery,
        aggregate: Option<&AggregateId>,
    ) -> Result<Vec<EventRow>, RowsError> {
        let range = query.range()?;
        let after_seq = range.after.stream_seq.saturating_sub(1);
        let entries = self.journal.read(after_seq, aggregate).await;
        let mut entries = std::pin::pin!(entries.map_err(unavailable)?);
        let mut rows = vec![];
        while rows.len() <= query.limit.rows() {
            let Some(entry) = entries.next().await else { break };
            rows.extend(wanted(&entry.map_err(unavailable)?, query, range));
        }
        Ok(rows)
    }

    /// The last matching events, newest first. The journal can only be read forwards: so it is read in stretches, each
    /// before the previous one, and twice as long.
    async fn newest(
        &self,
        query: &EventQuery,
        aggregate: Option<&AggregateId>,
    ) -> Result<Vec<EventRow>, RowsError> {
        let range = query.range()?;
        let floor = range.after.stream_seq.saturating_sub(1);
        let last = self.journal.last_sequence().await.map_err(unavailable)?;
        let mut end = range.before.map_or(last, |before| before.stream_seq.min(last));
        let mut stretch = STRETCH;
        let most = query.limit.rows() + 1;
        let mut rows = vec![];
        while end > floor && rows.len() < most {
            let begin = end.saturating_sub(stretch).max(floor);
            let entries = self.journal.read(begin, aggregate).await;
            let mut entries = std::pin::pin!(entries.map_err(unavailable)?);
            let mut found = VecDeque::new();
            while let Some(entry) = entries.next().await {
                let entry = entry.map_err(unavailable)?;
                if entry.sequence > end {
                    break;
                }
                found.extend(wanted(&entry, query, range));
                while found.len() > most {
                    found.pop_front();
                }
            }
            rows.extend(found.into_iter().rev());
            (end, stretch) = (begin, stretch.saturating_mul(2));
        }
        Ok(rows)
    }
}

/// Completes the wakes in `rows`: they begin with the last commit of each aggregate, whose state remembers little of the
/// earlier ones. Reads the journal backwards from there, until there are as many wakes as are held, for a bounded number of
/// commits.
pub(crate) async fn recall_wakes(
    journal: &Journal,
    rows: &MemoryRows,
    loaded_at: LoadedAt,
) -> Result<(), BusError> {
    let mut end = loaded_at.seq;
    let floor = end.saturating_sub(RECALLED_COMMITS);
    let (mut stretch, mut recalled) = (STRETCH, 0);
    let mut ends = HashMap::new();
    while end > floor && recalled < MAX_HELD_WAKES {
        let begin = end.saturating_sub(stretch).max(floor);
        let mut entries = std::pin::pin!(journal.read(begin, None).await?);
        let mut changes = vec![];
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if entry.sequence > end {
                break;
            }
            if let SourceBody::Provider { id, events, .. } = entry.row_source().body {
                changes.extend(wake_changes(&id, &events, entry.sequence));
            }
        }
        // From the newest on, so that a wake's end comes before its beginning.
        let mut wakes = vec![];
        for change in changes.into_iter().rev() {
            match change {
                WakeChange::Ended(end) => {
                    ends.insert(end.wake_id, end);
                }
                WakeChange::Requested(wake) => wakes.push(match ends.remove(&wake.wake_id) {
                    Some(end) => WakeChange::Ended(end).after(Some(wake)),
                    None => wake,
                }),
            }
        }
        recalled += wakes.len();
        if !rows.recall(loaded_at, wakes) {
            return Ok(());
        }
        (end, stretch) = (begin, stretch.saturating_mul(2));
    }
    Ok(())
}

fn wanted(entry: &JournalEntry, query: &EventQuery, range: EventRange) -> impl Iterator<Item = EventRow> {
    let rows = event_rows(&entry.row_source()).into_iter();
    rows.filter(move |row| range.contains(row.position()) && query.matches(row))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn unavailable(error: BusError) -> RowsError {
    RowsError::Unavailable(error.to_string())
}

/// Where events come from as they are committed.
pub(crate) trait EventFeed: Send + Sync {
    /// Every event of the commits after `after_seq`, in order: first those that the journal holds, then each new one;
    /// without it, the new ones only. The stream ends with an error when it can't go on; its reader then comes back
    /// with the last event it has seen.
    fn follow(&self, after_seq: Option<u64>) -> BoxStream<'static, Result<EventRow, RowsError>>;
}

/// Events as they are committed; each follower reads the journal for itself.
pub(crate) struct JournalFeed {
    connection: Connection,
    journal: Journal,
    /// Ends what is followed, since nothing else does.
    stop: CancellationToken,
    places: Arc<Semaphore>,
}

impl JournalFeed {
    pub(crate) fn new(connection: &Connection, journal: Journal, stop: CancellationToken) -> Self {
        Self {
            connection: connection.clone(),
            journal,
            stop,
            places: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        }
    }
}

struct Following {
    follower: Follower,
    /// Events up to this commit are skipped.
    after_seq: u64,
    read: VecDeque<EventRow>,
    _place: OwnedSemaphorePermit,
}

impl EventFeed for JournalFeed {
    fn follow(&self, after_seq: Option<u64>) -> BoxStream<'static, Result<EventRow, RowsError>> {
        let (connection, journal) = (self.connection.clone(), self.journal.clone());
        let place = self.places.clone().try_acquire_owned();
        let begun = async move {
            let place = place.map_err(|_| {
                RowsError::Unavailable(format!("{MAX_FOLLOWERS} clients already follow the events"))
            })?;
            let after_seq = match after_seq {
                Some(after_seq) => after_seq,
                None => journal.last_sequence().await.map_err(unavailable)?,
            };
            let checkpoint = match after_seq {
                0 => None,
                after_seq => journal.checkpoint(after_seq).await.map_err(unavailable)?,
            };
            let follower = Follower::new(&connection, Follow::After(checkpoint));
            Ok(Following {
                follower,
                after_seq,
                read: VecDeque::new(),
                _place: place,
            })
        };
        stream::once(begun)
            .map_ok(|following| stream::unfold(Some(following), next))
            .try_flatten()
            .take_until(self.stop.clone().cancelled_owned())
            .boxed()
    }
}

async fn next(following: Option<Following>) -> Option<(Result<EventRow, RowsError>, Option<Following>)> {
    let mut following = following?;
    loop {
        if let Some(row) = following.read.pop_front() {
            return Some((Ok(row), Some(following)));
        }
        match following.follower.next().await {
            Ok(Followed::Commit(entry)) if entry.sequence > following.after_seq => {
                following.read.extend(event_rows(&entry.row_source()));
            }
            Ok(Followed::Commit(_) | Followed::Interrupted | Followed::Reset | Followed::CaughtUp { .. }) => {
            }
            Err(error) => return Some((Err(unavailable(error)), None)),
        }
    }
}
