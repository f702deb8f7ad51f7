//! What a stream sends while its request waits.
//!
//! The default is a comment line with a single newline: parsers skip it, while a blank line after a comment has broken
//! some. Never `id:`, `event:` or `retry:`, which break clients of these endpoints.

use crate::{
    http::AppState,
    inference::{CurrentPhase, Endpoint, InferenceRequest, Phase, Progress},
    registry::{ProviderSnapshot, Registry},
    wakes::{now_ms, time_until_awake},
};
use bytes::Bytes;
use reveille_domain::{AgentName, ModelName};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The end of a stream.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// The keep-alives of one request.
pub(super) struct Keepalives {
    progress: Progress,
    endpoint: Endpoint,
    request_id: String,
    model: ModelName,
    phase: Arc<CurrentPhase>,
    registry: Registry,
    quiet: Duration,
    every: Duration,
    begun: Instant,
}

impl Keepalives {
    /// The keep-alives that the caller wants, if any.
    pub fn new(state: &AppState, request: &InferenceRequest, phase: Arc<CurrentPhase>) -> Option<Self> {
        let progress = request.options.progress;
        let timings = &state.limits.timings;
        (progress != Progress::Off).then(|| Self {
            progress,
            endpoint: request.endpoint,
            request_id: request.request_id.clone(),
            model: request.model.clone(),
            phase,
            registry: state.registry.clone(),
            quiet: timings.quiet,
            every: timings.keepalive,
            begun: Instant::now(),
        })
    }

    /// After how much silence the first one is sent.
    pub const fn quiet(&self) -> Duration {
        self.quiet
    }

    /// After how much more silence the next one is sent.
    pub const fn every(&self) -> Duration {
        self.every
    }

    /// What the request waits for.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The provider that the request waits for, as it is now.
    pub fn snapshot(&self) -> Option<Arc<ProviderSnapshot>> {
        self.registry.get(self.phase.get().provider()?)
    }

    /// The next one.
    pub fn next(&self) -> Bytes {
        let left = self.snapshot().and_then(|snapshot| time_until_awake(&snapshot));
        self.text(self.begun.elapsed(), left)
    }

    /// For a request that has waited for `elapsed` and, by earlier wakes, waits for `left` more.
    fn text(&self, elapsed: Duration, left: Option<Duration>) -> Bytes {
        let (phase, model) = (self.phase.get(), &self.model);
        let who = phase
            .provider()
            .map_or_else(|| model.to_string(), |provider| named(&provider.agent, model));
        let seconds = elapsed.as_secs();
        // Rounded up: it isn't awake sooner.
        let eta = left.map_or_else(String::new, |left| {
            format!(" eta={}s", left.as_millis().div_ceil(1000))
        });
        let text = || format!("{} {who} elapsed={seconds}s{eta}", phase.word());
        match (self.progress, self.endpoint) {
            (Progress::Comment | Progress::Off, _) => Bytes::from(format!(": {}\n", text())),
            (Progress::Reasoning, Endpoint::ChatCompletions) => {
                self.chat_chunk(&json!({ "reasoning_content": format!("{}\n", text()) }))
            }
            (Progress::Delta, Endpoint::ChatCompletions) => self.chat_chunk(&json!({ "content": "" })),
            (Progress::Delta | Progress::Reasoning, Endpoint::Completions | Endpoint::Embeddings) => {
                let choice = json!({ "index": 0, "text": "", "logprobs": null, "finish_reason": null });
                self.chunk("cmpl", "text_completion", &choice)
            }
        }
    }

    fn chat_chunk(&self, delta: &serde_json::Value) -> Bytes {
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": null });
        self.chunk("chatcmpl", "chat.completion.chunk", &choice)
    }

    fn chunk(&self, id: &str, object: &str, choice: &serde_json::Value) -> Bytes {
        let chunk = json!({
            "id": format!("{id}-{}", self.request_id),
            "object": object,
            "created": now_ms() / 1000,
            "model": self.model,
            "choices": [choice],
        });
        Bytes::from(format!("data: {chunk}\n\n"))
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Comments of a request for `m` that waits for a wake.
    pub fn every(quiet: Duration, every: Duration) -> Keepalives {
        let phase = CurrentPhase::default();
        phase.enter(Phase::Waking("gpu-box/vllm".parse().expect("legal")));
        Keepalives {
            progress: Progress::Comment,
            endpoint: Endpoint::ChatCompletions,
            request_id: "r1".to_owned(),
            model: ModelName::parse("m").expect("legal"),
            phase: Arc::new(phase),
            registry: Registry::default(),
            quiet,
            every,
            begun: Instant::now(),
        }
    }

    fn beat(progress: Progress, endpoint: Endpoint, model: &str) -> String {
        beat_with(progress, endpoint, model, None)
    }

    fn beat_with(progress: Progress, endpoint: Endpoint, model: &str, left: Option<Duration>) -> String {
        let keepalives = Keepalives {
            progress,
            endpoint,
            model: ModelName::parse(model).expect("legal"),
            ..every(Duration::ZERO, Duration::ZERO)
        };
        let bytes = keepalives.text(Duration::from_millis(9_900), left);
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
