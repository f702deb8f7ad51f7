//! Backends that close connections when they like, against real sockets.

use super::*;
use crate::config::Config;
use futures::{StreamExt, stream};
use http::StatusCode;
use std::{collections::HashMap, sync::Arc};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    time::timeout,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
/// More than the kernel buffers of both ends take.
const LARGE: usize = 32 * 1024 * 1024;

/// A backend that treats each connection as `serve` says, and its client.
async fn backend<F>(serve: impl Fn(BufReader<TcpStream>) -> F + Send + 'static) -> Client
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(BufReader::new(connection)));
        }
    });
    let text =
        format!("[[provider]]\nname = \"p\"\nbase_url = \"http://{address}\"\nanswer_timeout = \"10s\"");
    let config = Config::parse(&text, "test.toml", &|_| None).expect("a config");
    Client::of_backend(&config.providers[0]).expect("a client")
}

async fn post(client: &Client, body: impl Into<Bytes>) -> Result<Response, SendError> {
    let request = Request::post("/v1/completions").body(body.into());
    let connection = client.connect().await?;
    client.send(connection, request.expect("a request")).await
}

async fn next(response: &mut Response) -> Result<Option<Bytes>, SendError> {
    let by = response.answer_timeout.map(|limit| Instant::now() + limit);
    response.next(by).await
}

async fn text(mut response: Response) -> Result<String, SendError> {
    let mut body = Vec::new();
    while let Some(piece) = next(&mut response).await? {
        body.push(piece);
    }
    Ok(String::from_utf8(body.concat()).expect("text"))
}

/// The length of the next request's body; `None` once the client has left.
async fn head(connection: &mut (impl AsyncBufRead + Unpin)) -> Option<usize> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().ok();
        }
        if line == "\r\n" {
            return length;
        }
    }
}

async fn request(connection: &mut BufReader<TcpStream>) -> Option<String> {
    let mut body = vec![0; head(connection).await?];
    connection.read_exact(&mut body).await.ok()?;
    String::from_utf8(body).ok()
}

/// As many callers as fit ask again and again after `idle`, just when the backend closes connections.
async fn ask_while_connections_close(requests: usize, callers: usize, idle: Duration) {
    let seen = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let count = seen.clone();
    let client = Arc::new(
        backend(move |mut connection| {
            let seen = count.clone();
            async move {
                // A server that keeps connections although the client asks it not to.
                let mut next = request(&mut connection).await;
                while let Some(id) = next {
                    *seen.lock().await.entry(id).or_default() += 1;
                    connection.write_all(ANSWER).await.expect("the client waits");
                    if idle.is_zero() {
                        return;
                    }
                    next = timeout(idle, request(&mut connection)).await.ok().flatten();
                }
            }
        })
        .await,
    );
    let callers = (0..callers).map(|caller| {
        let client = client.clone();
        tokio::spawn(async move {
            for round in 0..requests / callers {
                let answer = post(&client, format!("{caller}-{round}"))
                    .await
                    .expect("an answer");
                assert_eq!(text(answer).await.expect("whole"), "{}");
                tokio::time::sleep(idle).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("no failure");
    }
    let seen = seen.lock().await;
    assert_eq!(seen.len(), requests);
    assert!(seen.values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_closes_its_connections_as_a_request_comes_fails_none_and_sees_each_once() {
    ask_while_connections_close(2_000, 1, Duration::ZERO).await;
    ask_while_connections_close(2_000, 40, Duration::from_millis(20)).await;
    ask_while_connections_close(2_000, 1_000, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_read_is_passed_on_even_if_the_connection_is_reset() {
    const REFUSAL: &[u8] =
        b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 9\r\n\r\ntoo large";
    const UNTIL_CLOSED: &[u8] = b"HTTP/1.1 413 Too Large\r\nconnection: close\r\n\r\ntoo large";
    for (refusal, lingers) in [(REFUSAL, false), (REFUSAL, true), (UNTIL_CLOSED, true)] {
        let client = backend(move |mut connection| async move {
            head(&mut connection).await.expect("a request");
            connection.write_all(refusal).await.expect("the client waits");
            if lingers {
                connection.shutdown().await.expect("the client waits");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            // Dropped with unread bytes, which the kernel answers with a reset.
        })
        .await;
        for _ in 0..20 {
            let answer = post(&client, vec![b'x'; LARGE]).await.expect("an answer");
            assert_eq!(answer.head.status, StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(text(answer).await.expect("whole"), "too large");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_reset_on_its_way_is_broken_although_its_request_was_taken() {
    let client = backend(|mut connection| async move {
        request(&mut connection).await.expect("a request");
        let half = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf";
        connection.write_all(half).await.expect("the client waits");
        let reset = socket2::SockRef::from(connection.get_ref()).set_linger(Some(Duration::ZERO));
        reset.expect("a reset");
    })
    .await;
    let broken = match post(&client, "{}").await {
        Ok(answer) => text(answer).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(broken, Err(SendError::Broken(_))), "{broken:?}");
}

#[tokio::test]
async fn a_head_of_many_and_odd_headers_passes() {
    let headers: String = (0..2000).map(|n| format!("x-{n}: 1\r\n")).collect();
    let odd = "bad name: 1\r\nfolded: 1\r\n 2\r\nspaced : 1\r\nopenai-model: \u{6a21}\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\n{headers}{odd}content-length: 2\r\n\r\n{{}}");
    let client = backend(move |mut connection| {
        let answer = answer.clone();
        async move {
            request(&mut connection).await.expect("a request");
            connection
                .write_all(answer.as_bytes())
                .await
                .expect("the client waits");
        }
    })
    .await;
    let answer = post(&client, "{}").await.expect("an answer");
    assert_eq!(
        answer.head.headers["openai-model"].as_bytes(),
        "\u{6a21}".as_bytes()
    );
    assert_eq!(text(answer).await.expect("whole"), "{}");
}

#[tokio::test]
async fn a_response_that_is_dropped_closes_its_connection() {
    let (left, has_left) = tokio::sync::oneshot::channel();
    let left = Arc::new(Mutex::new(Some(left)));
    let client = backend(move |mut connection| {
        let left = left.clone();
        async move {
            request(&mut connection).await.expect("a request");
            let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n";
            connection.write_all(endless).await.expect("the client waits");
            let end = connection.read_u8().await;
            assert!(end.is_err(), "the client sends no more");
            let left = left.lock().await.take().expect("one request");
            left.send(()).expect("the test waits");
        }
    })
    .await;
    let mut answer = post(&client, "{}").await.expect("an answer");
    assert_eq!(next(&mut answer).await.expect("no error").expect("a piece"), "1");
    drop(answer);
    let noticed = timeout(Duration::from_secs(10), has_left).await;
    noticed.expect("in time").expect("the backend notices");
}

#[tokio::test]
async fn each_request_says_that_its_connection_ends_with_it_and_asks_for_no_compression() {
    let client = backend(|mut connection| async move {
        let mut said = String::new();
        while !said.ends_with("\r\n\r\n") {
            let read = connection.read_line(&mut said).await.expect("a line");
            assert!(read > 0, "{said}");
        }
        connection.read_exact(&mut [0; 2]).await.expect("the body");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len());
        connection
            .write_all(answer.as_bytes())
            .await
            .expect("the client waits");
    })
    .await;
    let said = text(post(&client, "{}").await.expect("an answer"))
        .await
        .expect("whole");
    for line in ["connection: close", "accept-encoding: identity"] {
        assert!(said.lines().any(|is| is == line), "{line}: {said}");
    }
}

/// What is said of a server that sends `first` at once, and then `answer` to a request.
async fn told(first: &'static [u8], answer: &'static [u8]) -> Option<&'static str> {
    let client = backend(move |mut connection| async move {
        let _ = connection.write_all(first).await;
        if answer.is_empty() {
            // It goes on to listen.
            let _ = connection.read_u8().await;
            let _ = connection.read(&mut [0; 1024]).await;
            return;
        }
        request(&mut connection).await;
        let _ = connection.write_all(answer).await;
    })
    .await;
    let broken = match post(&client, "{}").await {
        Ok(answer) => text(answer).await.expect_err("no answer"),
        Err(error) => error,
    };
    match &broken {
        SendError::Broken(error) => wrong_answer(error),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_answer_that_is_no_http_is_told() {
    const NO_HTTP: &str = "isn't HTTP/1.1";
    for (first, answer, wrong) in [
        (&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], &b""[..], NO_HTTP),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", b"", NO_HTTP),
        (b"", b"-ERR unknown command\r\n", NO_HTTP),
        (b"", b"HTTP/3.0 200 OK\r\ncontent-length: 2\r\n\r\n{}", NO_HTTP),
        (
            b"",
            b"HTTP/1.1 200 OK\r\ncontent-length: 12abc\r\n\r\n{}",
            "has a `content-length` that isn't one number",
        ),
        (
            b"",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
            "has a `content-length` that isn't one number",
        ),
        (
            b"",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            "has a chunk that isn't as HTTP/1.1 wants it",
        ),
    ] {
        for _ in 0..20 {
            assert_eq!(told(first, answer).await, Some(wrong), "{first:?} {answer:?}");
        }
    }
    assert_eq!(told(b"", b"HTTP/1.1 200").await, None, "it broke off");
}

/// Pieces that come in this far apart.
fn paced(pieces: usize, pause: Duration) -> SentBody {
    let coming = stream::iter(0..pieces).then(move |_| async move {
        tokio::time::sleep(pause).await;
        Ok(Bytes::from_static(b"x"))
    });
    SentBody::arriving(pieces as u64, coming)
}

#[tokio::test(start_paused = true)]
async fn a_server_is_silent_since_it_took_the_last_piece_of_a_body_however_slowly_that_came_in() {
    let limit = Duration::from_secs(10);
    for pause in [8, 25].map(Duration::from_secs) {
        let (mut upload, began) = (paced(5, pause), Instant::now());
        let progress = upload.progress().cloned();
        let sending = async {
            while let Some(piece) = upload.frame().await {
                piece.expect("a piece");
            }
            std::future::pending::<()>().await;
        };
        let silent = within(Some(limit), progress.as_ref(), sending).await;
        assert!(matches!(silent, Err(SendError::Silent(_))), "{silent:?}");
        assert_eq!(began.elapsed(), 5 * pause + limit);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_before_all_of_a_body_has_come_in_is_not_silent_while_it_waits_for_the_rest() {
    let client = backend(|_| std::future::ready(())).await;
    let (connection, server) = tokio::io::duplex(1024);
    let serving = tokio::spawn(async move {
        let mut server = BufReader::new(server);
        let bytes = head(&mut server).await.expect("a request");
        let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{";
        server.write_all(begun).await.expect("the client waits");
        let whole = server.read_exact(&mut vec![0; bytes]).await;
        whole.expect("the whole body");
        server.write_all(b"}").await.expect("the client waits");
    });
    let request = Request::post("/v1/audio/transcriptions").body(paced(3, Duration::from_secs(25)));
    let answer = client
        .send(Box::new(connection), request.expect("a request"))
        .await;
    assert_eq!(text(answer.expect("a head")).await.expect("whole"), "{}");
    serving.await.expect("no panic");
}
