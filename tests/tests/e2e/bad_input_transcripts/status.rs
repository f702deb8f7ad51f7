//! What is wrong with a request, or with what it asks for: every other status.

use super::{CHAT, Stage, TYPED, bearer, chat, file, row};
use crate::{
    scene::SOON,
    transcript::{Transcript, asked},
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// The bodies of chat completions that are refused.
fn bodies(folder: &Path) -> Vec<(&'static str, &'static str, String)> {
    let printable = [
        ("empty", "invalid_json", String::new()),
        ("truncated", "invalid_json", r#"{"model":"#.to_owned()),
        ("an array", "invalid_json", r#"[{"model":"qwen"}]"#.to_owned()),
        ("null", "invalid_json", "null".to_owned()),
        (
            "two models",
            "duplicate_field",
            r#"{"model":"qwen","model":"qwen","messages":[]}"#.to_owned(),
        ),
        ("no model", "missing_field", r#"{"messages":[]}"#.to_owned()),
        (
            "a number as model",
            "invalid_type",
            r#"{"model":7,"messages":[]}"#.to_owned(),
        ),
        (
            "an empty model",
            "invalid_model",
            r#"{"model":"","messages":[]}"#.to_owned(),
        ),
        ("a long model", "invalid_model", chat(&"m".repeat(257))),
        ("a control character", "invalid_model", chat("a\u{1}b")),
        ("no messages", "invalid_type", r#"{"model":"qwen"}"#.to_owned()),
        (
            "messages that are no list",
            "invalid_type",
            r#"{"model":"qwen","messages":"hello"}"#.to_owned(),
        ),
        (
            "a text as stream",
            "invalid_type",
            r#"{"model":"qwen","messages":[],"stream":"true"}"#.to_owned(),
        ),
        (
            "another server",
            "unsupported_field",
            r#"{"model":"qwen","messages":[],"api_base":"http://a"}"#.to_owned(),
        ),
        (
            "another server by its other name",
            "unsupported_field",
            r#"{"model":"qwen","messages":[],"base_url":"http://a"}"#.to_owned(),
        ),
    ];
    let not_utf8 = file(folder, "not-utf8", b"{\"model\":\"\xff\",\"messages\":[]}");
    let deep = file(folder, "deep", "[".repeat(100_000).as_bytes());
    let mut bodies = Vec::from(printable);
    bodies.extend([
        ("no UTF-8", "invalid_json", not_utf8),
        ("deep nesting", "invalid_json", deep),
    ]);
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_status_is_an_error_object_for_curl() {
    let stage = Stage::set().await;
    let key = stage.key(&["--scope", "infer:*"]).await;
    let limited = stage.key(&["--scope", "infer:*", "--concurrency", "1"]).await;
    let (key, limited, folder) = (bearer(&key), bearer(&limited), stage.hub.world.folder());
    let hello = chat("qwen");
    for (what, code, body) in bodies(folder) {
        let args = ["-H", &key, "-H", TYPED, "--data-binary", &body, CHAT];
        row(what, 400, code, &args).check(&stage.api);
    }
    // Names that would be subjects, if a name ever became one.
    for name in ["a.b", "*", ">", "a b"] {
        let args = ["-H", &key, "-H", TYPED, "-d", &chat(name), CHAT];
        row("a legal name", 404, "model_not_found", &args).check(&stage.api);
    }
    let large = file(folder, "large", &vec![b' '; 33 * 1024 * 1024]);
    let many = format!("a: {}", "x".repeat(64 * 1024));
    let long = format!("/{}", "x".repeat(64 * 1024));
    let posts: [(&'static str, u16, &'static str, &[&str]); 8] = [
        ("too large", 413, "request_too_large", &["--data-binary", &large]),
        (
            "endless",
            413,
            "request_too_large",
            &["-H", "transfer-encoding: chunked", "--data-binary", &large],
        ),
        (
            "too large, and it asks first",
            413,
            "request_too_large",
            &["-H", "expect: 100-continue", "--data-binary", &large],
        ),
        (
            "text",
            415,
            "unsupported_media_type",
            &["-H", "content-type: text/plain", "-d", &hello],
        ),
        (
            "compressed",
            415,
            "unsupported_media_type",
            &["-H", "content-encoding: gzip", "-d", &hello],
        ),
        (
            "asleep, and it is to stay so",
            503,
            "model_asleep",
            &["-H", "x-reveille-wake: never", "-d", &hello],
        ),
        ("no agent", 503, "provider_inactive", &["-d", &chat("gone")]),
        ("a wake that fails", 503, "wake_failed", &["-d", &chat("broken")]),
    ];
    let rows = posts.map(|(what, status, code, args)| {
        let typed: &[&str] = match args[1].starts_with("content-type") {
            true => &[],
            false => &["-H", TYPED],
        };
        row(
            what,
            status,
            code,
            &[&["-H", &key], typed, args, &[CHAT]].concat(),
        )
    });
    let others = [
        row("no path", 404, "not_found", &["-H", &key, "/v2"]),
        row("a path for posts", 405, "method_not_allowed", &["-H", &key, CHAT]),
        row("a long line", 414, "uri_too_long", &[&long]),
        row(
            "large headers",
            431,
            "headers_too_large",
            &["-H", &many, "/livez"],
        ),
    ];
    for row in rows.iter().chain(&others) {
        row.check(&stage.api);
    }

    // One request waits for the wake, which fails; meanwhile another is one too many, and its key has no second place.
    let ask = |key: &str| asked(&stage.api, &["-H", key, "-H", TYPED, "-d", &hello, CHAT]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(&limited));
        let begun = Instant::now();
        while stage.controllers[0].posts().is_empty() && begun.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(10));
        }
        let full = row("one too many", 429, "queue_full", &[]);
        full.is(&Transcript::of(full.what, &ask(&key)));
        let place = row("no second place", 429, "concurrency_exceeded", &[]);
        place.is(&Transcript::of(place.what, &ask(&limited)));
        let late = row("never awake", 504, "wake_timeout", &[]);
        late.is(&Transcript::of(late.what, &first.join().expect("curl ran")));
    });
    assert_eq!(
        Transcript::of("alive", &asked(&stage.api, &["/livez"])).status,
        200
    );
}
