//! Keys, from the command that makes one to the client that is refused: with real replicas and the real `openai` package.

use reveille_tests::{
    AgentConfig, Answer, Api, Exit, Folder, Port, Process, WakeController, World, run_python, wait_until,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use crate::{docs::blocks_of, scene::SOON};

/// Replicas with one root key. On loopback they answer whoever has no key, which is how a test looks at them; what comes
/// with a key is checked.
pub struct Hub {
    pub world: World,
    root_file: PathBuf,
}

impl Hub {
    pub async fn new() -> Self {
        let world = World::new().await;
        let root_file = world.folder().join("root.key");
        Self { world, root_file }
    }

    pub async fn replica(&self, args: &[&str]) -> Api {
        let file = self.root_file.display().to_string();
        let api = self.world.api_with(&[&["--root-key-file", &file], args].concat());
        api.wait_until_ready().await;
        api
    }

    fn root(&self) -> String {
        let text = fs::read_to_string(&self.root_file).expect("a root key");
        text.trim().to_owned()
    }

    /// Runs `reveille key …` with the root key; what it printed.
    pub async fn key(&self, api: &Api, words: &[&str]) -> String {
        let process = self.command(api, words).await;
        assert_eq!(process.exit(), Some(Exit::Code(0)), "{}", process.log());
        process.log()
    }

    async fn command(&self, api: &Api, words: &[&str]) -> Process {
        let command = self.world.reveille("key").args(words);
        let process = command
            .env("REVEILLE_API_URL", api.url())
            .env("REVEILLE_API_KEY", self.root())
            .start();
        process.wait_for_exit(SOON).await;
        process
    }

    /// Makes a key; its id and the key.
    pub async fn make(&self, api: &Api, words: &[&str]) -> (String, String) {
        let words = [&["create", "--name", "test", "-o", "json"], words].concat();
        let made: Value = serde_json::from_str(&self.key(api, &words).await).expect("JSON");
        let text = |name: &str| made[name].as_str().expect("text").to_owned();
        (text("id"), text("key"))
    }

    /// An agent with providers that sleep, each with one model of its own name.
    fn sleeping(&self, backend: &reveille_tests::Backend, url: &str, models: &[&str]) -> Process {
        let config = models.iter().fold(AgentConfig::new("gpu-box"), |config, model| {
            config.provider(model, model, backend).woken_by_http(url)
        });
        self.world.agent(&config)
    }
}

async fn status(api: &Api, key: &str) -> u16 {
    let request = api.client().get(format!("{}/v1/models", api.url()));
    Answer::of(request.bearer_auth(key)).await.status
}

/// The answer to a chat that asks for a wake and doesn't wait for it.
async fn ask(api: &Api, key: &str, model: &str) -> Answer {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
    let request = api.client().post(format!("{}/v1/chat/completions", api.url()));
    let request = request.header("x-reveille-wake", "async").bearer_auth(key);
    Answer::of(request.json(&body)).await
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn the_openai_package_raises_its_own_classes_for_whoever_may_not() {
    let hub = Hub::new().await;
    let (open, api) = (hub.replica(&[]).await, hub.replica(&["--require-keys"]).await);
    let backend = hub.world.backend(&[]);
    backend.start_and_wait().await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .provider("other", "private", &backend);
    let _agent = hub.world.agent(&config);
    for llm in ["gpu-box/qwen", "gpu-box/private"] {
        open.wait_for_status(llm, "active", SOON).await;
    }
    let (_, good) = hub.make(&api, &["--scope", "infer:qwen"]).await;
    let (_, query) = hub.make(&api, &["--scope", "query"]).await;
    let (_, slow) = hub.make(&api, &["--scope", "infer:*", "--rate", "1"]).await;
    let script = r#"
import openai
def client(key):
    return openai.OpenAI(api_key=key, max_retries=0)
def refusal(key, model="qwen"):
    try:
        return client(key).chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
    except openai.APIStatusError as error:
        return error
GOOD, QUERY, SLOW = KEYS
assert [model.id for model in client(GOOD).models.list()] == ["qwen"]
answer = refusal(GOOD)
assert answer.choices[0].message.content.startswith("token-0"), answer
for key in ["unused", "rv_typo", GOOD[:-1] + ("A" if GOOD[-1] != "A" else "B")]:
    error = refusal(key)
    assert isinstance(error, openai.AuthenticationError), error
    assert error.code == "invalid_api_key" and error.response.headers["www-authenticate"] == "Bearer", error
error = refusal(QUERY)
assert isinstance(error, openai.PermissionDeniedError) and error.code == "insufficient_scope", error
error = refusal(GOOD, "private")
assert isinstance(error, openai.NotFoundError) and error.code == "model_not_found", error
assert str(error) == str(refusal(GOOD, "nothing")).replace("nothing", "private"), error
assert refusal(SLOW).choices
error = refusal(SLOW)
assert isinstance(error, openai.RateLimitError) and error.code == "rate_limit_exceeded", error
assert 1 <= int(error.response.headers["retry-after"]) <= 60
print("fine")
"#;
    let script = format!("KEYS = {:?}\n{script}", [&good, &query, &slow]);
    let run = run_python(&script, &api.url()).await;
    assert!(
        run.succeeded && run.stdout.contains("fine"),
        "{}\n{}",
        run.stdout,
        run.stderr
    );
    assert_eq!(api.get("/v1/models").await.status, 401, "nobody without a key");
    let facts = hub.world.journal().await;
    let commits = format!("{facts:?}");
    let events = open.get("/reveille/v1/events?limit=1000").await.text();
    assert!(
        events.contains("KeyCreated") && !events.contains("\"secret\""),
        "{events}"
    );
    for process in [open.process(), api.process()] {
        let log = process.log();
        for key in [&good, &query, &slow, &hub.root()] {
            let secret = &key[key.len() - 43..];
            assert!(!log.contains(secret) && !events.contains(secret) && !commits.contains(secret));
        }
    }
}

#[tokio::test]
async fn what_one_replica_revokes_or_rotates_the_other_refuses_within_a_second() {
    let hub = Hub::new().await;
    let (one, other) = (hub.replica(&[]).await, hub.replica(&[]).await);
    let (id, first) = hub.make(&one, &["--scope", "infer:*"]).await;
    wait_until("the other replica knew the key", SOON, async || {
        (status(&other, &first).await == 200).then_some(())
    })
    .await;
    let printed = hub.key(&one, &["rotate", &id, "--grace", "1h"]).await;
    let second = printed
        .lines()
        .find(|line| line.starts_with("rv_"))
        .expect("a key")
        .to_owned();
    wait_until("the other replica knew the new secret", SOON, async || {
        (status(&other, &second).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&other, &first).await, 200, "good for an hour");
    hub.key(&one, &["rotate", &id]).await;
    for old in [&first, &second] {
        assert_eq!(status(&one, old).await, 401, "known where it was rotated");
        wait_until("the old secret was refused elsewhere", SOON, async || {
            (status(&other, old).await == 401).then_some(())
        })
        .await;
    }
    let (id, key) = hub.make(&other, &["--scope", "infer:*"]).await;
    assert_eq!(status(&other, &key).await, 200);
    hub.key(&one, &["revoke", &id]).await;
    wait_until("the key was refused everywhere", SOON, async || {
        let both = (status(&one, &key).await, status(&other, &key).await);
        (both == (401, 401)).then_some(())
    })
    .await;
    let listed: Value = serde_json::from_str(&hub.key(&other, &["list", "-o", "json"]).await).expect("JSON");
    let states: Vec<_> = listed
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| &row["status"])
        .collect();
    assert_eq!(states.len(), 2);
    assert!(
        states.contains(&&json!("issued")) && states.contains(&&json!("revoked")),
        "{listed}"
    );
    // What begins later has read the same.
    let third = hub.replica(&[]).await;
    assert_eq!(status(&third, &key).await, 401);
}

#[tokio::test]
async fn a_key_is_good_until_it_expires() {
    let hub = Hub::new().await;
    let api = hub.replica(&[]).await;
    let (_, key) = hub.make(&api, &["--scope", "infer:*", "--expires", "2s"]).await;
    let expired = wait_until("the key expired", SOON, async || {
        let answer = Answer::of(
            api.client()
                .get(format!("{}/v1/models", api.url()))
                .bearer_auth(&key),
        )
        .await;
        (answer.status == 401).then_some(answer)
    })
    .await;
    assert_eq!(code(&expired), "expired_api_key");
    let refused = hub
        .command(&api, &["create", "--name", "n", "--scope", "all"])
        .await;
    assert_eq!(refused.exit(), Some(Exit::Code(2)), "{}", refused.log());
}

#[tokio::test]
async fn wakes_are_counted_for_a_key_in_all_replicas_and_joining_one_is_free() {
    let hub = Hub::new().await;
    let (one, other) = (hub.replica(&[]).await, hub.replica(&[]).await);
    let backend = hub.world.backend(&[]);
    let never = WakeController::answering(200).await;
    let _agent = hub.sleeping(&backend, &never.url(), &["a", "b", "c"]);
    for api in [&one, &other] {
        for llm in ["gpu-box/a", "gpu-box/b", "gpu-box/c"] {
            api.wait_for_status(llm, "hibernating", SOON).await;
        }
    }
    let (id, key) = hub
        .make(&one, &["--scope", "infer:*", "--wakes-per-hour", "1"])
        .await;
    let (_, none) = hub
        .make(&one, &["--scope", "infer:*", "--wakes-per-hour", "0"])
        .await;
    assert_eq!(code(&ask(&one, &none, "a").await), "wake_quota_exceeded");
    assert_eq!(code(&ask(&one, &key, "a").await), "waking");
    other.wait_for_status("gpu-box/a", "waking", SOON).await;
    for api in [&one, &other] {
        assert_eq!(code(&ask(api, &key, "a").await), "waking", "joined");
        assert_eq!(code(&ask(api, &none, "a").await), "waking", "joined");
        let refused = ask(api, &key, "b").await;
        assert_eq!(
            (refused.status, code(&refused)),
            (429, "wake_quota_exceeded".to_owned())
        );
    }
    // A replica that begins now counts what the journal's last hour says.
    let third = hub.replica(&[]).await;
    third.wait_for_status("gpu-box/b", "hibernating", SOON).await;
    let refused = wait_until("it has counted them", SOON, async || {
        let answer = ask(&third, &key, "b").await;
        (code(&answer) != "not_ready").then_some(answer)
    })
    .await;
    assert_eq!(code(&refused), "wake_quota_exceeded", "{}", refused.text());
    let (_, unlimited) = hub.make(&third, &["--scope", "infer:*"]).await;
    assert_eq!(code(&ask(&third, &unlimited, "b").await), "waking");
    let wakes = wait_until("both wakes are listed", SOON, async || {
        let wakes = third.get("/reveille/v1/wakes").await.json();
        let wakes = wakes["data"].as_array().expect("wakes").clone();
        (wakes.len() == 2).then_some(wakes)
    })
    .await;
    assert!(
        wakes.iter().any(|wake| wake["cause"]["key"] == json!(id)),
        "{wakes:?}"
    );
}

#[tokio::test]
async fn a_root_key_that_others_may_read_is_refused_before_anything_starts() {
    let folder = Folder::new();
    let file = folder.path().join("root.key");
    fs::write(&file, "rv_k7mq2v9x_0123456789012345678901234567890123456789012\n").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a file");
    let world = World::new().await;
    let port = Port::claim();
    let api = world
        .reveille("api")
        .args([
            "--nats",
            &world.nats_url(),
            "--listen",
            &port.address().to_string(),
        ])
        .arg("--root-key-file")
        .arg(&file)
        .start();
    assert_eq!(api.wait_for_exit(SOON).await, Exit::Code(2), "{}", api.log());
    assert!(
        api.log().contains("chmod 600") && !api.log().contains("0123456789"),
        "{}",
        api.log()
    );
}

#[tokio::test]
async fn up_makes_a_root_key_that_the_command_line_finds_by_itself() {
    let world = World::new().await;
    let data = world.folder().join("data");
    let up = world.up(&data, "[agent]\nname = \"gpu-box\"\n", &["--require-keys"]);
    up.wait_until_ready().await;
    assert_eq!(up.get("/reveille/v1/llms").await.status, 401);
    let mode = fs::metadata(data.join("root.key"))
        .expect("a root key")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let listed = world
        .reveille("key")
        .args(["list", "--api", &up.url(), "--data-dir"])
        .arg(&data)
        .start();
    assert_eq!(
        listed.wait_for_exit(SOON).await,
        Exit::Code(0),
        "{}",
        listed.log()
    );
    let stranger = world
        .reveille("llms")
        .args(["--api", &up.url(), "--data-dir", "/nowhere"])
        .start();
    assert_eq!(stranger.wait_for_exit(SOON).await, Exit::Code(1));
    assert!(
        stranger.log().contains("reveille key create"),
        "{}",
        stranger.log()
    );
}

#[tokio::test]
async fn keys_are_made_rotated_and_revoked_by_the_documented_commands() {
    let [block] = blocks_of("keys_are_made_rotated_and_revoked_by_the_documented_commands");
    let [create, list, rotate, revoke]: [&str; 4] = block
        .lines()
        .collect::<Vec<_>>()
        .try_into()
        .expect("four commands");
    let hub = Hub::new().await;
    let api = hub.replica(&[]).await;
    let words = |line: &str, id: &str| -> Vec<String> {
        let words = line
            .strip_prefix("reveille key ")
            .expect("a command about keys")
            .split(' ');
        words.map(|word| word.replace("k7mq2v9x4a1b", id)).collect()
    };
    let run = async |line: &str, id: &str| {
        let words = words(line, id);
        hub.key(&api, &words.iter().map(String::as_str).collect::<Vec<_>>())
            .await
    };
    let printed = run(create, "").await;
    let key = printed
        .lines()
        .find(|line| line.starts_with("rv_"))
        .expect("the key")
        .to_owned();
    let id = key.split('_').nth(1).expect("its id").to_owned();
    assert_eq!(status(&api, &key).await, 200);
    assert!(run(list, &id).await.contains(&id));
    let rotated = run(rotate, &id).await;
    assert!(rotated.contains("rv_") && !rotated.contains(&key));
    assert_eq!(status(&api, &key).await, 200, "within the grace");
    run(revoke, &id).await;
    wait_until("the key was refused", SOON, async || {
        (status(&api, &key).await == 401).then_some(())
    })
    .await;
}
