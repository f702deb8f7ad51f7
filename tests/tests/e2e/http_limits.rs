//! Bad input over HTTP at a real replica, each with a transcript: what curl sees of each status, and what a socket sees
//! where curl would never send such a thing. (`--nocapture` prints them.)

use reveille_tests::{AgentConfig, Api, WakeController, World};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::scene::{LLM, SOON};

/// Longer than the longest limit of the API: a body may stand still for 30 s.
const CURL_WAITS_S: &str = "60";
const GET: &str = "GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";

/// An answer, as it came.
struct Transcript {
    status: u16,
    head: String,
    body: String,
}

impl Transcript {
    /// The answer in `text`, behind a `100 Continue`.
    fn of(what: &str, text: &str) -> Self {
        println!("--- {what}\n{text}\n");
        let begins = text
            .find("HTTP/1.1 ")
            .unwrap_or_else(|| panic!("{what}: no answer in {text:?}"));
        let answer = &text[begins..];
        let leave = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n");
        let (head, body) = leave
            .unwrap_or(answer)
            .split_once("\r\n\r\n")
            .expect("a whole head");
        let status = head[9..12].parse().expect("a status");
        Self {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// The code of the error object that it must be, with all that belongs to it.
    fn error_code(&self) -> String {
        for line in ["content-type: application/json", "x-request-id: "] {
            assert!(self.head.contains(line), "{line} is missing:\n{}", self.head);
        }
        let body: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body));
        let error = body["error"].as_object().expect("an error object");
        for key in ["message", "type", "param", "code"] {
            assert!(error.contains_key(key), "{key} is missing: {body}");
        }
        error["code"].as_str().expect("a code").to_owned()
    }
}

/// Runs curl, without the config and the proxy of whoever runs the tests.
pub fn curl(args: &[&str]) -> Output {
    Command::new("curl")
        .args(["--disable", "--noproxy", "*", "--silent", "--show-error"])
        .args(["--max-time", CURL_WAITS_S])
        .args(args)
        .output()
        .expect("curl runs")
}

/// What curl prints of the answer to a request with these arguments; the last one is a path.
fn asked(api: &Api, args: &[&str]) -> String {
    let (path, args) = args.split_last().expect("a path");
    let url = format!("{}{path}", api.url());
    let output = curl(&[&["--include", "--globoff"], args, &[&url]].concat());
    format!(
        "$ curl -i {} {url}\n{}{}",
        args.iter()
            .map(|arg| shortened(arg))
            .collect::<Vec<_>>()
            .join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn shortened(arg: &str) -> String {
    let short: String = arg.chars().take(60).collect();
    if short.len() < arg.len() {
        format!("{short}…")
    } else {
        short
    }
}

/// Sends bytes and returns all that comes until the server closes.
fn sent(api: &Api, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(api);
    stream.write_all(bytes.as_ref()).expect("it is sent");
    let mut text = vec![];
    stream
        .read_to_end(&mut text)
        .expect("the answer comes, and then the end");
    String::from_utf8_lossy(&text).into_owned()
}

fn connect(api: &Api) -> TcpStream {
    let address = api.url().replace("http://", "");
    let stream = TcpStream::connect(address).expect("the API listens");
    stream.set_read_timeout(Some(SOON * 2)).expect("a time-out");
    stream
}

fn chat(model: &str) -> String {
    json!({"model": model, "messages": [{"role": "user", "content": "hello"}]}).to_string()
}

/// A file of so many bytes.
fn large(folder: &Path, bytes: usize) -> PathBuf {
    let file = folder.join("large");
    fs::write(&file, vec![b' '; bytes]).expect("it is written");
    file
}

const CHAT: &str = "/v1/chat/completions";
const JSON: [&str; 2] = ["-H", "content-type: application/json"];

// The controller answers while curl waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_status_is_an_error_object_for_curl() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    // It says that the backend comes, and none does.
    let controller = WakeController::answering(200).await;
    let wake = format!(
        "\n[provider.wake]\ntype = \"http\"\nurl = {:?}\nmax_wait = \"5s\"\n",
        controller.url()
    );
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines(&wake);
    let api = world.api_with(&["--max-waiting", "1"]);
    api.wait_until_ready().await;
    let _agent = world.agent(&config);
    api.wait_for_status(LLM, "hibernating", SOON).await;

    let (hello, unknown) = (chat("qwen"), chat("a.*.>"));
    let large = format!("@{}", large(world.folder(), 33 * 1024 * 1024).display());
    let many = format!("a: {}", "x".repeat(64 * 1024));
    let long = format!("/{}", "x".repeat(64 * 1024));
    let rows: &[(u16, &str, &[&str])] = &[
        (400, "invalid_json", &["-d", "{\"model\":", CHAT]),
        (
            400,
            "unsupported_field",
            &[
                "-d",
                r#"{"model":"qwen","messages":[],"api_base":"http://a"}"#,
                CHAT,
            ],
        ),
        (404, "model_not_found", &["-d", &unknown, CHAT]),
        (404, "not_found", &["/v2"]),
        (405, "method_not_allowed", &[CHAT]),
        (413, "request_too_large", &["--data-binary", &large, CHAT]),
        (
            413,
            "request_too_large",
            &["-H", "transfer-encoding: chunked", "--data-binary", &large, CHAT],
        ),
        (
            413,
            "request_too_large",
            &["-H", "expect: 100-continue", "--data-binary", &large, CHAT],
        ),
        (414, "uri_too_long", &[&long]),
        (
            415,
            "unsupported_media_type",
            &["-H", "content-type: text/plain", "-d", &hello, CHAT],
        ),
        (
            415,
            "unsupported_media_type",
            &["-H", "content-encoding: gzip", "-d", &hello, CHAT],
        ),
        (431, "headers_too_large", &["-H", &many, "/livez"]),
        (
            503,
            "model_asleep",
            &["-H", "x-reveille-wake: never", "-d", &hello, CHAT],
        ),
    ];
    for (status, code, args) in rows {
        let typed = args.iter().any(|arg| arg.starts_with("content-type"));
        let json = if typed { &[][..] } else { &JSON[..] };
        let said = Transcript::of(code, &asked(&api, &[json, args].concat()));
        assert_eq!((said.status, said.error_code().as_str()), (*status, *code));
    }

    // One request waits for the wake, which fails, and another is one too many.
    std::thread::scope(|scope| {
        let first = scope.spawn(|| asked(&api, &[&JSON[..], &["-d", &hello, CHAT]].concat()));
        let begun = Instant::now();
        while controller.posts().is_empty() && begun.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(10));
        }
        let second = Transcript::of(
            "one too many",
            &asked(&api, &[&JSON[..], &["-d", &hello, CHAT]].concat()),
        );
        assert_eq!((second.status, second.error_code().as_str()), (429, "queue_full"));
        assert!(second.head.contains("retry-after: "), "{}", second.head);
        let first = Transcript::of("never awake", &first.join().expect("curl ran"));
        assert_eq!((first.status, first.error_code().as_str()), (504, "wake_timeout"));
    });
    assert_eq!(Transcript::of("alive", &asked(&api, &["/livez"])).status, 200);
}

#[tokio::test]
async fn what_curl_never_sends_is_answered_and_the_connection_ends() {
    let world = World::new().await;
    let api = world.api().await;
    let post = |headers: &str, body: &str| {
        format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{headers}\r\n{body}")
    };
    let chunked = "transfer-encoding: chunked\r\n";
    let both = format!("content-length: 3\r\n{chunked}");
    let megabyte = format!("100000\r\n{}\r\n", " ".repeat(1024 * 1024));
    let rows = [
        ("no HTTP", "\x16\x03\x01\r\n\r\n".to_owned(), 400, "invalid_http"),
        ("both lengths", post(&both, "0\r\n\r\n"), 400, "unclear_length"),
        (
            "two lengths",
            post("content-length: 2\r\ncontent-length: 3\r\n", "{}"),
            400,
            "unclear_length",
        ),
        (
            "bad chunk",
            post(chunked, "zz\r\n{}\r\n0\r\n\r\n"),
            400,
            "incomplete_body",
        ),
        (
            "endless chunks",
            post(chunked, &megabyte.repeat(40)),
            413,
            "request_too_large",
        ),
        (
            "many headers",
            post(&"a: b\r\n".repeat(101), ""),
            431,
            "headers_too_large",
        ),
    ];
    for (what, bytes, status, code) in rows {
        let said = Transcript::of(what, &sent(&api, bytes));
        assert_eq!(
            (said.status, said.error_code().as_str()),
            (status, code),
            "{what}"
        );
        assert!(said.head.contains("connection: close"), "{what}: {}", said.head);
    }
}

#[tokio::test]
async fn who_is_slow_is_told_and_keeps_nobody_waiting() {
    let world = World::new().await;
    let api = world.api().await;
    let body = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{{");
    std::thread::scope(|scope| {
        let head = scope.spawn(|| sent(&api, "GET /livez HTTP/1.1\r\nhost"));
        let body = scope.spawn(|| sent(&api, &body));
        let drips = scope.spawn(|| {
            // A byte a second never fills the 10 s that a head has.
            let mut stream = connect(&api);
            let mut writer = stream.try_clone().expect("a second end");
            let text = "GET /livez HTTP/1.1\r\nhost: a\r\na: bcdefghijklmnopqrstuvwxyz";
            let drip = scope.spawn(move || {
                for byte in text.bytes() {
                    if writer.write_all(&[byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_secs(1));
                }
            });
            let mut answer = [0; 4096];
            let read = stream.read(&mut answer).expect("an answer");
            let _ = stream.shutdown(std::net::Shutdown::Both);
            drip.join().expect("it dripped");
            String::from_utf8_lossy(&answer[..read]).into_owned()
        });
        // Meanwhile everybody else is served.
        let others = Transcript::of(
            "others",
            &sent(&api, GET.replace("host", "connection: close\r\nhost")),
        );
        assert_eq!(others.status, 200);
        for (what, slow) in [("slow head", head), ("slow body", body), ("dripping head", drips)] {
            let said = Transcript::of(what, &slow.join().expect("it was answered"));
            assert_eq!(
                (said.status, said.error_code().as_str()),
                (408, "request_timeout"),
                "{what}"
            );
        }
    });
}
