//! The bytes of a frame. Numbers and ids are at fixed places in the payload, because NATS headers cost both ends a map
//! and an allocation per header. A frame is written as one contiguous payload, and reading it slices the message's own
//! `Bytes`.
//!
//! ```text
//!  0        1     2      3         4           8          16         32
//!  version  kind  flags  reserved  number u32  epoch u64  id [u8;16] content …
//!
//!  head        credit u64, meta length u32, meta (JSON), first bytes of the body
//!  body        bytes
//!  credit      credit u64
//!  keep-alive  credit u64
//!  cancel      nothing
//!  error       a fault (JSON)
//! ```
//! All integers are little-endian. `number` counts the heads and bodies of one direction from 0; in a keep-alive it is
//! how many of them have been sent, so that even a lost last frame is noticed. `credit` is the total number of bytes
//! that the frame's sender has granted so far: with totals, a lost or repeated frame is harmless.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// The only version of the frame format.
const VERSION: u8 = 1;
/// Marks the frame with the last body bytes of its direction.
const FLAG_LAST: u8 = 1;
/// The fixed part at the start of every frame, in bytes.
pub(super) const PREFIX_BYTES: usize = 32;
/// The fixed fields between a head's prefix and its meta, in bytes.
pub(super) const HEAD_FIELDS_BYTES: usize = 12;
/// What a frame costs in credit beyond its body bytes: the subject, the message and the allocations around it, so that
/// the number of tiny frames is bounded too. A pool of 32 MiB admits at most 32,768 of them, half of what a
/// subscription's channel holds before the NATS client drops messages.
pub(super) const FRAME_OVERHEAD_BYTES: u64 = 1024;
/// The largest meta of a head, in bytes. The sender refuses a request with more headers than fit.
pub(super) const MAX_META_BYTES: usize = 32 * 1024;

const KIND_HEAD: u8 = 1;
const KIND_BODY: u8 = 2;
const KIND_CREDIT: u8 = 3;
const KIND_KEEP_ALIVE: u8 = 4;
const KIND_CANCEL: u8 = 5;
const KIND_ERROR: u8 = 6;

/// Identifies one attempt to relay a request. Random, so that no other request's frames match it by chance.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 16]);

impl RequestId {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    #[cfg(test)]
    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

impl FromStr for RequestId {
    type Err = BadFrame;

    fn from_str(raw: &str) -> Result<Self, BadFrame> {
        if raw.len() != 32
            || !raw
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(BadFrame::Id);
        }
        u128::from_str_radix(raw, 16)
            .map(|id| Self(id.to_be_bytes()))
            .map_err(|_| BadFrame::Id)
    }
}

/// Why bytes can't be read as a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadFrame {
    /// The frame is shorter than the fixed part of its kind.
    #[error("the frame is cut short")]
    Short,
    /// This program doesn't know the version of the frame format.
    #[error("frame version {0} is unknown")]
    Version(u8),
    /// A kind, flag or reserved byte has no meaning.
    #[error("the frame's kind or flags are unknown")]
    Kind,
    /// Bytes follow the end of a frame of fixed size.
    #[error("the frame is longer than its kind allows")]
    Long,
    /// The request id is not 32 lowercase hexadecimal digits.
    #[error("the request id is malformed")]
    Id,
    /// The JSON of a head or a fault doesn't parse, or is too large.
    #[error("the frame's description doesn't parse")]
    Meta,
}

/// The content of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Head { credit: u64, meta: Bytes, chunk: Bytes },
    Body(Bytes),
    Credit(u64),
    KeepAlive(u64),
    Cancel,
    Error(Bytes),
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub id: RequestId,
    pub epoch: u64,
    pub number: u32,
    pub last: bool,
    pub content: Content,
}

impl Frame {
    /// Decodes a message's payload. The parts of the content share its memory.
    pub fn decode(mut payload: Bytes) -> Result<Self, BadFrame> {
        if payload.len() < PREFIX_BYTES {
            return Err(BadFrame::Short);
        }
        let version = payload.get_u8();
        if version != VERSION {
            return Err(BadFrame::Version(version));
        }
        let (kind, flags, reserved) = (payload.get_u8(), payload.get_u8(), payload.get_u8());
        let last = flags == FLAG_LAST;
        let may_be_last = matches!(kind, KIND_HEAD | KIND_BODY);
        if reserved != 0 || (flags != 0 && !(last && may_be_last)) {
            return Err(BadFrame::Kind);
        }
        let number = payload.get_u32_le();
        let epoch = payload.get_u64_le();
        let mut id = [0; 16];
        payload.copy_to_slice(&mut id);
        let content = match kind {
            KIND_HEAD => decode_head(payload)?,
            KIND_BODY => Content::Body(payload),
            KIND_CREDIT => Content::Credit(decode_credit(payload)?),
            KIND_KEEP_ALIVE => Content::KeepAlive(decode_credit(payload)?),
            KIND_CANCEL if payload.is_empty() => Content::Cancel,
            KIND_CANCEL => return Err(BadFrame::Long),
            KIND_ERROR => Content::Error(payload),
            _ => return Err(BadFrame::Kind),
        };
        Ok(Self {
            id: RequestId(id),
            epoch,
            number,
            last,
            content,
        })
    }
}

fn decode_head(mut payload: Bytes) -> Result<Content, BadFrame> {
    if payload.len() < HEAD_FIELDS_BYTES {
        return Err(BadFrame::Short);
    }
    let credit = payload.get_u64_le();
    let meta_bytes = usize::try_from(payload.get_u32_le()).map_err(|_| BadFrame::Meta)?;
    if meta_bytes > MAX_META_BYTES {
        return Err(BadFrame::Meta);
    }
    if payload.len() < meta_bytes {
        return Err(BadFrame::Short);
    }
    let meta = payload.split_to(meta_bytes);
    Ok(Content::Head {
        credit,
        meta,
        chunk: payload,
    })
}

fn decode_credit(mut payload: Bytes) -> Result<u64, BadFrame> {
    let credit = payload.try_get_u64_le().map_err(|_| BadFrame::Short)?;
    if payload.is_empty() {
        Ok(credit)
    } else {
        Err(BadFrame::Long)
    }
}

/// What a frame with `body_bytes` of a body costs in credit. Frames without body bytes are free: a head, an end and an
/// error can be sent without credit.
pub(super) fn cost(body_bytes: usize) -> u64 {
    if body_bytes == 0 {
        0
    } else {
        body_bytes as u64 + FRAME_OVERHEAD_BYTES
    }
}

/// The request whose frames are written: all frames of one direction of a request start alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub id: RequestId,
    pub epoch: u64,
}

impl Origin {
    fn begin(self, kind: u8, number: u32, content_bytes: usize) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + content_bytes);
        bytes.put_slice(&[VERSION, kind, 0, 0]);
        bytes.put_u32_le(number);
        bytes.put_u64_le(self.epoch);
        bytes.put_slice(&self.id.0);
        bytes
    }

    /// Starts a head, to which body bytes may be added. `room` is how many are expected.
    pub fn head(self, number: u32, credit: u64, meta: &[u8], room: usize) -> DataFrame {
        let mut bytes = self.begin(KIND_HEAD, number, HEAD_FIELDS_BYTES + meta.len() + room);
        bytes.put_u64_le(credit);
        bytes.put_u32_le(u32::try_from(meta.len()).unwrap_or(u32::MAX));
        bytes.put_slice(meta);
        DataFrame {
            body_from: bytes.len(),
            bytes,
        }
    }

    /// Starts a body frame. `room` is how many bytes are expected.
    pub fn body(self, number: u32, room: usize) -> DataFrame {
        let bytes = self.begin(KIND_BODY, number, room);
        DataFrame {
            body_from: bytes.len(),
            bytes,
        }
    }

    pub fn credit(self, credit: u64) -> Bytes {
        let mut bytes = self.begin(KIND_CREDIT, 0, 8);
        bytes.put_u64_le(credit);
        bytes.freeze()
    }

    pub fn keep_alive(self, sent: u32, credit: u64) -> Bytes {
        let mut bytes = self.begin(KIND_KEEP_ALIVE, sent, 8);
        bytes.put_u64_le(credit);
        bytes.freeze()
    }

    pub fn cancel(self) -> Bytes {
        self.begin(KIND_CANCEL, 0, 0).freeze()
    }

    pub fn error(self, fault: &[u8]) -> Bytes {
        let mut bytes = self.begin(KIND_ERROR, 0, fault.len());
        bytes.put_slice(fault);
        bytes.freeze()
    }
}

/// A head or body frame that is being written. Waiting chunks are copied straight into it, once.
#[derive(Debug)]
pub(super) struct DataFrame {
    bytes: BytesMut,
    body_from: usize,
}

impl DataFrame {
    pub fn push(&mut self, chunk: &[u8]) {
        self.bytes.put_slice(chunk);
    }

    pub fn body_bytes(&self) -> usize {
        self.bytes.len() - self.body_from
    }

    pub fn finish(mut self, last: bool) -> Bytes {
        if last && let Some(flags) = self.bytes.get_mut(2) {
            *flags = FLAG_LAST;
        }
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests;
