//! Errors as the clients of each family read them.

use super::{ErrorObject, ErrorResponse, error_type};
use crate::{http::request_id::RequestId, inference::Family};
use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use http::header;
use serde::Serialize;
use serde_json::{Value, json};

/// What every client of Anthropic's sends.
pub(in crate::http) const ANTHROPIC_VERSION: &str = "anthropic-version";

/// The code of a response that its client doesn't ask for again.
const NOT_AGAIN: &str = "invalid_prompt";

/// The family whose client sends the request.
pub(in crate::http) fn of_request(request: &Request) -> Family {
    match Family::of_path(request.uri().path()) {
        Family::OpenAi if request.headers().contains_key(ANTHROPIC_VERSION) => Family::Anthropic,
        family => family,
    }
}

/// Puts an error into the form of this family.
pub(in crate::http) fn put_in_form(response: &mut Response, family: Family, id: &RequestId) {
    let Some(error) = response.extensions_mut().remove::<ErrorResponse>() else {
        return;
    };
    if !matches!(family, Family::Anthropic | Family::Ollama) {
        return;
    }
    let mut json = whole(family, &json!(error.object_for(family)));
    if family == Family::Anthropic {
        json["request_id"] = id.as_str().into();
    }
    // A router within this one may have added the length of what it had.
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(json.to_string());
}

impl ErrorResponse {
    /// The error as the next event of a stream for a client of this family.
    pub(in crate::http) fn event_for(&self, family: Family) -> Bytes {
        event(family, &self.object_for(family), self.is_lasting)
    }

    /// The error object for a client of this family.
    pub(in crate::http) fn object_for(&self, family: Family) -> ErrorObject {
        let kind = match family {
            Family::Anthropic => anthropic_type(self.status.as_u16(), self.is_lasting),
            Family::OpenAi | Family::Responses | Family::Ollama | Family::LlamaCpp => self.object.kind,
        };
        ErrorObject {
            kind,
            ..self.object.clone()
        }
    }
}

/// The `type` of a backend's error with this status that has none of its own.
pub(in crate::http) const fn type_of(family: Family, status: u16) -> &'static str {
    match family {
        Family::Anthropic => anthropic_type(status, false),
        Family::OpenAi | Family::Responses | Family::Ollama | Family::LlamaCpp => error_type(status),
    }
}

/// Anthropic's types. Its clients take an overload for worth another try.
const fn anthropic_type(status: u16, is_lasting: bool) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        504 => "timeout_error",
        503 | 529 if !is_lasting => "overloaded_error",
        _ => "api_error",
    }
}

/// The body of an error with these fields.
fn whole(family: Family, error: &Value) -> Value {
    match family {
        Family::OpenAi | Family::Responses | Family::LlamaCpp => json!({ "error": error }),
        Family::Anthropic => json!({ "type": "error", "error": error }),
        Family::Ollama => {
            json!({ "error": error["message"], "code": error["code"] })
        }
    }
}

/// An error with these fields as the next event of a stream.
///
/// OpenAI's streams have no `event:` line, which their clients don't expect, but those of its responses have: there the fields are
/// where OpenAI's own event has them, and also in `error`, by which its clients know that they have to raise it. Others, such as
/// codex, pass over that event and read `response.failed`, the last one. Of its codes [`NOT_AGAIN`] is the one after which codex shows
/// the message and doesn't send the request again, so it stands there for an error that `is_lasting`.
pub(in crate::http) fn event(family: Family, error: &impl Serialize, is_lasting: bool) -> Bytes {
    let ordered = serde_json::to_string(error).unwrap_or_else(|_| "{}".to_owned());
    let error = json!(error);
    let text = match family {
        Family::OpenAi | Family::LlamaCpp => format!("data: {{\"error\":{ordered}}}\n\n"),
        Family::Anthropic => format!("event: error\ndata: {}\n\n", whole(family, &error)),
        Family::Ollama => format!("{}\n", whole(family, &error)),
        Family::Responses => {
            let mut event = error.clone();
            event["type"] = "error".into();
            event["sequence_number"] = 0.into();
            event["error"] = error.clone();
            let code = if is_lasting {
                &json!(NOT_AGAIN)
            } else {
                &error["code"]
            };
            let failed = json!({
                "type": "response.failed",
                "sequence_number": 1,
                "response": {
                    "object": "response",
                    "status": "failed",
                    "error": { "code": code, "message": error["message"] },
                    "output": [],
                },
            });
            format!("event: error\ndata: {event}\n\nevent: response.failed\ndata: {failed}\n\n")
        }
    };
    Bytes::from(text)
}
