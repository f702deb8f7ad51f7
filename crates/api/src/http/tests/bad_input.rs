use super::{Answer, HttpLimits, Served, chat_body, fake_hub::active, limits};
use reveille_domain::rows::MemoryRows;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const CHAT: &str = "/v1/chat/completions";
/// What every request with a body has.
const TYPED: &str = "host: localhost\r\ncontent-type: application/json\r\n";

/// A body, and what it is answered with.
struct Case(&'static str, Vec<u8>, u16, &'static str, Option<&'static str>);

fn case(
    path: &'static str,
    body: impl Into<Vec<u8>>,
    status: u16,
    code: &'static str,
    param: impl Into<Option<&'static str>>,
) -> Case {
    Case(path, body.into(), status, code, param.into())
}

fn bad_bodies() -> Vec<Case> {
    let mut cases = vec![
        case(CHAT, "", 400, "invalid_json", None),
        case(CHAT, " \n", 400, "invalid_json", None),
        case(CHAT, r#"{"model":"m","messages":["#, 400, "invalid_json", None),
        case(CHAT, r#"[{"model":"m"}]"#, 400, "invalid_json", None),
        case(CHAT, "null", 400, "invalid_json", None),
        case(
            CHAT,
            r#"{"model":"m","messages":[]} x"#,
            400,
            "invalid_json",
            None,
        ),
        case(
            CHAT,
            *b"{\"model\":\"m\",\"messages\":[\"\xff\"]}",
            400,
            "invalid_json",
            None,
        ),
        case(CHAT, "[".repeat(10_000), 400, "invalid_json", None),
        case(
            CHAT,
            r#"{"model":"m","model":"m","messages":[]}"#,
            400,
            "duplicate_field",
            "model",
        ),
        case(CHAT, r#"{"messages":[]}"#, 400, "missing_field", "model"),
        case(CHAT, r#"{"model":7,"messages":[]}"#, 400, "invalid_type", "model"),
        case(
            CHAT,
            r#"{"model":null,"messages":[]}"#,
            400,
            "invalid_type",
            "model",
        ),
        case(
            CHAT,
            r#"{"model":{},"messages":[]}"#,
            400,
            "invalid_type",
            "model",
        ),
        case(
            CHAT,
            r#"{"model":"","messages":[]}"#,
            400,
            "invalid_model",
            "model",
        ),
        case(
            CHAT,
            r#"{"model":"a\nb","messages":[]}"#,
            400,
            "invalid_model",
            "model",
        ),
        case(
            CHAT,
            r#"{"model":"a\u0000b","messages":[]}"#,
            400,
            "invalid_model",
            "model",
        ),
        case(
            CHAT,
            chat_body(&"m".repeat(257), false).to_string(),
            400,
            "invalid_model",
            "model",
        ),
        case(CHAT, r#"{"model":"m"}"#, 400, "invalid_type", "messages"),
        case(
            CHAT,
            r#"{"model":"m","messages":"hi"}"#,
            400,
            "invalid_type",
            "messages",
        ),
        case(
            CHAT,
            r#"{"model":"m","messages":null}"#,
            400,
            "invalid_type",
            "messages",
        ),
        case(
            CHAT,
            r#"{"model":"m","messages":[],"stream":"true"}"#,
            400,
            "invalid_type",
            "stream",
        ),
        case(
            CHAT,
            r#"{"model":"m","messages":[],"stream":1}"#,
            400,
            "invalid_type",
            "stream",
        ),
        case(
            "/v1/completions",
            r#"{"model":"m"}"#,
            400,
            "missing_field",
            "prompt",
        ),
        case(
            "/v1/embeddings",
            r#"{"model":"m"}"#,
            400,
            "missing_field",
            "input",
        ),
    ];
    for name in ["api_base", "base_url"] {
        let body = json!({ "model": "m", "messages": [], name: "http://elsewhere" }).to_string();
        cases.push(case(CHAT, body, 400, "unsupported_field", name));
    }
    // Legal names that nobody publishes, even where they look like subjects.
    for name in ["a.b", "*", ">", "a b", "reveille.events.>"] {
        cases.push(case(
            CHAT,
            chat_body(name, false).to_string(),
            404,
            "model_not_found",
            "model",
        ));
    }
    cases
}

#[tokio::test]
async fn nonsense_is_refused_by_name_and_reaches_nobody() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    for Case(path, body, status, code, param) in bad_bodies() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let request = served.client.post(format!("{}{path}", served.url));
        let answer = Answer::of(request.header("content-type", "application/json").body(body)).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (status, code),
            "{shown}: {}",
            answer.text()
        );
        assert_eq!(answer.json()["error"]["param"].as_str(), param, "{shown}");
    }
    assert!(served.hub.sent().is_empty());
    assert_eq!(served.hub.asked(), 0);
}

#[tokio::test]
async fn paths_methods_media_types_and_headers_are_judged_before_the_body() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let url = |path: &str| format!("{}{path}", served.url);
    let post = |header: &'static str, value: &'static str| {
        served
            .client
            .post(url(CHAT))
            .header(header, value)
            .body(chat_body("m", false).to_string())
    };
    let cases = [
        (served.client.get(url("/v1/nothing")), 404, "not_found"),
        (served.client.get(url("/nothing")), 404, "not_found"),
        (served.client.post(url("/reveille/v1/nothing")), 404, "not_found"),
        (served.client.get(url(CHAT)), 405, "method_not_allowed"),
        (served.client.delete(url("/v1/models")), 405, "method_not_allowed"),
        (
            served.client.get(url("/reveille/v1/providers/a/b/wake")),
            405,
            "method_not_allowed",
        ),
        (post("content-type", "text/plain"), 415, "unsupported_media_type"),
        (
            post("content-type", "application/x-www-form-urlencoded"),
            415,
            "unsupported_media_type",
        ),
        (post("content-encoding", "gzip"), 415, "unsupported_media_type"),
        (post("x-reveille-wake", "perhaps"), 400, "invalid_header"),
        (post("x-reveille-wait", "-3"), 400, "invalid_header"),
        (post("x-reveille-progress", "loud"), 400, "invalid_header"),
    ];
    for (request, status, code) in cases {
        let answer = Answer::of(request).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (status, code),
            "{}",
            answer.text()
        );
    }
    assert!(served.hub.sent().is_empty());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_announced_or_endless() {
    let served = Served::new().await;
    let announced = served
        .client
        .post(format!("{}{CHAT}", served.url))
        .header("content-type", "application/json")
        .body("x".repeat(3 * 1024 * 1024));
    let answer = Answer::of(announced).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (413, "request_too_large")
    );
    assert!(answer.text().contains("(--max-body)"), "{}", answer.text());

    let mut stream = TcpStream::connect(served.address()).await.expect("a connection");
    let head = format!("POST {CHAT} HTTP/1.1\r\n{TYPED}transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("written");
    let (mut reader, mut writer) = stream.into_split();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let endless = tokio::spawn(async move { while writer.write_all(chunk.as_bytes()).await.is_ok() {} });
    let mut answer = vec![0; 12];
    reader.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 413");
    endless.abort();
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_it_comes() {
    let served = Served::new().await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut stream = TcpStream::connect(served.address()).await.expect("a connection");
        let head = format!("POST {CHAT} HTTP/1.1\r\n{TYPED}content-length: 9999999\r\n{expect}\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let mut answer = vec![0; 12];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await;
        read.expect("an answer soon").expect("an answer");
        assert_eq!(answer, b"HTTP/1.1 413");
    }
}

#[tokio::test]
async fn a_body_that_stands_still_ends_its_request() {
    let served = Served::with_timings(|timings| timings.body_idle = Duration::from_millis(50)).await;
    let mut stream = TcpStream::connect(served.address()).await.expect("a connection");
    let half = format!("POST {CHAT} HTTP/1.1\r\n{TYPED}content-length: 100\r\n\r\n{{\"model\":");
    stream.write_all(half.as_bytes()).await.expect("written");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn bodies_beyond_the_memory_set_aside_for_them_are_told_to_come_back() {
    let limits = HttpLimits {
        held_body_bytes: 10,
        ..limits()
    };
    let served = Served::with(limits, Arc::new(MemoryRows::new())).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let answer = Answer::of(served.chat("m", false)).await;
    assert_eq!((answer.status, answer.error().as_str()), (429, "memory_full"));
    assert_eq!(answer.header("retry-after"), Some("2"));
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let served = Served::new().await;
    let ask = |id: &str| {
        served
            .client
            .get(format!("{}/livez", served.url))
            .header("x-request-id", id)
    };
    assert_eq!(
        Answer::of(ask("my-id.7")).await.header("x-request-id"),
        Some("my-id.7")
    );
    for bad in ["", "two words", &"x".repeat(129)] {
        let answer = Answer::of(ask(bad)).await;
        let id = answer.header("x-request-id").expect("an id");
        assert_eq!(
            id.parse::<uuid::Uuid>().expect("a UUID").get_version_num(),
            7,
            "{bad}"
        );
    }
    let missing = served.get("/nowhere").await;
    assert_eq!(missing.error(), "not_found");
}
