//! The journal as a file, and back.

mod damage;

use async_nats::{
    HeaderMap, RequestErrorKind,
    jetstream::{self, stream},
};
use reveille_tests::{AgentConfig, Answer, Api, Commit, Exit, JOURNAL, Process, World, wait_until};
use serde_json::{Value, json};
use sqlx::Row;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::scene::{LLM, SOON, Scene};

/// What marks a journal that is being restored.
const IMPORTING: &str = "reveille.importing";

/// `reveille journal …` at its end: its exit code and what it printed.
async fn journal(world: &World, args: &[&str]) -> (i32, String) {
    let process = world.reveille("journal").args(args).start();
    match process.wait_for_exit(SOON).await {
        Exit::Code(code) => (code, process.log()),
        Exit::Signal(signal) => panic!("signal {signal}: {}", process.log()),
    }
}

async fn done(world: &World, args: &[&str]) -> String {
    let (code, printed) = journal(world, args).await;
    assert_eq!(code, 0, "{args:?}: {printed}");
    printed
}

/// Asserts that an audit of the world's journal finds nothing.
pub async fn assert_sound(world: &World) {
    let audit = world
        .reveille("audit")
        .args(["--nats", &world.nats_url()])
        .start();
    let exit = audit.wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(0), "{}", audit.log());
}

/// What it says when it fails.
async fn fails(world: &World, args: &[&str]) -> String {
    let (code, printed) = journal(world, args).await;
    assert_eq!(code, 1, "{args:?}: {printed}");
    printed
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

async fn export(world: &World, name: &str) -> PathBuf {
    let file = world.folder().join(name);
    done(world, &["export", "--nats", &world.nats.url(), text(&file)]).await;
    file
}

/// A provider that was woken and whose agent has stopped, in a world whose replica has stopped too.
async fn a_past(world: World) -> World {
    let backend = world.backend(&[]);
    let controller = reveille_tests::WakeController::starting(&backend, Duration::ZERO).await;
    let scene = Scene::set(world, backend, controller, "", "", "hibernating").await;
    assert_eq!(scene.chat().await.status, 200);
    assert_eq!(scene.agent.stop(SOON).await, Exit::Code(0));
    scene.is("inactive").await;
    scene.api.process().stop(SOON).await;
    scene.world
}

/// LLMs, wakes and events as the API tells them, without what isn't in the journal.
async fn rows(api: &Api) -> Vec<Value> {
    let mut all = vec![];
    for list in ["llms", "wakes", "events"] {
        let answer = api.get(&format!("/reveille/v1/{list}?limit=500")).await;
        assert_eq!(answer.status, 200, "{list}: {}", answer.text());
        let mut rows = data(&answer);
        assert!(!rows.is_empty(), "no {list}: {}", answer.text());
        for row in &mut rows {
            if let Some(row) = row.as_object_mut() {
                row.remove("last_heartbeat_ms");
            }
        }
        all.extend(rows);
    }
    all
}

fn data(answer: &Answer) -> Vec<Value> {
    answer.json()["data"].as_array().cloned().expect("a list")
}

/// Everything of a commit that an archive restores.
type Stored<'a> = (u64, &'a str, Vec<(String, String)>, &'a [u8]);

fn stored(commits: &[Commit]) -> Vec<Stored<'_>> {
    let stored = commits.iter().map(|commit| {
        let headers = commit.headers.iter();
        let mut headers: Vec<_> = headers
            .flat_map(|(name, values)| {
                values
                    .iter()
                    .map(move |value| (name.to_string(), value.as_str().to_owned()))
            })
            .collect();
        headers.sort();
        (
            commit.sequence,
            commit.subject.as_str(),
            headers,
            &commit.payload[..],
        )
    });
    stored.collect()
}

/// The archive's lines, without the times at which they were stored.
fn without_times(file: &Path) -> Vec<Value> {
    let archive = fs::read_to_string(file).expect("an archive");
    let lines = archive.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        line.as_object_mut().expect("an object").remove("stored_ms");
        line
    });
    lines.collect()
}

#[tokio::test]
async fn a_restored_journal_has_the_same_sequences_and_bytes_and_leads_to_the_same_rows() {
    let lost = a_past(World::new().await).await;
    let before = lost.journal().await;
    let file = export(&lost, "journal.jsonl").await;

    let world = World::new().await;
    let url = world.nats.url();
    let facts = world.facts().await;
    done(&world, &["import", "--exact", "--nats", &url, text(&file)]).await;
    let after = world.journal().await;
    assert!(after.len() >= 4, "{after:?}");
    assert_eq!(stored(&after), stored(&before));
    let sound = done(&world, &["verify", "--nats", &url]).await;
    assert!(
        sound.contains(&format!("sound: {} commits of 2 aggregates", after.len())),
        "{sound}"
    );
    // What happened long ago is no news.
    assert!(facts.all().is_empty());

    let api = world.api().await;
    assert_eq!(rows(&api).await, rows(&lost.api().await).await);
    assert_eq!(
        without_times(&export(&world, "again.jsonl").await),
        without_times(&file)
    );
    let stats = done(&world, &["stats", text(&file)]).await;
    for line in [
        "agent               1          1",
        "WakeSucceeded                         1",
    ] {
        assert!(stats.contains(line), "{stats}");
    }
    // What happens from now on is.
    let _agent = world.agent(&AgentConfig::new("gpu-box"));
    facts.wait_for("AgentConnected", SOON).await;
}

/// Waits until the projector has taken in the whole journal, and stops it.
pub async fn archived(world: &World, projector: &Process) {
    let last = world.journal().await.len();
    wait_until("everything was archived", SOON, async || {
        let mut db = world.database().connect().await;
        let row = sqlx::query("SELECT stream_seq::text FROM checkpoint");
        let row = row.fetch_one(&mut db).await.ok()?;
        (row.get::<String, _>(0) == last.to_string()).then_some(())
    })
    .await;
    projector.stop(SOON).await;
}

/// Everything in the database, as text, without what isn't in the journal.
async fn tables(world: &World) -> Vec<String> {
    let mut db = world.database().connect().await;
    let mut tables = vec![];
    for (table, key) in [
        ("llms", "agent, model, provider"),
        ("wakes", "wake_id"),
        ("events", "stream_seq, index_in_commit"),
        ("checkpoint", "stream_seq"),
    ] {
        let rows = format!(
            "SELECT (to_jsonb(t) - 'last_heartbeat_ms')::text FROM (SELECT * FROM {table} ORDER BY {key}) AS t"
        );
        let rows = sqlx::query(&rows).fetch_all(&mut db).await.expect("rows");
        assert!(!rows.is_empty(), "{table} is empty");
        tables.extend(rows.iter().map(|row| row.get::<String, _>(0)));
    }
    tables
}

#[tokio::test]
async fn the_archive_in_postgres_restores_what_the_journal_would() {
    let world = World::with_postgres().await;
    let projector = world.projector();
    let world = a_past(world).await;
    archived(&world, &projector).await;
    let from_nats = export(&world, "nats.jsonl").await;
    let from_postgres = world.folder().join("postgres.jsonl");
    let args = [
        "export",
        "--from-postgres",
        world.database().url(),
        text(&from_postgres),
    ];
    done(&world, &args).await;
    assert_eq!(without_times(&from_postgres), without_times(&from_nats));

    // The rows that follow from it are the same too.
    let restored = World::with_postgres().await;
    let url = restored.nats.url();
    done(
        &restored,
        &["import", "--exact", "--nats", &url, text(&from_postgres)],
    )
    .await;
    archived(&restored, &restored.projector()).await;
    assert_eq!(tables(&restored).await, tables(&world).await);

    let mut db = world.database().connect().await;
    let before = fs::read(&from_postgres).expect("an archive");
    for (damage, expected) in [
        (
            "DELETE FROM commits WHERE stream_seq = 2",
            "commit 2 is missing before it",
        ),
        (
            "UPDATE commits SET payload = set_byte(payload, 40, 65) WHERE stream_seq = 3",
            "its bytes don't match the hash stored with them",
        ),
    ] {
        sqlx::query(damage).execute(&mut db).await.expect("damage");
        let said = fails(&world, &args).await;
        let expected = format!("commit 3 (reveille.events.provider.gpu-box.vllm): {expected}");
        assert!(said.contains(&expected), "{said}\nshould say: {expected}");
        // The last one that was whole is still there, and nothing beside it.
        assert_eq!(fs::read(&from_postgres).expect("an archive"), before);
    }
    let partial = fs::read_dir(world.folder())
        .expect("a folder")
        .filter_map(Result::ok);
    assert!(
        !partial
            .map(|file| file.file_name())
            .any(|name| name.to_string_lossy().ends_with(".partial"))
    );
}

/// A stream of the journal's name that takes whatever is put there.
async fn forged(
    world: &World,
    marked: bool,
    commits: impl IntoIterator<Item = (String, HeaderMap, Vec<u8>)>,
) {
    let context = jetstream::new(world.nats.connect().await);
    let mut config = stream::Config {
        name: JOURNAL.to_owned(),
        subjects: vec!["reveille.events.>".to_owned()],
        discard: stream::DiscardPolicy::New,
        deny_delete: true,
        deny_purge: true,
        allow_direct: true,
        ..Default::default()
    };
    if marked {
        config.metadata.insert(IMPORTING.to_owned(), "true".to_owned());
    }
    context.create_stream(config).await.expect("a stream");
    for (subject, headers, payload) in commits {
        let sent = context
            .publish_with_headers(subject, headers, payload.into())
            .await;
        sent.expect("sent").await.expect("stored");
    }
}

fn message(commit: &Commit) -> (String, HeaderMap, Vec<u8>) {
    (
        commit.subject.clone(),
        commit.headers.clone(),
        commit.payload.to_vec(),
    )
}

#[tokio::test]
async fn an_import_goes_into_an_empty_journal_without_replicas_only() {
    let world = a_past(World::new().await).await;
    let file = export(&world, "journal.jsonl").await;
    let before = world.journal().await;
    let last = before.last().expect("commits");
    let said = fails(&world, &["import", "--nats", &world.nats.url(), text(&file)]).await;
    let expected = format!(
        "it holds {0} commits, up to commit {0} of {1}",
        before.len(),
        last.subject
    );
    assert!(said.contains(&expected), "{said}");
    assert_eq!(stored(&world.journal().await), stored(&before));

    let empty = World::new().await;
    let api = empty.api().await;
    let said = fails(&empty, &["import", "--nats", &empty.nats.url(), text(&file)]).await;
    assert!(
        said.contains("is running on this NATS server: stop all replicas"),
        "{said}"
    );
    api.process().stop(SOON).await;
    // The replica has made the streams; nothing was in them.
    done(&empty, &["import", "--nats", &empty.nats.url(), text(&file)]).await;
}

#[tokio::test]
async fn an_import_that_was_broken_off_is_gone_on_with_and_nothing_starts_before() {
    let lost = a_past(World::new().await).await;
    let before = lost.journal().await;
    let file = export(&lost, "journal.jsonl").await;

    let world = World::new().await;
    forged(&world, true, before[..2].iter().map(message)).await;
    let api = world.api_with(&[]);
    let exit = api.process().wait_for_exit(SOON).await;
    assert_ne!(exit, Exit::Code(0));
    assert!(
        api.process().log().contains("started and never finished"),
        "{}",
        api.process().log()
    );
    let said = done(
        &world,
        &["import", "--exact", "--nats", &world.nats.url(), text(&file)],
    )
    .await;
    assert!(said.contains("2 of them were already there"), "{said}");
    assert_eq!(stored(&world.journal().await), stored(&before));

    let other = World::new().await;
    let mut messages: Vec<_> = before[..2].iter().map(message).collect();
    messages[1].2.push(b' ');
    forged(&other, true, messages).await;
    let said = fails(&other, &["import", "--nats", &other.nats.url(), text(&file)]).await;
    assert!(
        said.contains("commit 2 (reveille.events.provider.gpu-box.vllm) differs"),
        "{said}"
    );
}

/// What control answers to an agent. A replica that is ready may still be about to listen to agents, so it is asked as
/// agents ask: again until somebody listens.
pub async fn ask(world: &World, request: &Value) -> Value {
    let client = world.nats.connect_hearing("_INBOX.agent.gpu-box").await;
    let verb = request["verb"].as_str().expect("a verb");
    let subject = format!("reveille.control.gpu-box.{verb}");
    let answer = wait_until("control listens", SOON, async || {
        match client.request(subject.clone(), request.to_string().into()).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders => None,
            answer => Some(answer.expect("an answer")),
        }
    })
    .await;
    serde_json::from_slice(&answer.payload).expect("JSON")
}

#[tokio::test]
async fn after_an_import_no_earlier_session_is_believed_and_its_agent_begins_a_new_one() {
    let scene = Scene::asleep(Duration::ZERO).await;
    let world = &scene.world;
    let connected = scene.commits_with("AgentConnected").await;
    let session = connected[0].data("AgentConnected").expect("data")["session"].clone();
    let file = export(world, "journal.jsonl").await;
    scene.api.process().stop(SOON).await;
    let context = jetstream::new(world.nats.connect().await);
    context.delete_stream(JOURNAL).await.expect("the journal is lost");
    let facts = world.facts().await;
    let said = done(world, &["import", "--nats", &world.nats.url(), text(&file)]).await;
    assert!(
        said.contains("raised the epochs of 1 agent by 1000000, for new sessions"),
        "{said}"
    );
    assert!(facts.all().is_empty());
    done(world, &["verify", "--nats", &world.nats.url()]).await;

    // So that it doesn't begin one before the others are asked.
    scene.agent.sigstop();
    let api = world.api().await;
    let report = json!({"v": 1, "agent": "gpu-box", "verb": "report", "provider": "vllm",
        "id": {"epoch": 1, "seq": 90}, "report": {"kind": "awake"}});
    let again = json!({"v": 1, "agent": "gpu-box", "verb": "connect", "session": session, "version": "0"});
    for request in [report, again] {
        let answer = ask(world, &request).await;
        assert_eq!(answer["answer"], "refused", "{answer}");
        assert!(answer.to_string().contains("1000001"), "{answer}");
    }
    // The agent from before hears it too, and its backend stays as it is.
    scene.agent.sigcont();
    let registered = facts.wait_for("ProviderRegistered", SOON).await;
    let epoch = &registered.data("ProviderRegistered").expect("data")["epoch"];
    assert_eq!(epoch, 1_000_002);
    api.wait_for_status(LLM, "hibernating", SOON).await;
    assert_eq!(api.chat("qwen").await.status, 200);
    assert_sound(world).await;
}
