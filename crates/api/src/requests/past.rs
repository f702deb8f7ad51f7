//! Requests of whatever time: in memory, in Postgres if there is one, and in the stream.

use super::Recorder;
use async_trait::async_trait;
use reveille_bus::requests::RequestLog;
use reveille_domain::{
    RecordId, Timestamp,
    requests::{PastRequests, RequestPage, RequestQuery, RequestRecord, UsagePage, UsageQuery},
    rows::RowsError,
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// How long the stream is searched for one request.
const SEARCHED_FOR: Duration = Duration::from_secs(5);
/// How long after it was received a request may be stored: no request lasts longer.
const STORED_WITHIN: Duration = Duration::from_secs(2 * 60 * 60);
/// How much the clock of a replica may differ from that of the server.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
/// How long the stream has requests.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// All requests that can be found.
pub(crate) struct EveryRequest {
    pub recorder: Recorder,
    pub postgres: Option<Arc<dyn PastRequests>>,
    pub log: Option<RequestLog>,
}

#[async_trait]
impl PastRequests for EveryRequest {
    async fn requests(&self, query: &RequestQuery) -> Result<RequestPage, RowsError> {
        let here = self.recorder.requests(query).await?;
        let Some(postgres) = self.postgres.as_ref().filter(|_| here.next.is_none()) else {
            return Ok(here);
        };
        let there = postgres.requests(query).await?;
        let more = there.next.is_some();
        let all = here.items.into_iter().chain(there.items);
        let mut page = RequestPage::of(all, query)?;
        if page.next.is_none() && more {
            page.next = page.items.last().map(RequestPage::cursor);
        }
        Ok(page)
    }

    async fn request(&self, id: &str) -> Result<Vec<Arc<RequestRecord>>, RowsError> {
        let here = self.recorder.request(id).await?;
        if !here.is_empty() {
            return Ok(here);
        }
        if let Some(postgres) = &self.postgres {
            let there = postgres.request(id).await?;
            if !there.is_empty() {
                return Ok(there);
            }
        }
        match &self.log {
            Some(log) => self.in_the_stream(log, id).await,
            None => Ok(here),
        }
    }

    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, RowsError> {
        match &self.postgres {
            Some(postgres) => postgres.usage(query).await,
            None => self.recorder.usage(query).await,
        }
    }
}

impl EveryRequest {
    /// Ids that are made here tell when they were; any other may be anywhere.
    async fn in_the_stream(&self, log: &RequestLog, id: &str) -> Result<Vec<Arc<RequestRecord>>, RowsError> {
        let record_id = Uuid::try_parse(id).ok();
        let (from, to) = record_id.and_then(received_at).map_or_else(
            || (self.recorder.now().minus(KEPT), Timestamp::from_millis(u64::MAX)),
            |at| (at.minus(CLOCKS_DIFFER), at.plus(STORED_WITHIN)),
        );
        let record_id = record_id.map(RecordId);
        let is_it =
            |record: &Arc<RequestRecord>| record.request_id == id || Some(record.record_id) == record_id;
        let found = log
            .search(from, to, SEARCHED_FOR, |batch| {
                batch.records.into_iter().find(is_it)
            })
            .await;
        match found {
            Ok(found) => Ok(found.into_iter().collect()),
            Err(error) => Err(RowsError::Unavailable(error.to_string())),
        }
    }
}

/// When a request was received whose id was made here.
fn received_at(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = id
        .get_timestamp()
        .filter(|_| id.get_version_num() == 7)?
        .to_unix();
    let millis = seconds
        .checked_mul(1_000)?
        .checked_add(u64::from(nanos) / 1_000_000)?;
    Some(Timestamp::from_millis(millis))
}
