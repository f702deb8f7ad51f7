//! The server on real sockets, with limits that are short enough to wait for.

mod http1;
mod http2;
mod tls;

use super::{ServerLimits, accept, serve, tls::Tls};
use axum::{
    Router,
    body::{Body, Bytes},
    routing::{get, post},
};
use futures::StreamExt;
use serde_json::Value;
use std::{
    future::ready,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);
/// A limit that a test waits for.
const SHORT: Duration = Duration::from_millis(300);

/// Limits of which none is reached.
fn limits() -> ServerLimits {
    ServerLimits {
        handshake_within: LONG,
        head_within: LONG,
        idle_for: LONG,
        write_stalls_for: LONG,
        closes_within: LONG,
        h2_ping: LONG,
        ..ServerLimits::default()
    }
}

/// A server at work.
struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    /// Told by `/held` when it begins.
    begun: Arc<Notify>,
    /// Lets `/held` answer.
    go_on: Arc<Notify>,
    /// Whether `/held`, or the body of `/endless`, was given up or has ended.
    given_up: Arc<AtomicBool>,
    server: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Served {
    async fn with(limits: ServerLimits, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (go_on, given_up) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let begun = Arc::new(Notify::new());
        let (begins, held) = (begun.clone(), go_on.clone());
        let (waiting, endless) = (given_up.clone(), given_up.clone());
        let router = Router::new()
            .route("/", get(async || "hello"))
            .route("/echo", post(async |body: Bytes| body))
            .route(
                "/held",
                get(async move || {
                    let _gone = GivenUp(waiting);
                    begins.notify_one();
                    held.notified().await;
                    "held"
                }),
            )
            .route(
                "/endless",
                get(async move || {
                    let given_up = GivenUp(endless);
                    let piece = Bytes::from_static(&[b'x'; 64 * 1024]);
                    Body::from_stream(futures::stream::repeat(piece).map(move |piece| {
                        let _ = &given_up;
                        Ok::<_, std::convert::Infallible>(piece)
                    }))
                }),
            );
        let stop = CancellationToken::new();
        let ends = stop.clone();
        let server = tokio::spawn(async move {
            let refuse = Arc::new(crate::http::refuse);
            serve(listener, tls, router, refuse, limits, ends)
                .await
                .expect("it serves");
        });
        Self {
            address,
            stop,
            begun,
            go_on,
            given_up,
            server,
        }
    }

    async fn connect(&self) -> Talk<TcpStream> {
        Talk::new(TcpStream::connect(self.address).await.expect("it listens"))
    }
}

/// A client's end of a connection.
struct Talk<S> {
    stream: S,
    /// What has come and was not looked at.
    rest: Vec<u8>,
}

/// An HTTP/1.1 answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    fn new(stream: S) -> Self {
        Self { stream, rest: vec![] }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("it is sent");
        self.stream.flush().await.expect("it is sent");
    }

    /// Reads more; false at the end, which a reset is too.
    async fn read(&mut self) -> bool {
        let mut piece = [0; 4096];
        let read = timeout(LONG, self.stream.read(&mut piece))
            .await
            .expect("something comes");
        let read = read.unwrap_or(0);
        self.rest.extend_from_slice(&piece[..read]);
        read > 0
    }

    /// The next answer, which has a content-length.
    async fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(
                self.read().await,
                "it ended: {:?}",
                String::from_utf8_lossy(&self.rest)
            );
        };
        let head = String::from_utf8_lossy(&self.rest[..end]).to_ascii_lowercase();
        self.rest.drain(..end);
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().expect("a length"));
        while self.rest.len() < length {
            assert!(self.read().await, "the body ended");
        }
        let body = self.rest.drain(..length).collect();
        Answer {
            status: head[9..12].parse().expect("a status"),
            head,
            body: String::from_utf8(body).expect("text"),
        }
    }

    /// What comes until the end.
    async fn rest_of_it(&mut self) -> Vec<u8> {
        while self.read().await {}
        std::mem::take(&mut self.rest)
    }
}

impl Answer {
    /// The code of the error object that it must be, whole, with an id, and the connection's last answer.
    fn error_code(&self) -> String {
        for line in [
            "content-type: application/json",
            "x-request-id: ",
            "connection: close",
        ] {
            assert!(self.head.contains(line), "{line} is missing: {}", self.head);
        }
        let body: Value = serde_json::from_str(&self.body).expect("JSON");
        let error = &body["error"];
        assert!(
            error["message"].as_str().is_some_and(|said| !said.is_empty()),
            "{body}"
        );
        assert!(error["type"].is_string(), "{body}");
        assert!(error["param"].is_null(), "{body}");
        error["code"].as_str().expect("a code").to_owned()
    }
}

/// Waits until it is so.
async fn until(mut so: impl AsyncFnMut() -> bool) {
    timeout(LONG, async {
        while !so().await {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is never so");
}

#[tokio::test(start_paused = true)]
async fn connections_are_accepted_after_errors_too_with_a_pause_if_the_system_lacks_something() {
    const NO_MORE_FILES: i32 = 24;
    let peer = SocketAddr::from(([127, 0, 0, 1], 4_000));
    for (error, pause) in [
        (
            io::Error::from_raw_os_error(NO_MORE_FILES),
            Duration::from_secs(1),
        ),
        (io::ErrorKind::ConnectionAborted.into(), Duration::ZERO),
    ] {
        let begun = Instant::now();
        let mut results = [Err(error), Ok(("a connection", peer))].into_iter();
        let accepted = accept(|| ready(results.next().expect("no more is asked for"))).await;
        assert_eq!((accepted, begun.elapsed()), ("a connection", pause));
    }
}
