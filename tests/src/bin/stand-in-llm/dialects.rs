//! The same tokens as other APIs than OpenAI's completions word them.

use serde_json::{Value, json};

/// Another API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Responses,
    Messages,
    Ollama,
}

impl Dialect {
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/responses" => Some(Self::Responses),
            "/v1/messages" => Some(Self::Messages),
            "/api/chat" => Some(Self::Ollama),
            _ => None,
        }
    }

    /// Whether a request asks for a stream.
    pub fn streams(self, request: &Value) -> bool {
        match self {
            Self::Responses | Self::Messages => request["stream"] == json!(true),
            Self::Ollama => request["stream"] != json!(false),
        }
    }

    pub const fn stream_type(self) -> &'static str {
        match self {
            Self::Responses | Self::Messages => "text/event-stream",
            Self::Ollama => "application/x-ndjson",
        }
    }

    pub fn whole(self, model: &Value, text: &str) -> Value {
        match self {
            Self::Responses => response(model, text, "completed"),
            Self::Messages => message(model, text),
            Self::Ollama => line(model, text, true),
        }
    }

    /// What comes before the tokens, each token, and what comes after them.
    pub fn stream(self, model: &Value, tokens: &[String]) -> (Vec<String>, Vec<String>, Vec<String>) {
        let text = tokens.concat();
        match self {
            Self::Responses => (
                vec![event(
                    &json!({ "type": "response.created", "response": response(model, "", "in_progress") }),
                )],
                tokens
                    .iter()
                    .map(|token| {
                        event(&json!({
                            "type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0,
                            "content_index": 0, "delta": token, "logprobs": [],
                        }))
                    })
                    .collect(),
                vec![event(
                    &json!({ "type": "response.completed", "response": response(model, &text, "completed") }),
                )],
            ),
            Self::Messages => {
                let mut begun = message(model, "");
                begun["content"] = json!([]);
                let block = json!({ "type": "text", "text": "" });
                let delta = |token: &String| json!({ "type": "text_delta", "text": token });
                (
                    vec![
                        event(&json!({ "type": "message_start", "message": begun })),
                        event(&json!({ "type": "content_block_start", "index": 0, "content_block": block })),
                    ],
                    tokens
                        .iter()
                        .map(|token| {
                            event(
                                &json!({ "type": "content_block_delta", "index": 0, "delta": delta(token) }),
                            )
                        })
                        .collect(),
                    vec![
                        event(&json!({ "type": "content_block_stop", "index": 0 })),
                        event(&json!({
                            "type": "message_delta", "delta": { "stop_reason": "end_turn" },
                            "usage": { "output_tokens": tokens.len() },
                        })),
                        event(&json!({ "type": "message_stop" })),
                    ],
                )
            }
            Self::Ollama => (
                vec![],
                tokens
                    .iter()
                    .map(|token| format!("{}\n", line(model, token, false)))
                    .collect(),
                vec![format!("{}\n", line(model, "", true))],
            ),
        }
    }
}

fn event(data: &Value) -> String {
    format!(
        "event: {}\ndata: {data}\n\n",
        data["type"].as_str().unwrap_or_default()
    )
}

fn response(model: &Value, text: &str, status: &str) -> Value {
    let content = json!([{ "type": "output_text", "text": text, "annotations": [] }]);
    let output = json!([{
        "type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": content,
    }]);
    json!({
        "id": "resp_1", "object": "response", "created_at": 0, "status": status, "model": model, "output": output,
        "parallel_tool_calls": false, "tool_choice": "auto", "tools": [],
    })
}

fn message(model: &Value, text: &str) -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": model,
        "content": [{ "type": "text", "text": text }], "stop_reason": "end_turn", "stop_sequence": null,
        "usage": { "input_tokens": 1, "output_tokens": 1 },
    })
}

fn line(model: &Value, text: &str, done: bool) -> Value {
    json!({
        "model": model, "created_at": "2026-01-01T00:00:00Z", "done": done,
        "message": { "role": "assistant", "content": text },
    })
}
