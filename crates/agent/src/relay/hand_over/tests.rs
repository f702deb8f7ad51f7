use super::*;
use crate::{
    config::Config,
    http1::Client,
    provider::{Gate, Handle, Input, Symptom},
};
use bytes::Bytes;
use futures::{channel::mpsc::unbounded, future::join};
use http::StatusCode;
use reveille_domain::ReportId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{mpsc, oneshot},
};

const PATIENCE: Patience<'static> = Patience {
    replica: "api-1",
    hold: Duration::ZERO,
    turn_by: None,
};

/// A backend that is up as far as is known, with what its owner is told.
fn backend(url: &str) -> (Backend, mpsc::Receiver<Input>) {
    let text = format!("[[provider]]\nname = \"p\"\nbase_url = \"{url}\"\n");
    let config = Config::parse(&text, "test.toml", &|_| None).expect("legal");
    let config = config.providers[0].clone();
    let (handle, inputs, _) = Handle::new(config.name.clone(), Gate::open(), Arc::default());
    handle.gate.set(Some(Availability::Available), true);
    let backend = Backend {
        client: Client::of_backend(&config).expect("no TLS"),
        config,
        handle,
    };
    (backend, inputs)
}

async fn send(backend: &Backend) -> Result<StatusCode, RelayFault> {
    let request = Outgoing {
        method: Method::POST,
        target: Uri::from_static("/v1/completions"),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{}").into(),
    };
    let slot = backend.handle.gate.enter().expect("open");
    let sent = Connections::new().send(backend, &request, slot, PATIENCE).await;
    sent.map(|answer| answer.response.head.status)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future).await.expect("in time")
}

/// The next request that found no backend.
async fn refused(inputs: &mut mpsc::Receiver<Input>) -> oneshot::Sender<Option<ReportId>> {
    loop {
        if let Input::Refused(reply) = inputs.recv().await.expect("an input") {
            return reply;
        }
    }
}

#[tokio::test]
async fn a_request_that_got_no_connection_is_sent_once_more_if_the_backend_is_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("llm.sock");
    let (backend, mut inputs) = backend(&format!("unix://{}", socket.display()));

    let owner = async {
        for _ in 0..2 {
            let reply = refused(&mut inputs).await;
            reply.send(None).expect("it waits");
        }
    };
    let (sent, ()) = soon(join(send(&backend), owner)).await;
    assert_eq!(
        sent.expect_err("nobody listens").code,
        FaultCode::BackendUnavailable
    );
    assert!(inputs.try_recv().is_err(), "it was tried twice");

    let owner = async {
        let reply = refused(&mut inputs).await;
        let listener = UnixListener::bind(&socket).expect("a socket");
        reply.send(None).expect("it waits");
        let (mut connection, _) = listener.accept().await.expect("a connection");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        connection.write_all(answer).await.expect("sent");
        connection
    };
    let (sent, _connection) = soon(join(send(&backend), owner)).await;
    assert_eq!(sent.expect("an answer"), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_connection_that_open_files_have_room_for_and_blames_the_limit() {
    let (backend, mut inputs) = backend("http://127.0.0.1:1");
    let connections = Connections(Arc::new(Semaphore::new(1)));
    let request = Outgoing {
        method: Method::POST,
        target: Uri::from_static("/v1/completions"),
        headers: HeaderMap::new(),
        body: Bytes::new().into(),
    };
    let taken = connections.permit(Instant::now()).await.expect("room");
    let began = Instant::now();
    let slot = backend.handle.gate.enter().expect("open");
    let patience = Patience {
        hold: Duration::from_secs(5),
        ..PATIENCE
    };
    let sent = connections.send(&backend, &request, slot, patience).await;
    let fault = sent.map(drop).expect_err("no room");
    assert_eq!(
        (fault.code, began.elapsed().as_secs()),
        (FaultCode::Overloaded, 5)
    );
    assert!(fault.message.contains("limit of open files"), "{fault}");
    assert!(inputs.try_recv().is_err(), "it says nothing of the backend");
    drop(taken);
    let room = connections.permit(Instant::now()).await;
    drop(room.expect("room again"));
}

/// What a backend has read once it ends like this.
async fn read_to(connection: &mut TcpStream, end: &str) -> String {
    let mut read = String::new();
    while !read.ends_with(end) {
        let mut bytes = [0; 1024];
        let count = connection.read(&mut bytes).await.expect("a request");
        assert!(count > 0, "{read}");
        read += std::str::from_utf8(&bytes[..count]).expect("text");
    }
    read
}

#[tokio::test]
async fn a_backend_gets_a_body_while_it_comes_in_and_is_not_blamed_for_one_that_stays_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (backend, mut inputs) = backend(&url);
    let connections = Connections::new();
    for is_whole in [true, false] {
        let (pieces, coming) = unbounded();
        let send = |piece: Result<&'static str, RelayFault>| {
            let piece = piece.map(|text| Bytes::from_static(text.as_bytes()));
            pieces.unbounded_send(piece).expect("it is read");
        };
        let request = Outgoing {
            method: Method::POST,
            target: Uri::from_static("/v1/audio/transcriptions"),
            headers: HeaderMap::new(),
            body: SentBody::arriving(6, coming),
        };
        let slot = backend.handle.gate.enter().expect("open");
        let sending = connections.send(&backend, &request, slot, PATIENCE);
        send(Ok("abc"));
        let serving = async {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let begun = read_to(&mut connection, "abc").await;
            assert!(begun.contains("content-length: 6\r\n"), "{begun}");
            if is_whole {
                send(Ok("def"));
                read_to(&mut connection, "def").await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                connection.write_all(answer).await.expect("sent");
            } else {
                send(Err(RelayFault::new(FaultCode::Cancelled, "its caller has left")));
                let end = connection.read(&mut [0; 8]).await;
                assert!(end.is_err() || end.is_ok_and(|count| count == 0));
            }
            connection
        };
        let (sent, _connection) = soon(join(sending, serving)).await;
        match sent {
            Ok(answer) => assert!(is_whole && answer.response.head.status.is_success()),
            Err(fault) => assert!(!is_whole && fault.code == FaultCode::Cancelled, "{fault}"),
        }
        assert!(inputs.try_recv().is_err(), "the backend did nothing wrong");
    }
}

#[tokio::test]
async fn an_owner_hears_that_its_backend_broke_off_before_anybody_looks_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (backend, mut inputs) = backend(&url);
    let breaks_off = async {
        let (mut connection, _) = listener.accept().await.expect("the request");
        let _ = connection.read(&mut [0; 1024]).await;
        drop(connection);
        // Somebody asks whether it speaks TLS.
        let _look = listener.accept().await.expect("a connection");
        let heard = inputs.try_recv();
        assert!(
            matches!(heard, Ok(Input::Suspect(Symptom::BrokeOff))),
            "{heard:?}"
        );
    };
    let (sent, ()) = soon(join(send(&backend), breaks_off)).await;
    assert_eq!(sent.expect_err("no answer").code, FaultCode::BackendFailed);
}
