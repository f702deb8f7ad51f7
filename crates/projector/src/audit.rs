//! Whether the rows in Postgres equal the fold of the commits that are archived beside them.
//!
//! Everything is read from one snapshot: that in which [`ArchivedCommits`] reads the commits. Events and wakes are compared
//! page by page, as the commits come; what is one row per model, and the replay of each aggregate by `postgres-es`, at the end.

use crate::{
    archive,
    columns::{Columns, big},
    commits::{ArchivedCommits, postgres},
    llms,
    replay::{Replay, Replayed},
    sql, wakes,
};
use reveille_bus::{
    AggregateId,
    archive::{ArchiveError, ArchivedCommit, AuditBreach, Verifier},
    commit::CommitHash,
};
use reveille_domain::{
    ProviderId, WakeId,
    audit::Invariant,
    rows::{EventRow, LlmKey, LlmRow, RowSource, SourceBody, WakeRow, event_rows, llm_rows, wake_changes},
};
use sqlx::{Connection, Executor, PgConnection, postgres::PgRow};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
};
use uuid::Uuid;

/// How many commits are compared with one question for each table.
const PAGE_COMMITS: usize = 500;

/// What is wrong with a row that isn't there.
const MISSING: &str = "it is missing, or can't be read";

/// Compares rows with commits.
pub struct RowsAudit {
    db: PgConnection,
    replay: Replay,
    page: Vec<ArchivedCommit>,
    /// The wakes that have begun and not ended.
    in_flight: HashMap<WakeId, WakeRow>,
    wakes: u64,
    last: Option<(u64, CommitHash)>,
    rows: u64,
}

impl RowsAudit {
    /// Compares the rows of the database at `url`, in the snapshot that `commits` are read from.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn open(url: &str, commits: &mut ArchivedCommits) -> Result<Self, ArchiveError> {
        let options = sql::options(url).map_err(postgres)?;
        let snapshot = commits.snapshot().await?;
        let mut db = PgConnection::connect_with(&options).await.map_err(postgres)?;
        db.execute(&*snapshot).await.map_err(postgres)?;
        Ok(Self {
            db,
            replay: Replay::new(options, snapshot),
            page: vec![],
            in_flight: HashMap::new(),
            wakes: 0,
            last: None,
            rows: 0,
        })
    }

    /// How many rows were compared so far.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes in the next commit, and returns the differences of the page that it completes.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn take(&mut self, commit: ArchivedCommit) -> Result<Vec<AuditBreach>, ArchiveError> {
        self.last = Some((commit.sequence, CommitHash::of(&commit.payload)));
        self.page.push(commit);
        match self.page.len() < PAGE_COMMITS {
            true => Ok(vec![]),
            false => self.compare_page().await,
        }
    }

    /// Compares what is left, and what the last states of the aggregates lead to.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn finish(mut self, states: &Verifier) -> Result<(Vec<AuditBreach>, u64), ArchiveError> {
        let mut breaches = self.compare_page().await?;
        let in_flight = mem::take(&mut self.in_flight);
        let in_flight = in_flight
            .into_values()
            .map(|row| (row.requested_seq.unwrap_or_default(), row));
        breaches.extend(self.compare_wakes(in_flight.collect()).await?);
        breaches.extend(self.compare_totals().await?);
        breaches.extend(self.compare_llms(states).await?);
        // A pooler of transactions may have no third session.
        self.db.execute("ROLLBACK").await.map_err(postgres)?;
        breaches.extend(self.replay_all(states).await?);
        self.replay.end().await?;
        Ok((breaches, self.rows))
    }

    async fn compare_page(&mut self) -> Result<Vec<AuditBreach>, ArchiveError> {
        let page = mem::take(&mut self.page);
        let (Some(first), Some(last)) = (page.first(), page.last()) else {
            return Ok(vec![]);
        };
        let range = (first.sequence, last.sequence);
        let unreadable = self.unreadable(range).await.map_err(postgres)?;
        let mut stored = self.events(range).await?;
        let mut breaches = vec![];
        let mut ended = vec![];
        for commit in &page {
            let source = commit.events_source();
            self.rows += 1;
            if let Some(reason) = unreadable.get(&commit.sequence) {
                let what = format!("the projector has archived it as unreadable: {reason}");
                breaches.push(differs(&source, what));
                stored.remove(&commit.sequence);
                continue;
            }
            let stored = stored.remove(&commit.sequence).unwrap_or_default();
            breaches.extend(self.compare_events(&source, &stored));
            ended.extend(self.ended_wakes(&source));
        }
        // Commits that aren't in the archive at all break the sequence, and are found there.
        breaches.extend(self.compare_wakes(ended).await?);
        Ok(breaches)
    }

    /// The commits of the range that were archived as unreadable, and why.
    async fn unreadable(&mut self, (first, last): (u64, u64)) -> sqlx::Result<HashMap<u64, String>> {
        let found = sql::query(
            "SELECT stream_seq, unreadable FROM commits \
             WHERE stream_seq BETWEEN $1 AND $2 AND unreadable IS NOT NULL",
        );
        let found = found
            .bind(big(first))
            .bind(big(last))
            .fetch_all(&mut self.db)
            .await?;
        let read = |row: &PgRow| Ok((row.number("stream_seq")?, row.text("unreadable")?));
        found.iter().map(read).collect()
    }

    /// The stored events of the range, by their commit.
    async fn events(
        &mut self,
        (first, last): (u64, u64),
    ) -> Result<HashMap<u64, Vec<EventRow>>, ArchiveError> {
        let mut select = archive::select_range(first, last);
        let found = sql::built(&mut select)
            .fetch_all(&mut self.db)
            .await
            .map_err(postgres)?;
        let mut events: HashMap<u64, Vec<EventRow>> = HashMap::new();
        for event in readable(&found, archive::read) {
            events.entry(event.stream_seq).or_default().push(event);
        }
        Ok(events)
    }

    fn compare_events(&mut self, source: &RowSource, stored: &[EventRow]) -> Option<AuditBreach> {
        let expected = event_rows(source);
        self.rows += expected.len() as u64;
        if expected == stored {
            return None;
        }
        if expected.len() != stored.len() {
            let (has, should) = (stored.len(), expected.len());
            return Some(differs(
                source,
                format!("Postgres has {has} of its events, and should have {should}"),
            ));
        }
        let other = expected
            .iter()
            .zip(stored)
            .find(|(expected, stored)| expected != stored);
        let index = other.map_or(0, |(expected, _)| expected.index);
        Some(differs(
            source,
            format!("its event {index} in Postgres is another one"),
        ))
    }

    /// Takes in what happens to wakes, and returns those that have ended, with the sequence of the end.
    fn ended_wakes(&mut self, source: &RowSource) -> Vec<(u64, WakeRow)> {
        let SourceBody::Provider { id, events, .. } = &source.body else {
            return vec![];
        };
        let mut ended = vec![];
        for change in wake_changes(id, events, source.stream_seq) {
            let wake = change.wake_id();
            let before = self.in_flight.remove(&wake);
            self.wakes += u64::from(before.is_none());
            let row = change.after(before);
            match row.ended_seq {
                Some(seq) => ended.push((seq, row)),
                None => {
                    self.in_flight.insert(wake, row);
                }
            }
        }
        ended
    }

    async fn compare_wakes(
        &mut self,
        expected: Vec<(u64, WakeRow)>,
    ) -> Result<Vec<AuditBreach>, ArchiveError> {
        let ids: Vec<Uuid> = expected.iter().map(|(_, row)| row.wake_id.0).collect();
        if ids.is_empty() {
            return Ok(vec![]);
        }
        let stored = wakes::these(&mut self.db, ids).await.map_err(postgres)?;
        let stored: HashMap<_, _> = readable(&stored, wakes::read)
            .map(|row| (row.wake_id, row))
            .collect();
        self.rows += expected.len() as u64;
        let differing = expected.iter().filter_map(|(seq, row)| {
            let what = match stored.get(&row.wake_id) {
                Some(stored) if stored == row => return None,
                Some(stored) => fields(&differing_fields(stored, row)),
                None => MISSING.to_owned(),
            };
            let id = AggregateId::Provider(row.provider.clone());
            Some(of_aggregate(
                &id,
                *seq,
                format!("the row of wake {} differs: {what}", row.wake_id),
            ))
        });
        Ok(differing.collect())
    }

    /// Rows that belong to no commit, and the checkpoint.
    async fn compare_totals(&mut self) -> Result<Vec<AuditBreach>, ArchiveError> {
        let (last, hash) = match self.last {
            Some((last, hash)) => (last, hash.to_string()),
            None => (0, String::new()),
        };
        let found = sql::query(
            "SELECT (SELECT count(*) FROM events WHERE NOT stream_seq BETWEEN 1 AND $1) AS foreign_events, \
                    (SELECT count(*) FROM wakes) AS wakes, stream_seq, hash FROM checkpoint",
        );
        let found = found
            .bind(big(last))
            .fetch_one(&mut self.db)
            .await
            .map_err(postgres)?;
        let read = |row: &PgRow| {
            Ok::<_, sqlx::Error>((
                row.number("foreign_events")?,
                row.number("wakes")?,
                row.number("stream_seq")?,
                row.text("hash")?,
            ))
        };
        let (foreign, stored, checkpoint, stored_hash) = read(&found).map_err(postgres)?;
        let mut wrong = vec![];
        if foreign > 0 {
            wrong.push(format!(
                "Postgres has {foreign} events of commits that the archive lacks"
            ));
        }
        if stored != self.wakes {
            wrong.push(format!(
                "Postgres has {stored} wakes, and should have {}",
                self.wakes
            ));
        }
        if (checkpoint, &stored_hash) != (last, &hash) {
            wrong.push(format!(
                "the checkpoint is at commit {checkpoint}, not at this last one of the archive"
            ));
        }
        let breach = |what| AuditBreach {
            invariant: Invariant::Rows,
            sequence: last,
            subject: String::new(),
            what,
        };
        Ok(wrong.into_iter().map(breach).collect())
    }

    async fn compare_llms(&mut self, states: &Verifier) -> Result<Vec<AuditBreach>, ArchiveError> {
        let stored = llms::all(&mut self.db).await.map_err(postgres)?;
        // Heartbeats aren't in the journal.
        let stored = readable(&stored, llms::read).map(|row| LlmRow {
            last_heartbeat_ms: None,
            ..row
        });
        let mut stored: BTreeMap<_, _> = stored.map(|row| (LlmKey::of(&row), row)).collect();
        let mut breaches = vec![];
        let mut unknown = HashSet::new();
        for (id, last) in states.providers() {
            let Some(state) = last.state else {
                unknown.insert(id.clone());
                continue;
            };
            for row in llm_rows(state, last.sequence) {
                self.rows += 1;
                let what = match stored.remove(&LlmKey::of(&row)) {
                    Some(stored) if stored == row => continue,
                    Some(stored) => fields(&differing_fields(&stored, &row)),
                    None => MISSING.to_owned(),
                };
                let of = AggregateId::Provider(id.clone());
                let what = format!("the row of {} differs: {what}", row.name);
                breaches.push(of_aggregate(&of, last.sequence, what));
            }
        }
        for row in stored.into_values() {
            let id = ProviderId::new(row.agent.clone(), row.provider.clone());
            if !unknown.contains(&id) {
                let what = format!("there is a row of {}, which isn't published", row.name);
                breaches.push(of_aggregate(&AggregateId::Provider(id), row.updated_seq, what));
            }
        }
        Ok(breaches)
    }

    async fn replay_all(&mut self, states: &Verifier) -> Result<Vec<AuditBreach>, ArchiveError> {
        let mut breaches = vec![];
        for (name, last) in states.agents() {
            let id = AggregateId::Agent(name.clone());
            breaches.extend(replayed(&id, last.sequence, self.replay.run(&id, &last).await?));
        }
        for (provider, last) in states.providers() {
            let id = AggregateId::Provider(provider.clone());
            breaches.extend(replayed(&id, last.sequence, self.replay.run(&id, &last).await?));
        }
        for (key, last) in states.keys() {
            let id = AggregateId::Key(key.clone());
            breaches.extend(replayed(&id, last.sequence, self.replay.run(&id, &last).await?));
        }
        Ok(breaches)
    }
}

fn replayed(id: &AggregateId, sequence: u64, replayed: Replayed) -> Option<AuditBreach> {
    match replayed {
        Replayed::Same | Replayed::Unknown => None,
        Replayed::Differs(what) => Some(of_aggregate(id, sequence, what)),
    }
}

/// Those that can be read. One that can't is missing.
fn readable<T>(rows: &[PgRow], read: fn(&PgRow) -> sqlx::Result<T>) -> impl Iterator<Item = T> {
    rows.iter().filter_map(move |row| read(row).ok())
}

fn differs(source: &RowSource, what: String) -> AuditBreach {
    AuditBreach {
        invariant: Invariant::Rows,
        sequence: source.stream_seq,
        subject: source.subject.clone(),
        what,
    }
}

fn of_aggregate(id: &AggregateId, sequence: u64, what: String) -> AuditBreach {
    AuditBreach {
        invariant: Invariant::Rows,
        sequence,
        subject: id.subject(),
        what,
    }
}

fn fields(differing: &[String]) -> String {
    match differing {
        [] => "in a way that JSON doesn't show".to_owned(),
        differing => differing.join(", "),
    }
}

/// The names of the fields that differ, as both rows are shown.
fn differing_fields<T: serde::Serialize>(stored: &T, expected: &T) -> Vec<String> {
    let [stored, expected] = [stored, expected].map(|row| serde_json::to_value(row).unwrap_or_default());
    let fields = expected.as_object().into_iter().flatten();
    fields
        .filter(|(name, value)| stored.get(name.as_str()) != Some(value))
        .map(|(name, _)| name.clone())
        .collect()
}
