//! Undoes the compression of a body whose bytes are to be read here. Backends are asked for none; some compress all the same.

use super::sse_stream::Pieces;
use crate::inference::{InferenceError, headers};
use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder};
use futures::StreamExt;
use reveille_bus::relay::ResponseHead;
use reveille_domain::{ProviderId, WakeId};
use std::{io, pin::Pin};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

/// The bytes that `body` stands for.
///
/// # Errors
/// When the backend compressed them in a way that isn't known here.
pub(super) fn decoded(
    head: &ResponseHead,
    body: Pieces,
    provider: &ProviderId,
    wake_id: Option<WakeId>,
) -> Result<Pieces, InferenceError> {
    let Some(encoding) = headers::encoding(head) else {
        return Ok(body);
    };
    let (provider, status) = (provider.clone(), head.status);
    let unreadable = move |how: &str| InferenceError::BadResponse {
        provider: provider.clone(),
        wake_id,
        what: format!("with status {status} and {how}"),
    };
    let body = StreamReader::new(body.map(|piece| piece.map_err(io::Error::other)));
    let decoder: Pin<Box<dyn AsyncRead + Send>> = match encoding.as_str() {
        "gzip" | "x-gzip" => Box::pin(GzipDecoder::new(body)),
        "deflate" => Box::pin(ZlibDecoder::new(body)),
        "br" => Box::pin(BrotliDecoder::new(body)),
        _ => return Err(unreadable("an unknown content encoding")),
    };
    let pieces = ReaderStream::new(decoder).map(move |piece| {
        piece.map_err(|error| {
            let broke_off = error.downcast::<InferenceError>();
            broke_off.unwrap_or_else(|_| unreadable("a body that isn't compressed as its head says"))
        })
    });
    Ok(pieces.boxed())
}
