//! The query port on Postgres.

use crate::{ProjectorError, archive, columns::Columns, llms, requests, sql, wakes};
use async_trait::async_trait;
use reveille_domain::{
    WakeId,
    requests::{PastRequests, RequestPage, RequestQuery, RequestRecord, UsagePage, UsageQuery},
    rows::{
        Cursor, EventQuery, EventRow, LlmQuery, LlmRow, Page, PageLimit, Rows, RowsError, WakeQuery, WakeRow,
    },
};
use sqlx::{
    PgConnection, PgPool, Postgres, QueryBuilder,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};
use std::{sync::Arc, time::Duration};

/// The most connections for queries. Further queries wait.
const MAX_CONNECTIONS: u32 = 8;
/// How long a query waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a query may take, including the wait for a connection.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Begins the transaction of a query. Nothing follows from its end, so it is dropped.
const READ_ONLY: &str = "BEGIN READ ONLY";

/// The query port on the projector's tables. It only reads.
#[derive(Debug, Clone)]
pub struct PostgresRows {
    pool: PgPool,
}

/// A pool that connects when it is used, so that a database that is down at the start is an outage like any other.
pub(crate) fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options)
}

impl PostgresRows {
    /// The rows in the database at `url`. They connect when they are queried.
    ///
    /// # Errors
    /// When it isn't a database URL.
    pub fn new(url: &str) -> Result<Self, ProjectorError> {
        Ok(Self {
            pool: pool(sql::options(url)?, MAX_CONNECTIONS),
        })
    }

    async fn all(&self, mut sql: QueryBuilder<'_, Postgres>) -> Result<Vec<PgRow>, RowsError> {
        bounded(async {
            let mut tx = self.pool.begin_with(READ_ONLY).await?;
            sql::built(&mut sql).fetch_all(&mut *tx).await
        })
        .await
    }

    async fn page<T>(
        &self,
        mut sql: QueryBuilder<'_, Postgres>,
        min_seq: Option<u64>,
        limit: PageLimit,
        read: fn(&PgRow) -> sqlx::Result<T>,
        cursor: impl Fn(&T) -> Cursor,
    ) -> Result<Page<T>, RowsError> {
        // Read before the rows, which are therefore at least that new.
        let read_all = async {
            let mut tx = self.pool.begin_with(READ_ONLY).await?;
            let at = applied(&mut tx).await?;
            let is_there = min_seq.is_none_or(|seq| seq <= at);
            let rows = match is_there {
                true => Some(sql::built(&mut sql).fetch_all(&mut *tx).await?),
                false => None,
            };
            Ok((at, rows))
        };
        let (at, rows) = bounded(read_all).await?;
        let rows = rows.ok_or(RowsError::Behind { at })?;
        let rows = rows
            .iter()
            .map(read)
            .collect::<sqlx::Result<_>>()
            .map_err(unavailable)?;
        Ok(Page::cut(rows, limit, at, cursor))
    }
}

#[async_trait]
impl Rows for PostgresRows {
    async fn llms(&self, query: &LlmQuery) -> Result<Page<LlmRow>, RowsError> {
        let cursor = |row: &LlmRow| row.sort_key(query.sort.by).cursor();
        let sql = llms::select(query)?;
        self.page(sql, query.min_seq, query.limit, llms::read, cursor)
            .await
    }

    async fn wakes(&self, query: &WakeQuery) -> Result<Page<WakeRow>, RowsError> {
        let cursor = |row: &WakeRow| row.sort_key(query.sort.by).cursor();
        let sql = wakes::select(query)?;
        self.page(sql, query.min_seq, query.limit, wakes::read, cursor)
            .await
    }

    async fn wake(&self, id: WakeId) -> Result<Option<WakeRow>, RowsError> {
        let row = bounded(async {
            let mut tx = self.pool.begin_with(READ_ONLY).await?;
            sql::built(&mut wakes::select_one(id))
                .fetch_optional(&mut *tx)
                .await
        });
        let row = row.await?;
        row.as_ref().map(wakes::read).transpose().map_err(unavailable)
    }

    async fn events(&self, query: &EventQuery) -> Result<Page<EventRow>, RowsError> {
        let cursor = |row: &EventRow| row.position().cursor();
        let sql = archive::select(query)?;
        self.page(sql, query.min_seq, query.limit, archive::read, cursor)
            .await
    }

    async fn applied(&self) -> Result<u64, RowsError> {
        bounded(async {
            let mut tx = self.pool.begin_with(READ_ONLY).await?;
            applied(&mut tx).await
        })
        .await
    }
}

#[async_trait]
impl PastRequests for PostgresRows {
    async fn requests(&self, query: &RequestQuery) -> Result<RequestPage, RowsError> {
        let rows = self.all(requests::select(query)?).await?;
        requests::page(&rows, query).map_err(unavailable)
    }

    async fn request(&self, id: &str) -> Result<Vec<Arc<RequestRecord>>, RowsError> {
        let rows = self.all(requests::select_one(id)).await?;
        let records = rows.iter().map(requests::read);
        records.collect::<sqlx::Result<_>>().map_err(unavailable)
    }

    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, RowsError> {
        let rows = self.all(requests::select_usage(query)?).await?;
        requests::usage_page(&rows, query).map_err(unavailable)
    }
}

/// The last commit in the rows.
async fn applied(db: &mut PgConnection) -> sqlx::Result<u64> {
    let row = sql::query("SELECT stream_seq FROM checkpoint")
        .fetch_one(db)
        .await?;
    row.number("stream_seq")
}

async fn bounded<T>(query: impl Future<Output = sqlx::Result<T>>) -> Result<T, RowsError> {
    match tokio::time::timeout(QUERY_TIMEOUT, query).await {
        Ok(done) => done.map_err(unavailable),
        Err(_) => Err(RowsError::Unavailable(format!(
            "no answer within {QUERY_TIMEOUT:?}"
        ))),
    }
}

fn unavailable(error: impl std::fmt::Display) -> RowsError {
    RowsError::Unavailable(error.to_string())
}
