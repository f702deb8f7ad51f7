//! The header that names the hub, and requests that come back to it.

use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating},
    limits,
};
use crate::{
    keys::{AuthMode, SecretKey},
    origin::OriginPolicy,
};
use axum::http::Method;
use bytes::Bytes;
use reveille_bus::HubId;
use reveille_domain::rows::MemoryRows;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const OWN: &str = "00112233445566aa";
const OTHER: &str = "ffeeddccbbaa9988";
const PAGE: &str = "https://chat.example";
const HUB: &str = "x-reveille-hub";
const VIA: &str = "x-reveille-via";

fn id(text: &str) -> HubId {
    text.parse().expect("an id")
}

async fn served(mode: AuthMode) -> (Served, SecretKey) {
    let root = SecretKey::generate().expect("randomness");
    let policy = |listener| OriginPolicy::new(listener, None, vec![], vec![PAGE.parse().expect("an origin")]);
    let served = Served::behind(limits(), Arc::new(MemoryRows::new()), mode, Some(&root), policy).await;
    *served.hub.id.lock() = Some(id(OWN));
    (served, root)
}

/// The answer to these bytes, up to its end or the end of its head.
async fn raw(served: &Served, request: &str) -> String {
    let mut stream = TcpStream::connect(served.address()).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).await.expect("an answer");
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn every_answer_names_the_hub() {
    let (served, root) = served(AuthMode::Required).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let stream = "data: {}\n\ndata: [DONE]\n\n";
    served.hub.replies([
        Reply::Whole(200, "application/json", Bytes::from_static(b"{}")),
        Reply::Whole(500, "application/json", Bytes::from_static(b"{}")),
        Reply::Pieces(
            200,
            "text/event-stream",
            vec![Ok(Bytes::from_static(stream.as_bytes()))],
        ),
    ]);
    let ask = |method: Method, path: &str| {
        let request = served.client.request(method, format!("{}{path}", served.url));
        request.bearer_auth(root.expose())
    };
    let get = |path: &str| ask(Method::GET, path);
    let post = |path: &str| ask(Method::POST, path);
    let chat = |model: &str, stream| served.chat(model, stream).bearer_auth(root.expose());
    for (request, status) in [
        (get("/v1/models"), 200),
        (chat("m", false), 200),
        (chat("m", false), 500),
        (chat("m", true), 200),
        (chat("unknown", false), 404),
        (get("/livez"), 200),
        (get("/readyz"), 200),
        (get("/metrics"), 200),
        (get("/reveille/v1/providers"), 200),
        (get("/nowhere"), 404),
        (post("/v1/models"), 405),
        (post("/v1/chat/completions").body("{}"), 415),
        (
            post("/v1/chat/completions")
                .header("content-type", "application/json")
                .body("x".repeat(128 * 1024)),
            413,
        ),
        (get("/v1/models").header("host", "hub.example"), 421),
        (chat("m", false).header("origin", "https://evil.example"), 403),
        (chat("m", false).header(VIA, OWN), 508),
        (chat("m", false).header(VIA, "?"), 400),
        (served.client.get(format!("{}/v1/models", served.url)), 401),
        (
            ask(Method::OPTIONS, "/v1/chat/completions")
                .header("origin", PAGE)
                .header("access-control-request-method", "POST"),
            200,
        ),
    ] {
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header(HUB), Some(OWN), "{status}: {}", answer.text());
    }
    let many = format!("GET /v1/models HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101));
    for (request, status) in [
        ("hello\r\n\r\n", "400"),
        ("GET /v1/models HTTP/1.1\r\n\r\n", "400"),
        (&many, "431"),
    ] {
        let answer = raw(&served, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains(&format!("{HUB}: {OWN}\r\n")), "{answer}");
    }
    // Before the journal was found, nothing is known of the hub.
    *served.hub.id.lock() = None;
    assert_eq!(Answer::of(get("/livez")).await.header(HUB), None);
    assert!(!raw(&served, "hello\r\n\r\n").await.contains(HUB));
}

#[tokio::test]
async fn a_request_that_has_been_here_before_ends_with_508_and_wakes_and_costs_nothing() {
    let (served, _) = served(AuthMode::Required).await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    let others = [OTHER; 9].join(", ");
    for via in [
        OWN.to_owned(),
        format!("{OWN}, {OTHER}"),
        format!("{OTHER},{OWN}"),
        others,
    ] {
        // Not even a key is asked for.
        for request in [
            served.chat("m", false),
            served.chat("m", true),
            served.client.get(format!("{}/v1/models", served.url)),
        ] {
            let answer = Answer::of(request.header(VIA, &via)).await;
            assert_eq!(
                (answer.status, answer.error().as_str()),
                (508, "loop_detected"),
                "{via}"
            );
            assert!(answer.text().contains("set base_url to"), "{}", answer.text());
        }
    }
    let twice = served.chat("m", false).header(VIA, OTHER).header(VIA, OWN);
    assert_eq!(Answer::of(twice).await.status, 508, "every line counts");
    assert_eq!((served.hub.asked(), served.hub.sent().len()), (0, 0));
}

#[tokio::test]
async fn a_request_of_another_hub_is_served_and_its_way_is_passed_on() {
    let (served, _) = served(AuthMode::Open).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    let via = |index: usize| {
        let sent = served.hub.sent()[index].clone();
        let mut headers = sent.head.headers.into_iter();
        headers.find(|(name, _)| name == VIA).map(|(_, value)| value)
    };
    let most = [OTHER; 8].join(", ");
    for (index, (headers, passed)) in [
        (vec![], None),
        (vec![OTHER], Some(OTHER)),
        (
            vec![OTHER, "aaaaaaaaaaaaaaaa"],
            Some("ffeeddccbbaa9988, aaaaaaaaaaaaaaaa"),
        ),
        (vec![most.as_str()], Some(most.as_str())),
    ]
    .into_iter()
    .enumerate()
    {
        served
            .hub
            .replies([Reply::Whole(200, "application/json", Bytes::from_static(b"{}"))]);
        let request = headers.iter().fold(served.chat("m", false), |request, line| {
            request.header(VIA, *line)
        });
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(via(index).as_deref(), passed);
    }
    for malformed in [
        "hub",
        "1.1 nginx",
        &OWN.to_uppercase(),
        "00112233445566aa 00112233445566aa",
    ] {
        let answer = Answer::of(served.chat("m", false).header(VIA, malformed)).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (400, "invalid_header"),
            "{malformed}"
        );
    }
    assert_eq!(served.hub.sent().len(), 4);
}
