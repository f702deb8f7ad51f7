//! Rebuilding rows while everything goes on.

use crate::{
    history::some_history,
    journal::{Hub, SETTLES},
    stores::{InPostgres, Store},
};
use reveille_bus::{NatsAccess, access::Role};
use reveille_domain::{
    AgentName, Timestamp,
    rows::{EventQuery, LlmQuery, MAX_PAGE_ROWS, PageLimit, Rows, WakeQuery},
};
use reveille_projector::{
    Applied, Mark, PostgresRows, Projection, ProjectorConfig, ProjectorError, Rebuilding, Rebuilt, rebuild,
};
use reveille_tests::{Database, wait_until};
use sqlx::Row;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How often the tables are replaced while everything goes on.
const SWITCHES: usize = 4;
/// How many providers are written meanwhile, and the pause between them, and between what a reader reads.
const PROVIDERS: usize = 240;
const PAUSE: Duration = Duration::from_millis(20);
const SCRATCH: &str = "reveille_rebuild";

/// A rebuild at work.
struct Rebuild {
    task: JoinHandle<Result<Option<Rebuilt>, ProjectorError>>,
    seen: watch::Receiver<Rebuilding>,
    stop: CancellationToken,
}

fn start(hub: &Hub, database: &Database) -> Rebuild {
    let config = ProjectorConfig {
        nats: NatsAccess::open(&hub.nats.url(), Role::Projector),
        database_url: database.url().to_owned(),
    };
    let (progress, seen) = watch::channel(Rebuilding::default());
    let (stop, runtime) = (CancellationToken::new(), Handle::current());
    let stopped = stop.clone();
    // It is a command's whole life, so it isn't made to be moved between threads.
    let task = tokio::task::spawn_blocking(move || runtime.block_on(rebuild(config, progress, stopped)));
    Rebuild { task, seen, stop }
}

impl Rebuild {
    async fn ends(self) -> Result<Option<Rebuilt>, ProjectorError> {
        let done = tokio::time::timeout(SETTLES, self.task).await;
        done.expect("it ends").expect("no panic")
    }

    async fn done(self) -> Rebuilt {
        let done = self.ends().await.expect("a rebuild");
        done.expect("nobody stopped it")
    }

    /// Cuts it off wherever it is: it undoes nothing.
    async fn cut_off(self) {
        self.stop.cancel();
        assert_eq!(self.ends().await.expect("no error"), None);
    }

    async fn reaches(&self, seq: u64) {
        let reached = || async { (self.seen.borrow().applied == seq).then_some(()) };
        wait_until("the rebuild caught up", SETTLES, reached).await;
    }
}

pub(crate) async fn rebuilt(hub: &Hub, database: &Database) -> Rebuilt {
    start(hub, database).done().await
}

/// Every row of every list, but for heartbeats.
async fn everything(database: &Database) -> String {
    let rows = PostgresRows::new(database.url()).expect("a URL");
    let limit = PageLimit::new(MAX_PAGE_ROWS);
    let mut llms = rows
        .llms(&LlmQuery {
            limit,
            ..Default::default()
        })
        .await
        .expect("rows");
    for row in &mut llms.items {
        row.last_heartbeat_ms = None;
    }
    let wakes = rows
        .wakes(&WakeQuery {
            limit,
            ..Default::default()
        })
        .await
        .expect("rows");
    let events = rows
        .events(&EventQuery {
            limit,
            ..Default::default()
        })
        .await
        .expect("rows");
    assert!(llms.next.is_none() && wakes.next.is_none() && events.next.is_none());
    let mut db = database.connect().await;
    let archive = sqlx::query("SELECT row_to_json(commits)::text AS line FROM commits ORDER BY stream_seq");
    let archive = archive.fetch_all(&mut db).await.expect("the archive");
    let archive: Vec<String> = archive.iter().map(|row| row.get("line")).collect();
    format!("{llms:?}\n{wakes:?}\n{events:?}\n{}", archive.join("\n"))
}

async fn schemas(database: &Database) -> Vec<String> {
    let mut db = database.connect().await;
    let names = sqlx::query("SELECT nspname::text AS name FROM pg_namespace WHERE nspname LIKE 'reveille%'");
    let names = names.fetch_all(&mut db).await.expect("schemas");
    names.iter().map(|row| row.get("name")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilt_rows_are_the_ones_that_were_and_heartbeats_stay() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    for commit in some_history() {
        let raw = commit.raw.expect("bytes");
        let published = hub
            .journal
            .jetstream()
            .publish(commit.subject, raw.payload.into());
        published.await.expect("sent").await.expect("stored");
    }
    let last = hub.wakes_once("llama").await;
    let projector = hub.projector(database.url());
    projector.reaches(last).await;
    projector.stop().await;
    let before = everything(&database).await;
    let heard = HashMap::from([(
        AgentName::parse("gpu-box").expect("legal"),
        Timestamp::from_millis(77),
    )]);
    let projection = Projection::new(database.url()).expect("a URL");
    projection.heard(&heard).await.expect("a database");
    // What the fold alone would not bring back.
    let mut db = database.connect().await;
    sqlx::raw_sql("CREATE ROLE reader_of_rows; GRANT SELECT ON llms, events TO reader_of_rows; UPDATE llms SET status = 'active'; DELETE FROM wakes")
        .execute(&mut db)
        .await
        .expect("damage");
    assert_ne!(everything(&database).await, before);
    let done = rebuilt(&hub, &database).await;
    assert_eq!((done.applied, done.old_kept_in), (last, None));
    assert_eq!(everything(&database).await, before);
    let rows = PostgresRows::new(database.url()).expect("a URL");
    let agent = Some(AgentName::parse("gpu-box").expect("legal"));
    let llms = rows
        .llms(&LlmQuery {
            agent,
            ..Default::default()
        })
        .await
        .expect("rows");
    assert!(
        llms.items
            .iter()
            .all(|row| row.last_heartbeat_ms == Some(Timestamp::from_millis(77)))
    );
    assert_eq!(schemas(&database).await, Vec::<String>::new());
    sqlx::raw_sql("SET ROLE reader_of_rows; SELECT * FROM llms; SELECT * FROM events; RESET ROLE; REVOKE ALL ON llms, events FROM reader_of_rows; DROP ROLE reader_of_rows")
        .execute(&mut db)
        .await
        .expect("who might read still may");
    // The projector goes on with the new tables.
    let projector = hub.projector(database.url());
    let last = hub.wakes_once("another").await;
    projector.reaches(last).await;
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: several rebuilds under load"]
async fn commits_readers_and_projectors_go_on_across_several_switches() {
    let (hub, database) = (Arc::new(Hub::start().await), Database::create().await);
    let projectors = [hub.projector(database.url()), hub.projector(database.url())];
    let last = hub.wakes_once("first").await;
    projectors[0].reaches(last).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writes = tokio::spawn({
        let (hub, stop) = (hub.clone(), stop.clone());
        async move {
            let mut last = 0;
            // As many as one page of wakes shows.
            for number in 0..PROVIDERS {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                last = hub.wakes_once(&format!("p{number}")).await;
                tokio::time::sleep(PAUSE).await;
            }
            last
        }
    });
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (rows, stop) = (PostgresRows::new(database.url()).expect("a URL"), stop.clone());
            tokio::spawn(async move {
                let (mut applied, mut reads) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let llms = rows.llms(&LlmQuery::default()).await.expect("an answer");
                    let wakes = rows.wakes(&WakeQuery::default()).await.expect("an answer");
                    let events = rows.events(&EventQuery::default()).await.expect("an answer");
                    assert!(!llms.items.is_empty() && !wakes.items.is_empty() && !events.items.is_empty());
                    let min_seq = Some(applied);
                    let own = rows
                        .llms(&LlmQuery {
                            min_seq,
                            ..Default::default()
                        })
                        .await
                        .expect("no step back");
                    assert!(llms.applied_seq >= applied && own.applied_seq >= llms.applied_seq);
                    applied = events.applied_seq;
                    reads += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                reads
            })
        })
        .collect();
    for _ in 0..SWITCHES {
        assert_eq!(rebuilt(&hub, &database).await.old_kept_in, None);
    }
    stop.store(true, Ordering::Relaxed);
    let last = writes.await.expect("no panic");
    for reader in readers {
        assert!(reader.await.expect("every read was answered") > 5);
    }
    for projector in projectors {
        projector.reaches(last).await;
        projector.stop().await;
    }
    hub.rows_are_the_fold(database.url()).await;
    assert_eq!(schemas(&database).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_killed_leaves_the_rows_and_the_next_one_goes_on_from_there() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    for number in 0..40 {
        hub.wakes_once(&format!("p{number}")).await;
    }
    let projector = hub.projector(database.url());
    let last = hub.wakes_once("last").await;
    projector.reaches(last).await;
    projector.stop().await;
    let before = everything(&database).await;
    // It can't get past this lock: so it is surely in the middle.
    let first = start(&hub, &database);
    let mut db = database.connect().await;
    wait_until("it began", SETTLES, async || {
        let lock = format!("BEGIN; LOCK TABLE {SCRATCH}.commits IN SHARE MODE");
        let locked = sqlx::raw_sql(&lock).execute(&mut db).await;
        if locked.is_err() {
            sqlx::raw_sql("ROLLBACK")
                .execute(&mut db)
                .await
                .expect("a database");
        }
        locked.ok()
    })
    .await;
    // A second one doesn't begin beside it.
    let refused = start(&hub, &database).ends().await;
    assert!(matches!(refused, Err(ProjectorError::Rebuilding)), "{refused:?}");
    first.cut_off().await;
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut db)
        .await
        .expect("a database");
    assert_eq!(everything(&database).await, before);
    assert_eq!(schemas(&database).await, [SCRATCH]);
    let left = scratch_mark(&database).await;
    let again = start(&hub, &database);
    let seen = again.seen.clone();
    assert_eq!(again.done().await.applied, last);
    assert_eq!(seen.borrow().began_after, left.stream_seq);
    assert_eq!(everything(&database).await, before);
}

async fn scratch_mark(database: &Database) -> Mark {
    let mut db = database.connect().await;
    let sql = format!("SELECT stream_seq, hash FROM {SCRATCH}.checkpoint");
    let row = sqlx::query(&sql).fetch_one(&mut db).await.expect("a checkpoint");
    Mark {
        stream_seq: u64::try_from(row.get::<i64, _>("stream_seq")).expect("a sequence"),
        hash: row.get("hash"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_journal_was_replaced_a_rebuild_follows_it_and_keeps_what_the_rows_held() {
    let (theirs, hub, database) = (Hub::start().await, Hub::start().await, Database::create().await);
    let last = theirs.wakes_once("theirs").await;
    let projector = theirs.projector(database.url());
    projector.reaches(last).await;
    projector.stop().await;
    hub.wakes_once("ours").await;
    hub.wakes_once("more").await;
    let error = hub.projector(database.url()).ends().await;
    assert!(error.to_string().contains("reveille rows rebuild"), "{error}");
    let kept = rebuilt(&hub, &database).await.old_kept_in.expect("the old rows");
    let projector = hub.projector(database.url());
    let last = hub.wakes_once("on").await;
    projector.reaches(last).await;
    projector.stop().await;
    hub.rows_are_the_fold(database.url()).await;
    let mut db = database.connect().await;
    let sql = format!("SELECT count(*) AS n FROM {kept}.commits");
    let held = sqlx::query(&sql).fetch_one(&mut db);
    assert_eq!(held.await.expect("the old archive").get::<i64, _>("n"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_rebuild_of_another_journal_left_is_thrown_away() {
    let (theirs, hub, database) = (Hub::start().await, Hub::start().await, Database::create().await);
    theirs.wakes_once("theirs").await;
    let last = hub.wakes_once("ours").await;
    // A dump bars its switch, so it is left where it is done.
    let projector = theirs.projector(database.url());
    projector.reaches(4).await;
    projector.stop().await;
    let mut dump = database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM events")
        .execute(&mut dump)
        .await
        .expect("a dump");
    let left = start(&theirs, &database);
    left.reaches(4).await;
    left.cut_off().await;
    sqlx::raw_sql("COMMIT")
        .execute(&mut dump)
        .await
        .expect("the dump's end");
    assert_eq!(scratch_mark(&database).await.stream_seq, 4);
    let done = rebuilt(&hub, &database).await;
    assert_eq!(done.applied, last);
    hub.rows_are_the_fold(database.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_waits_for_who_reads_for_long_and_bars_nobody_meanwhile() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    let projector = hub.projector(database.url());
    let last = hub.wakes_once("vllm").await;
    projector.reaches(last).await;
    let mut dump = database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM events")
        .execute(&mut dump)
        .await
        .expect("a dump");
    let task = start(&hub, &database);
    task.reaches(last).await;
    let rows = PostgresRows::new(database.url()).expect("a URL");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while tokio::time::Instant::now() < deadline {
        let events = rows.events(&EventQuery::default()).await.expect("an answer");
        assert!(!events.items.is_empty());
    }
    assert!(!task.task.is_finished());
    let last = hub.wakes_once("meanwhile").await;
    projector.reaches(last).await;
    sqlx::raw_sql("COMMIT")
        .execute(&mut dump)
        .await
        .expect("the dump's end");
    assert_eq!(task.done().await.applied, last);
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_somebody_elses_is_left_alone() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    let mut db = database.connect().await;
    sqlx::raw_sql(&format!(
        "CREATE SCHEMA {SCRATCH}; CREATE TABLE {SCRATCH}.precious ()"
    ))
    .execute(&mut db)
    .await
    .expect("a schema");
    let refused = start(&hub, &database).ends().await;
    assert!(matches!(refused, Err(ProjectorError::Schema(_))), "{refused:?}");
    sqlx::raw_sql(&format!("SELECT * FROM {SCRATCH}.precious"))
        .execute(&mut db)
        .await
        .expect("still there");
}

/// Its connections have prepared their statements against the old tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_projector_whose_batch_comes_after_the_switch_is_fenced() {
    let (hub, mut store) = (Hub::start().await, InPostgres::create().await);
    let history = some_history();
    store.take(&history[..3]).await;
    let from = Mark::after(&history[2]);
    // The journal holds other commits: the rows that come from them have another checkpoint.
    hub.wakes_once("vllm").await;
    rebuilt(&hub, &store.database).await;
    let applied = store
        .projection
        .apply(&from, &history[3..6])
        .await
        .expect("a database");
    assert_eq!(applied, Applied::Fenced);
    assert_eq!(store.rows.applied().await, Ok(4));
}
