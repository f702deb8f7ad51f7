//! What a stream sends while its request waits.
//!
//! For OpenAI's clients that is a comment line with a single newline: parsers skip it, while a blank line after a comment has
//! broken some. They never get `id:`, `event:` or `retry:`, which break them. Anthropic's clients have an event for this, and
//! Ollama's a line without text. OpenAI's responses have one too, `keepalive`, which their clients pass over, but only after
//! `response.created`: if the backend hasn't sent that yet, one with an empty id comes first. LangChain joins that id and the
//! backend's, and others replace it; but the newest helper for Python (`responses.stream`) refuses a second id and anything before the
//! first, so these events are only for who asks for them.

use crate::{
    http::AppState,
    inference::{
        COMMENTS_FOR, CurrentPhase, InferenceRequest, Phase, Progress, QueuePosition, endpoint::Keepalive,
    },
    registry::{ProviderSnapshot, Registry},
    wakes::{now_ms, time_until_awake},
};
use bytes::Bytes;
use jiff::Timestamp;
use reveille_domain::{AgentName, ModelName};
use serde_json::json;
use std::{mem, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Anthropic's.
const PING: &[u8] = b"event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// The keep-alives of one request.
pub(super) struct Keepalives {
    progress: Progress,
    kind: Keepalive,
    request_id: String,
    model: ModelName,
    phase: Arc<CurrentPhase>,
    registry: Registry,
    quiet: Duration,
    every: Duration,
    begun: Instant,
    /// Whether the client of a response has got `response.created`.
    is_created: bool,
}

impl Keepalives {
    /// The keep-alives that the caller wants, if any.
    pub fn new(state: &AppState, request: &InferenceRequest, phase: Arc<CurrentPhase>) -> Option<Self> {
        let progress = request.options.progress;
        let timings = &state.limits.timings;
        (progress != Progress::Off).then(|| Self {
            progress,
            kind: request.endpoint.keepalive,
            request_id: request.request_id.clone(),
            model: request.model.clone(),
            phase,
            registry: state.registry.clone(),
            quiet: timings.quiet,
            every: timings.keepalive,
            begun: Instant::now(),
            is_created: false,
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

    /// The next one; whether the backend's answer has begun.
    pub fn next(&mut self, answer_has_begun: bool) -> Bytes {
        let position = self.phase.get().position();
        let wakes_in = self.snapshot().and_then(|snapshot| time_until_awake(&snapshot));
        let left = position.map_or(wakes_in, |position| position.left);
        self.is_created |= answer_has_begun;
        self.text(self.begun.elapsed(), left, position)
    }

    /// For a request that has waited for `elapsed` and, by earlier wakes or slots, waits for `left` more.
    fn text(&mut self, elapsed: Duration, left: Option<Duration>, position: Option<QueuePosition>) -> Bytes {
        let (phase, model) = (self.phase.get(), &self.model);
        let place = position.map_or_else(String::new, |position| format!(" place={}", position.place));
        let who = phase
            .provider()
            .map_or_else(|| model.to_string(), |provider| named(&provider.agent, model));
        let seconds = elapsed.as_secs();
        // Rounded up: it isn't awake sooner.
        let eta = left.map_or_else(String::new, |left| {
            format!(" eta={}s", left.as_millis().div_ceil(1000))
        });
        let text = format!("{} {who}{place} elapsed={seconds}s{eta}", phase.word());
        let comment = || Bytes::from(format!(": {text}\n"));
        let progress = match self.progress {
            Progress::CommentThenDelta if elapsed >= COMMENTS_FOR && self.kind != Keepalive::Event => {
                Progress::Delta
            }
            Progress::CommentThenDelta => Progress::Comment,
            progress => progress,
        };
        match (self.kind, progress) {
            (Keepalive::Ping, _) => Bytes::from_static(PING),
            (Keepalive::ChatLine, Progress::Reasoning) => self
                .chat_line(&json!({ "role": "assistant", "content": "", "thinking": format!("{text}\n") })),
            (Keepalive::ChatLine, _) => self.chat_line(&json!({ "role": "assistant", "content": "" })),
            (Keepalive::GenerateLine, Progress::Reasoning) => {
                self.line(&json!({ "response": "", "thinking": format!("{text}\n") }))
            }
            (Keepalive::GenerateLine, _) => self.line(&json!({ "response": "" })),
            (Keepalive::ChatChunk, Progress::Reasoning) => {
                self.chat_chunk(&json!({ "reasoning_content": format!("{text}\n") }))
            }
            (Keepalive::ChatChunk, Progress::Delta) => self.chat_chunk(&json!({ "content": "" })),
            (Keepalive::TextChunk, Progress::Delta | Progress::Reasoning) => {
                let choice = json!({ "index": 0, "text": "", "logprobs": null, "finish_reason": null });
                self.chunk("cmpl", "text_completion", &choice)
            }
            (Keepalive::Event, Progress::Delta | Progress::Reasoning) => self.response_event(),
            (
                Keepalive::ChatChunk
                | Keepalive::TextChunk
                | Keepalive::Event
                | Keepalive::Comment
                | Keepalive::Unneeded,
                _,
            ) => comment(),
        }
    }

    fn response_event(&mut self) -> Bytes {
        let (kind, mut event) = if mem::replace(&mut self.is_created, true) {
            ("keepalive", json!({}))
        } else {
            let response = json!({
                "id": "",
                "object": "response",
                "created_at": now_ms() / 1000,
                "status": "in_progress",
                "error": null,
                "incomplete_details": null,
                "instructions": null,
                "metadata": {},
                "model": self.model,
                "output": [],
                "parallel_tool_calls": true,
                "temperature": null,
                "tool_choice": "auto",
                "tools": [],
                "top_p": null,
            });
            ("response.created", json!({ "response": response }))
        };
        (event["type"], event["sequence_number"]) = (kind.into(), 0.into());
        Bytes::from(format!("event: {kind}\ndata: {event}\n\n"))
    }

    fn chat_line(&self, message: &serde_json::Value) -> Bytes {
        self.line(&json!({ "message": message }))
    }

    /// A line with these fields and those that all lines of Ollama's have.
    fn line(&self, own: &serde_json::Value) -> Bytes {
        let now = i64::try_from(now_ms()).unwrap_or_default();
        let now = Timestamp::from_millisecond(now).unwrap_or_default();
        let mut line = json!({ "model": self.model, "created_at": now.to_string(), "done": false });
        if let (Some(line), Some(own)) = (line.as_object_mut(), own.as_object()) {
            line.extend(own.clone());
        }
        Bytes::from(format!("{line}\n"))
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
            kind: Keepalive::ChatChunk,
            request_id: "r1".to_owned(),
            model: ModelName::parse("m").expect("legal"),
            phase: Arc::new(phase),
            registry: Registry::default(),
            quiet,
            every,
            begun: Instant::now(),
            is_created: false,
        }
    }

    fn beat(progress: Progress, kind: Keepalive, model: &str) -> String {
        beat_with(progress, kind, model, None)
    }

    fn beat_with(progress: Progress, kind: Keepalive, model: &str, left: Option<Duration>) -> String {
        let mut keepalives = Keepalives {
            progress,
            kind,
            model: ModelName::parse(model).expect("legal"),
            ..every(Duration::ZERO, Duration::ZERO)
        };
        let bytes = keepalives.text(Duration::from_millis(9_900), left, None);
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[test]
    fn a_comment_is_one_line_with_a_single_newline() {
        let expected = ": waking gpu-box/qwen3-8b elapsed=9s\n";
        for name in ["qwen3-8b", "gpu-box/qwen3-8b"] {
            assert_eq!(beat(Progress::Comment, Keepalive::ChatChunk, name), expected);
        }
    }

    #[test]
    fn what_is_left_is_told_when_earlier_wakes_tell_it() {
        let left = Some(Duration::from_millis(20_100));
        assert_eq!(
            beat_with(Progress::Comment, Keepalive::ChatChunk, "m", left),
            ": waking gpu-box/m elapsed=9s eta=21s\n"
        );
    }

    #[test]
    fn chunks_are_whole_events_that_add_no_text() {
        for kind in [Keepalive::ChatChunk, Keepalive::TextChunk] {
            for progress in [Progress::Delta, Progress::Reasoning] {
                let beat = beat(progress, kind, "m\"1");
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
        let told = beat(Progress::Reasoning, Keepalive::ChatChunk, "m");
        assert!(
            told.contains("\"reasoning_content\":\"waking gpu-box/m elapsed=9s\\n\""),
            "{told}"
        );
    }

    #[test]
    fn a_client_whose_program_may_have_a_timer_gets_chunks_after_a_minute() {
        for (kind, seconds, begins) in [
            (Keepalive::ChatChunk, 59, ": waking"),
            (Keepalive::ChatChunk, 60, "data: {"),
            (Keepalive::Event, 60, ": waking"),
        ] {
            let mut keepalives = Keepalives {
                kind,
                progress: Progress::CommentThenDelta,
                ..every(Duration::ZERO, Duration::ZERO)
            };
            let bytes = keepalives.text(Duration::from_secs(seconds), None, None);
            assert!(bytes.starts_with(begins.as_bytes()), "{bytes:?}");
        }
    }

    #[test]
    fn a_response_is_created_before_its_first_keepalive_and_never_twice() {
        let beats = |answer_has_begun: bool| {
            let mut keepalives = Keepalives {
                progress: Progress::Delta,
                kind: Keepalive::Event,
                ..every(Duration::ZERO, Duration::ZERO)
            };
            [(); 3].map(|()| {
                let beat = String::from_utf8(keepalives.next(answer_has_begun).to_vec()).expect("text");
                let (kind, data) = beat
                    .strip_prefix("event: ")
                    .and_then(|rest| rest.strip_suffix("\n\n")?.split_once("\ndata: "))
                    .expect("an event");
                let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
                assert_eq!(data["type"], kind);
                (
                    kind.to_owned(),
                    data["response"]["id"].as_str().map(str::to_owned),
                )
            })
        };
        let created = ("response.created".to_owned(), Some(String::new()));
        let keepalive = ("keepalive".to_owned(), None);
        assert_eq!(beats(false), [created, keepalive.clone(), keepalive.clone()]);
        assert_eq!(beats(true), [(); 3].map(|()| keepalive.clone()));
    }

    #[test]
    fn each_familys_clients_survive_its_keepalive() {
        for (kind, progress, expected) in [
            (
                Keepalive::Comment,
                Progress::Delta,
                ": waking gpu-box/m elapsed=9s\n",
            ),
            (
                Keepalive::Ping,
                Progress::Comment,
                "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            ),
            (
                Keepalive::Ping,
                Progress::Reasoning,
                "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            ),
        ] {
            assert_eq!(beat(progress, kind, "m"), expected);
        }
    }

    #[test]
    fn a_line_is_one_of_ollamas_and_adds_no_text() {
        for (kind, text) in [
            (Keepalive::ChatLine, "/message/content"),
            (Keepalive::GenerateLine, "/response"),
        ] {
            for progress in [Progress::Comment, Progress::Delta, Progress::Reasoning] {
                let beat = beat(progress, kind, "m");
                let line = beat.strip_suffix('\n').expect("a line");
                assert!(!line.contains('\n'), "{line}");
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(
                    (&line["model"], &line["done"], line.pointer(text)),
                    (&json!("m"), &json!(false), Some(&json!(""))),
                    "{line}"
                );
                let created = line["created_at"].as_str().expect("a time");
                assert!(created.parse::<Timestamp>().is_ok(), "{created}");
                assert_eq!(
                    line.to_string().contains("waking"),
                    progress == Progress::Reasoning,
                    "{line}"
                );
            }
        }
    }
}
