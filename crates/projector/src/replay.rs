//! An aggregate replayed from its events in Postgres: read by the repository of `postgres-es`, applied by `cqrs-es`.
//!
//! The events there lack the hashes of secrets, which leave the journal only in its archive. Upcasters put zeros in their
//! place, and the state that the replay is compared with gets the same.

use crate::commits::postgres;
use cqrs_es::{
    Aggregate,
    persist::{EventUpcaster, PersistedEventRepository, SerializedEvent},
};
use postgres_es::PostgresEventRepository;
use reveille_bus::{
    AggregateId,
    archive::{ArchiveError, LastState},
};
use serde_json::Value;
use sqlx::{
    Executor, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{sync::Arc, time::Duration};

/// The field with the hash of a secret.
const SECRET: &str = "secret";
/// The events that have it.
const WITH_SECRET: [&str; 3] = ["AgentTokenIssued", "KeyCreated", "KeyRotated"];

/// How long a pooler may take to have a session for the replay: nobody waits for an audit to be quick.
const PATIENCE: Duration = Duration::from_secs(300);

/// Replays aggregates in one snapshot of the database.
pub(crate) struct Replay {
    pool: PgPool,
    upcasters: Vec<Box<dyn EventUpcaster>>,
}

/// How a replay ends.
pub(crate) enum Replayed {
    /// With the state of the aggregate's last commit.
    Same,
    /// With something else.
    Differs(String),
    /// That commit can't be read, so there is nothing to compare with.
    Unknown,
}

impl Replay {
    /// Replays in the transaction that `snapshot` begins. The repository takes a pool; this one has a single connection,
    /// which is in that transaction.
    pub(crate) fn new(options: PgConnectOptions, snapshot: String) -> Self {
        let snapshot: Arc<str> = snapshot.into();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(PATIENCE)
            .after_connect(move |db, _| {
                let snapshot = snapshot.clone();
                Box::pin(async move { db.execute(&*snapshot).await.map(drop) })
            });
        Self {
            pool: pool.connect_lazy_with(options),
            upcasters: vec![Box::new(WithoutSecret)],
        }
    }

    /// Leaves nothing in the session, which may be a pooler's: the repository names its statements.
    pub(crate) async fn end(&self) -> Result<(), ArchiveError> {
        let mut db = self.pool.acquire().await.map_err(postgres)?;
        db.execute("DEALLOCATE ALL; ROLLBACK").await.map_err(postgres)?;
        Ok(())
    }

    /// Replays the aggregate `id`, whose last commit led to `last`.
    pub(crate) async fn run<A: Aggregate>(
        &self,
        id: &AggregateId,
        last: &LastState<'_, A>,
    ) -> Result<Replayed, ArchiveError> {
        let (Some(state), Some(events)) = (last.state, last.event_seq) else {
            return Ok(Replayed::Unknown);
        };
        // The repository takes a pool that gives no connection in time for the end of the events.
        drop(self.pool.acquire().await.map_err(postgres)?);
        let repository = PostgresEventRepository::new(self.pool.clone());
        let mut stream = repository.stream_events::<A>(&id.id()).await.map_err(postgres)?;
        let (mut replayed, mut count) = (A::default(), 0);
        while let Some(event) = stream.next::<A>(&self.upcasters).await {
            match event {
                Ok(event) => replayed.apply(event.payload),
                Err(error) => {
                    return Ok(Replayed::Differs(format!(
                        "its event {} in Postgres can't be replayed: {error}",
                        count + 1
                    )));
                }
            }
            count += 1;
        }
        // The stream ends silently when the connection is lost.
        self.pool
            .acquire()
            .await
            .map_err(postgres)?
            .execute("SELECT 1")
            .await
            .map_err(postgres)?;
        if count != events {
            return Ok(Replayed::Differs(format!(
                "Postgres has {count} events of {id}, and should have {events}"
            )));
        }
        let [replayed, state] = [&replayed, state].map(|state| {
            let mut state = serde_json::to_value(state).unwrap_or_default();
            without_secrets(&mut state);
            state
        });
        Ok(match replayed == state {
            true => Replayed::Same,
            false => Replayed::Differs(format!(
                "the events of {id} in Postgres lead to another state than its last commit has"
            )),
        })
    }
}

/// Gives an event a hash that is no secret's.
struct WithoutSecret;

impl EventUpcaster for WithoutSecret {
    fn can_upcast(&self, event_type: &str, _: &str) -> bool {
        WITH_SECRET.contains(&event_type)
    }

    fn upcast(&self, mut event: SerializedEvent) -> SerializedEvent {
        if let Some(Value::Object(data)) = event.payload.get_mut("data") {
            data.insert(SECRET.to_owned(), no_secret());
        }
        event
    }
}

fn no_secret() -> Value {
    "0".repeat(64).into()
}

fn without_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == SECRET {
                    *value = no_secret();
                } else {
                    without_secrets(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_secrets),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
