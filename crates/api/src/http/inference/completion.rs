//! Turns a whole completion, sent by a backend that was asked for a stream, into that stream.

use super::sse_stream::DONE;
use bytes::Bytes;
use serde_json::{Map, Value};

/// One chunk with the whole completion, and the end; `None` for what isn't a completion.
///
/// A chunk has a `delta` where a completion has a `message`, and numbers tool calls. Nothing else differs.
pub(super) fn events(body: &[u8]) -> Option<Bytes> {
    let mut completion: Map<String, Value> = serde_json::from_slice(body).ok()?;
    if completion.get("error").is_some_and(|error| !error.is_null()) {
        return None;
    }
    let mut is_chat = false;
    for choice in completion.get_mut("choices")?.as_array_mut()? {
        if let Some(mut message) = choice.as_object_mut()?.remove("message") {
            number_tool_calls(&mut message);
            choice["delta"] = message;
            is_chat = true;
        }
    }
    if is_chat {
        completion.insert("object".to_owned(), "chat.completion.chunk".into());
    }
    let chunk = format!("data: {}\n\n", Value::Object(completion));
    Some(Bytes::from([chunk.as_bytes(), DONE].concat()))
}

/// The whole of one of llama.cpp's own completions, which is also what its last event has.
pub(super) fn event(body: &[u8]) -> Option<Bytes> {
    let completion: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let is_error = completion.get("error").is_some_and(|error| !error.is_null());
    (!is_error).then(|| Bytes::from(format!("data: {}\n\n", Value::Object(completion))))
}

fn number_tool_calls(message: &mut Value) {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for (index, call) in calls.into_iter().flatten().enumerate() {
        if let Some(call) = call.as_object_mut() {
            call.entry("index").or_insert(index.into());
        }
    }
}
