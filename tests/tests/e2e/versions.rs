//! A replica that meets what a newer release wrote: it refuses commands of that provider alone, and says why.

use std::time::Duration;

use reveille_tests::{AgentConfig, Commit, WakeController, World, wait_until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::scene::{LLM, SOON, Scene, refused};

const SUBJECT: &str = "reveille.events.provider.gpu-box.vllm";

/// Writes the provider's last commit once more, as a release whose commits have this version would.
async fn forge(world: &World, version: u64) -> u64 {
    let journal = world.journal().await;
    let last: &Commit = journal
        .iter()
        .rfind(|commit| commit.subject == SUBJECT)
        .expect("a commit");
    let mut body = last.body.clone();
    let number = |field: &str| last.body[field].as_u64().expect("a number");
    let hash = Sha256::digest(&last.payload);
    body["prev"] = hash
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into();
    body["first_event_seq"] = (number("first_event_seq") + last.events().count() as u64).into();
    body["aggregate_version"] = (number("aggregate_version") + 1).into();
    body["v"] = version.into();
    let payload = serde_json::to_vec(&body).expect("JSON");
    let client = world.nats.connect().await;
    let answer = client.request(SUBJECT, payload.into()).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    answer["seq"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn a_newer_commit_makes_its_provider_unavailable_and_leaves_the_others_alone() {
    let scene = Scene::asleep(Duration::ZERO).await;
    let other = scene.world.backend(&[]);
    let controller = WakeController::starting(&other, Duration::ZERO).await;
    let config = AgentConfig::new("other-box")
        .provider("vllm", "llama", &other)
        .woken_by_http(&controller.url());
    let _other_agent = scene.world.agent(&config);
    scene
        .api
        .wait_for_status("other-box/llama", "hibernating", SOON)
        .await;

    let newer = forge(&scene.world, 2).await;
    wait_until("the row tells of it", SOON, async || {
        let row = scene.api.llm(LLM).await?;
        (row["unreadable_since_seq"] == newer).then_some(())
    })
    .await;
    let answer = scene.chat().await;
    assert_eq!(refused(&answer), (503, "provider_unreadable".to_owned()));
    assert!(answer.text().contains("newer version"), "{}", answer.text());
    assert_eq!(scene.posts(), 0, "nothing was woken");
    let client = scene.world.nats.connect_hearing("_INBOX.agent.gpu-box").await;
    let ask = json!({ "v": 1, "agent": "gpu-box", "verb": "deregister", "epoch": 1, "provider": "vllm" });
    let told = client
        .request("reveille.control.gpu-box.deregister", ask.to_string().into())
        .await
        .expect("control answers");
    let told = String::from_utf8_lossy(&told.payload).into_owned();
    assert!(
        told.contains("unreadable") && told.contains("newer version"),
        "{told}"
    );
    let journal = scene.world.journal().await;
    let last = journal.iter().rfind(|commit| commit.subject == SUBJECT);
    assert_eq!(
        last.expect("a commit").sequence,
        newer,
        "nothing was written on top of it"
    );

    let answer = scene.api.chat("llama").await;
    assert_eq!(answer.status, 200, "other providers go on: {}", answer.text());

    // A replica of the newer release, or one that was upgraded back, commits what everybody reads.
    forge(&scene.world, 1).await;
    wait_until("the row is whole again", SOON, async || {
        let row = scene.api.llm(LLM).await?;
        row["unreadable_since_seq"].is_null().then_some(())
    })
    .await;
    let answer = scene.chat().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}
