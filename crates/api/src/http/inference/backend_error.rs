//! A backend's error as an event: whatever its shape, an error of the client's family with the backend's own words and status.

use crate::{
    http::error_response::family::{event, type_of},
    inference::Family,
};
use bytes::Bytes;
use reveille_domain::ProviderId;
use serde_json::{Map, Value};

/// The fields of an error that its backend put outside of an `error`.
const FIELDS: [&str; 4] = ["message", "type", "param", "code"];

/// The event for an answer with this status, of which `body` has come; `is_cut` if that isn't all.
pub(super) fn event_of(
    family: Family,
    provider: &ProviderId,
    status: u16,
    body: &[u8],
    is_cut: bool,
) -> Bytes {
    let parsed = serde_json::from_slice(body).map(its_own).unwrap_or_default();
    let mut error = parsed;
    let has_message = error
        .get("message")
        .and_then(Value::as_str)
        .is_some_and(|text| !text.is_empty());
    if !has_message {
        error.insert(
            "message".to_owned(),
            in_words(provider, status, body, is_cut).into(),
        );
    }
    // A code of its own says more to a client, such as that the prompt is too long.
    let is_lasting = is_final(status) && !error.get("code").is_some_and(Value::is_string);
    for (field, value) in [
        ("type", type_of(family, status).into()),
        ("param", Value::Null),
        ("code", "backend_failed".into()),
        ("status", status.into()),
    ] {
        error.entry(field).or_insert(value);
    }
    event(family, &error, is_lasting)
}

/// Whether the same request would get the same answer again.
const fn is_final(status: u16) -> bool {
    matches!(status, 400..500) && !matches!(status, 408 | 409 | 425 | 429)
}

/// The backend's own error object; empty if there is none.
fn its_own(mut body: Map<String, Value>) -> Map<String, Value> {
    let message = |text: Value| Map::from_iter([("message".to_owned(), text)]);
    match body.remove("error") {
        Some(Value::Object(error)) => error,
        Some(text @ Value::String(_)) => message(text),
        _ if body.get("message").is_some_and(Value::is_string) => {
            body.retain(|field, _| FIELDS.contains(&field.as_str()));
            body
        }
        _ => match body.remove("detail") {
            Some(text @ Value::String(_)) => message(text),
            _ => Map::new(),
        },
    }
}

fn in_words(provider: &ProviderId, status: u16, body: &[u8], is_cut: bool) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() {
        return format!("the backend of {provider} answered with status {status} and an empty body");
    }
    let rest = if is_cut {
        format!(" … (the first {} bytes of the answer)", body.len())
    } else {
        String::new()
    };
    format!("the backend of {provider} answered with status {status}: {text}{rest}")
}
