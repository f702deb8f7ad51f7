//! An agent of a locked hub whose machine is somebody else's now: a bare client that holds its key, and says what is not its
//! to say. The server refuses what names another and logs it; control refuses the rest and counts it.

use async_nats::{Client, ConnectOptions, Event, HeaderMap};
use futures::StreamExt;
use reveille_tests::{AgentConfig, Api, Backend, Exit, Process, World, wait_until};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use crate::scene::SOON;

const VICTIM: &str = "gpu-box/qwen";
/// A wake that nobody has asked for.
const WAKE: &str = "0190a000-0000-7000-8000-000000000000";
/// The kinds of frames of an answer.
const HEAD: u8 = 1;
const ERROR: u8 = 6;

/// A hub with the agent `gpu-box`, whose backend runs, and the key of the agent `thief`, which has no provider.
struct Hub {
    api: Api,
    data: PathBuf,
    machine: PathBuf,
    world: World,
    _backend: Backend,
}

impl Hub {
    async fn new() -> Self {
        let world = World::new().await;
        let backend = world.backend(&[]);
        backend.start_and_wait().await;
        let config = AgentConfig::new("gpu-box").provider("vllm", "qwen", &backend);
        let data = world.folder().join("hub");
        let api = world.up(&data, &config.to_toml(), &[]);
        api.wait_until_ready().await;
        api.wait_for_status(VICTIM, "active", SOON).await;
        let machine = world.folder().join("machine");
        let hub = Self {
            api,
            data,
            machine,
            world,
            _backend: backend,
        };
        let made = hub
            .run(&["agent-token", "create", "thief", "-o", "json"])
            .await
            .log();
        let made: Value = serde_json::from_str(&made).expect("JSON");
        let config = hub.machine.join("agent.toml").display().to_string();
        let token = made["token"].as_str().expect("a token");
        hub.run(&["join", token, "--config", &config, "--ports", "1", "--no-start"])
            .await;
        hub
    }

    async fn run(&self, words: &[&str]) -> Process {
        let command = self.world.reveille(words[0]).args(&words[1..]);
        let command = command.env("REVEILLE_API_URL", self.api.url());
        let process = command.env("REVEILLE_DATA_DIR", &self.data).start();
        let exit = process.wait_for_exit(SOON).await;
        assert_eq!(exit, Exit::Code(0), "{}", process.log());
        process
    }

    /// Connects with a key, and notes what the server says against it.
    async fn connect(&self, key: PathBuf, inbox: &str) -> (Client, Said) {
        let port = fs::read_to_string(self.data.join("nats-port")).expect("a port");
        let seed = fs::read_to_string(key).expect("a key").trim().to_owned();
        let said = Said::default();
        let noted = said.clone();
        let options = ConnectOptions::with_nkey(seed)
            .name("thief")
            .custom_inbox_prefix(inbox)
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    noted.0.lock().expect("not poisoned").push(error.to_string());
                }
                async {}
            });
        let client = options.connect(format!("127.0.0.1:{}", port.trim())).await;
        (client.expect("its key is known"), said)
    }

    /// The name of the replica, which its canary tells whoever may hear it.
    async fn replica(&self) -> String {
        let (admin, _) = self
            .connect(self.data.join("hub-keys/admin.nk"), "_INBOX.admin")
            .await;
        let mut canaries = admin
            .subscribe("reveille.heartbeats._canary.*")
            .await
            .expect("subscribed");
        let canary = tokio::time::timeout(SOON, canaries.next())
            .await
            .expect("a canary")
            .expect("a canary");
        canary.subject.rsplit('.').next().expect("a name").to_owned()
    }

    /// The samples of the metrics that begin so.
    async fn counts(&self, name: &str) -> BTreeMap<String, u64> {
        let page = self.api.get("/metrics").await.text();
        let samples = page
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        samples
            .map(|(labels, count)| (labels.to_owned(), count.parse().expect("a count")))
            .collect()
    }

    async fn refused(&self) -> BTreeMap<String, u64> {
        self.counts("reveille_refused_messages_total").await
    }

    /// What the server has logged against the thief's publishing: the subjects.
    fn violations(&self) -> Vec<String> {
        let log = fs::read_to_string(self.data.join("nats.log")).expect("a log");
        let lines = log.lines().filter(|line| line.contains("Publish Violation"));
        let subject = |line: &str| Some(line.split("Subject \"").nth(1)?.split('"').next()?.to_owned());
        lines.filter_map(subject).collect()
    }

    async fn events(&self) -> String {
        self.api
            .get("/reveille/v1/events?provider=gpu-box%2Fvllm&limit=1000")
            .await
            .text()
    }
}

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

fn frame(kind: u8, id: u128, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, kind, 0, 0];
    frame.extend(0_u32.to_le_bytes());
    frame.extend(1_u64.to_le_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend(content);
    frame
}

fn said(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("JSON")
}

/// A report of `agent`, for its epoch.
fn report(agent: &str, epoch: u64) -> Value {
    json!({
        "v": 1, "agent": agent, "verb": "report", "provider": "vllm", "id": { "epoch": epoch, "seq": 1_000 },
        "report": { "kind": "asleep", "reason": "idle" },
    })
}

fn heartbeat(agent: &str) -> Value {
    json!({ "agent": agent, "session": WAKE, "epoch": 1, "silent_after_ms": 600_000, "providers": [] })
}

#[tokio::test]
async fn a_forged_report_wake_heartbeat_reply_and_commit_are_refused_and_counted() {
    let hub = Hub::new().await;
    let replica = hub.replica().await;
    let (thief, answers) = hub
        .connect(hub.machine.join("thief.nk"), "_INBOX.agent.thief")
        .await;
    let before = (hub.events().await, hub.refused().await);
    assert_eq!(hub.violations(), Vec::<String>::new());
    let commit = before.0.clone().into_bytes();

    // What names the victim, on the subjects that name him: the server refuses, and says so.
    let wake = json!({
        "provider": "gpu-box/vllm", "wake_id": WAKE, "epoch": 1, "sequence": 1_000_000, "deadline_ms": 60_000, "now_ms": 0,
    });
    let id = 7_u128;
    let forged = [
        (
            "reveille.control.gpu-box.report".to_owned(),
            said(&report("gpu-box", 1)),
        ),
        ("reveille.wakes.gpu-box.vllm".to_owned(), said(&wake)),
        (
            "reveille.heartbeats.gpu-box".to_owned(),
            said(&heartbeat("gpu-box")),
        ),
        (
            format!("reveille.replies.{replica}.gpu-box.{id:032x}"),
            frame(HEAD, id, b"forged"),
        ),
        ("reveille.events.provider.gpu-box.vllm".to_owned(), commit.clone()),
        ("reveille.facts.provider.gpu-box.vllm".to_owned(), commit),
    ];
    for (subject, payload) in &forged {
        thief
            .publish(subject.clone(), payload.clone().into())
            .await
            .expect("sent");
    }
    let subjects: Vec<_> = forged.iter().map(|(subject, _)| subject.clone()).collect();
    wait_until("the server logged each of them", SOON, async || {
        (hub.violations().len() >= forged.len()).then_some(())
    })
    .await;
    assert_eq!(hub.violations(), subjects);
    wait_until("the thief was told of each", SOON, async || {
        (answers.0.lock().expect("not poisoned").len() >= forged.len()).then_some(())
    })
    .await;
    let told = answers.0.lock().expect("not poisoned").clone();
    for (told, subject) in told.iter().zip(&subjects) {
        assert!(
            told.contains("Permissions Violation") && told.to_lowercase().contains(subject),
            "{told}"
        );
    }
    assert_eq!(
        hub.refused().await,
        before.1,
        "none of them came as far as the API"
    );

    // The same on the thief's own subjects, where the server has nothing against it: control refuses and counts.
    let ask = async |verb: &str, payload: Vec<u8>| -> Value {
        let subject = format!("reveille.control.thief.{verb}");
        let answer = thief.request(subject, payload.into()).await.expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    };
    for session in [WAKE, "0190a000-0000-7000-8000-000000000001"] {
        let connect =
            json!({ "v": 1, "agent": "thief", "verb": "connect", "session": session, "version": "0" });
        assert_eq!(ask("connect", said(&connect)).await["answer"], "connected");
    }
    let other_version = json!({ "v": 2, "agent": "thief", "verb": "stop", "epoch": 2 });
    for (verb, payload) in [
        ("report", said(&report("gpu-box", 1))),
        ("report", said(&report("thief", 1))),
        ("report", said(&report("thief", 2))),
        ("stop", said(&other_version)),
        ("report", b"not JSON".to_vec()),
    ] {
        assert_eq!(ask(verb, payload).await["answer"], "refused", "{verb}");
    }
    let stop = json!({ "v": 1, "agent": "thief", "verb": "stop", "epoch": 2 });
    let steered = thief.publish_with_reply(
        "reveille.control.thief.stop",
        "reveille.wakes.gpu-box.vllm",
        said(&stop).into(),
    );
    steered.await.expect("sent");
    let label = |kind: &str, reason: &str| format!("{{subject_kind=\"{kind}\",reason=\"{reason}\"}}");
    for (payload, reason) in [
        (said(&heartbeat("gpu-box")), "other_name"),
        (b"not JSON".to_vec(), "malformed"),
    ] {
        thief
            .publish("reveille.heartbeats.thief", payload.into())
            .await
            .expect("sent");
        // The stream keeps the last one of each agent only: the next would take its place.
        wait_until("it was counted", SOON, async || {
            let counted = hub.refused().await;
            counted.contains_key(&label("heartbeats", reason)).then_some(())
        })
        .await;
    }
    let own = format!("reveille.replies.{replica}.thief.{id:032x}");
    for payload in [
        frame(HEAD, id, b"forged"),
        frame(ERROR, id, b"{}"),
        b"garbage".to_vec(),
    ] {
        thief.publish(own.clone(), payload.into()).await.expect("sent");
    }
    let expected: BTreeMap<_, _> = [
        (label("control", "other_name"), 1),
        (label("control", "other_epoch"), 1),
        (label("control", "undeclared"), 1),
        (label("control", "unknown_version"), 1),
        (label("control", "malformed"), 1),
        (label("control", "reply_subject"), 1),
        (label("heartbeats", "other_name"), 1),
        (label("heartbeats", "malformed"), 1),
        (label("replies", "unknown_request"), 1),
        (label("replies", "malformed"), 2),
    ]
    .into();
    let counted = wait_until("all were counted", SOON, async || {
        let counted = hub.refused().await;
        (counted.values().sum::<u64>() >= expected.values().sum()).then_some(counted)
    })
    .await;
    assert_eq!(counted, expected);

    // A request that smuggles a header for the journal's stream changes as little.
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Stream", "REVEILLE_EVENTS");
    thief
        .publish_with_headers("reveille.events.agent.thief", headers, "{}".into())
        .await
        .expect("sent");
    wait_until("the server refused it", SOON, async || {
        (hub.violations().len() == forged.len() + 1).then_some(())
    })
    .await;

    // Nothing has become of the victim, nor of his provider's history.
    assert_eq!(hub.events().await, before.0);
    assert_eq!(hub.api.llm(VICTIM).await.expect("its row")["status"], "active");
    assert_eq!(hub.api.chat("qwen").await.status, 200);

    // Shown out, he comes back with a key that nobody knows any more: that is counted too.
    assert!(hub.counts("reveille_refused_connections_total").await.is_empty());
    hub.run(&["agent", "revoke", "thief"]).await;
    wait_until("he was not let in again", SOON, async || {
        let refused = hub.counts("reveille_refused_connections_total").await;
        (refused.get("{reason=\"unknown_key\"}")? >= &1).then_some(())
    })
    .await;
}
