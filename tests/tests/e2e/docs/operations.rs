//! What docs/operations.md says: archives, rows, clusters; containers and units as far as they can be looked at here.

use super::{blocks_of, root};
use crate::{
    archive::archived,
    https::Authority,
    machine::{Machine, obstacle},
    scene::{LLM, SOON, Scene},
};
use reveille_tests::{Commit, Exit, Nats, World, nats_server, program, wait_until};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};
use uuid::Uuid;

/// What the commands call the hub's NATS server and the rows' database.
const NATS: &str = "nats://127.0.0.1:4222";
const DATABASE: &str = "postgres://reveille@127.0.0.1/reveille";

/// Runs a documented line in the world's folder, with the world's addresses for the documented ones.
fn run(world: &World, nats: &Nats, line: &str) -> Output {
    let line = line
        .replace(NATS, &nats.url())
        .replace(DATABASE, world.database().url());
    let [reveille, server] = [program("reveille"), nats_server()];
    let [reveille, server] = [&reveille, &server].map(|file| file.parent().expect("a folder").display());
    let path = format!(
        "{reveille}:{server}:{}",
        std::env::var("PATH").unwrap_or_default()
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &line])
        .env("PATH", path)
        .current_dir(world.folder());
    command.output().expect("a shell runs")
}

fn do_all(world: &World, nats: &Nats, lines: &str) {
    for line in lines.lines() {
        let output = run(world, nats, line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
    }
}

/// What a JSON value consists of: names and types, not values; of a list, its first item.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let kind = match value {
                Value::Null => "null",
                Value::Bool(_) => "true or false",
                Value::Number(_) => "a number",
                _ => "a text",
            };
            kind.into()
        }
        Value::Array(items) => items.iter().take(1).map(shape).collect(),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| (key.clone(), shape(value)));
            Value::Object(entries.collect())
        }
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_is_audited_by_the_documented_commands() {
    let [audits, breach] = blocks_of("a_journal_is_audited_by_the_documented_commands");
    let world = World::with_postgres().await;
    let projector = world.projector();
    let scene = Scene::asleep_in(world, Duration::ZERO).await;
    assert_eq!(scene.chat().await.status, 200);
    scene.api.wait_for_status(LLM, "active", SOON).await;
    assert_eq!(scene.agent.stop(SOON).await, Exit::Code(0));
    scene.api.wait_for_status(LLM, "inactive", SOON).await;
    let Scene { world, api, .. } = scene;
    api.process().stop(SOON).await;
    archived(&world, &projector).await;
    let exported = run(
        &world,
        &world.nats,
        &format!("reveille journal export --nats {NATS} journal.jsonl"),
    );
    assert!(exported.status.success(), "{exported:?}");
    let commits = world.journal().await;
    let compared: Vec<_> = audits
        .lines()
        .map(|line| {
            let audited = run(&world, &world.nats, &format!("{line} -o json"));
            assert_eq!(audited.status.code(), Some(0), "{line}: {audited:?}");
            let report = json(&String::from_utf8_lossy(&audited.stdout));
            assert_eq!(report["sound"], true, "{report}");
            assert_eq!(report["commits"], commits.len(), "{report}");
            assert_eq!(report["wakes"], 1, "{report}");
            report["rows"].as_u64()
        })
        .collect();
    assert!(matches!(compared[..], [None, None, Some(10..)]), "{compared:?}");

    // A wake that ends again, with the right hash and numbers.
    let ended = commits
        .iter()
        .rfind(|commit| commit.data("WakeSucceeded").is_some());
    let again = forged_again(&commits, ended.expect("a wake succeeded"));
    let jetstream = async_nats::jetstream::new(world.nats.connect().await);
    let published = jetstream
        .publish(ended.expect("it").subject.clone(), again.into())
        .await;
    let sequence = published.expect("sent").await.expect("stored").sequence;
    let first = audits.lines().next().expect("a command");
    let audited = run(&world, &world.nats, first);
    assert_eq!(audited.status.code(), Some(1), "{audited:?}");
    let said = String::from_utf8_lossy(&audited.stdout);
    let told = said
        .lines()
        .find(|line| line.contains("wake-end: "))
        .unwrap_or_default();
    let wake = |line: &str| line.split("ends wake ").nth(1).map(|rest| rest[..36].to_owned());
    let documented = breach
        .trim_end()
        .replace("commit 19 ", &format!("commit {sequence} "))
        .replace(&wake(&breach).expect("a wake"), &wake(told).unwrap_or_default());
    assert_eq!(told, documented, "{said}");

    // What can't be audited isn't unsound.
    for line in [
        "reveille audit missing.jsonl",
        "reveille audit --nats nats://127.0.0.1:1",
    ] {
        let audited = run(&world, &world.nats, line);
        assert_eq!(audited.status.code(), Some(2), "{line}: {audited:?}");
    }
}

/// The commit with the end of a wake again, behind the last one of its provider: as if it had been committed a second time.
fn forged_again(commits: &[Commit], ended: &Commit) -> String {
    let last = commits
        .iter()
        .rfind(|commit| commit.subject == ended.subject)
        .expect("a commit");
    let mut body = last.body.clone();
    let number = |value: &Value| value.as_u64().expect("a number");
    let hash = Sha256::digest(&last.payload);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    body["prev"] = hash.into();
    body["aggregate_version"] = (number(&last.body["aggregate_version"]) + 1).into();
    let events = last.body["events"].as_array().map_or(0, Vec::len) as u64;
    body["first_event_seq"] = (number(&last.body["first_event_seq"]) + events).into();
    body["recent_command_ids"] = serde_json::json!([last.body["command_id"]]);
    body["command_id"] = Uuid::now_v7().to_string().into();
    body["events"] = ended.body["events"].clone();
    body.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_archived_restored_and_folded_by_the_documented_commands() {
    let [taken, from_postgres, restored, breach, file, rebuilt, commit] =
        blocks_of("the_journal_is_archived_restored_and_folded_by_the_documented_commands");
    let world = World::with_postgres().await;
    let projector = world.projector();
    let scene = Scene::asleep_in(world, Duration::ZERO).await;
    assert_eq!(scene.chat().await.status, 200);
    scene.api.wait_for_status(LLM, "active", SOON).await;
    let Scene {
        world, api, agent, ..
    } = scene;
    let last = world.journal().await.len();
    wait_until("the rows had taken everything in", SOON, async || {
        let page = api.get("/reveille/v1/llms").await;
        (page.json()["applied"].as_u64() == Some(last as u64)).then_some(())
    })
    .await;

    // The documented commit has what the journal's has.
    let journal = world.journal().await;
    let succeeded = journal
        .iter()
        .find(|commit| commit.data("WakeSucceeded").is_some());
    let succeeded = succeeded.expect("a wake succeeded");
    assert_eq!(shape(&json(&commit)), shape(&succeeded.body));

    do_all(&world, &world.nats, &taken);
    let archive = || fs::read_to_string(world.folder().join("journal.jsonl")).expect("an archive");
    let lines = archive();
    let lines: Vec<_> = lines.lines().collect();
    let first_last = [lines[0], lines[1], lines[lines.len() - 1]];
    for (documented, real) in file.lines().zip(first_last) {
        assert_eq!(shape(&json(documented)), shape(&json(real)), "{documented}");
    }

    fs::remove_file(world.folder().join("journal.jsonl")).expect("it was there");
    do_all(&world, &world.nats, &from_postgres);
    assert_eq!(
        archive().lines().count(),
        last + 2,
        "first line, commits, last line"
    );
    do_all(&world, &world.nats, &rebuilt);

    // As the page says: everything is stopped, and NATS is empty.
    for process in [agent, projector] {
        process.stop(SOON).await;
    }
    let empty = Nats::start().await;
    do_all(&world, &empty, &restored);

    // A commit that stands where it doesn't belong.
    let jetstream = async_nats::jetstream::new(empty.connect().await);
    let published = jetstream
        .publish(succeeded.subject.clone(), succeeded.payload.clone())
        .await;
    published.expect("sent").await.expect("stored");
    let verified = run(&world, &empty, &format!("reveille journal verify --nats {NATS}"));
    assert_eq!(verified.status.code(), Some(1));
    let figures = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(figures(&said).contains(&figures(&breach)), "{said}");
}

#[tokio::test]
async fn the_api_is_served_over_tls_by_the_documented_commands() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let [commands, unit] = blocks_of("the_api_is_served_over_tls_by_the_documented_commands");
    let machine = Machine::new().await;
    // No name is looked up here, so the certificate is for an address.
    Authority::new(machine.folder.path()).give("127.0.0.1", 90);
    let (up, llms) = commands.split_once('\n').expect("two commands");
    let up = machine.start("up", up);
    let llms = format!(
        "REVEILLE_CA_FILE=ca.pem {}",
        llms.trim().replace("hub.example", "127.0.0.1")
    );
    machine.prints(&llms, "STATUS").await;
    assert!(up.is_running(), "{}", up.log());

    // The unit's drop-in hands over files that it names, by variables that `up` knows.
    let help = machine.does("reveille up --help");
    let credentials: Vec<_> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("LoadCredential="))
        .collect();
    let credentials: Vec<_> = credentials
        .iter()
        .filter_map(|line| line.split_once(':'))
        .collect();
    let variables = unit
        .lines()
        .filter_map(|line| line.strip_prefix("Environment=")?.split_once('='));
    for (name, value) in variables {
        assert!(help.contains(&format!("[env: {name}")), "{name}: {help}");
        let handed = value.strip_prefix("%d/");
        let known = handed.is_none_or(|handed| credentials.iter().any(|(name, _)| *name == handed));
        assert!(known, "{value} is not handed over");
    }
    assert_eq!(credentials.len(), 2);
}

#[test]
fn commands_that_no_test_can_run_name_what_is_there() {
    let [hub, containers, make_key, unit] = blocks_of("commands_that_no_test_can_run_name_what_is_there");
    let (password, up) = containers.split_once('\n').expect("two commands");
    let folder = reveille_tests::Folder::new();
    let shell = Command::new("sh")
        .args(["-c", password])
        .current_dir(folder.path())
        .status();
    assert!(shell.expect("a shell runs").success());
    let env = fs::read_to_string(folder.path().join(".env")).expect("the file of the password");
    let (variable, password) = env.trim().split_once('=').expect("a variable");
    assert_eq!(password.len(), 32, "{env}");
    let compose = fs::read_to_string(root().join("docker-compose.yml")).expect("the compose file");
    assert!(
        compose.contains(variable) && compose.contains("build:"),
        "{variable}"
    );
    assert_eq!(up, "docker compose up --build");
    let service = make_key
        .strip_prefix("docker compose exec ")
        .and_then(|rest| rest.split(' ').next());
    assert!(compose.contains(&format!("\n  {}:\n", service.expect("a service"))));

    let name = unit
        .strip_prefix("systemctl enable --now ")
        .expect("a unit is enabled");
    let unit = root().join(format!("packaging/systemd/{name}.service"));
    assert!(unit.is_file(), "{}", unit.display());

    // The hub in a container: the image keeps its data in the volume, and has a server where `up` looks, of the version that
    // the compose file has.
    let image = fs::read_to_string(root().join("Dockerfile")).expect("the Dockerfile");
    for command in hub.lines() {
        assert!(image.contains(&format!("#   {command}\n")), "{command}");
    }
    let (_, volume) = hub.split_once(" --volume reveille:").expect("a volume");
    let volume = volume.split(' ').next().expect("its folder");
    let server = "--from=nats /usr/local/bin/nats-server /usr/local/lib/reveille/\n";
    let version = compose
        .split("image: nats:")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    for line in [
        format!("\nVOLUME {volume}\n"),
        format!("\nENV REVEILLE_DATA_DIR={volume}\n"),
        format!("\nFROM nats:{} AS nats\n", version.expect("a version of NATS")),
        format!("\nCOPY {server}"),
        "\nCOPY --from=build /out/reveille /usr/local/bin/\n".to_owned(),
    ] {
        assert!(image.contains(&line), "{line}");
    }
}
