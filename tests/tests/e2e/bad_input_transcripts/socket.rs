//! What curl never sends, and who is slow.

use super::{CHAT, row};
use crate::{
    keys::Hub,
    transcript::{Transcript, dripped, sent},
};

const GET: &str = "GET /livez HTTP/1.1\r\nconnection: close\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn what_curl_never_sends_is_answered_and_the_connection_ends() {
    let hub = Hub::new().await;
    let api = hub.replica(&[]).await;
    let post = |headers: &str, body: &str| {
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\r\n{body}"
        )
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
        row(what, status, code, &[]).is(&said);
        assert_eq!(said.header("connection"), Some("close"), "{what}");
    }
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn who_is_slow_is_told_and_keeps_nobody_waiting() {
    let hub = Hub::new().await;
    let api = hub.replica(&[]).await;
    let body = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    let spaces = " ".repeat(90);
    std::thread::scope(|scope| {
        let slow = [
            (
                "slow head",
                scope.spawn(|| sent(&api, "GET /livez HTTP/1.1\r\nhost")),
            ),
            ("slow body", scope.spawn(|| sent(&api, &body))),
            // A byte a second never fills the 10 s that a head has, nor keeps the pace of a body.
            (
                "dripping head",
                scope.spawn(|| dripped(&api, "", "GET /livez HTTP/1.1\r\nhost: localhost")),
            ),
            ("dripping body", scope.spawn(|| dripped(&api, &body, &spaces))),
        ];
        // Meanwhile everybody else is served.
        assert_eq!(Transcript::of("others", &sent(&api, GET)).status, 200);
        for (what, slow) in slow {
            let told = row(what, 408, "request_timeout", &[]);
            told.is(&Transcript::of(what, &slow.join().expect("it was answered")));
        }
    });
}
