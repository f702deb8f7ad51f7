//! One head: where it ends, and how long its body is.

use crate::ProtocolError;
use http::Uri;

/// How many headers a request may have; hyper's own limit.
pub const MAX_FIELDS: usize = 100;

/// A whole head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its length.
    pub bytes: usize,
    pub body: Body,
}

/// The body after a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Bytes(u64),
    Chunked,
}

impl Head {
    /// Reads the bytes where a request begins; `None` if the head is not whole yet. It may have `limit` bytes.
    pub fn look(bytes: &[u8], limit: usize) -> Result<Option<Self>, ProtocolError> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(whole)) if whole <= limit => {
                // hyper reads the target as this type, and refuses it by itself.
                if request.path.is_none_or(|target| Uri::try_from(target).is_err()) {
                    return Err(ProtocolError::NotHttp);
                }
                let (bytes, body) = (whole, body(&request)?);
                check_host(&request)?;
                Ok(Some(Self { bytes, body }))
            }
            Ok(httparse::Status::Partial) if bytes.len() < limit => Ok(None),
            Ok(_) => Err(too_large(bytes, limit)),
            Err(httparse::Error::TooManyHeaders) => Err(ProtocolError::ManyFields { limit: MAX_FIELDS }),
            Err(_) => Err(ProtocolError::NotHttp),
        }
    }

    /// Whether a head may end within `bytes`, of which those from `new` on are new. Cheaper than parsing it.
    pub fn may_end(bytes: &[u8], new: usize) -> bool {
        // An end may have begun at most this far before.
        let around = &bytes[new.saturating_sub(3)..];
        memchr::memmem::find(around, b"\n\r\n").is_some() || memchr::memmem::find(around, b"\n\n").is_some()
    }
}

fn too_large(bytes: &[u8], limit: usize) -> ProtocolError {
    let line = memchr::memchr(b'\n', &bytes[..limit.min(bytes.len())]);
    match line {
        Some(_) => ProtocolError::LargeHead { limit },
        None => ProtocolError::LongLine { limit },
    }
}

/// HTTP/1.0 knows no `Host`, so it may go without.
fn check_host(request: &httparse::Request<'_, '_>) -> Result<(), ProtocolError> {
    let is_host = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("host");
    match request.headers.iter().filter(is_host).count() {
        0 if request.version == Some(1) => Err(ProtocolError::NoHost),
        0 | 1 => Ok(()),
        _ => Err(ProtocolError::ManyHosts),
    }
}

fn body(request: &httparse::Request<'_, '_>) -> Result<Body, ProtocolError> {
    let (mut length, mut chunked) = (None, false);
    for field in &*request.headers {
        if field.name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(ProtocolError::UnclearLength);
            }
            length = Some(decimal(field.value).ok_or(ProtocolError::UnclearLength)?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            let is_known = field.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            // HTTP/1.0 knows no chunks.
            if chunked || !is_known || request.version != Some(1) {
                return Err(ProtocolError::UnclearLength);
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(ProtocolError::UnclearLength),
        (None, true) => Ok(Body::Chunked),
        (length, false) => Ok(Body::Bytes(length.unwrap_or(0))),
    }
}

/// Digits only: no sign, no list, no spaces within.
fn decimal(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = std::str::from_utf8(digits).ok()?.parse().ok()?;
    // hyper reserves the two values above.
    (length <= u64::MAX - 2).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1_000;

    fn look(text: &str) -> Result<Option<Head>, ProtocolError> {
        Head::look(text.as_bytes(), LIMIT)
    }

    fn post(fields: &str) -> Result<Option<Head>, ProtocolError> {
        look(&format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"))
    }

    #[test]
    fn the_length_of_a_body_is_said_once() {
        let body = |fields: &str| match post(fields) {
            Ok(Some(head)) => Some(head.body),
            Err(ProtocolError::UnclearLength) => None,
            other => panic!("{fields:?}: {other:?}"),
        };
        assert_eq!(body(""), Some(Body::Bytes(0)));
        assert_eq!(body("Content-Length: 12\r\n"), Some(Body::Bytes(12)));
        assert_eq!(body("TRANSFER-ENCODING: Chunked \r\n"), Some(Body::Chunked));
        for unclear in [
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 1\r\n",
            "content-length: 1\r\ncontent-length: 1\r\n",
            "content-length: 1\r\ncontent-length: 2\r\n",
            "content-length: 1, 1\r\n",
            "content-length: +1\r\n",
            "content-length: -1\r\n",
            "content-length: 0x1\r\n",
            "content-length:\r\n",
            "content-length: 99999999999999999999\r\n",
            "content-length: 18446744073709551615\r\n",
            "content-length: 18446744073709551614\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding: identity\r\n",
        ] {
            assert_eq!(body(unclear), None, "{unclear:?}");
        }
        assert_eq!(
            look("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"),
            Err(ProtocolError::UnclearLength)
        );
    }

    #[test]
    fn a_request_names_one_host_and_only_http_1_0_may_name_none() {
        for legal in [
            "GET / HTTP/1.1\r\nHOST: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost:\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
        ] {
            assert!(look(legal).is_ok(), "{legal:?}");
        }
        for (refused, error) in [
            ("GET / HTTP/1.1\r\n\r\n", ProtocolError::NoHost),
            (
                "GET http://a/ HTTP/1.1\r\nx-host: a\r\n\r\n",
                ProtocolError::NoHost,
            ),
            (
                "GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n",
                ProtocolError::ManyHosts,
            ),
            (
                "GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n",
                ProtocolError::ManyHosts,
            ),
        ] {
            assert_eq!(look(refused), Err(error), "{refused:?}");
        }
    }

    #[test]
    fn a_head_ends_where_it_ends_or_is_refused_for_its_size() {
        let text = "GET /a HTTP/1.1\r\nhost: a\r\n\r\nrest";
        assert_eq!(
            look(text),
            Ok(Some(Head {
                bytes: text.len() - 4,
                body: Body::Bytes(0)
            }))
        );
        assert_eq!(look("GET /a HTTP/1.1\r\nhost"), Ok(None));
        assert_eq!(look("hello\r\n\r\n"), Err(ProtocolError::NotHttp));
        assert_eq!(look("GET / HTTP/3.0\r\n\r\n"), Err(ProtocolError::NotHttp));
        for target in ["a>1", "http://", "http://a:b:c/"] {
            let request = format!("GET {target} HTTP/1.1\r\n\r\n");
            assert_eq!(look(&request), Err(ProtocolError::NotHttp), "{target}");
        }
        let large = format!("a: {}\r\n", "x".repeat(LIMIT));
        let limit = LIMIT;
        assert_eq!(post(&large), Err(ProtocolError::LargeHead { limit }));
        assert_eq!(
            look(&format!("GET /{}", "x".repeat(LIMIT))),
            Err(ProtocolError::LongLine { limit })
        );
        assert_eq!(
            Head::look(
                format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(101)).as_bytes(),
                10_000
            ),
            Err(ProtocolError::ManyFields { limit: MAX_FIELDS })
        );
    }

    #[test]
    fn an_end_is_seen_wherever_it_is_cut() {
        for end in ["\r\n\r\n", "\n\n", "\n\r\n"] {
            let text = format!("GET / HTTP/1.1{end}");
            for cut in 0..text.len() {
                assert!(Head::may_end(text.as_bytes(), cut), "{end:?} cut at {cut}");
            }
            assert!(!Head::may_end(&text.as_bytes()[..text.len() - 1], 0));
        }
    }
}
