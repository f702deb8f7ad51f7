//! Answers of a backend to a stream that has begun already, because 200 and heartbeats have been sent; and to one that it begins.

use super::{
    Answer, Served,
    fake_hub::{Reply, active},
    streams::{EVENTS, impatient, piece, rest, waiting},
};
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder};
use bytes::Bytes;
use reveille_bus::relay::{FaultCode, RelayError, RelayFault};
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};

const JSON: &str = "application/json";

/// What follows the heartbeats when the backend answers in this way.
async fn late(reply: Reply) -> String {
    let served = impatient().await;
    let (response, _) = waiting(&served, "comment").await;
    served.hub.replies([reply]);
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    rest(response).await
}

/// The error of a stream that ends with it, without `[DONE]`.
async fn late_error(reply: Reply) -> Value {
    let text = late(reply).await;
    let event = text
        .strip_prefix("data: ")
        .and_then(|text| text.strip_suffix("\n\n"))
        .unwrap_or_else(|| panic!("one event: {text:?}"));
    let event: Value = serde_json::from_str(event).expect("JSON");
    event["error"].clone()
}

fn whole(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    Reply::Whole(status, kind, body.into())
}

#[tokio::test]
async fn a_backends_error_of_any_shape_keeps_its_words_and_its_status() {
    for (status, kind, body, message) in [
        (400, JSON, r#"{"error":"MARK not loaded"}"#, "MARK not loaded"),
        (500, JSON, r#"{"detail":"MARK"}"#, "MARK"),
        (
            422,
            JSON,
            r#"{"detail":[{"loc":["body"],"msg":"MARK required"}]}"#,
            r#"the backend of gpu-box/vllm answered with status 422: {"detail":[{"loc":["body"],"msg":"MARK required"}]}"#,
        ),
        (
            400,
            JSON,
            r#"{"object":"error","message":"MARK","type":"t"}"#,
            "MARK",
        ),
        (404, JSON, r#"{"error":null,"message":"MARK"}"#, "MARK"),
        (
            400,
            JSON,
            r#"{"error":{"detail":"MARK","code":7}}"#,
            r#"the backend of gpu-box/vllm answered with status 400: {"error":{"detail":"MARK","code":7}}"#,
        ),
        (
            502,
            "text/html",
            "<h1>MARK</h1>\n",
            "the backend of gpu-box/vllm answered with status 502: <h1>MARK</h1>",
        ),
        (
            503,
            "",
            "",
            "the backend of gpu-box/vllm answered with status 503 and an empty body",
        ),
        (200, JSON, r#"{"error":"MARK no such path"}"#, "MARK no such path"),
        (
            200,
            JSON,
            "[]",
            "the backend of gpu-box/vllm answered with status 200: []",
        ),
    ] {
        let error = late_error(whole(status, kind, body)).await;
        assert_eq!(
            (&error["message"], &error["status"]),
            (&json!(message), &json!(status))
        );
        assert!(
            error["type"].is_string() && error.get("param").is_some(),
            "{error}"
        );
        assert!(!error["code"].is_null(), "{error}");
    }
}

#[tokio::test]
async fn a_backends_own_error_object_passes_with_all_its_fields() {
    let body = r#"{"error":{"message":"MARK","type":"rate_limit","param":"p","code":"theirs","more":[1]}}"#;
    let error = late_error(whole(429, JSON, body)).await;
    let wanted = json!({
        "message": "MARK", "type": "rate_limit", "param": "p", "code": "theirs", "more": [1], "status": 429
    });
    assert_eq!(error, wanted);
}

#[tokio::test]
async fn a_large_error_says_how_much_of_it_is_shown() {
    let body = json!({ "error": { "message": format!("MARK {}", "x".repeat(70_000)) } }).to_string();
    for (status, kind) in [(400, JSON), (200, "text/plain")] {
        let error = late_error(whole(status, kind, body.clone())).await;
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains(r#""MARK xxx"#));
        assert!(message.ends_with("x … (the first 65536 bytes of the answer)"));
    }
}

#[tokio::test]
async fn a_backends_error_that_breaks_off_keeps_what_has_come() {
    let broken = Err(RelayError::Silent { silent_ms: 1 });
    let pieces = vec![piece("half of a"), piece(" MARK"), broken];
    let error = late_error(Reply::Pieces(500, "text/plain", pieces)).await;
    let message = error["message"].as_str().expect("a text");
    assert!(
        message.contains("half of a MARK … (the first 14 bytes"),
        "{message}"
    );
}

#[tokio::test]
async fn a_request_that_failed_without_an_answer_ends_without_done() {
    let broke_off = RelayFault::new(FaultCode::BackendFailed, "a sentence");
    let error = late_error(Reply::Fails(broke_off.into())).await;
    assert_eq!(error["code"], "backend_unavailable");
}

async fn compressed(encoding: &str, text: &str) -> Bytes {
    async fn write(mut encoder: impl AsyncWrite + Unpin, text: &str) {
        encoder.write_all(text.as_bytes()).await.expect("written");
        encoder.shutdown().await.expect("written");
    }
    let mut bytes = vec![];
    match encoding {
        "br" => write(BrotliEncoder::new(&mut bytes), text).await,
        "deflate" => write(ZlibEncoder::new(&mut bytes), text).await,
        _ => write(GzipEncoder::new(&mut bytes), text).await,
    }
    bytes.into()
}

#[tokio::test]
async fn a_compressed_answer_is_read() {
    const STREAM: &str = "data: 1\n\ndata: [DONE]\n\n";
    for encoding in ["gzip", "GZIP", "x-gzip", "deflate", "br"] {
        let body = compressed(encoding, STREAM).await;
        assert_eq!(late(Reply::Compressed(200, EVENTS, encoding, body)).await, STREAM);
        let body = compressed(encoding, r#"{"error":"MARK"}"#).await;
        let error = late_error(Reply::Compressed(400, JSON, encoding, body)).await;
        assert_eq!(
            (&error["message"], &error["status"]),
            (&json!("MARK"), &json!(400))
        );
    }
    for (encoding, body) in [("zstd", "?"), ("gzip", "not gzip")] {
        let body = Bytes::from_static(body.as_bytes());
        let error = late_error(Reply::Compressed(200, EVENTS, encoding, body)).await;
        assert_eq!(error["code"], "backend_failed", "{encoding}");
    }
}

#[tokio::test]
async fn a_whole_completion_in_place_of_a_stream_is_one_chunk_of_it() {
    let chat = json!({
        "id": "c", "object": "chat.completion", "model": "m", "usage": { "total_tokens": 3 },
        "choices": [{ "index": 0, "finish_reason": "stop", "message": {
            "role": "assistant", "content": "MARK", "tool_calls": [{ "id": "a" }, { "id": "b" }],
        } }],
    });
    let chunk = json!({
        "id": "c", "object": "chat.completion.chunk", "model": "m", "usage": { "total_tokens": 3 },
        "choices": [{ "index": 0, "finish_reason": "stop", "delta": {
            "role": "assistant", "content": "MARK",
            "tool_calls": [{ "id": "a", "index": 0 }, { "id": "b", "index": 1 }],
        } }],
    });
    let text = json!({ "object": "text_completion", "choices": [{ "text": "MARK", "index": 0 }] });
    for (completion, wanted) in [(&chat, &chunk), (&text, &text)] {
        let body = serde_json::to_string_pretty(completion).expect("JSON");
        let text = late(whole(200, JSON, body)).await;
        let event = text
            .strip_prefix("data: ")
            .and_then(|text| text.strip_suffix("\n\ndata: [DONE]\n\n"))
            .unwrap_or_else(|| panic!("a chunk and the end: {text:?}"));
        assert_eq!(&serde_json::from_str::<Value>(event).expect("JSON"), wanted);
    }
}

#[tokio::test]
async fn a_stream_passes_whatever_its_lines_end_with_and_its_type_says() {
    for (kind, stream) in [
        (EVENTS, "data: 1\r\n\r\ndata: [DONE]\r\n\r\n"),
        (EVENTS, "data: 1\r\rdata: [DONE]\r\r"),
        (EVENTS, "data: 1\n\ndata: [DONE]"),
        ("Text/Event-Stream", "data: 1\n\ndata: [DONE]\n\n"),
        ("text/plain", "\ndata: 1\n\ndata: [DONE]\n\n"),
        ("application/x-ndjson", ": ping\n\ndata: 1\n\ndata: [DONE]\n\n"),
    ] {
        for mark in ["", "\u{feff}"] {
            let bytes = Bytes::from(format!("{mark}{stream}"));
            let pieces = bytes
                .chunks(1)
                .map(|byte| Ok(Bytes::copy_from_slice(byte)))
                .collect();
            let text = late(Reply::Pieces(200, kind, pieces)).await;
            // Comments of its own are lost in this test, like heartbeats.
            assert_eq!(text, stream.replace(": ping\n", ""), "{kind} {mark:?}");
        }
    }
}

/// What a caller gets of an awake backend's answer, whose head passes at once.
async fn at_once(reply: Reply) -> String {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.replies([reply]);
    Answer::of(served.chat("m", true)).await.text()
}

#[tokio::test]
async fn what_is_only_labelled_as_a_stream_becomes_an_event() {
    let completion = r#"{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"MARK"}}]}"#;
    let chunk = r#""delta":{"content":"MARK"}"#;
    for (body, told, is_done) in [
        (completion, chunk, true),
        (r#"{"error":{"message":"MARK"}}"#, r#""message":"MARK""#, false),
        (
            "MARK overloaded",
            "answered with status 200: MARK overloaded",
            false,
        ),
        ("1", "answered with status 200: 1", false),
        ("", "answered with status 200 and an empty body", false),
    ] {
        let split = || body.chars().map(|letter| piece(&letter.to_string())).collect();
        for text in [
            late(whole(200, EVENTS, body)).await,
            late(Reply::Pieces(200, EVENTS, split())).await,
        ] {
            let events = text.strip_suffix("data: [DONE]\n\n");
            assert_eq!(events.is_some(), is_done, "{text}");
            let event = events.unwrap_or(&text);
            let json = event
                .strip_prefix("data: ")
                .and_then(|rest| rest.strip_suffix("\n\n"));
            let json = json.unwrap_or_else(|| panic!("an event: {text:?}"));
            let json: Value = serde_json::from_str(json).expect("JSON");
            assert!(json.to_string().contains(told), "{json}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_ends_by_itself_has_an_outcome() {
    const FINISHED: &str = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n";
    const ERROR: &str = "data: {\"error\":\"MARK\"}\n\n";
    let cut = r#"data: {"error":{"message":"the backend of gpu-box/vllm ended its stream before its answer was complete"#;
    for (stream, then) in [
        ("data: 1\n\n", cut.to_owned()),
        ("data: {\"id\":\"MARK", format!("\n\n{cut}")),
        ("data: 1\n", format!("\n\n{cut}")),
        ("event: x\n\n", cut.to_owned()),
        // Some servers never send [DONE].
        (format!("{FINISHED}\n").as_str(), "data: [DONE]\n\n".to_owned()),
        (FINISHED, "\n\ndata: [DONE]\n\n".to_owned()),
        (ERROR, String::new()),
        (format!("{FINISHED}\ndata: [DONE]\n\n").as_str(), String::new()),
    ] {
        for text in [
            late(whole(200, EVENTS, stream.to_owned())).await,
            late(Reply::Pieces(200, "text/plain", vec![piece(stream)])).await,
        ] {
            let end = text.strip_prefix(stream);
            let end = end.unwrap_or_else(|| panic!("what was sent stays: {text:?}"));
            assert!(end.starts_with(&then), "{stream:?} {end:?}");
            let is_cut = then.ends_with(cut);
            assert!(
                if is_cut {
                    end.ends_with("}}\n\n") && !end.contains("[DONE]")
                } else {
                    end == then
                },
                "{end:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_awake_backends_answer_passes_byte_for_byte_however_it_ends() {
    for body in [
        "data: 1\n\n",
        "data: {\"id\":\"MARK",
        "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n",
        "\u{feff}data: 1\n\ndata: [DONE]\n\n",
        "data: 1\r\rdata: [DONE]",
        r#"{"error":{"message":"MARK"}}"#,
        "",
    ] {
        assert_eq!(at_once(whole(200, EVENTS, body)).await, body);
        assert_eq!(at_once(Reply::Pieces(200, EVENTS, vec![piece(body)])).await, body);
        assert_eq!(at_once(whole(500, EVENTS, body)).await, body);
    }
}
