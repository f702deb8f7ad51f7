//! The requests of this replica: those in flight, and the last ones that have ended.

use super::{Recording, outgoing::Outgoing, recording::Open};
use async_trait::async_trait;
use parking_lot::Mutex;
use reveille_bus::requests::RequestBatch;
use reveille_domain::{
    KeyId, Priority, RecordId, Timestamp,
    requests::{
        PastRequests, RecentRequests, RequestOutcome, RequestPage, RequestQuery, RequestRecord, Usage,
        UsageKey, UsagePage, UsageQuery, UsageTable,
    },
    rows::RowsError,
};
use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Weak},
    time::{SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;

/// Remembers the requests of this replica. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    inner: Arc<Inner>,
}

/// NATS time, if it is known.
type Clock = Box<dyn Fn() -> Option<Timestamp> + Send + Sync>;

pub(super) struct Inner {
    replica: Arc<str>,
    /// This run of the replica.
    run: Uuid,
    clock: Clock,
    ended: Mutex<Ended>,
    open: Mutex<HashMap<RecordId, Weak<Open>>>,
}

#[derive(Default)]
struct Ended {
    recent: RecentRequests,
    usage: UsageTable,
    outgoing: Outgoing,
    /// The number of the last batch of each run.
    taken_in: HashMap<Uuid, u64>,
    /// How many records of this replica are lost.
    lost: u64,
}

/// What is known of a request when it is received.
pub(crate) struct Received<'a> {
    pub id: &'a str,
    pub key: Option<&'a KeyId>,
    pub path: Cow<'static, str>,
    pub priority: Priority,
}

impl Recorder {
    /// Of the replica with this name; `clock` tells NATS time.
    pub fn new(replica: &str, clock: impl Fn() -> Option<Timestamp> + Send + Sync + 'static) -> Self {
        Self {
            inner: Arc::new(Inner {
                replica: replica.into(),
                run: Uuid::now_v7(),
                clock: Box::new(clock),
                ended: Mutex::default(),
                open: Mutex::default(),
            }),
        }
    }

    /// Begins the recording of a request.
    pub fn begin(&self, received: Received<'_>) -> Recording {
        let record_id = RecordId(Uuid::now_v7());
        let record = RequestRecord {
            record_id,
            request_id: received.id.to_owned(),
            replica: self.inner.replica.clone(),
            key: received.key.cloned(),
            path: received.path,
            model: None,
            stream: false,
            priority: received.priority,
            received_at_ms: self.inner.now(),
            steps: Vec::with_capacity(USUAL_STEPS),
            steps_left_out: 0,
            provider: None,
            wake_id: None,
            handed_over_ms: None,
            first_byte_ms: None,
            ended_ms: None,
            outcome: RequestOutcome::InFlight,
            status: None,
            error: None,
            tokens: None,
            answer_bytes: 0,
            stands_for: 1,
        };
        let open = Arc::new(Open::new(self.inner.clone(), record));
        self.inner.open.lock().insert(record_id, Arc::downgrade(&open));
        Recording::of(open)
    }

    /// NATS time, or else what this machine takes for it.
    pub fn now(&self) -> Timestamp {
        self.inner.now()
    }

    /// How many records of this run are lost, because there was no room for them while NATS was away.
    pub fn lost(&self) -> u64 {
        self.inner.ended.lock().lost
    }

    /// What has ended since the last batch; `None` if nothing has.
    pub(super) fn next_batch(&self, number: u64) -> Option<RequestBatch> {
        let mut ended = self.inner.ended.lock();
        let told = ended.outgoing.take()?;
        ended.lost += told.lost;
        drop(ended);
        Some(RequestBatch {
            records: told.records,
            usage: told.usage,
            lost: told.lost,
            ..self.empty_batch(number)
        })
    }

    pub(super) fn empty_batch(&self, number: u64) -> RequestBatch {
        let mut batch = RequestBatch::new(self.inner.replica.to_string(), self.inner.run, number);
        batch.open = self.inner.open.lock().len() as u64;
        batch
    }

    /// Takes in what the stream of requests has. What this run has told itself is here already.
    pub(super) fn take_in(&self, batch: RequestBatch) {
        if batch.run == self.inner.run {
            return;
        }
        let mut ended = self.inner.ended.lock();
        let last = ended.taken_in.entry(batch.run).or_default();
        if *last >= batch.number {
            return;
        }
        *last = batch.number;
        for row in batch.usage {
            ended.usage.add(row.key, row.usage);
        }
        for record in batch.records {
            ended.recent.push(record);
        }
    }

    /// The requests in flight as they are now.
    fn open(&self) -> Vec<Arc<RequestRecord>> {
        let open: Vec<_> = self
            .inner
            .open
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        let records = open.iter().filter_map(|open| open.now());
        records.map(Arc::new).collect()
    }
}

/// Most requests have so many steps.
const USUAL_STEPS: usize = 3;

impl Inner {
    fn now(&self) -> Timestamp {
        (self.clock)().unwrap_or_else(wall_clock)
    }

    /// Keeps the record of a request that has ended.
    pub fn keep(&self, record: RequestRecord) {
        self.open.lock().remove(&record.record_id);
        let (key, usage) = (UsageKey::of(&record), Usage::of(&record));
        let record = Arc::new(record);
        let mut ended = self.ended.lock();
        ended.usage.add(key.clone(), usage);
        ended
            .outgoing
            .add(&record, key, usage, |below| rand::random_range(0..below));
        let dropped = ended.recent.push(record);
        drop(ended);
        drop(dropped);
    }
}

/// Until NATS time is known.
fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[async_trait]
impl PastRequests for Recorder {
    async fn requests(&self, query: &RequestQuery) -> Result<RequestPage, RowsError> {
        let mut all = self.open();
        // A request that ends meanwhile is in both.
        all.extend(self.inner.ended.lock().recent.iter().cloned());
        RequestPage::of(all, query)
    }

    async fn request(&self, id: &str) -> Result<Vec<Arc<RequestRecord>>, RowsError> {
        let mut found = self.open();
        let record_id = id.parse().ok().map(RecordId);
        found.retain(|record| record.request_id == id || Some(record.record_id) == record_id);
        found.extend(self.inner.ended.lock().recent.find(id));
        found.sort_by_key(|record| Reverse(record.record_id));
        found.dedup_by_key(|record| record.record_id);
        Ok(found)
    }

    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, RowsError> {
        let rows: Vec<_> = self.inner.ended.lock().usage.rows().collect();
        UsagePage::of(rows, query)
    }
}
