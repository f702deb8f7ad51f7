//! What requests and names carry that is larger or stranger than usual, through every process.

use std::fs;

use reveille_tests::{AgentConfig, Answer, Process, World, wait_until};
use serde_json::{Value, json};

use crate::scene::SOON;

/// A name that reads as another one in a terminal: it hides a character, reverses what follows, and clears the screen.
const STRANGE: &str = "m\u{200b}\u{202e}live\u{2066}";
/// What a terminal gets of it.
const SHOWN: &str = r"m\u200b\u202elive\u2066";

async fn asked(api: &reveille_tests::Api, mib: usize) -> Answer {
    let filler = "x".repeat(mib * 1024 * 1024);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{filler}"}}]}}"#);
    let request = api.client().post(format!("{}/v1/chat/completions", api.url()));
    Answer::of(request.header("content-type", "application/json").body(body)).await
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_body_as_large_as_the_flag_allows_reaches_its_backend_and_no_larger_one() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let api = world.api_with(&["--max-body", "48MiB"]);
    api.wait_until_ready().await;
    let _agent = world.agent(&AgentConfig::new("gpu-box").provider("vllm", "m", &backend));
    api.wait_for_status("gpu-box/m", "active", SOON).await;
    let answer = asked(&api, 47).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = backend.log().requests();
    assert!(
        received
            .iter()
            .any(|request| request.body_bytes > 47 * 1024 * 1024),
        "{received:?}"
    );
    let answer = asked(&api, 48).await;
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (413, "request_too_large")
    );
    let text = answer.text();
    assert!(text.contains("48 MiB") && text.contains("--max-body"), "{text}");
}

#[tokio::test]
async fn up_takes_the_size_of_bodies_and_the_default_model_as_a_replica_does() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let flags = ["--max-body", "1MiB", "--default-model", "m"];
    let api = world.api_with(&flags);
    let config = AgentConfig::new("gpu-box").provider("vllm", "m", &backend);
    let _agent = world.agent(&config);
    let up = world.up(&world.folder().join("data"), &config.to_toml(), &flags);
    for api in [&api, &up] {
        api.wait_until_ready().await;
        api.wait_for_status("gpu-box/m", "active", SOON).await;
        let body = json!({ "messages": [{ "role": "user", "content": "hello" }] });
        let answer = api.post("/v1/chat/completions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = asked(api, 1).await;
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert!(answer.text().contains("1 MiB"), "{}", answer.text());
    }
}

/// What a command prints.
async fn printed(world: &World, command: &str, args: &[&str]) -> String {
    let process: Process = world.reveille(command).args(args).start();
    process.wait_for_exit(SOON).await;
    process.log()
}

#[tokio::test]
async fn no_name_acts_on_a_terminal() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let config = |models: &str| {
        format!(
            "[agent]\nname = \"gpu-box\"\n[[provider]]\nname = \"vllm\"\nbase_url = \"{}\"\nmodels = [{models}]\n\
             [provider.wake]\ntype = \"http\"\nurl = \"http://127.0.0.1:1/\"\nmax_wait = \"1s\"\n",
            backend.url()
        )
    };
    let write = |name: &str, text: String| {
        let file = world.folder().join(name);
        fs::write(&file, text).expect("a config");
        file.display().to_string()
    };
    let good = write("good.toml", config(&format!("\"{STRANGE}\"")));
    let api = world.api().await;
    let agent = world.agent_from(&fs::read_to_string(&good).expect("a config"));
    api.wait_for_status(&format!("gpu-box/{STRANGE}"), "hibernating", SOON)
        .await;
    assert_eq!(api.chat(STRANGE).await.status, 503);
    let unknown = api.chat(&format!("{STRANGE}?")).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());

    let url = api.url();
    let to_api = ["--api", &url];
    let mut all = vec![api.process().log(), agent.log()];
    for (command, args) in [
        ("llms", &to_api[..]),
        ("llms", &[&to_api[..], &["-o", "json"]].concat()),
        ("providers", &to_api),
        ("wakes", &to_api),
        ("wakes", &[&to_api[..], &["-o", "jsonl"]].concat()),
        ("events", &to_api),
        ("events", &[&to_api[..], &["-o", "jsonl"]].concat()),
        ("doctor", &["--config", &good, "--nats", &world.nats_url()]),
        ("config", &["check", &good]),
        ("config", &["show", &good]),
        ("recipe", &["test", "vllm", "--config", &good]),
    ] {
        let said = printed(&world, command, args).await;
        let shows = matches!(command, "llms" | "providers" | "wakes");
        assert!(!shows || said.contains(SHOWN), "{command} {args:?}: {said}");
        if args.contains(&"jsonl") {
            for line in said.lines() {
                serde_json::from_str::<Value>(line).expect("JSON stays JSON");
            }
            assert!(command != "wakes" || said.contains(SHOWN), "{said}");
        }
        all.push(said);
    }
    wait_until("the API logged the wake's end", SOON, async || {
        api.process().log().contains("WakeFailed").then_some(())
    })
    .await;
    all.push(api.process().log());
    for said in all {
        let raw = ['\u{200b}', '\u{202e}', '\u{2066}']
            .into_iter()
            .find(|c| said.contains(*c));
        assert_eq!(raw, None, "{said}");
    }
}
