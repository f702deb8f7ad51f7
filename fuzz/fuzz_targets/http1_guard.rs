//! Compares "the guard and hyper" with "hyper alone" on the same bytes, cut into the same pieces:
//!
//! 1. Every request that passes the guard is the one that hyper alone sees in its place, its body included.
//! 2. hyper behind the guard sees exactly the heads that the guard has checked: none hides in what the guard takes for a
//!    body.
//! 3. Every response comes from the service: hyper refuses nothing by itself that the guard has passed.
//! 4. A connection whose client has sent everything ends.

#![no_main]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, Version, body::Incoming, header::CONNECTION, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use libfuzzer_sys::fuzz_target;
use reveille_http1_guard::{ConnectionState, Framing, Http1Guard, Limits, REFUSED_METHOD};
use std::{cell::RefCell, convert::Infallible, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// Small, so that the limits are reached.
const HEAD_BYTES: usize = 1_024;
/// In every response of the service.
const MARK: (&str, &str) = ("x-mark", "service");
/// Longer than every limit of the guard. The clock is paused, so it costs nothing.
const ENDS_WITHIN: Duration = Duration::from_secs(3_600);
/// What a connection of HTTP/2 begins with; the guard leaves it to hyper's own limits.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// A request as the service sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    /// Whether the body came to its end.
    whole: bool,
    /// Whether the connection goes on after it.
    keeps_open: bool,
}

/// What became of a connection.
struct Served {
    seen: Vec<Seen>,
    refused: bool,
    written: Vec<u8>,
}

fuzz_target!(|data: &[u8]| {
    let Some((&seed, bytes)) = data.split_first() else {
        return;
    };
    if bytes.starts_with(&H2_PREFACE[..bytes.len().min(H2_PREFACE.len())]) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let guarded = runtime.block_on(serve(bytes, seed, true));
    let alone = runtime.block_on(serve(bytes, seed, false));
    compare(bytes, &guarded, &alone);
});

fn compare(bytes: &[u8], guarded: &Served, alone: &Served) {
    let mut framing = Framing::new(HEAD_BYTES);
    let looked = framing.look(bytes);
    let (seen, heads) = (guarded.seen.len(), framing.heads());
    if guarded.seen.iter().all(|seen| seen.keeps_open) {
        assert_eq!(seen, heads, "hyper sees the heads that the guard has checked");
        // The guard checks a head that arrives in pieces when its end may have come.
        let is_checked = may_have_ended(&bytes[looked.passed..]);
        assert!(
            guarded.refused || looked.refusal.is_none() || !is_checked,
            "{looked:?}"
        );
        assert!(!guarded.refused || looked.refusal.is_some(), "{looked:?}");
    } else {
        assert!(
            seen <= heads,
            "hyper sees {seen} heads, the guard has checked {heads}"
        );
    }
    for (at, seen) in guarded.seen.iter().enumerate() {
        let expected = alone.seen.get(at).expect("hyper alone sees the request too");
        let is_last = at + 1 == guarded.seen.len();
        if is_last && !seen.whole {
            assert_eq!(seen.headers, expected.headers);
            assert!(expected.body.starts_with(&seen.body), "{seen:?} {expected:?}");
        } else {
            assert_eq!(seen, expected, "request {at}");
        }
    }
    check_responses(
        &guarded.written,
        guarded.seen.len() + usize::from(guarded.refused),
    );
}

fn may_have_ended(bytes: &[u8]) -> bool {
    let begins = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    let head = &bytes[begins.unwrap_or(bytes.len())..];
    let has = |end: &[u8]| head.windows(end.len()).any(|window| window == end);
    head.len() >= HEAD_BYTES || has(b"\n\n") || has(b"\n\r\n")
}

/// Every response carries the mark, and no more of them came than there were requests.
fn check_responses(written: &[u8], most: usize) {
    let text = String::from_utf8_lossy(written);
    let heads = text
        .split("HTTP/1.")
        .skip(1)
        .filter(|head| !head[1..].starts_with(" 100 "));
    let mut count = 0;
    for head in heads {
        count += 1;
        assert!(
            head.contains("x-mark: service"),
            "hyper answered by itself: {text:?}"
        );
    }
    assert!(count <= most, "{count} responses to {most} requests: {text:?}");
}

/// Sends `bytes` in pieces whose sizes follow from `seed`, then nothing more, and waits for the connection's end.
async fn serve(bytes: &[u8], seed: u8, is_guarded: bool) -> Served {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (client, server) = tokio::io::duplex(64 * 1_024);
    let (mut reads, mut writes) = tokio::io::split(client);
    let sends = async {
        for piece in pieces(bytes, seed) {
            if writes.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = writes.shutdown().await;
    };
    let receives = async {
        let mut written = Vec::new();
        let _ = reads.read_to_end(&mut written).await;
        written
    };
    let refused = Rc::new(RefCell::new(false));
    let serves = async {
        let connection = ConnectionState::default();
        if is_guarded {
            let limits = Limits {
                head_bytes: HEAD_BYTES,
                head_within: Duration::from_secs(10),
                write_stalls_for: Duration::from_secs(10),
            };
            let guard = Http1Guard::new(server, connection.clone(), &limits);
            speak(guard, connection, &seen, &refused).await;
        } else {
            speak(server, connection, &seen, &refused).await;
        }
    };
    let (written, (), ()) = timeout(ENDS_WITHIN, async { tokio::join!(receives, sends, serves) })
        .await
        .expect("the connection ends");
    Served {
        seen: seen.take(),
        refused: refused.take(),
        written,
    }
}

async fn speak<S>(
    stream: S,
    connection: ConnectionState,
    seen: &Rc<RefCell<Vec<Seen>>>,
    refused: &Rc<RefCell<bool>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (connection, seen, refused) = (connection.clone(), seen.clone(), refused.clone());
        async move {
            let _under_way = connection.begin();
            if request.method() == REFUSED_METHOD && connection.take_refusal().is_some() {
                refused.replace(true);
            } else {
                let request = read(request).await;
                seen.borrow_mut().push(request);
            }
            Ok::<_, Infallible>(marked())
        }
    });
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(None);
    // How it ends is seen from what was written.
    let _ = protocol.serve_connection(TokioIo::new(stream), service).await;
}

async fn read(request: Request<Incoming>) -> Seen {
    let (parts, mut incoming) = request.into_parts();
    let (mut body, mut whole) = (Vec::new(), true);
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    body.extend_from_slice(&data);
                }
            }
            Err(_) => whole = false,
        }
    }
    let says_close = parts.headers.contains_key(CONNECTION) || parts.method == Method::CONNECT;
    let headers = parts.headers.iter();
    Seen {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_owned()))
            .collect(),
        body,
        whole,
        keeps_open: whole && parts.version == Version::HTTP_11 && !says_close,
    }
}

fn marked() -> Response<Full<Bytes>> {
    Response::builder()
        .header(MARK.0, MARK.1)
        .body(Full::default())
        .expect("a response")
}

/// The bytes in pieces of 1 to 32 bytes, of sizes that look random; or in one.
fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut state) = (bytes, u32::from(seed));
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = if seed == 0 {
            rest.len()
        } else {
            1 + (state >> 27) as usize
        };
        let (piece, later) = rest.split_at(size.min(rest.len()));
        rest = later;
        Some(piece)
    })
}
