//! What passes through arrives as it was sent.

use reqwest::header::HeaderMap;
use reveille_tests::{AgentConfig, Api, Backend, Process, World, long_answer, wait_until};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::scene::SOON;

fn sha256(bytes: &[u8]) -> String {
    long_answer::hex(&Sha256::digest(bytes))
}

/// An active provider whose backend knows the model by its public name, so that bodies pass unchanged.
/// `more`: further lines of the provider.
async fn relayed(backend_args: &[&str], more: &str) -> (World, Backend, Api, Process) {
    let world = World::new().await;
    let backend = world.backend(backend_args);
    backend.start_and_wait().await;
    let api = world.api().await;
    let url = backend.url();
    let provider =
        format!("\n[[provider]]\nname = \"vllm\"\nbase_url = {url:?}\nmodels = [\"stand-in\"]\n{more}\n");
    let agent = world.agent(&AgentConfig::new("gpu-box").lines(&provider));
    api.wait_for_status("gpu-box/stand-in", "active", SOON).await;
    (world, backend, api, agent)
}

#[tokio::test]
async fn a_body_of_five_mebibytes_arrives_intact() {
    let (_world, backend, api, _agent) = relayed(&[], "").await;
    let filler = "x".repeat(5 * 1024 * 1024);
    let body = json!({ "model": "stand-in", "messages": [{ "role": "user", "content": filler }] });
    let sent = serde_json::to_vec(&body).expect("JSON");
    let answer = api.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = backend.log().requests();
    let chat = seen
        .iter()
        .find(|request| request.path.contains("chat"))
        .expect("the backend saw it");
    assert_eq!(chat.body_sha256, sha256(&sent));
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_streamed_answer_of_twenty_mebibytes_arrives_intact() {
    const BYTES: usize = 20 * 1024 * 1024;
    let (_world, _backend, api, _agent) = relayed(&["--answer-bytes", &BYTES.to_string()], "").await;
    let answer = api.stream("stand-in").await;
    assert!(answer.status == 200 && answer.ended_well);
    assert_eq!(answer.body.len(), BYTES);
    assert_eq!(sha256(&answer.body), long_answer::sha256(BYTES));
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_backend() {
    let (_world, backend, api, _agent) = relayed(&["--tokens", "10000", "--token-delay-ms", "50"], "").await;
    let mut response = api.open_stream("stand-in").await;
    response.chunk().await.expect("a first piece");
    drop(response);
    wait_until("the backend saw its client leave", SOON, async || {
        (backend.log().aborted() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_breaks_in_the_middle_ends_with_the_error_event_and_without_done() {
    let (_world, _backend, api, _agent) = relayed(&["--tokens", "50", "--die-after-tokens", "5"], "").await;
    let answer = api.stream("stand-in").await;
    assert_eq!(answer.status, 200);
    assert!(answer.said().starts_with("token-0"), "{answer:?}");
    assert!(answer.error_code().is_some(), "{answer:?}");
    assert!(!answer.is_done(), "{answer:?}");
    assert_logged_with_its_id(&api, &answer.headers);
}

/// The log tells of a failed request by the id that its client was told.
fn assert_logged_with_its_id(api: &Api, headers: &HeaderMap) {
    let id = headers["x-request-id"].to_str().expect("text");
    let id = format!("request.id=\"{id}\"");
    let log = api.process().log();
    let told = log
        .lines()
        .any(|line| line.contains("WARN") && line.contains(&id));
    assert!(told, "no warning with {id}:\n{log}");
}

#[tokio::test]
async fn a_backend_that_takes_a_request_and_says_nothing_is_given_up_with_the_key_to_raise() {
    let (_world, _backend, api, _agent) = relayed(&["--hang", "inference"], "answer_timeout = \"1s\"").await;
    let answer = api.chat("stand-in").await;
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (504, "backend_timeout"),
        "{}",
        answer.text()
    );
    assert!(answer.text().contains("answer_timeout"), "{}", answer.text());
    let (_world, _backend, other, _agent) =
        relayed(&["--hang", "inference"], "first_byte_timeout = \"500ms\"").await;
    let late = other.chat("stand-in").await;
    assert_eq!(
        (late.status, late.error_code().as_str()),
        (504, "first_byte_timeout"),
        "{}",
        late.text()
    );
    assert!(
        late.text().contains("s (`first_byte_timeout`)"),
        "{}",
        late.text()
    );
    assert_logged_with_its_id(&api, &answer.headers);
}
