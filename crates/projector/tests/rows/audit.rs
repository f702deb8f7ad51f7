//! An audit of the rows finds what something else than the projector has written, and nothing in what the projector writes.

use crate::journal::{Hub, SETTLES};
use reveille_bus::{
    AggregateId, CommitMeta,
    archive::{AuditBreach, JournalAudit, ParsedCommit},
};
use reveille_domain::{
    Agent, AgentCommand, AgentKey, AgentName, Key, KeyCommand, KeyId, KeyName, Scopes, SecretHash, SessionId,
    Timestamp, TokenId,
    key::{KeyLimits, KeyPolicy, Priority},
};
use reveille_projector::{ArchivedCommits, RowsAudit};
use reveille_tests::Database;
use std::time::Duration;
use uuid::Uuid;

const AT: Timestamp = Timestamp::from_millis(5);

/// What an audit of the database finds, and how many rows it has compared.
pub(crate) async fn audited(url: &str) -> (Vec<AuditBreach>, u64) {
    let mut commits = ArchivedCommits::read(url).await.expect("an archive");
    let mut rows = RowsAudit::open(url, &mut commits).await.expect("a database");
    let (mut journal, mut breaches) = (JournalAudit::default(), vec![]);
    while let Some(commit) = commits.next_commit().await.expect("a whole archive") {
        breaches.extend(journal.take(ParsedCommit::from(commit.clone())));
        breaches.extend(rows.take(commit).await.expect("rows"));
    }
    let finish = tokio::time::timeout(SETTLES, rows.finish(journal.last_states()));
    let (rest, compared) = finish.await.expect("in time").expect("rows");
    breaches.extend(rest);
    (breaches, compared)
}

/// A session of the agent, its token and key, and a key of a client: aggregates of every kind, with secrets.
pub(crate) async fn a_session(hub: &Hub) {
    let name = AgentName::parse("gpu-box").expect("legal");
    let (token, secret) = (TokenId(Uuid::now_v7()), SecretHash::new([7; 32]));
    let agent = AggregateId::Agent(name.clone());
    for command in [
        AgentCommand::Connect {
            name: name.clone(),
            session: SessionId(Uuid::now_v7()),
            version: "0.1.0".to_owned(),
            at: AT,
        },
        AgentCommand::IssueToken {
            name: name.clone(),
            token,
            secret,
            expires_at: AT.plus(Duration::from_secs(60)),
            at: AT,
        },
        AgentCommand::Enroll {
            name,
            token,
            secret,
            key: AgentKey::parse("UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4").expect("legal"),
            at: AT,
        },
    ] {
        let meta = CommitMeta::new("test", AT);
        let done = hub.journal.execute::<Agent>(&agent, command, &meta);
        done.await.expect("accepted");
    }
    let id = KeyId::parse("k7mq2v9x").expect("legal");
    let key = AggregateId::Key(id.clone());
    let created = KeyCommand::Create {
        id,
        policy: KeyPolicy {
            name: KeyName::parse("the laptop").expect("legal"),
            scopes: Scopes::all(),
            expires_at_ms: None,
            limits: KeyLimits::default(),
            progress: None,
            priority: Priority::Normal,
        },
        secret,
        at: AT,
    };
    let rotated = KeyCommand::Rotate {
        secret: SecretHash::new([8; 32]),
        grace: Duration::from_secs(60),
        at: AT,
    };
    for command in [created, rotated] {
        let meta = CommitMeta::new("test", AT);
        let done = hub.journal.execute::<Key>(&key, command, &meta);
        done.await.expect("accepted");
    }
}

/// What is done to the rows, and what the first breach says. The commits 6 to 9 are those of `gpu-box/a`.
const DAMAGE: [(&str, &str); 13] = [
    (
        "UPDATE llms SET status = 'active' WHERE provider = 'a'",
        "the row of gpu-box/a:8b differs: status",
    ),
    (
        "UPDATE llms SET status = 'dreaming' WHERE provider = 'a'",
        "the row of gpu-box/a:8b differs: it is missing, or can't be read",
    ),
    (
        "DELETE FROM llms WHERE provider = 'a'",
        "the row of gpu-box/a:8b differs: it is missing, or can't be read",
    ),
    (
        "UPDATE llms SET provider = 'z' WHERE provider = 'b'",
        "the row of gpu-box/b:8b differs: it is missing, or can't be read",
    ),
    (
        "UPDATE wakes SET requested_seq = 1 WHERE provider = 'a'",
        "differs: requested_seq",
    ),
    (
        "DELETE FROM wakes WHERE provider = 'a'",
        "differs: it is missing, or can't be read",
    ),
    (
        "INSERT INTO wakes (wake_id, agent, provider, requested_at_ms, outcome, stages) \
         VALUES (gen_random_uuid(), 'gpu-box', 'a', 5, 'succeeded', '[]')",
        "Postgres has 3 wakes, and should have 2",
    ),
    (
        "UPDATE events SET at_ms = 6 WHERE stream_seq = 7",
        "its event 0 in Postgres is another one",
    ),
    (
        "DELETE FROM events WHERE stream_seq = 7",
        "Postgres has 0 of its events, and should have 1",
    ),
    (
        "UPDATE events SET stream_seq = 999 WHERE stream_seq = 7",
        "Postgres has 0 of its events, and should have 1",
    ),
    // A column that only the repository reads.
    (
        "UPDATE events SET sequence = 99 WHERE stream_seq = 6",
        "its event 0 in Postgres is another one",
    ),
    (
        "UPDATE checkpoint SET hash = 'x'",
        "the checkpoint is at commit 13, not at this last one of the archive",
    ),
    (
        "UPDATE commits SET unreadable = 'why' WHERE stream_seq = 7",
        "the projector has archived it as unreadable: why",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_differ_are_found_and_those_of_the_projector_are_none() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    let projector = hub.projector(database.url());
    a_session(&hub).await;
    hub.wakes_once("a").await;
    let last = hub.wakes_once("b").await;
    assert_eq!(last, 13);
    projector.reaches(last).await;
    let (breaches, compared) = audited(database.url()).await;
    assert_eq!(breaches, []);
    assert_eq!(compared, 13 + 13 + 2 + 2, "commits, events, wakes and models");
    projector.stop().await;

    let tables = ["llms", "wakes", "events", "commits", "checkpoint"];
    let mut db = database.connect().await;
    let mut run = async |sql: String| sqlx::raw_sql(&sql).execute(&mut db).await.expect("done");
    for table in tables {
        run(format!(
            "CREATE SCHEMA IF NOT EXISTS whole; CREATE TABLE whole.{table} AS TABLE {table}"
        ))
        .await;
    }
    for (damage, says) in DAMAGE {
        let done = run(damage.to_owned()).await;
        assert!(done.rows_affected() > 0, "{damage}");
        let (breaches, _) = audited(database.url()).await;
        let first = breaches
            .first()
            .unwrap_or_else(|| panic!("{damage}: nothing was found"));
        assert_eq!(first.invariant.code(), "rows", "{damage}: {breaches:#?}");
        assert!(first.what.contains(says), "{damage}: {breaches:#?}");
        for table in tables {
            run(format!(
                "DELETE FROM {table}; INSERT INTO {table} SELECT * FROM whole.{table}"
            ))
            .await;
        }
    }
    assert_eq!(audited(database.url()).await.0, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_sees_one_moment_while_the_projector_goes_on() {
    let (hub, database) = (Hub::start().await, Database::create().await);
    let projector = hub.projector(database.url());
    a_session(&hub).await;
    let last = hub.wakes_once("a").await;
    projector.reaches(last).await;
    let url = database.url();
    let mut commits = ArchivedCommits::read(url).await.expect("an archive");
    let mut rows = RowsAudit::open(url, &mut commits).await.expect("a database");
    let later = hub.wakes_once("b").await;
    projector.reaches(later).await;
    let mut journal = JournalAudit::default();
    while let Some(commit) = commits.next_commit().await.expect("a whole archive") {
        assert_eq!(journal.take(ParsedCommit::from(commit.clone())), []);
        assert_eq!(rows.take(commit).await.expect("rows"), []);
    }
    let (breaches, _) = rows.finish(journal.last_states()).await.expect("rows");
    assert_eq!(breaches, []);
    assert_eq!(journal.audited().commits, last);
    projector.stop().await;
}
