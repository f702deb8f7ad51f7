//! Every path that reaches a backend, as its table has it: cold and warm, streamed and not, with the errors and keep-alives of
//! its family.

use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating},
    streams::{EVENTS, failed, piece},
};
use crate::inference::{
    Endpoint, Family, ModelPlace, Verb,
    endpoint::{ENDPOINTS, Required, SHOW, Streams, tests::at},
};
use bytes::Bytes;
use reveille_bus::relay::RelayError;
use serde_json::{Value, json};
use std::time::Duration;

const LINES: &str = "application/x-ndjson";

/// A whole answer, which passes unchanged.
pub(super) const WHOLE: &str = r#"{"model": "m", "x":1.0}"#;

/// Every path with its endpoint.
fn rows() -> impl Iterator<Item = (&'static Endpoint, &'static str)> {
    ENDPOINTS
        .iter()
        // Those of a stored response have a test of their own.
        .filter(|endpoint| endpoint.model != ModelPlace::Stored)
        .flat_map(|endpoint| endpoint.paths.iter().map(move |path| (endpoint, *path)))
}

/// The endpoints whose answers may be streams.
fn streaming() -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS
        .iter()
        .filter(|endpoint| endpoint.streams != Streams::Never)
}

fn request(
    served: &Served,
    endpoint: &Endpoint,
    path: &str,
    model: &str,
    stream: bool,
) -> reqwest::RequestBuilder {
    if endpoint.verb == Verb::Get {
        return served.client.get(format!("{}{path}?model={model}", served.url));
    }
    if endpoint.model == ModelPlace::Form {
        let field = endpoint.required.field().unwrap_or("x");
        let fields = [
            ("model", model),
            ("stream", if stream { "true" } else { "false" }),
            (field, "x"),
        ];
        return form(served, path, &fields);
    }
    let mut body = json!({ "model": model });
    match endpoint.required {
        Required::Nothing => {}
        Required::Field(field) => body[field] = "x".into(),
        Required::Array(field) => body[field] = json!([]),
    }
    if endpoint.streams != Streams::Never {
        body["stream"] = stream.into();
    }
    served.post(path, &body)
}

pub(super) fn form(served: &Served, path: &str, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let part = |(name, value): &(&str, &str)| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let body: String = fields.iter().map(part).collect();
    let request = served.client.post(format!("{}{path}", served.url));
    request
        .header("content-type", "multipart/form-data; boundary=b")
        .body(format!("{body}--b--\r\n"))
}

/// A backend's whole stream.
const fn stream_of(family: Family) -> &'static str {
    match family {
        Family::OpenAi => "data: {\"a\":1}\n\ndata: [DONE]\n\n",
        Family::LlamaCpp => "data: {\"stop\":true}\n\n",
        Family::Responses => "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n",
        Family::Anthropic => "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        Family::Ollama => "{\"message\":{\"content\":\"x\"},\"done\":false}\n{\"done\":true}\n",
    }
}

const fn type_of(family: Family) -> &'static str {
    match family {
        Family::Ollama => LINES,
        Family::OpenAi | Family::LlamaCpp | Family::Responses | Family::Anthropic => EVENTS,
    }
}

/// Checks an error's form, and returns its type and code.
fn error_of(family: Family, error: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let fields = match family {
        Family::OpenAi | Family::LlamaCpp => &error["error"],
        Family::Responses => {
            // OpenAI's event has them on its own level.
            assert!(
                error.get("code").is_none() || error["code"] == error["error"]["code"],
                "{error}"
            );
            &error["error"]
        }
        Family::Anthropic => {
            assert_eq!(error["type"], "error", "{error}");
            &error["error"]
        }
        Family::Ollama => {
            assert!(
                error["error"].as_str().is_some_and(|text| !text.is_empty()),
                "{error}"
            );
            return (String::new(), text(&error["code"]));
        }
    };
    assert!(
        fields["message"].as_str().is_some_and(|text| !text.is_empty()),
        "{error}"
    );
    (text(&fields["type"]), text(&fields["code"]))
}

#[tokio::test]
async fn each_path_reaches_the_backend_as_it_was_sent_and_its_answer_passes() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for (endpoint, path) in rows() {
        served
            .hub
            .replies([Reply::Whole(200, "application/json", WHOLE.into())]);
        let answer = Answer::of(request(&served, endpoint, path, "gpu-box/m", false)).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, WHOLE), "{path}");
        let sent = served.hub.sent().pop().expect("sent");
        assert_eq!(sent.head.method, endpoint.verb.as_str(), "{path}");
        let query = if endpoint.verb == Verb::Get {
            "?model=gpu-box/m"
        } else {
            ""
        };
        assert_eq!(sent.head.path, format!("{path}{query}"));
    }
}

#[tokio::test]
async fn a_backend_without_the_path_gives_its_own_answer() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for (endpoint, path) in rows() {
        let own = r#"{"detail":"Not Found"}"#;
        served
            .hub
            .replies([Reply::Whole(404, "application/json", own.into())]);
        let answer = Answer::of(request(&served, endpoint, path, "m", true)).await;
        assert_eq!((answer.status, answer.text().as_str()), (404, own), "{path}");
    }
}

#[tokio::test]
async fn what_wakes_waits_for_the_wake_and_nothing_else_wakes() {
    for (endpoint, path) in rows() {
        let served = Served::new().await;
        served.hub.publish("gpu-box/vllm", "m", hibernating());
        served
            .hub
            .replies([Reply::Whole(200, "application/json", WHOLE.into())]);
        let asking = tokio::spawn(Answer::of(request(&served, endpoint, path, "m", false)));
        if !endpoint.wakes {
            let answer = asking.await.expect("it doesn't panic");
            let status = if path == SHOW { 200 } else { 503 };
            assert_eq!((answer.status, served.hub.asked()), (status, 0), "{path}");
            assert!(served.hub.sent().is_empty(), "{path}");
            continue;
        }
        served.hub.until("a wake", |hub| hub.asked() == 1).await;
        served
            .hub
            .change("gpu-box/vllm", |provider| provider.status = active());
        let answer = asking.await.expect("it doesn't panic");
        assert_eq!((answer.status, answer.text().as_str()), (200, WHOLE), "{path}");
    }
}

#[tokio::test]
async fn errors_have_the_form_of_the_family() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served.hub.refuse(failed());
    for (endpoint, path) in rows() {
        let family = endpoint.family;
        let answer = Answer::of(request(&served, endpoint, path, "other", false)).await;
        let (kind, code) = error_of(family, &answer.json());
        assert_eq!((answer.status, code.as_str()), (404, "model_not_found"), "{path}");
        assert!(
            family == Family::Ollama || kind == "not_found_error",
            "{path}: {kind}"
        );
        let id = answer.header("x-request-id").expect("an id").to_owned();
        assert!(
            family != Family::Anthropic || answer.json()["request_id"] == id.as_str(),
            "{path}"
        );
        if !endpoint.wakes {
            continue;
        }
        let answer = Answer::of(request(&served, endpoint, path, "m", true)).await;
        let (kind, code) = error_of(family, &answer.json());
        assert_eq!((answer.status, code.as_str()), (503, "wake_failed"), "{path}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{path}");
        assert!(
            !["server_error", "overloaded_error"].contains(&kind.as_str()),
            "{path}: {kind}"
        );
    }
}

#[tokio::test]
async fn what_the_checks_before_an_endpoint_refuse_has_its_form_too() {
    let served = Served::new().await;
    for (path, family) in [
        ("/v1/messages", Family::Anthropic),
        ("/api/chat", Family::Ollama),
        ("/api/pull", Family::Ollama),
        ("/v1/chat/completions", Family::OpenAi),
    ] {
        let foreign = served
            .post(path, &json!({}))
            .header("origin", "https://evil.example");
        let answer = Answer::of(foreign).await;
        let (_, code) = error_of(family, &answer.json());
        assert_eq!(
            (answer.status, code.as_str()),
            (403, "origin_not_allowed"),
            "{path}"
        );
        let answer = Answer::of(served.client.delete(format!("{}{path}", served.url))).await;
        error_of(family, &answer.json());
    }
    let known = served
        .client
        .get(format!("{}/v1/none", served.url))
        .header("anthropic-version", "2023-06-01");
    error_of(Family::Anthropic, &Answer::of(known).await.json());
}

async fn impatient() -> Served {
    let served = Served::with_timings(|timings| timings.quiet = Duration::from_millis(10)).await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    served
}

/// A stream that has begun, and what it has sent: at least one keep-alive.
async fn begun(served: &Served, endpoint: &Endpoint) -> (reqwest::Response, String) {
    let path = endpoint.paths[0];
    let sent = request(served, endpoint, path, "m", true).send().await;
    let mut response = sent.expect("an answer");
    assert_eq!(response.status(), 200, "{path}");
    let kind = response.headers()["content-type"].to_str().expect("text");
    assert!(type_of(endpoint.family).starts_with(kind), "{path}: {kind}");
    let first = response.chunk().await.expect("a piece").expect("not the end");
    let first = String::from_utf8(first.to_vec()).expect("text");
    match endpoint.family {
        Family::OpenAi | Family::LlamaCpp | Family::Responses => {
            assert!(first.starts_with(": waking gpu-box/m "), "{path}: {first:?}");
        }
        Family::Anthropic => assert!(
            first.starts_with("event: ping\ndata: {\"type\": \"ping\"}\n\n"),
            "{first:?}"
        ),
        Family::Ollama => {
            let line = first.lines().next().expect("a line");
            let line: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(
                (&line["model"], &line["done"]),
                (&json!("m"), &json!(false)),
                "{path}: {line}"
            );
        }
    }
    (response, first)
}

async fn rest(mut response: reqwest::Response) -> String {
    let mut all = Vec::new();
    while let Some(chunk) = response.chunk().await.expect("the stream ends well") {
        all.extend_from_slice(&chunk);
    }
    String::from_utf8(all).expect("text")
}

#[tokio::test]
async fn a_stream_that_waits_gets_its_familys_keepalives_and_then_the_backends_events() {
    for endpoint in streaming() {
        let served = impatient().await;
        let (response, _) = begun(&served, endpoint).await;
        let (sent, kind) = (stream_of(endpoint.family), type_of(endpoint.family));
        served.hub.replies([Reply::Pieces(200, kind, vec![piece(sent)])]);
        served
            .hub
            .change("gpu-box/vllm", |provider| provider.status = active());
        let text = rest(response).await;
        assert!(text.ends_with(sent), "{:?}: {text:?}", endpoint.paths);
    }
}

/// The error that a stream ends with, and whether `[DONE]` follows.
fn last_error(endpoint: &Endpoint, text: &str) -> (Value, bool) {
    let (text, done) = match text.strip_suffix("data: [DONE]\n\n") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let event = match endpoint.family {
        Family::Ollama => text.trim_end().rsplit('\n').next(),
        Family::OpenAi | Family::LlamaCpp => text.trim_end().rsplit("\n").next(),
        Family::Anthropic => {
            let (_, event) = text.trim_end().rsplit_once("event: error\n").expect("an error");
            Some(event)
        }
        Family::Responses => {
            let (_, events) = text.trim_end().rsplit_once("event: error\n").expect("an error");
            let (error, failed) = events
                .split_once("\n\nevent: response.failed\ndata: ")
                .expect("its end");
            let failed: Value = serde_json::from_str(failed).expect("JSON");
            let error_of_failed = &failed["response"]["error"];
            let error_of_event: Value = serde_json::from_str(&error["data: ".len()..]).expect("JSON");
            assert_eq!(error_of_failed["message"], error_of_event["message"]);
            let codes = [&error_of_event["code"], &json!("invalid_prompt")];
            assert!(codes.contains(&&error_of_failed["code"]), "{failed}");
            Some(error)
        }
    };
    let event = event.expect("an event");
    let json = event.strip_prefix("data: ").unwrap_or(event);
    (
        serde_json::from_str(json).unwrap_or_else(|_| panic!("JSON: {text:?}")),
        done,
    )
}

#[tokio::test]
async fn a_wake_that_fails_in_a_begun_stream_is_an_error_that_its_clients_raise() {
    for endpoint in streaming() {
        let served = impatient().await;
        let (response, _) = begun(&served, endpoint).await;
        served.hub.fail_wakes(failed());
        let (error, done) = last_error(endpoint, &rest(response).await);
        let (kind, code) = error_of(endpoint.family, &error);
        assert_eq!(code, "wake_failed", "{error}");
        assert!(
            !["server_error", "overloaded_error"].contains(&kind.as_str()),
            "{error}"
        );
        assert_eq!(done, endpoint.family == Family::OpenAi, "{:?}", endpoint.paths);
    }
}

#[tokio::test]
async fn codex_which_sends_a_request_again_after_any_5xx_gets_a_lasting_error_in_a_stream() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    let ask = async |agent: &str, model: &str, stream: bool| {
        served.hub.refuse(failed());
        let body = json!({ "model": model, "input": "x", "stream": stream });
        let request = served.post("/v1/responses", &body);
        Answer::of(request.header("user-agent", agent)).await
    };
    let codex = "codex_exec/0.171.0 (Debian 12.0.0; x86_64)";
    let told = ask(codex, "m", true).await;
    assert_eq!(
        (told.status, told.header("content-type")),
        (200, Some("text/event-stream"))
    );
    let (error, _) = last_error(at("/v1/responses"), &told.text());
    assert_eq!(error["code"], "wake_failed");
    assert!(
        told.text().contains(r#""error":{"code":"invalid_prompt""#),
        "{}",
        told.text()
    );
    for (agent, model, stream, expected) in [
        ("OpenAI/Python 3.54.0", "m", true, (503, "wake_failed")),
        (codex, "m", false, (503, "wake_failed")),
        (codex, "other", true, (404, "model_not_found")),
    ] {
        let refused = ask(agent, model, stream).await;
        assert_eq!((refused.status, refused.error().as_str()), expected, "{agent}");
    }
}

#[tokio::test]
async fn a_backends_refusal_of_a_begun_stream_is_such_an_error_with_its_words() {
    for endpoint in streaming() {
        let served = impatient().await;
        let (response, _) = begun(&served, endpoint).await;
        let refusal = r#"{"error":"MARK is too long"}"#;
        served
            .hub
            .replies([Reply::Whole(400, "application/json", refusal.into())]);
        served
            .hub
            .change("gpu-box/vllm", |provider| provider.status = active());
        let (error, _) = last_error(endpoint, &rest(response).await);
        error_of(endpoint.family, &error);
        assert!(error.to_string().contains("MARK is too long"), "{error}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_such_an_error_on_its_own_lines() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for endpoint in streaming() {
        let half = match endpoint.family {
            Family::Ollama => "{\"message\":{\"con",
            Family::OpenAi | Family::LlamaCpp | Family::Responses | Family::Anthropic => "data: {\"a",
        };
        let pieces = vec![piece(half), Err(RelayError::Silent { silent_ms: 15_000 })];
        served
            .hub
            .replies([Reply::Pieces(200, type_of(endpoint.family), pieces)]);
        let answer = Answer::of(request(&served, endpoint, endpoint.paths[0], "m", true)).await;
        let text = answer.text();
        assert!(answer.whole && text.starts_with(&format!("{half}\n")), "{text:?}");
        let (error, done) = last_error(endpoint, &text);
        assert_eq!(error_of(endpoint.family, &error).1, "relay_failed", "{error}");
        assert!(!done);
    }
}

#[tokio::test]
async fn a_request_for_no_stream_gets_none_from_us() {
    for endpoint in streaming() {
        let served = impatient().await;
        let path = endpoint.paths[0];
        let asking = tokio::spawn(Answer::of(request(&served, endpoint, path, "m", false)));
        served.hub.until("a wake", |hub| hub.asked() == 1).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        served.hub.fail_wakes(failed());
        let answer = asking.await.expect("it doesn't panic");
        assert_eq!(
            (
                answer.status,
                error_of(endpoint.family, &answer.json()).1.as_str()
            ),
            (503, "wake_failed")
        );
    }
}

#[tokio::test]
async fn ollamas_lines_pass_whatever_type_the_backend_gives_them() {
    let served = impatient().await;
    let endpoint = Endpoint::find(Verb::Post, "/api/chat").expect("a path");
    let (response, _) = begun(&served, endpoint).await;
    let lines = Bytes::from_static(b"{\"done\":true}\n");
    served.hub.replies([Reply::Whole(200, "application/json", lines)]);
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    assert!(rest(response).await.ends_with("{\"done\":true}\n"));
}

#[tokio::test]
async fn no_page_of_another_origin_gets_a_backend_to_work_with_a_get() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for (endpoint, path) in rows().filter(|(endpoint, _)| endpoint.verb == Verb::Get) {
        let foreign = request(&served, endpoint, path, "m", false).header("sec-fetch-site", "cross-site");
        assert_eq!(Answer::of(foreign).await.status, 403, "{path}");
    }
    assert!(served.hub.sent().is_empty());
}
