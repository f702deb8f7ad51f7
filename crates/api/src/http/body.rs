//! Reads a request's body into memory: JSON or a form, up to a limit, counted against the memory for all held bodies.

use super::{ApiError, AppState};
use crate::{
    inference::{BodyBudget, BodyFault, HeldBytes},
    origin::quoted,
};
use axum::{
    body::{Body, BodyDataStream, HttpBody},
    extract::Request,
    http::{HeaderMap, header},
};
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use reveille_bus::relay::boundary;
use serde::de::DeserializeOwned;
use std::{fmt, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// How much memory is set aside at once for a body of known length, in bytes: a client that announces much and sends
/// nothing takes up no more.
const MAX_FIRST_ALLOCATION_BYTES: usize = 1024 * 1024;

/// A body of one piece of up to this size is copied, in bytes: a connection reads at least twice as much at once.
const COPIED_BYTES: usize = 4 * 1024;

/// The average rate at which a longer body has to come, in bytes a second, so that one that drips ends. It is a modem's
/// pace, at which 32 MiB take a little over an hour.
pub(super) const MIN_BYTES_PER_SECOND: u64 = 8 * 1024;

/// How long and how far the rest of the body is read and discarded of a request that was refused or has failed, so that a client
/// that sends everything before it reads sees the error and not a broken connection.
const LINGER: Duration = Duration::from_secs(1);
const MAX_LINGER_BYTES: usize = 64 * 1024 * 1024;

/// The largest body of a request about keys or agents: enough for all scopes with the longest names.
const SMALL: BodyLimit = BodyLimit {
    bytes: 64 * 1024,
    flag: None,
};

/// Editors and shells of Windows put it before a text; JSON has none (RFC 8259, section 8.1).
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// How large a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyLimit {
    pub bytes: usize,
    /// The flag that sets it.
    pub flag: Option<&'static str>,
}

impl fmt::Display for BodyLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: usize = 1024 * 1024;
        match self.bytes {
            bytes if bytes.is_multiple_of(MIB) => write!(f, "{} MiB", bytes / MIB)?,
            bytes => write!(f, "{bytes} bytes")?,
        }
        match self.flag {
            Some(flag) => write!(f, ", this API's limit ({flag})"),
            None => Ok(()),
        }
    }
}

/// A request's body, and its share of the memory for bodies.
#[derive(Debug)]
pub(super) struct HeldBody {
    pub bytes: Bytes,
    /// Gives the share back when it is dropped.
    pub held: HeldBytes,
}

/// Refuses anything but plain JSON that says so. A page may send a body without a content type to any address, without the
/// browser's preflight.
pub(super) fn check_media_type(headers: &HeaderMap, body: &Body) -> Result<(), ApiError> {
    check_encoding(headers)?;
    match headers.get(header::CONTENT_TYPE) {
        Some(value) if !is_json(value.as_bytes()) => Err(ApiError::MediaType(quoted(value.as_bytes()))),
        None if !body.is_end_stream() => Err(ApiError::NoMediaType),
        Some(_) | None => Ok(()),
    }
}

/// The content type of a form. A page may send one to any address without the browser's preflight, so only the check of its
/// origin keeps it out.
pub(super) fn form_type(headers: &HeaderMap) -> Result<&str, ApiError> {
    check_encoding(headers)?;
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if boundary(kind).is_some() {
        Ok(kind)
    } else {
        Err(ApiError::NoForm(quoted(kind.as_bytes())))
    }
}

fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(ApiError::ContentEncoding(quoted(encoding.as_bytes())))
        }
        Some(_) | None => Ok(()),
    }
}

fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    let essence = essence.to_ascii_lowercase();
    essence == b"application/json" || (essence.starts_with(b"application/") && essence.ends_with(b"+json"))
}

/// Reads a small body; an empty one counts as an empty object.
pub(super) async fn read_small<T: DeserializeOwned>(
    state: &AppState,
    request: Request,
) -> Result<T, ApiError> {
    let (parts, body) = request.into_parts();
    check_media_type(&parts.headers, &body)?;
    let (idle, bodies) = (state.limits.timings.body_idle, &state.bodies);
    let body = read(&parts.headers, body, SMALL, idle, bodies).await?;
    let json: &[u8] = match &*body.bytes {
        [] => b"{}",
        bytes => bytes,
    };
    serde_json::from_slice(json)
        .map_err(|error| ApiError::invalid("invalid_body", None, format!("the body is invalid: {error}")))
}

/// Reads the whole body, without a byte order mark and the space after it. `idle` is the longest pause between two pieces, and how
/// much longer than at [`MIN_BYTES_PER_SECOND`] the whole body may take.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    limit: BodyLimit,
    idle: Duration,
    budget: &BodyBudget,
) -> Result<HeldBody, ApiError> {
    let mut body = PacedBody::new(body, idle);
    let expects_continue = headers.contains_key(header::EXPECT);
    let announced = announced_bytes(headers);
    if expects_continue && announced.is_some_and(|bytes| bytes > limit.bytes as u64) {
        return Err(ApiError::TooLarge(limit));
    }
    let mut read = read_chunks(&mut body, announced, limit, budget).await;
    if let Ok(body) = &mut read
        && let Some(rest) = body.bytes.strip_prefix(BYTE_ORDER_MARK)
    {
        let rest = rest.trim_ascii_start().len();
        body.bytes.advance(body.bytes.len() - rest);
    }
    if let Err(ApiError::TooLarge(_) | ApiError::MemoryFull { .. }) = &read {
        body.linger().await;
    }
    read
}

/// A body that has to keep its pace.
pub(super) struct PacedBody {
    chunks: BodyDataStream,
    idle: Duration,
    /// Until when the next piece must have come, whatever the pause before it.
    latest: Instant,
}

impl PacedBody {
    /// A body whose first piece is waited for from now on.
    pub fn new(body: Body, idle: Duration) -> Self {
        Self {
            chunks: body.into_data_stream(),
            idle,
            latest: Instant::now() + idle,
        }
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyFault> {
        let by = self.latest.min(Instant::now() + self.idle);
        match timeout_at(by, self.chunks.next()).await {
            Err(_) => Err(BodyFault::TooSlow { idle: self.idle }),
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => {
                self.latest += time_for(chunk.len());
                Ok(Some(chunk))
            }
            Ok(Some(Err(_))) => Err(BodyFault::BrokeOff),
        }
    }

    /// Discards the rest, as far as that is worth it.
    pub async fn linger(&mut self) {
        let mut left = MAX_LINGER_BYTES;
        let drain = async {
            while let Some(Ok(chunk)) = self.chunks.next().await
                && chunk.len() <= left
            {
                left -= chunk.len();
            }
        };
        // The rest doesn't matter.
        let _ = timeout(LINGER, drain).await;
    }
}

impl From<BodyFault> for ApiError {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::BrokeOff => Self::invalid("incomplete_body", None, "the body broke off"),
            BodyFault::TooSlow { idle } => Self::BodyTimeout { idle },
            BodyFault::MemoryFull { limit } => Self::MemoryFull { limit },
            BodyFault::Bad(bad) => bad.into(),
        }
    }
}

async fn read_chunks(
    body: &mut PacedBody,
    announced: Option<u64>,
    limit: BodyLimit,
    budget: &BodyBudget,
) -> Result<HeldBody, ApiError> {
    if announced.is_some_and(|bytes| bytes > limit.bytes as u64) {
        return Err(ApiError::TooLarge(limit));
    }
    let mut held = budget.hold();
    let mut take = |length: usize, chunk: &Bytes| {
        if length + chunk.len() > limit.bytes {
            return Err(ApiError::TooLarge(limit));
        }
        held.add(chunk.len())
            .map_err(|limit| ApiError::MemoryFull { limit })
    };
    // Most bodies come in one piece, which needs no copy, unless it would keep a larger buffer of its connection for as long as the
    // request waits.
    let first = body.next().await?.unwrap_or_default();
    take(0, &first)?;
    let Some(second) = body.next().await? else {
        let bytes = match first.len() {
            0..=COPIED_BYTES => Bytes::copy_from_slice(&first),
            _ => first,
        };
        return Ok(HeldBody { bytes, held });
    };
    let capacity = announced
        .and_then(|bytes| usize::try_from(bytes).ok())
        .unwrap_or(0);
    let mut whole = BytesMut::with_capacity(capacity.min(MAX_FIRST_ALLOCATION_BYTES));
    whole.extend_from_slice(&first);
    drop(first);
    let mut chunk = Some(second);
    while let Some(more) = chunk {
        take(whole.len(), &more)?;
        whole.extend_from_slice(&more);
        drop(more);
        chunk = body.next().await?;
    }
    Ok(HeldBody {
        bytes: whole.freeze(),
        held,
    })
}

/// How long this many bytes may take.
fn time_for(bytes: usize) -> Duration {
    Duration::from_micros(bytes as u64 * 1_000_000 / MIN_BYTES_PER_SECOND)
}

pub(super) fn announced_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const IDLE: Duration = Duration::from_secs(30);
    const LIMIT: BodyLimit = BodyLimit {
        bytes: 32 * 1024 * 1024,
        flag: None,
    };

    /// Reads a body that comes in so many pieces of so many bytes, a second apart; what came of it, and after how long.
    async fn dripped(pieces: usize, bytes: usize) -> (Result<usize, ApiError>, Duration) {
        let pieces = futures::stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes]))
        });
        let (begun, budget) = (Instant::now(), BodyBudget::new(LIMIT.bytes));
        let body = Body::from_stream(pieces);
        let read = read(&HeaderMap::new(), body, LIMIT, IDLE, &budget).await;
        (read.map(|body| body.bytes.len()), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_has_an_end() {
        let (read, took) = dripped(1_000_000, 1).await;
        assert!(matches!(read, Err(ApiError::BodyTimeout { .. })), "{read:?}");
        assert_eq!(took.as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_slow_comes_whole_as_long_as_it_keeps_its_pace() {
        let pace = MIN_BYTES_PER_SECOND as usize;
        let (read, took) = dripped(1_000, pace).await;
        assert_eq!((read.expect("a body"), took.as_secs()), (1_000 * pace, 1_000));
        let (read, took) = dripped(1_000, pace / 2).await;
        assert!(matches!(read, Err(ApiError::BodyTimeout { .. })), "{read:?}");
        // 59 pieces have come, and what they allow for is over before the next one.
        assert_eq!(took.as_secs(), 59);
    }
}
