//! What a stream sends while its request waits.
//!
//! The default is a comment line with a single newline: parsers skip it, while a blank line after a comment has broken
//! some. Never `id:`, `event:` or `retry:`, which break clients of these endpoints.

use crate::{
    inference::{Endpoint, Phase, Progress},
    wakes::now_ms,
};
use bytes::Bytes;
use reveille_domain::{AgentName, ModelName};
use serde_json::json;
use std::time::Duration;

/// The end of a stream whose request no backend ever got.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// One keep-alive of a request for `model` that has waited for `elapsed` and, by earlier wakes, waits for `left` more.
pub(super) fn keepalive(
    progress: Progress,
    endpoint: Endpoint,
    request_id: &str,
    model: &ModelName,
    phase: &Phase,
    (elapsed, left): (Duration, Option<Duration>),
) -> Bytes {
    let who = phase
        .provider()
        .map_or_else(|| model.to_string(), |provider| named(&provider.agent, model));
    let seconds = elapsed.as_secs();
    // Rounded up: it isn't awake sooner.
    let eta = left.map_or_else(String::new, |left| {
        format!(" eta={}s", left.as_millis().div_ceil(1000))
    });
    let text = || format!("{} {who} elapsed={seconds}s{eta}", phase.word());
    match (progress, endpoint) {
        (Progress::Comment | Progress::Off, _) => Bytes::from(format!(": {}\n", text())),
        (Progress::Reasoning, Endpoint::ChatCompletions) => chat_chunk(
            request_id,
            model,
            &json!({ "reasoning_content": format!("{}\n", text()) }),
        ),
        (Progress::Delta, Endpoint::ChatCompletions) => {
            chat_chunk(request_id, model, &json!({ "content": "" }))
        }
        (Progress::Delta | Progress::Reasoning, Endpoint::Completions | Endpoint::Embeddings) => {
            event(&json!({
                "id": format!("cmpl-{request_id}"),
                "object": "text_completion",
                "created": now_ms() / 1000,
                "model": model,
                "choices": [{ "index": 0, "text": "", "logprobs": null, "finish_reason": null }],
            }))
        }
    }
}

/// `agent/model`, unless the caller named the model so.
fn named(agent: &AgentName, model: &ModelName) -> String {
    let named = format!("{agent}/{model}");
    let prefix = &named[..named.len() - model.as_str().len()];
    if model.as_str().starts_with(prefix) {
        model.to_string()
    } else {
        named
    }
}

fn chat_chunk(request_id: &str, model: &ModelName, delta: &serde_json::Value) -> Bytes {
    event(&json!({
        "id": format!("chatcmpl-{request_id}"),
        "object": "chat.completion.chunk",
        "created": now_ms() / 1000,
        "model": model,
        "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": null }],
    }))
}

fn event(data: &serde_json::Value) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_domain::ProviderId;

    fn beat(progress: Progress, endpoint: Endpoint, model: &str) -> String {
        beat_with(progress, endpoint, model, None)
    }

    fn beat_with(progress: Progress, endpoint: Endpoint, model: &str, left: Option<Duration>) -> String {
        let provider: ProviderId = "gpu-box/vllm".parse().expect("legal");
        let model = ModelName::parse(model).expect("legal");
        let phase = Phase::Waking(provider);
        let bytes = keepalive(
            progress,
            endpoint,
            "r1",
            &model,
            &phase,
            (Duration::from_millis(9_900), left),
        );
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[test]
    fn a_comment_is_one_line_with_a_single_newline() {
        let expected = ": waking gpu-box/qwen3-8b elapsed=9s\n";
        for name in ["qwen3-8b", "gpu-box/qwen3-8b"] {
            assert_eq!(beat(Progress::Comment, Endpoint::ChatCompletions, name), expected);
        }
    }

    #[test]
    fn what_is_left_is_told_when_earlier_wakes_tell_it() {
        let left = Some(Duration::from_millis(20_100));
        assert_eq!(
            beat_with(Progress::Comment, Endpoint::ChatCompletions, "m", left),
            ": waking gpu-box/m elapsed=9s eta=21s\n"
        );
    }

    #[test]
    fn chunks_are_whole_events_that_add_no_text() {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions] {
            for progress in [Progress::Delta, Progress::Reasoning] {
                let beat = beat(progress, endpoint, "m\"1");
                let data = beat
                    .strip_prefix("data: ")
                    .and_then(|rest| rest.strip_suffix("\n\n"))
                    .expect("an event");
                assert!(!data.contains('\n'), "{data}");
                let chunk: serde_json::Value = serde_json::from_str(data).expect("JSON");
                let choice = &chunk["choices"][0];
                assert!(choice["finish_reason"].is_null());
                assert!(
                    ["", "null"].contains(&choice["delta"]["content"].as_str().unwrap_or("null")),
                    "{choice}"
                );
                assert!(
                    ["", "null"].contains(&choice["text"].as_str().unwrap_or("null")),
                    "{choice}"
                );
            }
        }
        let told = beat(Progress::Reasoning, Endpoint::ChatCompletions, "m");
        assert!(
            told.contains("\"reasoning_content\":\"waking gpu-box/m elapsed=9s\\n\""),
            "{told}"
        );
    }
}
