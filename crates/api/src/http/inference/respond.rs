//! From a backend's response to ours: its bytes unchanged, and a visible end when they break off.

use super::{
    sse_keepalive::Keepalives,
    sse_stream::{self, Break, Pieces},
};
use crate::{
    http::error_response::name_provider,
    inference::{Endpoint, Family, InferenceError, InferenceResponse, ResponseBody, headers},
};
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use reveille_bus::relay::{RelayError, ResponseHead};
use reveille_domain::{ProviderId, WakeId};
use tokio::time::Instant;
use tracing::{debug, info};

/// The types of streams.
const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";

/// Passes the backend's response on. A stream may get `keepalives`; its own bytes stay as they are, to its end.
pub(super) fn respond(
    endpoint: &'static Endpoint,
    response: InferenceResponse,
    keepalives: Option<Keepalives>,
) -> Result<Response, InferenceError> {
    let InferenceResponse {
        provider,
        wake_id,
        head,
        body,
    } = response;
    let status = match StatusCode::from_u16(head.status) {
        // Clients can't follow a redirect to an address behind the agent.
        Ok(status) if !status.is_informational() && !status.is_redirection() => status,
        Ok(_) | Err(_) => {
            return Err(InferenceError::BadResponse {
                provider,
                wake_id,
                what: format!("with status {}, which can't be passed on", head.status),
            });
        }
    };
    log(&provider, wake_id, status.as_u16());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    headers::to_caller(&head, response.headers_mut());
    let streams = is_stream(endpoint.family, &head);
    if streams {
        headers::unbuffered(response.headers_mut());
    }
    name_provider(response.headers_mut(), Some(&provider), wake_id);
    *response.body_mut() = match body {
        ResponseBody::Whole(bytes) => Body::from(bytes),
        ResponseBody::Pieces(pieces) => {
            let pieces = of_provider(pieces, provider, wake_id);
            // Nothing can be inserted into compressed bytes.
            if streams && headers::encoding(&head).is_none() {
                // Its length changes with what is inserted.
                response.headers_mut().remove(header::CONTENT_LENGTH);
                let due = Instant::now() + keepalives.as_ref().map(Keepalives::quiet).unwrap_or_default();
                sse_stream::body(pieces, endpoint, Break::Event, keepalives, due)
            } else {
                sse_stream::body(pieces, endpoint, Break::Connection, None, Instant::now())
            }
        }
    };
    Ok(response)
}

pub(super) fn log(provider: &ProviderId, wake_id: Option<WakeId>, status: u16) {
    if let Some(wake) = wake_id {
        info!(provider.name = %provider, wake.id = %wake, http.status = status, "{provider} answers after a wake");
    } else {
        debug!(provider.name = %provider, http.status = status, "{provider} answers");
    }
}

/// The pieces, with errors that name the provider.
pub(super) fn of_provider(
    pieces: BoxStream<'static, Result<Bytes, RelayError>>,
    provider: ProviderId,
    wake_id: Option<WakeId>,
) -> Pieces {
    let broke_off = move |error| InferenceError::Relay {
        provider: provider.clone(),
        wake_id,
        error: Box::new(error),
        failing_for: None,
    };
    pieces.map(move |piece| piece.map_err(&broke_off)).boxed()
}

/// The pieces of a response's body, with errors that name its provider.
pub(super) fn pieces(body: ResponseBody, provider: ProviderId, wake_id: Option<WakeId>) -> Pieces {
    match body {
        ResponseBody::Whole(bytes) => stream::iter([Ok(bytes)]).boxed(),
        ResponseBody::Pieces(pieces) => of_provider(pieces, provider, wake_id),
    }
}

/// Whether a backend's answer is a stream: of events, or of Ollama's lines.
pub(super) fn is_stream(family: Family, head: &ResponseHead) -> bool {
    headers::is_of_type(head, EVENTS) || family == Family::Ollama && headers::is_of_type(head, LINES)
}

/// The response that begins a stream for a client of this family.
pub(super) fn begun_stream(family: Family, body: Body) -> Response {
    let kind = match family {
        Family::Ollama => LINES,
        Family::OpenAi | Family::Responses | Family::Anthropic | Family::LlamaCpp => EVENTS,
    };
    stream_of(kind, body)
}

/// The response that begins a stream of events.
pub(in crate::http) fn event_stream(body: Body) -> Response {
    stream_of(EVENTS, body)
}

/// Proxies don't buffer it.
fn stream_of(kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers::unbuffered(headers);
    response
}

#[cfg(test)]
mod tests {
    use super::{super::sse_keepalive::tests::every, *};
    use crate::inference::endpoint::tests::at;
    use std::time::Duration;

    /// A stream that breaks off after a moment, as its caller gets it: with its length, and what came before its end.
    async fn broken(encoding: Option<&str>) -> (Option<HeaderValue>, String, bool) {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let kind = [
            header("content-type", "text/event-stream"),
            header("content-length", "900"),
        ];
        let encoding = encoding.map(|encoding| header("content-encoding", encoding));
        let broken = stream::once(async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Err(RelayError::Silent { silent_ms: 1 })
        });
        let body = stream::iter([Ok(Bytes::from_static(b"data: 1\n\n"))]).chain(broken);
        let response = InferenceResponse {
            provider: "gpu-box/vllm".parse().expect("legal"),
            wake_id: None,
            head: ResponseHead {
                status: 200,
                headers: kind.into_iter().chain(encoding).collect(),
            },
            body: ResponseBody::Pieces(body.boxed()),
        };
        let second = Duration::from_secs(1);
        let keepalives = Some(every(second, second));
        let response = respond(at("/v1/chat/completions"), response, keepalives).expect("it is passed on");
        let length = response.headers().get(header::CONTENT_LENGTH).cloned();
        let (mut sent, mut body) = (String::new(), response.into_body().into_data_stream());
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => sent += &String::from_utf8_lossy(&piece),
                Err(_) => return (length, sent, false),
            }
        }
        (length, sent, true)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_something_is_inserted_into_has_no_length() {
        for encoding in [None, Some("identity")] {
            let (length, sent, ended) = broken(encoding).await;
            assert!(ended && length.is_none(), "{length:?}");
            assert!(
                sent.contains(": waking ") && sent.contains("data: {\"error\""),
                "{sent}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_inserted_into_a_compressed_stream() {
        let (length, sent, ended) = broken(Some("gzip")).await;
        assert_eq!(
            (sent.as_str(), ended),
            ("data: 1\n\n", false),
            "its bytes alone, and a visible break"
        );
        assert_eq!(length, Some(HeaderValue::from_static("900")));
    }
}
