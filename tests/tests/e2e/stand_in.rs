//! The stand-in LLM server: what it answers, how it misbehaves, and what it writes down.

use std::time::Duration;

use reveille_tests::{
    Answer, Backend, Exit, Process, SOON, StreamedAnswer, WakeController, World, hold_for, http_client,
    is_alive, long_answer, run_python, wait_until,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn body(stream: bool) -> Value {
    json!({ "model": "stand-in", "stream": stream, "messages": [{ "role": "user", "content": "hello" }] })
}

fn chat(backend: &Backend, body: &Value) -> reqwest::RequestBuilder {
    http_client()
        .post(format!("{}/v1/chat/completions", backend.url()))
        .json(body)
}

async fn running(world: &World, args: &[&str]) -> Backend {
    let backend = world.backend(args);
    backend.start_and_wait().await;
    backend
}

#[tokio::test]
async fn the_same_tokens_arrive_whole_and_streamed() {
    let world = World::new().await;
    let backend = running(&world, &["--tokens", "3"]).await;
    let whole = Answer::of(chat(&backend, &body(false))).await;
    assert_eq!(
        (whole.status, whole.said().as_str()),
        (200, "token-0 token-1 token-2")
    );

    let mut asking_for_usage = body(true);
    asking_for_usage["stream_options"] = json!({ "include_usage": true });
    let streamed = StreamedAnswer::of(chat(&backend, &asking_for_usage)).await;
    assert_eq!(streamed.said(), whole.said());
    assert!(streamed.is_done() && streamed.ended_well);
    let data = streamed.data();
    let usage: Value = serde_json::from_str(&data[data.len() - 2]).unwrap();
    assert_eq!(
        (&usage["choices"], &usage["usage"]["completion_tokens"]),
        (&json!([]), &json!(3))
    );
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_large_request_and_a_large_answer_are_hashed_on_both_sides() {
    const ANSWER_BYTES: usize = 20 * 1024 * 1024;
    let world = World::new().await;
    let backend = running(&world, &["--answer-bytes", &ANSWER_BYTES.to_string()]).await;
    let mut large = body(true);
    large["messages"][0]["content"] = json!("x".repeat(5 * 1024 * 1024));
    let streamed = StreamedAnswer::of(chat(&backend, &large)).await;
    assert_eq!(streamed.body.len(), ANSWER_BYTES);
    assert_eq!(
        long_answer::hex(&Sha256::digest(&streamed.body)),
        long_answer::sha256(ANSWER_BYTES)
    );
    let sent = long_answer::hex(&Sha256::digest(large.to_string()));
    assert_eq!(backend.log().requests()[0].body_sha256, sent);
}

#[tokio::test]
async fn requests_are_written_down_and_those_that_the_client_leaves_are_told_apart() {
    let world = World::new().await;
    let backend = running(&world, &["--token-delay-ms", "200"]).await;
    let one = Answer::of(chat(&backend, &body(false)).header("x-request-id", "one")).await;
    assert_eq!(one.json()["stand_in"]["request_id"], "one");
    let mut two = chat(&backend, &body(true))
        .header("x-request-id", "two")
        .send()
        .await
        .unwrap();
    two.chunk().await.unwrap();
    drop(two);
    wait_until("the abort was noticed", SOON, async || {
        (backend.log().aborted() == 1).then_some(())
    })
    .await;

    let log = backend.log();
    let ids: Vec<_> = log
        .requests()
        .into_iter()
        .filter_map(|request| request.request_id)
        .collect();
    assert_eq!(
        (log.starts(), ids, log.answered()),
        (1, vec!["one".to_owned(), "two".to_owned()], 1)
    );
}

#[tokio::test]
async fn it_boots_late_or_not_at_all() {
    let world = World::new().await;
    let late = world.backend(&["--boot-delay-ms", "500"]);
    late.start();
    wait_until("it had started", SOON, async || {
        (late.log().starts() == 1).then_some(())
    })
    .await;
    assert_eq!(late.log().of("listening").count(), 0);
    late.wait_until_listening(SOON).await;

    let never = world.backend(&["--fail-boot", "3"]);
    never.start();
    wait_until("it had ended", SOON, async || never.with_process(Process::exit)).await;
    assert_eq!(never.with_process(Process::exit), Some(Exit::Code(3)));
}

#[tokio::test]
async fn asleep_it_refuses_until_it_is_woken() {
    let world = World::new().await;
    let backend = running(&world, &["--asleep"]).await;
    let refused = Answer::of(chat(&backend, &body(false))).await;
    assert_eq!((refused.status, refused.error_code().as_str()), (503, "asleep"));
    let asleep = Answer::of(http_client().get(format!("{}/is_sleeping", backend.url()))).await;
    assert_eq!(asleep.json(), json!({ "is_sleeping": true }));

    Answer::of(http_client().post(format!("{}/wake_up", backend.url()))).await;
    assert_eq!(Answer::of(chat(&backend, &body(false))).await.status, 200);
    assert_eq!(backend.log().wake_ups(), 1);
    Answer::of(http_client().post(format!("{}/sleep?level=1", backend.url()))).await;
    assert_eq!(Answer::of(chat(&backend, &body(false))).await.status, 503);
}

#[tokio::test]
async fn told_to_hang_it_takes_requests_and_answers_none() {
    let world = World::new().await;
    let backend = running(&world, &["--hang", "inference"]).await;
    let models = Answer::of(http_client().get(format!("{}/v1/models", backend.url()))).await;
    assert_eq!(models.status, 200);
    let hung = tokio::spawn(chat(&backend, &body(false)).send());
    wait_until("it had the request", SOON, async || {
        backend.log().requests().first().cloned()
    })
    .await;
    hold_for("it did not answer", Duration::from_millis(300), async || {
        !hung.is_finished()
    })
    .await;
    hung.abort();
}

#[tokio::test]
async fn told_to_die_it_cuts_its_answer() {
    let world = World::new().await;
    let backend = running(&world, &["--tokens", "8", "--die-after-tokens", "2"]).await;
    let cut = StreamedAnswer::of(chat(&backend, &body(true))).await;
    assert_eq!(cut.said(), "token-0 token-1");
    assert!(!cut.is_done() && !cut.ended_well);
}

#[tokio::test]
async fn killed_it_takes_its_child_with_it() {
    let world = World::new().await;
    let backend = running(&world, &["--fork-grandchild"]).await;
    let child = backend.log().grandchildren()[0];
    assert!(is_alive(child));
    backend.kill9();
    assert!(!is_alive(child));
}

#[tokio::test]
async fn a_wake_controller_counts_posts_and_starts_the_backend() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::from_millis(50)).await;
    let answer = Answer::of(http_client().post(controller.url()).body("wake")).await;
    assert_eq!(answer.status, 200);
    backend.wait_until_listening(SOON).await;
    let posts = controller.posts();
    assert_eq!(
        (posts.len(), posts[0].uri.as_str(), &posts[0].body[..]),
        (1, "/wake", &b"wake"[..])
    );

    controller.change(500, None, Duration::ZERO);
    assert_eq!(Answer::of(http_client().post(controller.url())).await.status, 500);
}

#[tokio::test]
async fn the_openai_package_understands_it() {
    let world = World::new().await;
    let backend = running(&world, &["--tokens", "2"]).await;
    let script = r#"
import openai
client = openai.OpenAI(max_retries=0)
hello = [{"role": "user", "content": "hello"}]
print(client.chat.completions.create(model="stand-in", messages=hello).choices[0].message.content)
stream = client.chat.completions.create(model="stand-in", messages=hello, stream=True)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream))
print(client.completions.create(model="stand-in", prompt="hello").choices[0].text)
print(len(client.embeddings.create(model="stand-in", input=["a", "b"]).data))
print([model.id for model in client.models.list()])
try:
    client.chat.completions.create(model="nobody", messages=hello)
except openai.NotFoundError as error:
    print(error.code)
"#;
    let ran = run_python(script, &backend.url()).await;
    assert!(ran.succeeded, "{}", ran.stderr);
    let expected = "token-0 token-1\ntoken-0 token-1\ntoken-0 token-1\n2\n['stand-in']\nmodel_not_found\n";
    assert_eq!(ran.stdout, expected);
}
