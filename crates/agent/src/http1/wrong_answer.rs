//! What is wrong with an answer that isn't HTTP, as far as hyper says.

use std::{error::Error, io};

/// What is wrong with it, after "its answer"; `None` if the connection just ended.
pub(crate) fn wrong_answer(error: &hyper::Error) -> Option<&'static str> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let of_hyper = cause.downcast_ref::<hyper::Error>().and_then(of_head);
        if let Some(wrong) = of_hyper.or_else(|| of_body(cause)) {
            return Some(wrong);
        }
        next = cause.source();
    }
    None
}

fn of_head(error: &hyper::Error) -> Option<&'static str> {
    if error.is_parse_too_large() {
        return Some("has too large a head");
    }
    // hyper has no type for these.
    match error.to_string() {
        text if text.starts_with("invalid content-length") => {
            Some("has a `content-length` that isn't one number")
        }
        text if text.contains("transfer-encoding") => {
            Some("has a `transfer-encoding` that HTTP/1.1 doesn't have")
        }
        text if error.is_parse() || text.starts_with("received unexpected message") => Some("isn't HTTP/1.1"),
        _ => None,
    }
}

/// Only the decoder of chunks gives errors of this kind.
fn of_body(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let io = error.downcast_ref::<io::Error>()?;
    let is_chunk = io.kind() == io::ErrorKind::InvalidInput;
    is_chunk.then_some("has a chunk that isn't as HTTP/1.1 wants it")
}
