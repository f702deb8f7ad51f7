//! HTTP/1.1: what is refused, how, and when it is too late.

use super::*;
use std::time::Instant;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn with_headers(headers: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nhost: a\r\n{headers}\r\n0\r\n\r\n")
}

#[tokio::test]
async fn what_is_no_request_gets_an_error_object_and_the_connection_ends() {
    let large = "x".repeat(64 * 1024);
    let cases = [
        ("nonsense", "hello\r\n\r\n".to_owned(), 400, "invalid_http"),
        ("no version", "GET /\r\n\r\n".to_owned(), 400, "invalid_http"),
        ("tls", "\x16\x03\x01\x02\x00\x01".to_owned(), 400, "invalid_http"),
        ("space in a name", with_headers("a b: c\r\n"), 400, "invalid_http"),
        ("folded", with_headers("a: b\r\n c\r\n"), 400, "invalid_http"),
        (
            "no host",
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            400,
            "invalid_http",
        ),
        ("two hosts", with_headers("host: a\r\n"), 400, "invalid_http"),
        (
            "both lengths",
            with_headers("content-length: 5\r\ntransfer-encoding: chunked\r\n"),
            400,
            "unclear_length",
        ),
        (
            "the other way",
            with_headers("transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
            400,
            "unclear_length",
        ),
        (
            "two lengths",
            with_headers("content-length: 5\r\ncontent-length: 6\r\n"),
            400,
            "unclear_length",
        ),
        (
            "the same twice",
            with_headers("content-length: 5\r\ncontent-length: 5\r\n"),
            400,
            "unclear_length",
        ),
        (
            "unknown coding",
            with_headers("transfer-encoding: gzip, chunked\r\n"),
            400,
            "unclear_length",
        ),
        (
            "chunked twice",
            with_headers("transfer-encoding: chunked, chunked\r\n"),
            400,
            "unclear_length",
        ),
        (
            "large header",
            with_headers(&format!("a: {large}\r\n")),
            431,
            "headers_too_large",
        ),
        (
            "large in sum",
            with_headers(&format!("a: {}\r\n", &large[..1024]).repeat(70)),
            431,
            "headers_too_large",
        ),
        (
            "many",
            with_headers(&"a: b\r\n".repeat(200)),
            431,
            "headers_too_large",
        ),
        (
            "long line",
            format!("GET /{large} HTTP/1.1\r\n\r\n"),
            414,
            "uri_too_long",
        ),
    ];
    let served = Served::with(limits(), None).await;
    for (what, bytes, status, code) in cases {
        let mut talk = served.connect().await;
        talk.send(bytes).await;
        let answer = talk.answer().await;
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (status, code),
            "{what}"
        );
        assert_eq!(talk.rest_of_it().await, b"", "{what}");
    }
}

#[tokio::test]
async fn heads_up_to_the_limit_are_taken_whole_or_in_pieces() {
    let served = Served::with(limits(), None).await;
    let value = "x".repeat(64 * 1024 - 60);
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nb: {value}\r\n\r\n");
    let mut talk = served.connect().await;
    talk.send(&head).await;
    assert_eq!(talk.answer().await.status, 200);
    for piece in GET.as_bytes().chunks(1) {
        talk.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(talk.answer().await.body, "hello");
}

#[tokio::test]
async fn a_refused_client_that_still_sends_sees_the_answer() {
    let served = Served::with(limits(), None).await;
    let mut talk = served.connect().await;
    // More than all buffers on the way take, so that it is only sent if somebody reads it.
    talk.send("GET / HTTP/1.1\r\n").await;
    for _ in 0..200 {
        talk.send(format!("a: {}\r\n", "x".repeat(64 * 1024))).await;
    }
    assert_eq!(talk.answer().await.status, 431);
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_answered_however_it_drips() {
    let mut limits = limits();
    limits.head_within = SHORT;
    let served = Served::with(limits, None).await;
    let (mut standing, mut dripping) = (served.connect().await, served.connect().await);
    let began = Instant::now();
    standing.send("GET / HTTP/1.1\r\nhos").await;
    dripping.send("GET / HTTP/1.1\r\n").await;
    let drips = async {
        loop {
            // It fails once the connection is closed.
            let _ = dripping.stream.write_all(b"a: b\r\n").await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::select! {
        answer = standing.answer() => answer,
        () = drips => unreachable!("it drips for ever"),
    };
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (408, "request_timeout")
    );
    assert!(began.elapsed() >= SHORT);
    let answer = dripping.answer().await;
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (408, "request_timeout")
    );
    // The next one of a connection has the same time, and others are served meanwhile.
    let mut talk = served.connect().await;
    talk.send(format!("{GET}GET")).await;
    assert_eq!(talk.answer().await.status, 200);
    assert_eq!(talk.answer().await.status, 408);
}

#[tokio::test]
async fn a_slow_head_waits_while_an_earlier_request_is_answered() {
    let mut limits = limits();
    limits.head_within = SHORT;
    let served = Served::with(limits, None).await;
    let mut talk = served.connect().await;
    talk.send("GET /held HTTP/1.1\r\nhost: a\r\n\r\nGET / HT").await;
    sleep(SHORT * 2).await;
    served.go_on.notify_one();
    assert_eq!(talk.answer().await.body, "held");
    talk.send("TP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(talk.answer().await.body, "hello");
}

#[tokio::test]
async fn a_slow_head_has_its_time_from_the_end_of_the_request_before_it() {
    let mut limits = limits();
    limits.head_within = SHORT;
    let served = Served::with(limits, None).await;
    let mut talk = served.connect().await;
    talk.send("GET /held HTTP/1.1\r\nhost: a\r\n\r\nGET / HT").await;
    assert!(timeout(SHORT * 2, talk.read()).await.is_err(), "it was answered");
    served.go_on.notify_one();
    assert_eq!(talk.answer().await.body, "held");
    assert_eq!(talk.answer().await.error_code(), "request_timeout");
}

#[tokio::test]
async fn silent_connections_are_closed_without_a_word_and_others_are_not() {
    let mut limits = limits();
    limits.head_within = SHORT;
    let served = Served::with(limits.clone(), None).await;
    assert_eq!(served.connect().await.rest_of_it().await, b"", "a new one");
    limits.idle_for = SHORT * 2;
    let served = Served::with(limits, None).await;
    let (mut used, mut busy) = (served.connect().await, served.connect().await);
    busy.send("GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await;
    served.begun.notified().await;
    used.send(GET).await;
    assert_eq!(used.answer().await.status, 200);
    assert_eq!(used.rest_of_it().await, b"", "a used one");
    served.go_on.notify_one();
    assert_eq!(busy.answer().await.body, "held");
}

#[tokio::test]
async fn requests_in_one_piece_are_answered_in_their_order_up_to_the_refused_one() {
    let served = Served::with(limits(), None).await;
    let mut talk = served.connect().await;
    let echo = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nGET";
    let chunked =
        "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n";
    let refused = with_headers("content-length: 5\r\ntransfer-encoding: chunked\r\n");
    talk.send(format!(
        "{GET}{echo}{chunked}\r\nGET /held HTTP/1.1\r\nhost: a\r\n\r\n{refused}{GET}"
    ))
    .await;
    for body in ["hello", "GET", "four"] {
        assert_eq!(talk.answer().await.body, body);
    }
    served.go_on.notify_one();
    assert_eq!(talk.answer().await.body, "held");
    assert_eq!(talk.answer().await.error_code(), "unclear_length");
    assert_eq!(
        talk.rest_of_it().await,
        b"",
        "nothing behind a refused request is one"
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_whatever_it_has_sent_behind_its_request() {
    let served = Served::with(limits(), None).await;
    for behind in ["", "GET / HT", "nonsense\r\n\r\n"] {
        served.given_up.store(false, Ordering::SeqCst);
        let mut talk = served.connect().await;
        talk.send(format!("GET /held HTTP/1.1\r\nhost: a\r\n\r\n{behind}"))
            .await;
        assert!(timeout(SHORT, talk.read()).await.is_err(), "it was answered");
        drop(talk);
        until(async || served.given_up.load(Ordering::SeqCst)).await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_the_connection() {
    let served = Served::with(limits(), None).await;
    for broken in ["zz\r\n", "5\r\nhelloo", "0\r\na: b\n\r\n"] {
        let mut talk = served.connect().await;
        talk.send(format!(
            "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{broken}{GET}"
        ))
        .await;
        let answer = talk.answer().await;
        assert_eq!(answer.status, 400, "{broken:?}");
        assert!(answer.head.contains("connection: close"), "{}", answer.head);
        assert_eq!(talk.rest_of_it().await, b"", "{broken:?}");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_the_last_one_and_says_so() {
    let served = Served::with(limits(), None).await;
    let mut talk = served.connect().await;
    let post = "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";
    talk.send(format!("{post}four")).await;
    assert!(!talk.answer().await.head.contains("connection: close"));
    talk.send(post).await;
    assert!(talk.answer().await.head.contains("connection: close"));
    assert_eq!(talk.rest_of_it().await, b"");
}

#[tokio::test]
async fn a_client_can_not_ask_for_a_refusal() {
    let served = Served::with(limits(), None).await;
    let mut talk = served.connect().await;
    talk.send("REFUSED / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(talk.answer().await.status, 405);
}

#[tokio::test]
async fn old_clients_and_careful_ones_are_served() {
    let served = Served::with(limits(), None).await;
    let mut old = served.connect().await;
    old.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.answer().await.body, "hello");
    assert_eq!(old.rest_of_it().await, b"");
    let mut kept = served.connect().await;
    for _ in 0..2 {
        kept.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            .await;
        assert_eq!(kept.answer().await.body, "hello");
    }
    let mut careful = served.connect().await;
    careful
        .send("POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await;
    assert_eq!(careful.answer().await.status, 100);
    careful.send("four").await;
    assert_eq!(careful.answer().await.body, "four");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_there_is_a_place() {
    let mut limits = limits();
    limits.connections = 2;
    let served = Served::with(limits, None).await;
    let (mut one, mut other) = (served.connect().await, served.connect().await);
    for talk in [&mut one, &mut other] {
        talk.send(GET).await;
        assert_eq!(talk.answer().await.status, 200);
    }
    let mut third = served.connect().await;
    third.send(GET).await;
    assert!(timeout(SHORT, third.read()).await.is_err(), "it was served");
    drop(one);
    assert_eq!(third.answer().await.status, 200);
    other.send(GET).await;
    assert_eq!(other.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let mut limits = limits();
    limits.write_stalls_for = SHORT;
    let served = Served::with(limits, None).await;
    let mut talk = served.connect().await;
    talk.send("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(talk.read().await);
    until(async || served.given_up.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_client_that_takes_little_is_not_given_up() {
    let mut limits = limits();
    // A busy machine may keep this client from reading for a while.
    let stalls_for = SHORT * 6;
    limits.write_stalls_for = stalls_for;
    let served = Served::with(limits, None).await;
    let mut talk = served.connect().await;
    talk.send("GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let began = Instant::now();
    let mut piece = vec![0; 1024 * 1024];
    while began.elapsed() < stalls_for * 2 {
        assert!(talk.stream.read(&mut piece).await.expect("it goes on") > 0);
        sleep(SHORT / 10).await;
    }
    assert!(!served.given_up.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_nothing_else() {
    let served = Served::with(limits(), None).await;
    let (mut busy, mut idle) = (served.connect().await, served.connect().await);
    busy.send("GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await;
    idle.send(GET).await;
    assert_eq!(idle.answer().await.status, 200);
    served.begun.notified().await;
    served.stop.cancel();
    assert_eq!(idle.rest_of_it().await, b"");
    until(async || TcpStream::connect(served.address).await.is_err()).await;
    assert!(!served.server.is_finished());
    served.go_on.notify_one();
    let answer = busy.answer().await;
    assert!(
        answer.body == "held" && answer.head.contains("connection: close"),
        "{answer:?}"
    );
    until(async || served.server.is_finished()).await;
}
