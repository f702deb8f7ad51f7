//! Finds where requests begin and end in the bytes of a connection.

use crate::{
    ProtocolError,
    chunks::{Chunks, Passed},
    head::{Body, Head},
};

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A position in the bytes of a connection.
#[derive(Debug)]
pub struct Framing {
    position: Position,
    /// Whether anything has passed: only before may HTTP/2 begin.
    begun: bool,
    heads: usize,
    head_bytes: usize,
}

#[derive(Debug)]
enum Position {
    Head,
    Body(u64),
    Chunks(Chunks),
    /// In a malformed body. No request follows it.
    BrokenBody,
    /// In a connection that speaks HTTP/2.
    Http2,
}

/// What [`Framing::look`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Looked {
    /// How many of the bytes hyper may have. The rest is the beginning of a head, or refused, or malformed.
    pub passed: usize,
    /// Why the head behind them is refused.
    pub refusal: Option<ProtocolError>,
}

impl Framing {
    /// The beginning of a connection whose heads may have up to `head_bytes`.
    #[must_use]
    pub fn new(head_bytes: usize) -> Self {
        Self {
            position: Position::Head,
            begun: false,
            heads: 0,
            head_bytes,
        }
    }

    /// How many heads have passed.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.heads
    }

    pub(crate) fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Whether a body has begun and not ended.
    pub(crate) fn is_in_body(&self) -> bool {
        matches!(
            self.position,
            Position::Body(_) | Position::Chunks(_) | Position::BrokenBody
        )
    }

    /// Whether a body is malformed. hyper sees the end of the connection there, and ends it.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(self.position, Position::BrokenBody)
    }

    /// Advances over `bytes`, which begin where the ones that passed before have ended.
    pub fn look(&mut self, bytes: &[u8]) -> Looked {
        let (mut passed, mut refusal) = (0, None);
        while passed < bytes.len() {
            let rest = &bytes[passed..];
            match &mut self.position {
                Position::BrokenBody => break,
                Position::Http2 => passed = bytes.len(),
                Position::Body(left) => {
                    let here = (*left).min(rest.len() as u64);
                    *left -= here;
                    // No more than the length of a slice.
                    passed += here as usize;
                    if *left == 0 {
                        self.position = Position::Head;
                    }
                }
                Position::Chunks(chunks) => match chunks.pass(rest) {
                    Passed::All => passed = bytes.len(),
                    Passed::Ended(at) => {
                        passed += at;
                        self.position = Position::Head;
                    }
                    Passed::Broken(at) => {
                        passed += at;
                        self.position = Position::BrokenBody;
                    }
                },
                Position::Head => match self.head(rest) {
                    Ok(0) => break,
                    Ok(whole) => {
                        passed += whole;
                        self.begun = true;
                    }
                    Err(error) => {
                        refusal = Some(error);
                        break;
                    }
                },
            }
        }
        Looked { passed, refusal }
    }

    /// The length of the head at the beginning of `bytes`; 0 if it is not whole.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, ProtocolError> {
        if !self.begun && H2_PREFACE.starts_with(&bytes[..bytes.len().min(H2_PREFACE.len())]) {
            if bytes.len() < H2_PREFACE.len() {
                return Ok(0);
            }
            self.position = Position::Http2;
            return Ok(bytes.len());
        }
        // An empty line before a request is ignored (RFC 9112, section 2.2). It passes only whole: behind half of one,
        // hyper couldn't read the head that replaces a refused one.
        for line in [b"\r\n".as_slice(), b"\n"] {
            if bytes.starts_with(line) {
                return Ok(line.len());
            }
        }
        let Some(Head { bytes, body }) = Head::look(bytes, self.head_bytes)? else {
            return Ok(0);
        };
        self.heads += 1;
        self.position = match body {
            Body::Bytes(0) => Position::Head,
            Body::Bytes(length) => Position::Body(length),
            Body::Chunked => Position::Chunks(Chunks::START),
        };
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: &[u8] = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n\
        POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nGET /\
        POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n";
    const BAD: &[u8] = b"GET /d HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx";

    /// Looks at bytes in two pieces, as the guard does, and returns what passed.
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
    fn half_an_empty_line_is_held() {
        for (bytes, passed) in [("\r", 0), ("\r\n", 2), ("\n\r\n\r", 3)] {
            let looked = Framing::new(1_000).look(bytes.as_bytes());
            assert_eq!((looked.passed, looked.refusal), (passed, None), "{bytes:?}");
        }
        let looked = Framing::new(1_000).look(b"\r\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!((looked.passed, looked.refusal), (0, Some(ProtocolError::NotHttp)));
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
        let after_a_line = [b"\r\n", H2_PREFACE].concat();
        assert_eq!(look_in_two(&after_a_line, 0), (2, Some(ProtocolError::NotHttp)));
    }

    #[test]
    fn nothing_passes_behind_a_broken_chunk() {
        let broken =
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        let begins = broken.len() - b"zz\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n".len();
        for cut in 0..=broken.len() {
            assert_eq!(look_in_two(broken, cut), (begins, None), "cut at {cut}");
        }
    }
}
