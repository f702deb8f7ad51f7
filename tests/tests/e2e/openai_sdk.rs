//! A client that real people use: the `openai` Python package.

use std::time::Duration;

use reveille_tests::{AgentConfig, WakeController, World, run_python};

use crate::scene::{LLM, SOON, Scene};

#[tokio::test]
async fn the_openai_package_lists_chats_streams_and_embeds_through_one_wake() {
    let scene = Scene::asleep(Duration::from_millis(300)).await;
    let script = r#"
import openai
client = openai.OpenAI(max_retries=0)
assert [model.id for model in client.models.list()] == ["qwen"]
assert client.models.retrieve("qwen").id == "qwen"
messages = [{"role": "user", "content": "hello"}]
answer = client.chat.completions.create(model="qwen", messages=messages)
assert answer.choices[0].message.content.startswith("token-0"), answer
stream = client.chat.completions.create(
    model="qwen", messages=messages, stream=True, stream_options={"include_usage": True})
chunks = list(stream)
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert text.startswith("token-0"), text
assert chunks[-1].usage is not None and chunks[-1].choices == [], chunks[-1]
assert len(client.embeddings.create(model="qwen", input="hello").data[0].embedding) > 0
print("fine")
"#;
    let run = run_python(script, &scene.api.url()).await;
    assert!(
        run.succeeded && run.stdout.contains("fine"),
        "{}\n{}",
        run.stdout,
        run.stderr
    );
    assert_eq!(scene.posts(), 1);
}

#[tokio::test]
async fn the_openai_package_raises_its_own_error_classes() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::answering(500).await;
    let api = world.api_with(&["--max-waiting", "1"]);
    api.wait_until_ready().await;
    let slow = WakeController::answering(200).await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_http(&controller.url())
        .provider("late", "late", &backend)
        .lines(&format!(
            "\n[provider.wake]\ntype = \"http\"\nurl = {:?}\nmax_wait = \"3s\"\n",
            slow.url()
        ));
    let _agent = world.agent(&config);
    api.wait_for_status(LLM, "hibernating", SOON).await;
    api.wait_for_status("gpu-box/late", "hibernating", SOON).await;
    let script = r#"
import concurrent.futures, openai
client = openai.OpenAI(max_retries=0)
messages = [{"role": "user", "content": "hello"}]
def chat(model):
    try:
        return client.chat.completions.create(model=model, messages=messages)
    except openai.APIStatusError as error:
        return error
missing = chat("qwem")
assert isinstance(missing, openai.NotFoundError), missing
assert missing.code == "model_not_found" and "qwen" in missing.message, missing
failed = chat("qwen")
assert isinstance(failed, openai.InternalServerError) and failed.status_code == 503, failed
assert failed.code == "wake_failed" and failed.response.headers["retry-after"], failed
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    both = list(pool.map(chat, ["late", "late"]))
statuses = sorted(error.status_code for error in both)
assert statuses == [429, 504], both
assert any(isinstance(error, openai.RateLimitError) for error in both), both
print("fine")
"#;
    let run = run_python(script, &api.url()).await;
    assert!(
        run.succeeded && run.stdout.contains("fine"),
        "{}\n{}",
        run.stdout,
        run.stderr
    );
}

#[tokio::test]
async fn responses_messages_and_ollamas_chat_are_served_through_one_wake() {
    let scene = Scene::asleep(Duration::from_millis(300)).await;
    let script = r#"
import json, openai, os, urllib.request
client = openai.OpenAI(max_retries=0)
answer = client.responses.create(model="gpu-box/qwen", input="hello")
assert answer.output_text.startswith("token-0"), answer
events = list(client.responses.create(model="qwen", input="hello", stream=True))
text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
assert text.startswith("token-0") and events[-1].type == "response.completed", events
models = {event.response.model for event in events if hasattr(event, "response")}
assert models == {"qwen"}, models
try:
    list(client.responses.create(model="none", input="hello", stream=True))
    raise SystemExit("no error")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error

def post(path, body):
    url = os.environ["OPENAI_BASE_URL"].removesuffix("/v1") + path
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request).read().decode()

messages = [{"role": "user", "content": "hello"}]
stream = post("/v1/messages", {"model": "qwen", "max_tokens": 5, "messages": messages, "stream": True})
assert stream.startswith("event: message_start\n") and "event: message_stop\n" in stream, stream
lines = [json.loads(line) for line in post("/api/chat", {"model": "qwen", "messages": messages}).splitlines()]
assert lines[0]["message"]["content"] == "token-0" and lines[-1]["done"], lines
print("fine")
"#;
    let run = run_python(script, &scene.api.url()).await;
    assert!(
        run.succeeded && run.stdout.contains("fine"),
        "{}\n{}",
        run.stdout,
        run.stderr
    );
    assert_eq!(scene.posts(), 1);
}
