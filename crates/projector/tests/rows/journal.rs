//! The projector at work: a real NATS server, a real database, and either of them going away.

use async_nats::jetstream;
use reveille_bus::{
    AggregateId, CommitMeta, Connection, Follow, Followed, Follower, Journal, NatsAccess,
    access::Role,
    ensure_streams,
    heartbeats::{self, Heartbeat},
};
use reveille_domain::{
    AgentName, Availability, Epoch, ModelName, Provider, ProviderCommand, ProviderId, ProviderSpec,
    RecipeKind, ReportId, ReportSeq, SessionId, SleepReason, Timestamp, WakeCause, WakeId, WakeOutcome,
    WakeSpec,
    rows::{EventQuery, LlmQuery, MAX_PAGE_ROWS, MemoryRows, PageLimit, Rows, WakeQuery},
};
use reveille_projector::{PostgresRows, Projector, ProjectorConfig, ProjectorError};
use reveille_tests::{Cluster, Database, Nats, wait_until};
use std::time::Duration;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Everything here settles well within this, also on a busy machine.
pub(crate) const SETTLES: Duration = Duration::from_secs(120);

/// A journal that commands write to.
pub(crate) struct Hub {
    pub(crate) nats: Nats,
    connection: Connection,
    pub(crate) journal: Journal,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        let nats = Nats::start().await;
        let options = NatsAccess::open(&nats.url(), Role::Api).named("test");
        let connection = Connection::open(&options).await.expect("a new enough server");
        let js = jetstream::new(connection.client().clone());
        ensure_streams(&js).await.expect("streams");
        Self {
            nats,
            connection,
            journal: Journal::new(js),
        }
    }

    async fn execute(&self, provider: &str, command: ProviderCommand) -> u64 {
        let id = AggregateId::Provider(id(provider));
        let meta = CommitMeta::new("test", Timestamp::from_millis(5));
        self.journal
            .execute::<Provider>(&id, command, &meta)
            .await
            .expect("accepted")
            .sequence
    }

    /// A provider that is registered, woken, and asleep again: four commits. Tells the last one's sequence.
    pub(crate) async fn wakes_once(&self, provider: &str) -> u64 {
        let at = Timestamp::from_millis(5);
        let wake_id = WakeId(Uuid::now_v7());
        let report = |seq| ReportId {
            epoch: Epoch(1),
            seq: ReportSeq(seq),
        };
        self.execute(provider, register(provider)).await;
        self.execute(
            provider,
            ProviderCommand::RequestWake {
                wake_id,
                cause: WakeCause::Operator { key: None },
                overdue: None,
                allowed_at: None,
                at,
            },
        )
        .await;
        let outcome = WakeOutcome::Succeeded { stages: vec![] };
        self.execute(
            provider,
            ProviderCommand::ReportWake {
                wake_id,
                report: report(1),
                outcome,
                at,
            },
        )
        .await;
        let asleep = ProviderCommand::ReportAsleep {
            report: report(2),
            reason: SleepReason::Idle,
            for_wake: None,
            at,
        };
        self.execute(provider, asleep).await
    }

    pub(crate) fn projector(&self, database_url: &str) -> Running {
        let config = ProjectorConfig {
            nats: NatsAccess::open(&self.nats.url(), Role::Projector),
            database_url: database_url.to_owned(),
        };
        let projector = Projector::new(config);
        let (status, shutdown) = (projector.status(), CancellationToken::new());
        Running {
            task: tokio::spawn(projector.run(shutdown.clone())),
            status,
            shutdown,
        }
    }

    /// The fold of the whole journal, in memory.
    async fn fold(&self) -> MemoryRows {
        let rows = MemoryRows::new();
        let mut follower = Follower::new(&self.connection, Follow::After(None));
        loop {
            match follower.next().await.expect("the journal") {
                Followed::Commit(entry) => rows.apply(&entry.row_source()),
                Followed::CaughtUp { .. } => return rows,
                Followed::Reset | Followed::Interrupted => {}
            }
        }
    }

    pub(crate) async fn rows_are_the_fold(&self, database_url: &str) {
        let postgres = PostgresRows::new(database_url).expect("a URL");
        let memory = self.fold().await;
        let limit = PageLimit::new(MAX_PAGE_ROWS);
        let (llms, wakes, events) = (
            LlmQuery {
                limit,
                ..Default::default()
            },
            WakeQuery {
                limit,
                ..Default::default()
            },
            EventQuery {
                limit,
                ..Default::default()
            },
        );
        assert_eq!(postgres.llms(&llms).await, memory.llms(&llms).await);
        assert_eq!(postgres.wakes(&wakes).await, memory.wakes(&wakes).await);
        assert_eq!(postgres.events(&events).await, memory.events(&events).await);
        assert!(!memory.llms(&llms).await.expect("rows").items.is_empty());
    }
}

fn id(provider: &str) -> ProviderId {
    format!("gpu-box/{provider}").parse().expect("legal")
}

fn register(provider: &str) -> ProviderCommand {
    let wake = WakeSpec {
        kind: RecipeKind::Http,
        budget_ms: 60_000,
    };
    let models = vec![ModelName::parse(&format!("{provider}:8b")).expect("legal")];
    ProviderCommand::Register {
        id: id(provider),
        epoch: Epoch(1),
        seq: ReportSeq(0),
        spec: ProviderSpec::new(models, Some(wake), true).expect("legal"),
        availability: Some(Availability::Unavailable),
        at: Timestamp::from_millis(5),
    }
}

/// A projector at work.
pub(crate) struct Running {
    task: JoinHandle<Result<(), ProjectorError>>,
    status: watch::Receiver<reveille_projector::ProjectorStatus>,
    shutdown: CancellationToken,
}

impl Running {
    pub(crate) async fn reaches(&self, seq: u64) {
        let mut status = self.status.clone();
        let reached = status.wait_for(|status| status.applied >= seq && status.lag() == 0);
        let reached = tokio::time::timeout(SETTLES, reached).await;
        reached
            .unwrap_or_else(|_| panic!("never took in {seq}: {:?}", self.status.borrow()))
            .expect("it runs");
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }

    pub(crate) async fn ends(self) -> ProjectorError {
        let done = tokio::time::timeout(SETTLES, self.task).await;
        done.expect("it ends").expect("no panic").expect_err("an error")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_fold_of_the_journal_however_often_the_projector_starts() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    hub.wakes_once("before").await;
    let projector = hub.projector(database.url());
    projector.reaches(4).await;
    let last = hub.wakes_once("during").await;
    projector.reaches(last).await;
    hub.rows_are_the_fold(database.url()).await;
    projector.stop().await;
    let last = hub.wakes_once("after").await;
    let projector = hub.projector(database.url());
    projector.reaches(last).await;
    hub.rows_are_the_fold(database.url()).await;
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projectors_on_one_database_change_nothing() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    let projectors = [hub.projector(database.url()), hub.projector(database.url())];
    let mut last = 0;
    for number in 0..20 {
        last = hub.wakes_once(&format!("p{number}")).await;
    }
    for projector in &projectors {
        projector.reaches(last).await;
    }
    hub.rows_are_the_fold(database.url()).await;
    for projector in projectors {
        projector.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_waited_for() {
    let mut cluster = Cluster::start().await;
    let (hub, database) = (Hub::start().await, cluster.database().await);
    cluster.stop().await;
    let last = hub.wakes_once("before").await;
    let projector = hub.projector(database.url());
    cluster.restart().await;
    projector.reaches(last).await;
    cluster.stop().await;
    let last = hub.wakes_once("meanwhile").await;
    let rows = PostgresRows::new(database.url()).expect("a URL");
    assert!(rows.applied().await.is_err(), "the database is away");
    cluster.restart().await;
    projector.reaches(last).await;
    hub.rows_are_the_fold(database.url()).await;
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_database_is_filled_again_from_the_journal() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    let projector = hub.projector(database.url());
    let mut last = hub.wakes_once("before").await;
    projector.reaches(last).await;
    let rows = PostgresRows::new(database.url()).expect("a URL");
    let mut db = database.connect().await;
    // Also when no commit comes, and when one comes at once.
    for commits_meanwhile in [false, true] {
        sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .execute(&mut db)
            .await
            .expect("an empty database");
        assert!(rows.applied().await.is_err(), "the rows are gone");
        if commits_meanwhile {
            last = hub.wakes_once("meanwhile").await;
        }
        let filled = || async { rows.applied().await.is_ok_and(|at| at == last).then_some(()) };
        wait_until("the rows were back", SETTLES, filled).await;
        hub.rows_are_the_fold(database.url()).await;
    }
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_restored_from_a_backup_catch_up() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    let projector = hub.projector(database.url());
    let mut db = database.connect().await;
    let rows = PostgresRows::new(database.url()).expect("a URL");
    let empty = "TRUNCATE llms, wakes, events, commits; UPDATE checkpoint SET stream_seq = 0, hash = ''";
    let last = hub.wakes_once("before").await;
    projector.reaches(last).await;
    sqlx::raw_sql(empty).execute(&mut db).await.expect("an old state");
    let filled = || async { rows.applied().await.is_ok_and(|at| at == last).then_some(()) };
    wait_until("the rows were back", SETTLES, filled).await;
    hub.rows_are_the_fold(database.url()).await;
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_away_is_waited_for() {
    let (mut hub, database) = (Hub::start().await, Database::create().await);
    let projector = hub.projector(database.url());
    let last = hub.wakes_once("before").await;
    projector.reaches(last).await;
    hub.nats.restart().await;
    let connected = || async { hub.connection.is_connected().then_some(()) };
    wait_until("the connection was back", SETTLES, connected).await;
    let last = hub.wakes_once("after").await;
    projector.reaches(last).await;
    hub.rows_are_the_fold(database.url()).await;
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_journal_than_the_rows_come_from_is_refused() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    let projector = hub.projector(database.url());
    let last = hub.wakes_once("ours").await;
    projector.reaches(last).await;
    projector.stop().await;
    let rows = PostgresRows::new(database.url()).expect("a URL");
    let before = rows.llms(&LlmQuery::default()).await;
    // An empty one may be being restored, so it is waited for; one that holds something else at the same place is another one.
    let other = Hub::start().await;
    let projector = other.projector(database.url());
    assert!(other.wakes_once("theirs").await >= last);
    let error = projector.ends().await;
    assert!(
        matches!(error, ProjectorError::Diverged { seq } if seq == last),
        "{error}"
    );
    assert!(error.to_string().contains("To rebuild the rows"), "{error}");
    assert_eq!(rows.llms(&LlmQuery::default()).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_marks_its_row_and_holds_nothing_up() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    hub.wakes_once("vllm").await;
    let rubbish = [
        "reveille.events.provider.gpu-box.vllm",
        "reveille.events.stray",
        "reveille.events.provider.x.y",
    ];
    for subject in rubbish {
        let published = hub
            .journal
            .jetstream()
            .publish(subject, "not a commit \0".into())
            .await;
        published.expect("sent").await.expect("stored");
    }
    let last = hub.wakes_once("ollama").await;
    let projector = hub.projector(database.url());
    projector.reaches(last).await;
    hub.rows_are_the_fold(database.url()).await;
    let rows = PostgresRows::new(database.url()).expect("a URL");
    let llms = rows.llms(&LlmQuery::default()).await.expect("an answer").items;
    let marks: Vec<_> = llms
        .iter()
        .map(|row| (row.provider.as_str(), row.unreadable_since_seq))
        .collect();
    assert_eq!(marks, [("ollama", None), ("vllm", Some(5))]);
    projector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_reach_the_rows() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    let projector = hub.projector(database.url());
    let last = hub.wakes_once("vllm").await;
    projector.reaches(last).await;
    let heartbeat = Heartbeat {
        agent: AgentName::parse("gpu-box").expect("legal"),
        session: SessionId(Uuid::now_v7()),
        epoch: Epoch(1),
        silent_after_ms: 30_000,
        refusal: None,
        providers: vec![],
    };
    heartbeats::send(hub.connection.client(), &heartbeat)
        .await
        .expect("sent");
    let rows = PostgresRows::new(database.url()).expect("a URL");
    wait_until("the heartbeat was in the row", SETTLES, async || {
        let llms = rows.llms(&LlmQuery::default()).await.expect("an answer").items;
        llms.first().expect("a row").last_heartbeat_ms
    })
    .await;
    projector.stop().await;
}

#[tokio::test]
async fn what_can_never_work_is_said_at_once() {
    let config = ProjectorConfig {
        nats: NatsAccess::open("nats://127.0.0.1:1", Role::Projector),
        database_url: "postgres://user:secret@[".into(),
    };
    let error = Projector::new(config.clone())
        .run(CancellationToken::new())
        .await
        .expect_err("no URL");
    assert!(matches!(error, ProjectorError::DatabaseUrl(_)));
    assert!(
        !format!("{error} {error:?} {config:?}").contains("secret"),
        "{error}"
    );
}
