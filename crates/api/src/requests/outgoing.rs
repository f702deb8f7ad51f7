//! What the stream of requests is still to be told: the records of those that have ended, and the sums of all.
//!
//! Of requests that went as most do, many a second say no more than a few: of those that end between two batches, some are kept, each
//! with the same chance. All others are kept.

use reveille_bus::requests::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};
use reveille_domain::requests::{RequestRecord, SLOW_MS, Usage, UsageKey, UsageRow, UsageTable};
use std::{collections::VecDeque, sync::Arc};

/// How many usual requests are kept of those that end between two batches, which are a second apart.
const MAX_USUAL: usize = 200;
/// How many records wait at most while NATS is away. The oldest are lost first.
const MAX_WAITING: usize = 8 * MAX_BATCH_RECORDS;

/// What has ended since the last batch.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    waiting: VecDeque<Arc<RequestRecord>>,
    usual: Vec<Arc<RequestRecord>>,
    /// How many usual ones have ended since the last batch.
    usual_ended: u32,
    usage: UsageTable,
    lost: u64,
}

/// The content of a batch.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub records: Vec<Arc<RequestRecord>>,
    pub usage: Vec<UsageRow>,
    /// How many records were lost since the last batch.
    pub lost: u64,
}

impl Outgoing {
    /// A request has ended. `random` is a number below its argument, any with the same chance.
    pub fn add(
        &mut self,
        record: &Arc<RequestRecord>,
        key: UsageKey,
        usage: Usage,
        random: impl FnOnce(u32) -> u32,
    ) {
        self.usage.add(key, usage);
        if !record.is_usual(SLOW_MS) {
            return self.wait(record.clone());
        }
        self.usual_ended = self.usual_ended.saturating_add(1);
        if self.usual.len() < MAX_USUAL {
            self.usual.push(record.clone());
            return;
        }
        let place = random(self.usual_ended) as usize;
        if let Some(kept) = self.usual.get_mut(place) {
            *kept = record.clone();
        }
    }

    /// What the next batch has; `None` if there is nothing to be told.
    pub fn take(&mut self) -> Option<Told> {
        let stands_for = self.stand_for();
        for mut record in std::mem::take(&mut self.usual) {
            if stands_for > 1 {
                Arc::make_mut(&mut record).stands_for = stands_for;
            }
            self.wait(record);
        }
        self.usual_ended = 0;
        let (mut records, mut bytes) = (vec![], 0);
        while records.len() < MAX_BATCH_RECORDS
            && bytes < MAX_BATCH_BYTES
            && let Some(record) = self.waiting.pop_front()
        {
            bytes += record.bytes();
            records.push(record);
        }
        let told = Told {
            records,
            usage: self.usage.take(),
            lost: std::mem::take(&mut self.lost),
        };
        (!told.records.is_empty() || !told.usage.is_empty() || told.lost > 0).then_some(told)
    }

    /// For how many requests each of the usual ones stands that are kept.
    fn stand_for(&self) -> u32 {
        let kept = u32::try_from(self.usual.len()).unwrap_or(u32::MAX).max(1);
        (self.usual_ended + kept / 2) / kept
    }

    fn wait(&mut self, record: Arc<RequestRecord>) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(record);
    }
}
