//! What must not get through, tried: headers on their way to a backend and back, and NATS messages that say more than they
//! may.

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::any,
};
use reveille_tests::{AgentConfig, Api, Backend, Process, World, wait_until};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::scene::SOON;

/// Stands in whatever must not get through.
const CANARY: &str = "canary-5ecr3t";
/// Headers that cross in neither direction: credentials, cookies, what belongs to one connection, and who asked from where.
const NEVER: [&str; 24] = [
    "authorization",
    "cookie",
    "cookie2",
    "set-cookie",
    "x-api-key",
    "api-key",
    "www-authenticate",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "location",
    "origin",
    "referer",
    "server",
    "x-whatever-comes-next",
];
/// Those that do cross, to the backend and back, with a value that passes as it is.
const TO_BACKEND: [(&str, &str); 4] = [
    ("accept", "application/json"),
    ("content-type", "application/json"),
    ("openai-beta", "assistants=v2"),
    ("anthropic-version", "2023-06-01"),
];
/// The backend gets it with the attempt's number.
const REQUEST_ID: (&str, &str) = ("x-request-id", "request-of-the-test");
const TO_CALLER: [(&str, &str); 4] = [
    ("content-type", "application/json"),
    ("openai-processing-ms", "12"),
    ("x-should-retry", "false"),
    ("retry-after", "7"),
];

type Requests = Arc<Mutex<Vec<(String, HeaderMap, String)>>>;

/// A backend that notes what reaches it, and answers with every header there is.
async fn talkative() -> (String, Requests) {
    let requests = Requests::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let routes = Router::new().fallback(any(talk)).with_state(requests.clone());
    tokio::spawn(axum::serve(listener, routes).into_future());
    (url, requests)
}

async fn talk(
    State(requests): State<Requests>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> impl IntoResponse {
    let mut answer = HeaderMap::new();
    for name in NEVER {
        answer.insert(HeaderName::from_static(name), HeaderValue::from_static(CANARY));
    }
    for (name, value) in TO_CALLER {
        answer.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let is_chat = headers.get(CONTENT_TYPE).is_some();
    if is_chat {
        requests
            .lock()
            .expect("not poisoned")
            .push((uri.to_string(), headers, body));
    }
    (answer, r#"{"object":"list","data":[{"id":"m"}]}"#)
}

async fn agent_of(world: &World, url: &str) -> (Api, Process) {
    let config = AgentConfig::new("gpu-box").lines(&format!(
        "\n[[provider]]\nname = \"vllm\"\nbase_url = {url:?}\nmodels = [\"m\"]\napi_key = \"the-backends-own\"\n"
    ));
    let (api, agent) = (world.api().await, world.agent(&config));
    api.wait_for_status("gpu-box/m", "active", SOON).await;
    (api, agent)
}

/// An answer as it stands on the wire, to a request that no client library would send.
async fn raw(api: &Api, headers: &[(&str, &str)], body: &str) -> String {
    let address = api.url().replace("http://", "");
    let mut connection = TcpStream::connect(&address).await.expect("the API listens");
    let mut request =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n{body}", body.len());
    connection.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = vec![];
    connection.read_to_end(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn only_listed_headers_cross_in_either_direction() {
    let world = World::new().await;
    let (url, requests) = talkative().await;
    let (api, _agent) = agent_of(&world, &url).await;
    // Any other origin is refused.
    let own = api.url();
    let canary = |name| (name, if name == "origin" { own.as_str() } else { CANARY });
    let mut headers: Vec<_> = NEVER.map(canary).to_vec();
    headers.extend(TO_BACKEND);
    headers.push(REQUEST_ID);
    let answer = raw(&api, &headers, r#"{"model":"m","messages":[]}"#).await;

    let (_, received, _) = requests
        .lock()
        .expect("not poisoned")
        .pop()
        .expect("the backend was asked");
    for name in NEVER.into_iter().filter(|name| *name != "authorization") {
        assert!(!received.contains_key(name), "{name} reached the backend");
    }
    let shown = format!("{received:?}");
    assert!(!shown.contains(CANARY), "{shown}");
    assert_eq!(received["authorization"], "Bearer the-backends-own");
    for (name, value) in TO_BACKEND {
        assert_eq!(received[name], value, "{name}");
    }
    let id = received[REQUEST_ID.0].to_str().expect("text");
    assert!(id.starts_with(&format!("{}-", REQUEST_ID.1)), "{id}");

    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(
        head.starts_with("HTTP/1.1 200") && body.contains("list"),
        "{answer}"
    );
    assert!(!answer.contains(CANARY), "{answer}");
    let names: Vec<_> = head.lines().filter_map(|line| line.split(':').next()).collect();
    for name in NEVER {
        assert!(!names.contains(&name), "{name} reached the caller: {head}");
    }
    for (name, value) in TO_CALLER {
        assert!(head.contains(&format!("{name}: {value}\r\n")), "{name}: {head}");
    }
}

#[tokio::test]
async fn a_body_that_names_a_backend_is_refused_and_goes_nowhere() {
    let world = World::new().await;
    let [(url, requests), (elsewhere, asked_elsewhere)] = [talkative().await, talkative().await];
    let (api, _agent) = agent_of(&world, &url).await;
    let commits = world.journal().await.len();
    let json = [("content-type", "application/json")];
    for (key, name) in [
        ("api_base", "api_base"),
        ("base_url", "base_url"),
        ("api\\u005fbase", "api_base"),
        ("b\\u0061se_url", "base_url"),
    ] {
        for value in [
            format!("{elsewhere:?}"),
            "null".to_owned(),
            "{\"a\":[1]}".to_owned(),
        ] {
            let body = format!(r#"{{"messages":[],"{key}":{value},"model":"m"}}"#);
            let answer = raw(&api, &json, &body).await;
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            let error = serde_json::from_str::<Value>(body).expect("JSON")["error"].take();
            assert!(head.starts_with("HTTP/1.1 400"), "{answer}");
            assert_eq!(
                (&error["code"], &error["param"]),
                (&json!("unsupported_field"), &json!(name))
            );
        }
    }
    // Deeper down it is somebody else's word, and passes.
    let passes = r#"{"model":"m","messages":[{"role":"user","content":"x","api_base":"http://x"}],"x":{"base_url":1}}"#;
    let answer = raw(&api, &json, passes).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let received = requests.lock().expect("not poisoned").clone();
    assert_eq!(received.len(), 1, "{received:?}");
    assert_eq!(received[0].2, passes);
    assert!(asked_elsewhere.lock().expect("not poisoned").is_empty());
    assert_eq!(world.journal().await.len(), commits);
}

/// A script that notes its arguments and its environment.
fn noting(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (script, notes) = (folder.join(name), folder.join(format!("{name}.notes")));
    let text = format!(
        "#!/bin/sh\n{{ echo \"args: $*\"; env; }} > {0}.new\nmv {0}.new {0}\n",
        notes.display()
    );
    reveille_tests::write_script(&script, &text);
    (script, notes)
}

/// What a message may not say: it stands beside what the message must say.
fn smuggled(message: &Value, pwned: &Path, elsewhere: &str) -> Vec<u8> {
    let more = json!({
        "command": "touch", "program": "touch", "args": [pwned, CANARY], "env": { "PWNED": CANARY },
        "url": elsewhere, "base_url": elsewhere, "method": "DELETE", "headers": { "x-pwned": CANARY },
        "body": CANARY, "recipe": { "type": "command", "command": "touch", "args": [pwned] },
        "step": [{ "type": "http", "url": elsewhere }], "max_wait": "24h", "max_per_day": 10_000, "api_key": CANARY,
    });
    let mut message = message.clone();
    let all = message.as_object_mut().expect("an object");
    for (name, value) in more.as_object().expect("an object") {
        all.entry(name.clone()).or_insert_with(|| value.clone());
    }
    serde_json::to_vec(&message).expect("JSON")
}

async fn noted(notes: &Path) -> String {
    wait_until("the recipe ran", SOON, async || fs::read_to_string(notes).ok()).await
}

#[tokio::test]
async fn nothing_in_a_wake_or_an_order_chooses_what_runs() {
    let world = World::new().await;
    let backend: Backend = world.backend(&[]);
    backend.start_and_wait().await;
    let (wake, woken) = noting(world.folder(), "wake");
    let (sleep, slept) = noting(world.folder(), "sleep");
    let config = AgentConfig::new("gpu-box").provider("vllm", "m", &backend).lines(&format!(
        "[provider.wake]\ntype = \"command\"\ncommand = {wake:?}\nargs = [\"from the config\"]\nmax_wait = \"1s\"\n\
         [provider.sleep]\ntype = \"command\"\ncommand = {sleep:?}\nargs = [\"from the config\"]\n"
    ));
    let (api, _agent) = (world.api().await, world.agent(&config));
    api.wait_for_status("gpu-box/m", "active", SOON).await;
    let (elsewhere, asked_elsewhere) = talkative().await;
    let pwned = world.folder().join("pwned");
    let attacker = world.nats.connect().await;

    let order = json!({ "epoch": 1, "order": "sleep", "provider": "vllm" });
    let answer = attacker.request(
        "reveille.orders.gpu-box",
        smuggled(&order, &pwned, &elsewhere).into(),
    );
    let answer = answer.await.expect("an answer").payload;
    assert_eq!(
        serde_json::from_slice::<Value>(&answer).expect("JSON")["answer"],
        "taken"
    );
    let sleep_saw = noted(&slept).await;

    backend.kill9();
    api.wait_for_status("gpu-box/m", "hibernating", SOON).await;
    let forged = json!({
        "provider": "gpu-box/vllm", "wake_id": "0190a000-0000-7000-8000-000000000000", "epoch": 1,
        "sequence": 1_000_000, "deadline_ms": 60_000, "now_ms": 0,
    });
    let subject = "reveille.wakes.gpu-box.vllm";
    let taken = attacker.request(subject, smuggled(&forged, &pwned, &elsewhere).into());
    taken.await.expect("the agent takes it");
    let wake_saw = noted(&woken).await;

    for saw in [&sleep_saw, &wake_saw] {
        assert!(saw.starts_with("args: from the config\n"), "{saw}");
        assert!(!saw.contains(CANARY) && !saw.contains("PWNED"), "{saw}");
    }
    assert!(!pwned.exists());
    assert!(asked_elsewhere.lock().expect("not poisoned").is_empty());
}

const FRAME_VERSION: u8 = 1;
/// The kinds of frames.
const HEAD: u8 = 1;
const ERROR: u8 = 6;
/// The flag of a frame that ends its direction.
const LAST: u8 = 1;

/// The bytes of a request's first frame, as an API would send them; its body follows the head at once.
fn first_frame(id: [u8; 16], head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = vec![FRAME_VERSION, HEAD, LAST, 0];
    frame.extend(0_u32.to_le_bytes());
    frame.extend(1_u64.to_le_bytes());
    frame.extend(id);
    frame.extend((1_u64 << 20).to_le_bytes());
    frame.extend(u32::try_from(head.len()).expect("short").to_le_bytes());
    frame.extend(head);
    frame.extend(body);
    frame
}

#[tokio::test]
async fn nothing_in_a_relayed_head_chooses_where_it_goes() {
    let world = World::new().await;
    let [(url, requests), (elsewhere, asked_elsewhere)] = [talkative().await, talkative().await];
    let (_api, _agent) = agent_of(&world, &url).await;
    let pwned = world.folder().join("pwned");
    let attacker = world.nats.connect().await;
    let headers: Vec<_> = NEVER
        .iter()
        .map(|name| [name, CANARY])
        .chain([["content-type", "application/json"]])
        .collect();
    let body = br#"{"model":"m","messages":[]}"#;
    let head = |method: &str, path: &str| json!({ "provider": "vllm", "method": method, "path": path, "headers": headers, "body_bytes": body.len() });
    let absolute = format!("{elsewhere}/v1/chat/completions");
    let authority = format!("@{}/v1/chat/completions", elsewhere.replace("http://", ""));
    let cases = [
        (head("POST", "/v1/chat/completions?a=1"), true),
        (head("DELETE", "/v1/models"), false),
        (head("CONNECT", "/v1/models"), false),
        (head("POST", &absolute), false),
        (head("POST", &authority), false),
        (head("POST", "/v1/../sleep"), false),
        (head("POST", "/v1/chat/completions/../../sleep"), false),
        (head("POST", "//v1/chat/completions"), false),
        (head("POST", "/sleep?level=1"), false),
        (head("POST", "/v1/chat/completions#x"), false),
    ];
    for (number, (head, passes)) in cases.into_iter().enumerate() {
        let id = [u8::try_from(number + 1).expect("few"); 16];
        let reply = format!(
            "reveille.replies.attacker.gpu-box.{:032x}",
            u128::from_be_bytes(id)
        );
        let mut replies = attacker.subscribe(reply.clone()).await.expect("subscribed");
        let frame = first_frame(id, &smuggled(&head, &pwned, &elsewhere), body);
        attacker
            .publish_with_reply("reveille.infer.gpu-box", reply, frame.into())
            .await
            .expect("sent");
        let answered = tokio::time::timeout(SOON, futures::StreamExt::next(&mut replies)).await;
        let answered = answered.expect("an answer").expect("an answer").payload;
        let received = requests.lock().expect("not poisoned").pop();
        assert_eq!(
            (answered[1] != ERROR, received.is_some()),
            (passes, passes),
            "{head}: {received:?}"
        );
        if let Some((uri, headers, received)) = received {
            assert_eq!(
                (uri.as_str(), received.as_bytes()),
                ("/v1/chat/completions?a=1", body.as_slice())
            );
            let shown = format!("{headers:?}");
            assert!(!shown.contains(CANARY), "{shown}");
            assert_eq!(headers["authorization"], "Bearer the-backends-own");
        }
    }
    assert!(!pwned.exists());
    assert!(asked_elsewhere.lock().expect("not poisoned").is_empty());
}
