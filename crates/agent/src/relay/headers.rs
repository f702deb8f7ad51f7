//! Which headers of a request reach its backend, and which of an answer its caller.

use super::answer_model::AnswerModel;
use crate::own_hub::OwnHub;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING},
    response::Parts,
};
use reveille_bus::relay::{REQUEST_HEADERS, RESPONSE_HEADERS, RequestHead, ResponseHead};
use reveille_domain::ModelName;

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
/// The header in which some servers name the model.
const OPENAI_MODEL: &str = "openai-model";
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The longest value of an answer's header. All that pass fit into a frame.
const MAX_HEADER_BYTES: usize = 2048;

/// The listed headers of the request, with the agent's hub as one more that it has passed. An answer whose model `is_renamed` has to come
/// as it is.
pub(super) fn request_headers(head: &RequestHead, own_hub: &OwnHub, is_renamed: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        let name = HeaderName::try_from(name.as_str())
            .ok()
            .filter(|name| REQUEST_HEADERS.contains(&name.as_str()));
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    if let Some(Ok(trace)) = head.traceparent.as_deref().map(HeaderValue::from_str) {
        headers.insert(TRACEPARENT, trace);
    }
    if is_renamed {
        headers.insert(ACCEPT_ENCODING, IDENTITY);
    }
    own_hub.add_to(&mut headers);
    headers
}

/// The listed headers that the relay can carry; a value that isn't text, or is too large, is left out. So is the length of an
/// answer in chunks, which they may not have (RFC 9112, 6.3): the caller would read on or stop by it.
pub(super) fn response_head(head: &Parts) -> ResponseHead {
    let in_chunks = head.headers.contains_key(TRANSFER_ENCODING);
    let listed = RESPONSE_HEADERS
        .iter()
        .filter(|name| !(in_chunks && **name == CONTENT_LENGTH));
    let headers = listed.filter_map(|name| {
        let value = std::str::from_utf8(head.headers.get(*name)?.as_bytes()).ok()?;
        (value.len() <= MAX_HEADER_BYTES).then(|| ((*name).to_owned(), value.to_owned()))
    });
    ResponseHead {
        status: head.status.as_u16(),
        headers: headers.collect(),
    }
}

/// Whether an answer's bytes aren't its text.
pub(super) fn is_compressed(head: &ResponseHead) -> bool {
    let compressed = |(name, value): &(String, String)| name == "content-encoding" && value != "identity";
    head.headers.iter().any(compressed)
}

/// An error in place of a compressed one, with the same status; `head` becomes its own.
pub(super) fn unreadable_error(head: &mut ResponseHead) -> Bytes {
    let of_its_body = ["content-encoding", "content-length", "content-type"];
    head.headers
        .retain(|(name, _)| !of_its_body.contains(&name.as_str()));
    head.headers
        .push(("content-type".to_owned(), "application/json".to_owned()));
    let message = format!(
        "the backend answered with status {} and a compressed error, which callers of a preset don't get",
        head.status
    );
    let error = serde_json::json!({ "error": { "message": message } });
    error.to_string().into()
}

/// Prepares a head for an answer with another `model`; `None` for one that can't be changed because it is compressed.
pub(super) fn rename_in(head: &mut ResponseHead, model: &ModelName) -> Option<AnswerModel> {
    for (header, value) in &mut head.headers {
        if header == OPENAI_MODEL {
            model.as_str().clone_into(value);
        }
    }
    if is_compressed(head) {
        return None;
    }
    head.headers.retain(|(name, _)| name != "content-length");
    Some(AnswerModel::new(model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_domain::ProviderName;

    #[test]
    fn an_answer_in_chunks_has_no_length() {
        let mut answer = http::Response::new(());
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(3));
        let names = |answer: &http::Response<()>| {
            let (head, ()) = answer.clone().into_parts();
            let headers = response_head(&head).headers;
            headers.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(&answer), ["content-length"]);
        let chunked = HeaderValue::from_static("chunked");
        answer.headers_mut().insert(TRANSFER_ENCODING, chunked);
        assert_eq!(names(&answer), [""; 0]);
    }

    #[test]
    fn credentials_and_unknown_headers_never_reach_the_backend() {
        let header = |name: &str| (name.to_owned(), "1".to_owned());
        let names = [
            "Content-Type",
            "authorization",
            "cookie",
            "x-api-key",
            "x-forwarded-for",
            "Accept",
            "a b",
        ];
        let head = RequestHead {
            provider: ProviderName::parse("p").expect("legal"),
            method: "POST".to_owned(),
            path: "/v1/completions".to_owned(),
            headers: names.map(header).to_vec(),
            traceparent: Some("00-1-2-01".to_owned()),
            hold_ms: None,
            turn_within_ms: None,
            model: None,
            preset: None,
            body_bytes: 0,
        };
        let own_hub = OwnHub::of(Some("00112233445566aa".parse().expect("an id")));
        let sent = |is_renamed| {
            let headers = request_headers(&head, &own_hub, is_renamed);
            let mut sent: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            sent.sort_unstable();
            sent
        };
        assert_eq!(
            sent(false),
            ["accept", "content-type", "traceparent", "x-reveille-via"]
        );
        assert!(sent(true).contains(&"accept-encoding".to_owned()));
    }

    #[test]
    fn an_error_in_place_of_a_compressed_one_has_its_status_and_nothing_of_its_body() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut head = ResponseHead {
            status: 422,
            headers: vec![
                header("content-encoding", "gzip"),
                header("content-length", "9"),
                header("content-type", "text/html"),
                header("retry-after", "3"),
            ],
        };
        let error = unreadable_error(&mut head);
        let error: serde_json::Value = serde_json::from_slice(&error).expect("JSON");
        let message = error["error"]["message"].as_str();
        assert!(
            message.is_some_and(|message| message.contains("status 422")),
            "{error}"
        );
        assert!(!is_compressed(&head));
        assert_eq!(head.status, 422);
        let left = [
            header("retry-after", "3"),
            header("content-type", "application/json"),
        ];
        assert_eq!(head.headers, left);
    }

    #[test]
    fn a_compressed_answer_keeps_its_name_of_the_model_and_its_length() {
        let model = ModelName::parse("m").expect("legal");
        for (encoding, is_renamed) in [("gzip", false), ("identity", true)] {
            let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let mut head = ResponseHead {
                status: 200,
                headers: vec![
                    header("content-encoding", encoding),
                    header("content-length", "9"),
                    header("openai-model", "Org/Own"),
                ],
            };
            assert_eq!(rename_in(&mut head, &model).is_some(), is_renamed, "{encoding}");
            assert_eq!(head.header("content-length").is_none(), is_renamed, "{encoding}");
            assert_eq!(head.header("openai-model"), Some("m"), "{encoding}");
        }
    }
}
