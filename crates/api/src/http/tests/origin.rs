//! Which hosts and pages are answered: a table of every combination, then what browsers send and read in particular.

use super::{
    Answer, Served, chat_body,
    fake_hub::{Reply, active, hibernating},
    limits,
};
use crate::{
    keys::{AuthMode, SecretKey},
    origin::OriginPolicy,
};
use axum::body::Body;
use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reveille_domain::rows::MemoryRows;
use serde_json::json;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LISTED: &str = "https://chat.example";
const CHAT: &str = "/v1/chat/completions";
const KEYS: &str = "/reveille/v1/keys";
const WAKE: &str = "/reveille/v1/providers/b/vllm/wake";

/// A surface that pages of [`LISTED`] may use, a model that is awake and a provider that sleeps; and its root key.
async fn listing(mode: AuthMode) -> (Served, SecretKey) {
    let root = SecretKey::generate().expect("randomness");
    let policy = |listener: SocketAddr| {
        let listed = LISTED.parse().expect("an origin");
        OriginPolicy::new(listener, None, vec![], vec![listed])
    };
    let rows = Arc::new(MemoryRows::new());
    let served = Served::behind(limits(), rows, mode, Some(&root), policy).await;
    served.hub.publish("a/vllm", "m", active());
    served.hub.publish("b/vllm", "sleepy", hibernating());
    (served, root)
}

/// Writes a request as it is, so that it may lack a `Host`; the status.
async fn status_of(served: &Served, line: &str, headers: &str, body: &str) -> u16 {
    let mut stream = TcpStream::connect(served.address()).await.expect("it listens");
    let length = body.len();
    let request = format!("{line}\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer[9..12].parse().expect("a status")
}

/// Who asks how, and the status of a query, of the events, a preflight, a wake, an inference and the making of a key. With `keys` every request has the root
/// key; without `Host` it is HTTP/1.0, which HTTP/1.1 has to have.
const TABLE: &str = "
    auth     Host     Origin   GET  events  preflight  wake  infer  key
    keyless  own      none     200  200     200        202   200    401
    keyless  own      own      200  200     200        202   200    401
    keyless  own      listed   200  200     200        202   200    401
    keyless  own      foreign  200  403     200        403   403    403
    keyless  own      null     200  403     200        403   403    403
    keyless  foreign  none     421  421     421        421   421    421
    keyless  foreign  own      421  421     421        421   421    421
    keyless  foreign  listed   421  421     421        421   421    421
    keyless  foreign  foreign  421  421     421        421   421    421
    keyless  foreign  null     421  421     421        421   421    421
    keyless  none     none     200  200     200        202   200    401
    keyless  none     own      403  403     200        403   403    403
    keyless  none     foreign  403  403     200        403   403    403
    keyless  none     null     403  403     200        403   403    403
    keyless  none     listed   200  200     200        202   200    401
    keys     own      none     200  200     200        202   200    201
    keys     own      own      200  200     200        202   200    201
    keys     own      listed   200  200     200        202   200    201
    keys     own      foreign  200  403     200        403   403    403
    keys     own      null     200  403     200        403   403    403
    keys     foreign  none     421  421     421        421   421    421
    keys     foreign  own      421  421     421        421   421    421
    keys     foreign  listed   421  421     421        421   421    421
    keys     foreign  foreign  421  421     421        421   421    421
    keys     foreign  null     421  421     421        421   421    421
    keys     none     none     200  200     200        202   200    201
    keys     none     own      403  403     200        403   403    403
    keys     none     foreign  403  403     200        403   403    403
    keys     none     null     403  403     200        403   403    403
    keys     none     listed   200  200     200        202   200    201
";

#[tokio::test]
async fn each_host_and_origin_is_answered_as_the_table_says() {
    let mut rows = TABLE.trim().lines().map(str::split_whitespace);
    let asked: Vec<_> = rows.next().expect("a heading").skip(3).collect();
    for mut row in rows {
        let mut word = || row.next().expect("a word");
        let (auth, host, origin) = (word(), word(), word());
        let mode = match auth {
            "keys" => AuthMode::Required,
            _ => AuthMode::Open,
        };
        let (served, root) = listing(mode).await;
        served.replies_hello(1);
        let own = served.address().to_owned();
        let (version, mut headers) = match host {
            "own" => ("HTTP/1.1", format!("host: {own}\r\n")),
            "foreign" => ("HTTP/1.1", "host: evil.example:8420\r\n".to_owned()),
            _ => ("HTTP/1.0", String::new()),
        };
        headers += &match origin {
            "own" => format!("origin: http://{own}\r\n"),
            "listed" => format!("origin: {LISTED}\r\n"),
            "foreign" => "origin: http://evil.example:8420\r\n".to_owned(),
            "null" => "origin: null\r\n".to_owned(),
            _ => String::new(),
        };
        if auth == "keys" {
            headers += &format!("authorization: Bearer {}\r\n", root.expose());
        }
        for what in &asked {
            let body = match *what {
                "infer" => chat_body("m", false).to_string(),
                "key" => json!({ "name": "n", "scopes": ["admin"] }).to_string(),
                _ => String::new(),
            };
            let (method, path) = match *what {
                "GET" => ("GET", "/reveille/v1/llms"),
                "events" => ("GET", "/reveille/v1/events"),
                "preflight" => ("OPTIONS", CHAT),
                "wake" => ("POST", WAKE),
                "infer" => ("POST", CHAT),
                _ => ("POST", KEYS),
            };
            let line = format!("{method} {path} {version}");
            let typed = format!("{headers}content-type: application/json\r\n");
            let status = status_of(&served, &line, &typed, &body).await;
            let said = format!("{auth}, Host {host}, Origin {origin}: {what}");
            assert_eq!(status.to_string(), word(), "{said}");
        }
        let refused = match host {
            "foreign" => true,
            "own" => matches!(origin, "foreign" | "null"),
            // What a page's own origin is, nothing says.
            _ => matches!(origin, "foreign" | "null" | "own"),
        };
        let done = (served.hub.asked(), served.hub.sent().len());
        assert_eq!(
            done,
            if refused { (0, 0) } else { (1, 1) },
            "{auth} {host} {origin}"
        );
    }
}

#[tokio::test]
async fn the_health_paths_are_answered_to_no_foreign_host_either() {
    let (served, _) = listing(AuthMode::Open).await;
    for path in ["/livez", "/readyz"] {
        let status = status_of(&served, &format!("GET {path} HTTP/1.0"), "", "").await;
        assert_eq!(status, 200, "{path}");
        let line = format!("GET {path} HTTP/1.1");
        let status = status_of(&served, &line, "host: evil.example\r\n", "").await;
        assert_eq!(status, 421, "{path}");
        assert_eq!(status_of(&served, &line, "", "").await, 400, "{path}");
    }
    let line = "GET http://evil.example/v1/models HTTP/1.1";
    let host = format!("host: {}\r\n", served.address());
    assert_eq!(
        status_of(&served, line, &host, "").await,
        421,
        "the target counts"
    );
}

#[tokio::test]
async fn a_host_and_an_origin_that_are_refused_are_told_the_way_out() {
    let (served, _) = listing(AuthMode::Open).await;
    let get = served.client.get(format!("{}/v1/models", served.url));
    let answer = Answer::of(get.header("host", "hub.example")).await;
    assert_eq!((answer.status, answer.error().as_str()), (421, "unknown_host"));
    let text = answer.text();
    assert!(text.contains("hub.example") && text.contains("--host"), "{text}");
    let follow = format!("{}/reveille/v1/events?follow=true", served.url);
    for (header, value) in [
        ("origin", "https://evil.example"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        for request in [served.chat("m", false), served.client.get(&follow)] {
            let answer = Answer::of(request.header(header, value)).await;
            assert_eq!(
                (answer.status, answer.error().as_str()),
                (403, "origin_not_allowed")
            );
            assert!(answer.text().contains("--cors-origin"), "{}", answer.text());
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert!(served.hub.sent().is_empty());
}

#[tokio::test]
async fn http2_names_its_host_in_the_authority() {
    let (served, _) = listing(AuthMode::Open).await;
    for (authority, status) in [(served.address(), 200), ("evil.example:8420", 421)] {
        let stream = TcpStream::connect(served.address()).await.expect("it listens");
        let io = TokioIo::new(stream);
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
        let (mut client, connection) = shaken.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let request = http::Request::get(format!("http://{authority}/v1/models")).body(Body::empty());
        let answer = client.send_request(request.expect("a request")).await;
        assert_eq!(
            answer.expect("an answer").status().as_u16(),
            status,
            "{authority}"
        );
        connection.abort();
    }
}

#[tokio::test]
async fn keys_and_agents_are_made_and_revoked_with_a_key_on_loopback_too() {
    let (served, root) = listing(AuthMode::Open).await;
    let url = |path: &str| format!("{}/reveille/v1/{path}", served.url);
    let terms = json!({ "name": "n", "scopes": ["query"] });
    let requests = || {
        [
            (served.client.post(url("keys")).json(&terms), 201),
            (served.client.post(url("keys/nosuchkey1/rotate")), 404),
            (served.client.delete(url("keys/nosuchkey1")), 404),
            (served.client.post(url("agents/gpu-box/tokens")), 201),
            (served.client.delete(url("agents/nobody")), 404),
            (served.client.delete(url("agents/nobody/providers")), 404),
        ]
    };
    assert_eq!(Answer::of(served.client.get(url("keys"))).await.status, 200);
    for (request, _) in requests() {
        let answer = Answer::of(request).await;
        assert_eq!((answer.status, answer.error().as_str()), (401, "missing_api_key"));
        assert!(answer.text().contains("root key"), "{}", answer.text());
    }
    for (request, status) in requests() {
        let answer = Answer::of(request.bearer_auth(root.expose())).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    assert_eq!(Answer::of(served.client.get(url("agents"))).await.status, 200);
    assert_eq!(
        Answer::of(served.client.post(url("providers/a/vllm/sleep")))
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn a_body_says_what_it_is_and_no_body_need_not() {
    let (served, root) = listing(AuthMode::Open).await;
    let post = |path: &str, body: serde_json::Value| {
        let request = served.client.post(format!("{}{path}", served.url));
        request.bearer_auth(root.expose()).body(body.to_string())
    };
    let terms = json!({ "name": "n", "scopes": ["query"] });
    for request in [post(CHAT, chat_body("m", false)), post(KEYS, terms)] {
        let answer = Answer::of(request).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (415, "unsupported_media_type")
        );
        assert!(answer.text().contains("content-type: application/json"));
    }
    assert!(served.hub.sent().is_empty());
    let tokens = format!("{}/reveille/v1/agents/gpu-box/tokens", served.url);
    let empty = served.client.post(tokens).bearer_auth(root.expose());
    assert_eq!(Answer::of(empty).await.status, 201);
}

#[tokio::test]
async fn a_preflight_of_a_listed_origin_is_answered_without_a_key() {
    let (served, _) = listing(AuthMode::Required).await;
    let preflight = |origin: &str| {
        let request = served
            .client
            .request(http::Method::OPTIONS, format!("{}{CHAT}", served.url));
        request
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type,x-reveille-wake",
            )
            .header("access-control-request-private-network", "true")
    };
    let answer = Answer::of(preflight(LISTED)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for (name, value) in [
        ("access-control-allow-origin", LISTED),
        ("access-control-allow-methods", "GET,POST,DELETE"),
        (
            "access-control-allow-headers",
            "authorization,content-type,x-reveille-wake",
        ),
        ("access-control-allow-private-network", "true"),
        ("access-control-max-age", "7200"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert!(answer.header("vary").is_some_and(|vary| vary.contains("origin")));
    assert!(answer.header("x-request-id").is_some());
    for origin in [
        "https://evil.example",
        "null",
        "https://chat.example.evil.example",
    ] {
        let answer = Answer::of(preflight(origin)).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}");
    }
}

#[tokio::test]
async fn a_page_of_a_listed_origin_reads_answers_errors_and_streams() {
    let (served, root) = listing(AuthMode::Required).await;
    let pieces = vec![Ok(Bytes::from_static(b"data: [DONE]\n\n"))];
    served
        .hub
        .replies([Reply::Pieces(200, "text/event-stream", pieces)]);
    let url = |path: &str| format!("{}{path}", served.url);
    let key = root.expose();
    for (request, status) in [
        (served.chat("m", true).bearer_auth(key), 200),
        (served.client.get(url("/v1/models")).bearer_auth(key), 200),
        (served.client.get(url("/livez")), 200),
        (served.client.get(url("/nothing")).bearer_auth(key), 404),
        (served.client.get(url(CHAT)).bearer_auth(key), 405),
        (served.client.get(url("/v1/models")), 401),
        (served.client.post(url(CHAT)).bearer_auth(key).body("{}"), 415),
        (served.chat("nothing", false).bearer_auth(key), 404),
    ] {
        let (listed, foreign) = (request.try_clone().expect("a body"), request);
        let answer = Answer::of(listed.header("origin", LISTED)).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some(LISTED),
            "{status}"
        );
        assert!(answer.header("vary").is_some_and(|vary| vary.contains("origin")));
        let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
        for name in [
            "x-request-id",
            "x-reveille-provider",
            "x-reveille-wake-id",
            "retry-after",
        ] {
            assert!(exposed.contains(name), "{name} in {exposed}");
        }
        let answer = Answer::of(foreign.header("origin", "https://evil.example")).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{status}");
    }
}

#[tokio::test]
async fn an_api_that_lists_no_origin_sends_no_cors_headers() {
    let served = Served::new().await;
    let get = served.client.get(format!("{}/v1/models", served.url));
    let answer = Answer::of(get.header("origin", LISTED)).await;
    assert_eq!(answer.status, 200);
    let cors = |name: &http::HeaderName| name.as_str().starts_with("access-control") || name == "vary";
    assert!(!answer.headers.keys().any(cors), "{:?}", answer.headers);
}
