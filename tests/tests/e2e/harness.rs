//! The harness itself: what every other test relies on.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use async_nats::jetstream::{self, stream};
use reveille_tests::{Cluster, Database, Exit, JOURNAL, Nats, SOON, World, is_alive, wait_until};
use serde_json::{Value, json};
use sqlx::Row;

/// Makes a test play the part of the one that is killed.
const VICTIM: &str = "HARNESS_VICTIM";

#[tokio::test]
async fn a_killed_nats_server_comes_back_with_its_streams_at_the_same_address() {
    let mut nats = Nats::start().await;
    let url = nats.url();
    let context = jetstream::new(nats.connect().await);
    let config = stream::Config {
        name: "KEPT".into(),
        subjects: vec!["kept".into()],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    context
        .publish("kept", "hello".into())
        .await
        .unwrap()
        .await
        .unwrap();

    nats.kill9();
    assert_eq!(nats.process().exit(), Some(Exit::Signal(9)));
    nats.restart().await;

    assert_eq!(nats.url(), url);
    let kept = jetstream::new(nats.connect().await)
        .get_stream("KEPT")
        .await
        .unwrap();
    assert_eq!(kept.get_raw_message(1).await.unwrap().payload, "hello");
}

#[tokio::test]
async fn a_stopped_nats_server_answers_again_when_it_goes_on() {
    let nats = Nats::start().await;
    let client = nats.connect().await;
    nats.process().sigstop();
    let flushed = tokio::time::timeout(Duration::from_millis(300), client.flush()).await;
    let answered = match flushed {
        // Flushing only waits for the socket; a round trip needs the server.
        Ok(_) => tokio::time::timeout(Duration::from_millis(300), nats_round_trip(&client))
            .await
            .is_ok(),
        Err(_) => false,
    };
    assert!(!answered, "a stopped server answers nobody");
    nats.process().sigcont();
    tokio::time::timeout(SOON, nats_round_trip(&client))
        .await
        .unwrap();
}

async fn nats_round_trip(client: &async_nats::Client) {
    let _ = jetstream::new(client.clone()).query_account().await;
}

#[tokio::test]
async fn three_nats_servers_form_a_cluster_that_replicates() {
    let nodes = Nats::start_cluster().await;
    let context = jetstream::new(nodes[1].connect().await);
    let config = || stream::Config {
        name: "R3".into(),
        num_replicas: 3,
        ..Default::default()
    };
    wait_until("all three servers took part", SOON, async || {
        context.create_stream(config()).await.ok()
    })
    .await;
    // The server in between may not know yet who has the stream.
    wait_until("a message was stored", SOON, async || {
        context.publish("R3", "hello".into()).await.ok()?.await.ok()
    })
    .await;
}

#[tokio::test]
async fn every_test_has_a_database_of_its_own() {
    let (mine, yours) = tokio::join!(Database::create(), Database::create());
    sqlx::raw_sql("CREATE TABLE mine (id int)")
        .execute(&mut mine.connect().await)
        .await
        .unwrap();
    let query = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'mine'";
    for (database, expected) in [(mine, 1_i64), (yours, 0)] {
        let row = sqlx::query(query)
            .fetch_one(&mut database.connect().await)
            .await
            .unwrap();
        assert_eq!(row.get::<i64, _>(0), expected);
    }
}

#[tokio::test]
async fn a_stopped_postgres_comes_back_with_its_rows_at_the_same_address() {
    let mut cluster = Cluster::start().await;
    let database = cluster.database().await;
    sqlx::raw_sql("CREATE TABLE kept AS SELECT 7 AS n")
        .execute(&mut database.connect().await)
        .await
        .unwrap();

    assert_eq!(cluster.stop().await, Exit::Code(0));
    cluster.restart().await;

    let row = sqlx::query("SELECT n FROM kept")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(row.get::<i32, _>(0), 7);
}

#[tokio::test]
async fn commits_are_read_from_the_journal_and_heard_as_facts() {
    let world = World::new().await;
    assert!(world.journal().await.is_empty());
    let republish = stream::Republish {
        source: "reveille.events.>".into(),
        destination: "reveille.facts.>".into(),
        headers_only: false,
    };
    let context = jetstream::new(world.nats.connect().await);
    let config = stream::Config {
        name: JOURNAL.into(),
        subjects: vec!["reveille.events.>".into()],
        republish: Some(republish),
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let facts = world.facts().await;
    let commit = json!({ "events": [{ "type": "WakeRequested", "version": 1, "data": { "wake_id": "w" } }] });
    let subject = "reveille.events.provider.box.llm";
    context
        .publish(subject, commit.to_string().into())
        .await
        .unwrap()
        .await
        .unwrap();

    let heard = facts.wait_for("WakeRequested", SOON).await;
    let journal = world.journal().await;
    assert_eq!(
        (heard.sequence, heard.subject.as_str()),
        (1, "reveille.facts.provider.box.llm")
    );
    assert_eq!((journal[0].sequence, journal[0].subject.as_str()), (1, subject));
    assert_eq!(journal[0].payload, heard.payload);
    assert_eq!(journal[0].types(), ["WakeRequested"]);
    assert_eq!(heard.data("WakeRequested").unwrap()["wake_id"], "w");
}

/// Plays both parts: the outer run starts this same test in a process of its own and kills that.
#[tokio::test]
async fn a_test_killed_by_sigkill_leaves_no_process_and_no_folder() {
    if std::env::var_os(VICTIM).is_some() {
        be_the_victim().await;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "harness::a_test_killed_by_sigkill_leaves_no_process_and_no_folder",
            "--nocapture",
        ])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let owned = lines.map_while(Result::ok).find_map(|line| {
        let json = &line[line.find('{')?..];
        serde_json::from_str::<Value>(json).ok()
    });
    victim.kill().unwrap();
    victim.wait().unwrap();

    let owned = owned.expect("the victim tells what it owns");
    let pids: Vec<u32> = serde_json::from_value(owned["pids"].clone()).unwrap();
    let folders: Vec<std::path::PathBuf> = serde_json::from_value(owned["folders"].clone()).unwrap();
    assert_eq!((pids.len(), folders.len()), (4, 2));
    wait_until("nothing was left", SOON, async || {
        let nothing = !pids.iter().any(|pid| is_alive(*pid)) && !folders.iter().any(|folder| folder.exists());
        nothing.then_some(())
    })
    .await;
}

async fn be_the_victim() {
    let world = World::new().await;
    let cluster = Cluster::start().await;
    let backend = world.backend(&["--fork-grandchild"]);
    backend.start_and_wait().await;
    let log = backend.log();
    let pids = [
        world.nats.process().pid(),
        cluster.process().pid(),
        log.pids()[0],
        log.grandchildren()[0],
    ];
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    let folders = [
        world.folder(),
        cluster
            .process()
            .log_file()
            .parent()
            .expect("a log is in a folder"),
    ];
    println!("{}", json!({ "pids": pids, "folders": folders }));
    std::future::pending::<()>().await;
}
