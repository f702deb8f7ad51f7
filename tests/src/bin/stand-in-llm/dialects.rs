//! The same tokens and calls as other APIs than OpenAI's completions word them.

use serde_json::{Value, json};

use crate::tool_calls::Call;

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

    pub fn whole(self, model: &Value, tokens: &[String], call: Option<&Call>) -> Value {
        let text = tokens.concat();
        match self {
            Self::Responses => response(
                model,
                "completed",
                &[call.map_or_else(|| said(&text), called)],
                tokens.len(),
            ),
            Self::Messages => message(
                model,
                &[call.map_or_else(|| json!({ "type": "text", "text": text }), used)],
                stop_reason(call),
                tokens.len(),
            ),
            Self::Ollama => last_line(model, &text, call, tokens.len()),
        }
    }

    /// What comes before the tokens, each token, and what comes after them. A call takes the place of the tokens.
    pub fn stream(
        self,
        model: &Value,
        tokens: &[String],
        call: Option<&Call>,
    ) -> (Vec<String>, Vec<String>, Vec<String>) {
        match self {
            Self::Responses => responses_stream(model, tokens, call),
            Self::Messages => messages_stream(model, tokens, call),
            Self::Ollama => {
                let lines = |tokens: &[String]| tokens.iter().map(|token| line(model, token)).collect();
                let sent = if call.is_some() { Vec::new() } else { lines(tokens) };
                let last = last_line(model, "", call, tokens.len());
                (vec![], sent, vec![format!("{last}\n")])
            }
        }
    }
}

fn event(data: &Value) -> String {
    format!(
        "event: {}\ndata: {data}\n\n",
        data["type"].as_str().unwrap_or_default()
    )
}

fn responses_stream(
    model: &Value,
    tokens: &[String],
    call: Option<&Call>,
) -> (Vec<String>, Vec<String>, Vec<String>) {
    let mut number = 0;
    let mut event = |mut data: Value| {
        data["sequence_number"] = json!(number);
        number += 1;
        event(&data)
    };
    let text = tokens.concat();
    let item = call.map_or_else(|| said(&text), called);
    let mut begun = item.clone();
    begun["status"] = json!("in_progress");
    // Where a delta belongs.
    let at = |kind: &str, more: Value| {
        let mut data = json!({ "type": kind, "item_id": item["id"], "output_index": 0 });
        for (name, value) in more.as_object().into_iter().flatten() {
            data[name] = value.clone();
        }
        data
    };
    let created = response(model, "in_progress", &[], 0);
    let mut before = vec![event(json!({ "type": "response.created", "response": created }))];
    let (mut sent, mut after) = (Vec::new(), Vec::new());
    if let Some(call) = call {
        begun["arguments"] = json!("");
        before.push(event(
            json!({ "type": "response.output_item.added", "output_index": 0, "item": begun }),
        ));
        let arguments = call.arguments.to_string();
        let part = json!({ "delta": arguments });
        sent.push(event(at("response.function_call_arguments.delta", part)));
        let whole = json!({ "arguments": arguments, "name": call.name });
        after.push(event(at("response.function_call_arguments.done", whole)));
    } else {
        begun["content"] = json!([]);
        before.push(event(
            json!({ "type": "response.output_item.added", "output_index": 0, "item": begun }),
        ));
        let part = |text: &str| json!({ "content_index": 0, "part": output_text(text) });
        before.push(event(at("response.content_part.added", part(""))));
        for token in tokens {
            let delta = json!({ "content_index": 0, "delta": token, "logprobs": [] });
            sent.push(event(at("response.output_text.delta", delta)));
        }
        let whole = json!({ "content_index": 0, "text": text, "logprobs": [] });
        after.push(event(at("response.output_text.done", whole)));
        after.push(event(at("response.content_part.done", part(&text))));
    }
    after.push(event(
        json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
    ));
    let completed = response(model, "completed", std::slice::from_ref(&item), tokens.len());
    after.push(event(
        json!({ "type": "response.completed", "response": completed }),
    ));
    (before, sent, after)
}

fn messages_stream(
    model: &Value,
    tokens: &[String],
    call: Option<&Call>,
) -> (Vec<String>, Vec<String>, Vec<String>) {
    let begun = message(model, &[], None, 0);
    let block = call.map_or_else(
        || json!({ "type": "text", "text": "" }),
        |call| json!({ "type": "tool_use", "id": "toolu_1", "name": call.name, "input": {} }),
    );
    let deltas = match call {
        Some(call) => vec![json!({ "type": "input_json_delta", "partial_json": call.arguments.to_string() })],
        None => tokens
            .iter()
            .map(|token| json!({ "type": "text_delta", "text": token }))
            .collect(),
    };
    let delta = |delta| event(&json!({ "type": "content_block_delta", "index": 0, "delta": delta }));
    (
        vec![
            event(&json!({ "type": "message_start", "message": begun })),
            event(&json!({ "type": "content_block_start", "index": 0, "content_block": block })),
        ],
        deltas.into_iter().map(delta).collect(),
        vec![
            event(&json!({ "type": "content_block_stop", "index": 0 })),
            event(&json!({
                "type": "message_delta", "delta": { "stop_reason": stop_reason(call), "stop_sequence": null },
                "usage": { "output_tokens": tokens.len() },
            })),
            event(&json!({ "type": "message_stop" })),
        ],
    )
}

fn output_text(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

fn said(text: &str) -> Value {
    let content = [output_text(text)];
    json!({ "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content })
}

fn called(call: &Call) -> Value {
    json!({
        "type": "function_call", "id": "fc_1", "call_id": "call_1", "status": "completed",
        "name": call.name, "arguments": call.arguments.to_string(),
    })
}

fn used(call: &Call) -> Value {
    json!({ "type": "tool_use", "id": "toolu_1", "name": call.name, "input": call.arguments })
}

fn response(model: &Value, status: &str, output: &[Value], tokens: usize) -> Value {
    let usage = json!({
        "input_tokens": 1, "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": tokens, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": tokens + 1,
    });
    let usage = if status == "completed" { usage } else { Value::Null };
    json!({
        "id": "resp_1", "object": "response", "created_at": 0, "status": status, "model": model, "output": output,
        "parallel_tool_calls": false, "tool_choice": "auto", "tools": [], "usage": usage,
        "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
    })
}

fn stop_reason(call: Option<&Call>) -> Option<&'static str> {
    Some(if call.is_some() { "tool_use" } else { "end_turn" })
}

fn message(model: &Value, content: &[Value], stop_reason: Option<&str>, tokens: usize) -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": stop_reason, "stop_sequence": null,
        "usage": { "input_tokens": 1, "output_tokens": tokens },
    })
}

fn line(model: &Value, token: &str) -> String {
    let message = json!({ "role": "assistant", "content": token });
    let line = json!({ "model": model, "created_at": CREATED_AT, "done": false, "message": message });
    format!("{line}\n")
}

const CREATED_AT: &str = "2026-01-01T00:00:00Z";

fn last_line(model: &Value, text: &str, call: Option<&Call>, tokens: usize) -> Value {
    let mut message = json!({ "role": "assistant", "content": text });
    if let Some(call) = call {
        message["content"] = json!("");
        message["tool_calls"] = json!([{ "function": { "name": call.name, "arguments": call.arguments } }]);
    }
    json!({
        "model": model, "created_at": CREATED_AT, "done": true, "done_reason": "stop", "message": message,
        "total_duration": 1, "load_duration": 1, "prompt_eval_count": 1, "prompt_eval_duration": 1,
        "eval_count": tokens, "eval_duration": 1,
    })
}
