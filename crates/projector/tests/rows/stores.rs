//! Both implementations behind one face: commits in, queries out.

use reveille_domain::{
    AgentName, Timestamp,
    rows::{MemoryRows, RowSource, Rows},
};
use reveille_projector::{Applied, Mark, PostgresRows, Projection};
use reveille_tests::Database;
use std::collections::HashMap;

/// A store of rows that takes commits in.
pub(crate) trait Store {
    fn rows(&self) -> &dyn Rows;
    /// Takes in a batch that comes after what was taken in, or that was taken in before.
    async fn take(&mut self, batch: &[RowSource]);
    async fn heard(&mut self, agent: &AgentName, at: Timestamp);
}

#[derive(Default)]
pub(crate) struct InMemory(MemoryRows);

impl Store for InMemory {
    fn rows(&self) -> &dyn Rows {
        &self.0
    }

    async fn take(&mut self, batch: &[RowSource]) {
        batch.iter().for_each(|commit| self.0.apply(commit));
    }

    async fn heard(&mut self, agent: &AgentName, at: Timestamp) {
        self.0.set_last_heartbeat(agent, at);
    }
}

/// In a database of its own.
pub(crate) struct InPostgres {
    pub(crate) projection: Projection,
    pub(crate) rows: PostgresRows,
    pub(crate) database: Database,
    marks: HashMap<u64, Mark>,
}

impl InPostgres {
    pub(crate) async fn create() -> Self {
        Self::at(Database::create().await).await
    }

    pub(crate) async fn at(database: Database) -> Self {
        let projection = Projection::new(database.url()).expect("a URL");
        projection
            .migrate()
            .await
            .expect("our schema")
            .expect("a database");
        let rows = PostgresRows::new(database.url()).expect("a URL");
        let marks = HashMap::from([(0, Mark::default())]);
        Self {
            projection,
            rows,
            database,
            marks,
        }
    }
}

impl Store for InPostgres {
    fn rows(&self) -> &dyn Rows {
        &self.rows
    }

    async fn take(&mut self, batch: &[RowSource]) {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            return;
        };
        let from = self.marks[&(first.stream_seq - 1)].clone();
        let before = self.projection.mark().await.expect("a checkpoint");
        let applied = self.projection.apply(&from, batch).await.expect("a database");
        let expected = if before == from {
            Applied::To(Mark::after(last))
        } else {
            Applied::Fenced
        };
        assert_eq!(applied, expected);
        self.marks.insert(last.stream_seq, Mark::after(last));
    }

    async fn heard(&mut self, agent: &AgentName, at: Timestamp) {
        let heard = HashMap::from([(agent.clone(), at)]);
        self.projection.heard(&heard).await.expect("a database");
    }
}
