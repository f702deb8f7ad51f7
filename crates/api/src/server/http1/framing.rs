//! Where requests begin and end in the bytes of a connection.

use super::{
    chunks::{Chunks, Passed},
    head::{Body, Head},
};
use crate::server::ProtocolError;

/// What a connection of HTTP/2 begins with (RFC 9113, section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A place in the bytes of a connection.
#[derive(Debug)]
pub(super) struct Framing {
    place: Position,
    is_first: bool,
    head_bytes: usize,
}

#[derive(Debug)]
enum Position {
    Head,
    Body(u64),
    Chunks(Chunks),
    /// In a body that is none. Nothing more is a request.
    BrokenBody,
    /// It is HTTP/2.
    Http2,
}

/// What was found in some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Looked {
    /// So many of them may go on to hyper. What is left is the beginning of a head, or refused, or broken.
    pub passed: usize,
    pub refusal: Option<ProtocolError>,
}

impl Framing {
    /// The beginning of a connection whose heads are no larger than `head_bytes`.
    pub fn new(head_bytes: usize) -> Self {
        Self {
            place: Position::Head,
            is_first: true,
            head_bytes,
        }
    }

    /// How large a head may be.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Whether a body has begun and not ended.
    pub fn is_in_body(&self) -> bool {
        matches!(
            self.place,
            Position::Body(_) | Position::Chunks(_) | Position::BrokenBody
        )
    }

    /// Whether a body has broken off. hyper is to see the end there, and ends the connection with it.
    pub fn is_broken(&self) -> bool {
        matches!(self.place, Position::BrokenBody)
    }

    /// Goes on over `bytes`.
    pub fn look(&mut self, bytes: &[u8]) -> Looked {
        let mut passed = 0;
        while passed < bytes.len() {
            let rest = &bytes[passed..];
            match &mut self.place {
                Position::BrokenBody => break,
                Position::Http2 => passed = bytes.len(),
                Position::Body(left) => {
                    let here = (*left).min(rest.len() as u64);
                    *left -= here;
                    // No more than the length of a slice.
                    passed += here as usize;
                    if *left == 0 {
                        self.place = Position::Head;
                    }
                }
                Position::Chunks(chunks) => match chunks.pass(rest) {
                    Passed::All => passed = bytes.len(),
                    Passed::Ended(at) => {
                        passed += at;
                        self.place = Position::Head;
                    }
                    Passed::Broken(at) => {
                        passed += at;
                        self.place = Position::BrokenBody;
                    }
                },
                Position::Head => match self.head(rest) {
                    Ok(0) => break,
                    Ok(whole) => passed += whole,
                    Err(refusal) => {
                        return Looked {
                            passed,
                            refusal: Some(refusal),
                        };
                    }
                },
            }
        }
        Looked {
            passed,
            refusal: None,
        }
    }

    /// How many bytes the head at the beginning of `bytes` has; 0 when it is not whole.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, ProtocolError> {
        if self.is_first && H2_PREFACE.starts_with(&bytes[..bytes.len().min(H2_PREFACE.len())]) {
            if bytes.len() < H2_PREFACE.len() {
                return Ok(0);
            }
            self.place = Position::Http2;
            return Ok(bytes.len());
        }
        // Empty lines before a request are ignored (RFC 9112, section 2.2), and begin none.
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            return Ok(bytes.len());
        }
        match Head::look(bytes, self.head_bytes) {
            Head::Partial => Ok(0),
            Head::Refused(refusal) => Err(refusal),
            Head::Whole { bytes, body } => {
                self.is_first = false;
                self.place = match body {
                    Body::Bytes(0) => Position::Head,
                    Body::Bytes(length) => Position::Body(length),
                    Body::Chunked => Position::Chunks(Chunks::START),
                };
                Ok(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: &[u8] = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n\
        POST /b HTTP/1.1\r\ncontent-length: 5\r\n\r\nGET /\
        POST /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n";
    const BAD: &[u8] = b"GET /d HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx";

    /// Looks at bytes in two pieces, as the watch does, and returns what passed.
    fn look_in_two(bytes: &[u8], cut: usize) -> (usize, Option<ProtocolError>) {
        let mut framing = Framing::new(1_000);
        let first = framing.look(&bytes[..cut]);
        if first.refusal.is_some() {
            return (first.passed, first.refusal);
        }
        let second = framing.look(&bytes[first.passed..]);
        (first.passed + second.passed, second.refusal)
    }

    #[test]
    fn a_request_that_hides_behind_others_is_found_wherever_the_bytes_are_cut() {
        let all = [REQUESTS, BAD].concat();
        for cut in 0..=all.len() {
            let (passed, refusal) = look_in_two(&all, cut);
            assert_eq!(passed, REQUESTS.len(), "cut at {cut}");
            assert_eq!(refusal, Some(ProtocolError::UnclearLength), "cut at {cut}");
        }
    }

    #[test]
    fn http_2_passes_and_only_at_the_beginning() {
        let preface = [H2_PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
        for cut in 0..=preface.len() {
            assert_eq!(look_in_two(&preface, cut), (preface.len(), None), "cut at {cut}");
        }
        let later = [REQUESTS, H2_PREFACE].concat();
        assert_eq!(
            look_in_two(&later, 0),
            (REQUESTS.len(), Some(ProtocolError::NotHttp)),
            "a preface after a request is none"
        );
    }

    #[test]
    fn nothing_passes_behind_a_broken_chunk() {
        let broken =
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        let begins = broken.len() - b"zz\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n".len();
        for cut in 0..=broken.len() {
            assert_eq!(look_in_two(broken, cut), (begins, None), "cut at {cut}");
        }
    }
}
