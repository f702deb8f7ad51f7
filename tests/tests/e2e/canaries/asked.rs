//! What is asked and answered: requests, wakes that succeed and fail, and everything that can be asked about them.

use super::hub::Hub;
use serde_json::{Value, json};
use std::{
    io::Write,
    process::{Command, Stdio},
};

pub fn chat(hub: &Hub, provider: &str, prompt: &str) -> Value {
    json!({ "model": format!("{provider}-{}", hub.marker), "messages": [{ "role": "user", "content": format!("{} {prompt}", hub.marker) }] })
}

pub async fn answered_requests(hub: &Hub, key: &str) {
    let plant = |place| hub.planted.plant(place);
    let post = |path: &str| hub.client.post(hub.url(path));
    let (cookie, header) = (plant("cookie of a caller"), plant("header of a caller"));
    let model = format!("open-{}", hub.marker);
    let own = |place: &'static str| [place, "completion"];

    let request = post("/v1/chat/completions")
        .bearer_auth(key)
        .header("cookie", &cookie)
        .header("x-forwarded-for", &header);
    let request = request
        .header("x-secret", &header)
        .header("referer", format!("http://x/{header}"))
        .json(&chat(hub, "open", &plant("prompt")));
    let answer = hub.ask(request, &own("prompt")).await;
    assert!(
        answer.status == 200 && answer.text().contains("assistant"),
        "{}",
        answer.text()
    );

    let mut body = chat(hub, "open", &plant("prompt of a stream"));
    body["stream"] = json!(true);
    let answer = hub
        .ask(
            post("/v1/chat/completions").header("x-api-key", key).json(&body),
            &own("prompt of a stream"),
        )
        .await;
    assert!(answer.text().contains("[DONE]"), "{}", answer.text());

    let preset = chat(hub, "bot", "hello");
    let answer = hub
        .ask(
            post("/v1/chat/completions").bearer_auth(key).json(&preset),
            &["completion"],
        )
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut twice = serde_json::to_string(&preset).expect("JSON");
    twice.insert_str(1, "\"messages\":[],");
    let request = post("/v1/responses")
        .bearer_auth(key)
        .header("content-type", "application/json")
        .body(twice.replace("\"messages\"", "\"instructions\""));
    let answer = hub.ask(request, &[]).await;
    assert_eq!(answer.status, 400, "{}", answer.text());

    for (path, place, body) in [
        (
            "/v1/completions",
            "prompt of a completion",
            json!({ "model": model, "prompt": plant("prompt of a completion") }),
        ),
        (
            "/v1/embeddings",
            "input of an embedding",
            json!({ "model": model, "input": [plant("input of an embedding")] }),
        ),
    ] {
        let answer = hub
            .ask(post(path).bearer_auth(key).json(&body), &own(place))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let mut body = chat(hub, "open", "hello");
    body["tools"] = json!([{ "type": "function", "function": { "name": "f", "arguments": plant("arguments of a tool") } }]);
    body["messages"][0]["content"] = json!([{ "type": "image_url", "image_url": { "url": plant("image") } }]);
    let answer = hub
        .ask(
            post("/v1/chat/completions").bearer_auth(key).json(&body),
            &["arguments of a tool", "image", "completion"],
        )
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    let body = chat(
        hub,
        "open",
        &format!("please-fail {}", plant("prompt that a backend fails on")),
    );
    let request = post("/v1/chat/completions").bearer_auth(key).json(&body);
    let answer = hub
        .ask(
            request,
            &["prompt that a backend fails on", "error body of a backend"],
        )
        .await;
    assert_eq!(answer.status, 500, "{}", answer.text());
    over_http2(hub, key, &chat(hub, "open", &plant("prompt over HTTP/2")));
}

/// The same by curl, which reads all that is secret from its standard input.
fn over_http2(hub: &Hub, key: &str, body: &Value) {
    let text = |value: &str| serde_json::to_string(value).expect("text");
    let config = format!(
        "http2\ncacert = {}\nurl = {}\nheader = {}\nheader = \"content-type: application/json\"\ndata = {}\n",
        text(&hub.folder.join("nats/hub/ca.pem").display().to_string()),
        text(&hub.url("/v1/chat/completions")),
        text(&format!("authorization: Bearer {key}")),
        text(&body.to_string()),
    );
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--include", "--config", "-"]);
    let mut curl = curl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl starts");
    curl.stdin
        .take()
        .expect("its input")
        .write_all(config.as_bytes())
        .expect("it reads");
    let answer = curl.wait_with_output().expect("curl ends").stdout;
    let shown = String::from_utf8_lossy(&answer);
    assert!(shown.starts_with("HTTP/2 200"), "{shown}");
    hub.keep(answer, &["prompt over HTTP/2", "completion"]);
}

pub async fn wakes(hub: &Hub, key: &str) {
    let post = |path: &str| hub.client.post(hub.url(path));
    let prompt = hub.planted.plant("prompt that wakes");
    for (provider, status) in [
        ("sleepy", 200),
        ("served", 200),
        ("refusing", 503),
        ("unreachable", 503),
        ("failing", 503),
        ("missing", 503),
    ] {
        let body = chat(hub, provider, &prompt);
        let answer = hub
            .ask(
                post("/v1/chat/completions").bearer_auth(key).json(&body),
                &["prompt that wakes", "completion"],
            )
            .await;
        assert_eq!(answer.status, status, "{provider}: {}", answer.text());
    }
    let sleep = format!("/reveille/v1/providers/{}/sleepy/sleep", hub.marker);
    let answer = hub.ask(post(&sleep).bearer_auth(&hub.root), &[]).await;
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    hub.wait_for("sleepy", "hibernating").await;
    let wake = sleep.replace("/sleepy/sleep", "/failing/wake");
    hub.ask(post(&wake).bearer_auth(&hub.root), &[]).await;
}

/// Everything that is there to be asked about it afterwards.
pub async fn queries(hub: &Hub, key: &str) {
    let last = hub.ask(hub.get("/reveille/v1/status"), &[]).await.json()["journal"]
        .as_u64()
        .expect("a sequence");
    for path in [
        "/v1/models",
        "/reveille/v1/llms",
        "/reveille/v1/providers",
        "/reveille/v1/wakes",
        "/reveille/v1/events?limit=1000",
        "/reveille/v1/requests?limit=1000",
        "/reveille/v1/usage",
        "/reveille/v1/agents",
        "/reveille/v1/keys",
        "/reveille/v1/status",
        "/metrics",
        "/livez",
        "/readyz",
    ] {
        let path = if path.contains("/events") {
            format!("{path}&min_seq={last}")
        } else {
            path.to_owned()
        };
        let key = if path == "/v1/models" { key } else { &hub.root };
        let answer = hub
            .ask(hub.client.get(hub.url(&path)).bearer_auth(key), &[])
            .await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
}
