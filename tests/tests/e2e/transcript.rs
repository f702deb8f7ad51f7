//! What is sent to a replica and comes back, word for word: by curl, or over a socket where curl would never send such a
//! thing. (`--nocapture` prints it, without the secrets of keys.)

use reveille_tests::Api;
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Output},
};

use crate::scene::SOON;

/// Longer than the longest limit of the API: a body may stand still for 30 s.
const CURL_WAITS_S: &str = "60";
/// How much of an argument is printed, in characters.
const SHOWN: usize = 60;
/// The secret of a key, in characters.
const SECRET: usize = 43;

/// An answer, as it came.
pub struct Transcript {
    pub status: u16,
    head: String,
    body: String,
}

impl Transcript {
    /// The answer in `text`, behind a `100 Continue`.
    pub fn of(what: &str, text: &str) -> Self {
        println!("--- {what}\n{}\n", masked(text));
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

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(header, _)| *header == name).map(|(_, value)| value)
    }

    /// The code of the error object that it must be, with all that belongs to it.
    pub fn error_code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()));
        let challenge = (self.status == 401).then_some("bearer");
        assert_eq!(self.header("www-authenticate"), challenge);
        let retry = self.header("retry-after").map(str::parse::<u64>);
        assert!(retry.is_none_or(|seconds| seconds.is_ok_and(|seconds| (1..=60).contains(&seconds))));
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
pub fn asked(api: &Api, args: &[&str]) -> String {
    let (path, args) = args.split_last().expect("a path");
    let url = format!("{}{path}", api.url());
    let output = curl(&[&["--include", "--globoff"], args, &[&url]].concat());
    let args: Vec<_> = args.iter().map(|arg| shortened(&masked(arg))).collect();
    format!(
        "$ curl -i {} {}\n{}{}",
        args.join(" "),
        shortened(&url),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn shortened(arg: &str) -> String {
    let short: String = arg.chars().take(SHOWN).collect();
    let more = if short.len() < arg.len() { "…" } else { "" };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=".contains(c);
    if !short.is_empty() && short.chars().all(plain) {
        format!("{short}{more}")
    } else {
        format!("'{short}{more}'")
    }
}

/// The text without the secrets of keys: `rv_<id>_…`.
fn masked(text: &str) -> String {
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    let mut pieces = text.split("rv_");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |masked, piece| {
        let key = piece.split_once('_').and_then(|(id, rest)| {
            let (secret, after) = rest.split_at_checked(SECRET)?;
            secret.as_bytes().iter().all(letter).then_some((id, after))
        });
        match key {
            Some((id, after)) => format!("{masked}rv_{id}_…{after}"),
            None => format!("{masked}rv_{piece}"),
        }
    })
}

/// Sends bytes and returns all that comes until the server closes.
pub fn sent(api: &Api, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(api);
    stream.write_all(bytes.as_ref()).expect("it is sent");
    let mut text = vec![];
    stream
        .read_to_end(&mut text)
        .expect("the answer comes, and then the end");
    String::from_utf8_lossy(&text).into_owned()
}

/// Sends `first`, and then `drops`, a byte a second, until an answer comes.
pub fn dripped(api: &Api, first: &str, drops: &str) -> String {
    let mut stream = connect(api);
    stream.write_all(first.as_bytes()).expect("it is sent");
    let mut writer = stream.try_clone().expect("a second end");
    std::thread::scope(|scope| {
        let drip = scope.spawn(move || {
            for byte in drops.bytes() {
                if writer.write_all(&[byte]).is_err() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        });
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).expect("an answer");
        let _ = stream.shutdown(std::net::Shutdown::Both);
        drip.join().expect("it dripped");
        String::from_utf8_lossy(&answer[..read]).into_owned()
    })
}

fn connect(api: &Api) -> TcpStream {
    let address = api.url().replace("http://", "");
    let stream = TcpStream::connect(address).expect("the API listens");
    stream.set_read_timeout(Some(SOON * 2)).expect("a time-out");
    stream
}

#[test]
fn the_secret_of_a_key_is_not_printed() {
    let secret = "s".repeat(SECRET);
    let text = format!("-H x-api-key: rv_k7mq2v9x_{secret} -d rv_ rv_k7mq2v9x_{secret}");
    assert_eq!(masked(&text), "-H x-api-key: rv_k7mq2v9x_… -d rv_ rv_k7mq2v9x_…");
}
