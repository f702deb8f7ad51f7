//! HTTP/2, frame by frame (RFC 9113).

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const ENHANCE_YOUR_CALM: u32 = 11;
/// `GET / http a`, of the static table but for the authority (RFC 7541, appendix A).
const GET: &[u8] = &[0x82, 0x84, 0x86, 0x41, 0x01, b'a'];
/// The same for `/held`.
const GET_HELD: &[u8] = &[
    0x82, 0x04, 0x05, b'/', b'h', b'e', b'l', b'd', 0x86, 0x41, 0x01, b'a',
];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A frame that came.
#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Talk<TcpStream> {
    async fn h2(served: &Served) -> Self {
        let mut talk = served.connect().await;
        talk.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        talk
    }

    /// The next frame; none at the end.
    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.rest.first_chunk::<9>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.rest.len() >= 9 + length {
                    let (kind, stream) = (head[3], [head[5], head[6], head[7], head[8]]);
                    let bytes: Vec<_> = self.rest.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes(stream);
                    return Some(Frame {
                        kind,
                        stream,
                        payload: bytes[9..].to_vec(),
                    });
                }
            }
            if !self.read().await {
                return None;
            }
        }
    }

    async fn frame_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.expect("the connection goes on");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The reason with which the connection ends, if it says one.
    async fn ends(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(frame) = self.frame().await {
            if frame.kind == GOAWAY {
                let code = frame.payload[4..8].try_into().expect("a GOAWAY has a reason");
                reason = Some(u32::from_be_bytes(code));
            }
        }
        reason
    }
}

#[tokio::test]
async fn http_2_is_served_without_tls_to_who_knows_it() {
    let served = Served::with(limits(), None).await;
    let mut talk = Talk::h2(&served).await;
    talk.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    let body = talk.frame_of(DATA).await;
    assert_eq!((body.stream, body.payload.as_slice()), (1, b"hello".as_slice()));
}

#[tokio::test]
async fn a_connection_has_so_many_streams_and_says_so() {
    let mut limits = limits();
    limits.h2_streams = 2;
    let served = Served::with(limits, None).await;
    let mut talk = Talk::h2(&served).await;
    let settings = talk.frame_of(SETTINGS).await.payload;
    let most = settings
        .chunks_exact(6)
        .find(|setting| setting[..2] == MAX_CONCURRENT_STREAMS.to_be_bytes())
        .map(|setting| setting[5]);
    assert_eq!(most, Some(2));
    for stream in [1, 3, 5] {
        talk.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET_HELD))
            .await;
    }
    assert_eq!(talk.frame_of(RST_STREAM).await.stream, 5);
}

#[tokio::test]
async fn streams_that_are_begun_and_reset_end_the_connection_and_no_other() {
    let served = Served::with(limits(), None).await;
    let mut bystander = Talk::h2(&served).await;
    let mut talk = Talk::h2(&served).await;
    let mut flood = vec![];
    for stream in (1..4_000).step_by(2) {
        flood.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET_HELD));
        flood.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    // It may be cut before all of it is sent.
    let _ = talk.stream.write_all(&flood).await;
    assert!(matches!(talk.ends().await, Some(ENHANCE_YOUR_CALM) | None));
    bystander
        .send(frame(HEADERS, END_STREAM | END_HEADERS, 1, GET))
        .await;
    assert_eq!(bystander.frame_of(DATA).await.payload, b"hello");
}

#[tokio::test]
async fn a_head_that_never_ends_ends_the_connection() {
    let served = Served::with(limits(), None).await;
    let mut talk = Talk::h2(&served).await;
    // A literal header that is not kept: `a: xxx…`.
    let value = [b'x'; 100];
    let field = [&[0x00, 0x01, b'a', 100], value.as_slice()].concat();
    let block = field.repeat(100);
    let mut flood = frame(HEADERS, END_STREAM, 1, GET);
    for _ in 0..1_000 {
        flood.extend(frame(CONTINUATION, 0, 1, &block));
    }
    let _ = talk.stream.write_all(&flood).await;
    assert!(matches!(talk.ends().await, Some(ENHANCE_YOUR_CALM) | None));
}

#[tokio::test]
async fn a_head_over_the_limit_is_answered_431() {
    let mut limits = limits();
    limits.head_bytes = 1_000;
    let served = Served::with(limits, None).await;
    let mut talk = Talk::h2(&served).await;
    let value = [b'x'; 100];
    let field = [&[0x00, 0x01, b'a', 100], value.as_slice()].concat();
    let block = [GET, &field.repeat(20)].concat();
    talk.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block))
        .await;
    let head = talk.frame_of(HEADERS).await;
    // `:status` 431 in Huffman's code (RFC 7541, appendix B).
    assert_eq!(head.payload[..5], [0x48, 0x83, 0x69, 0x90, 0xff], "{head:x?}");
}

#[tokio::test]
async fn silent_connections_of_http_2_are_closed_and_so_are_heads_that_stand_still() {
    let mut limits = limits();
    (limits.head_within, limits.idle_for, limits.closes_within) = (SHORT, SHORT, SHORT);
    let served = Served::with(limits, None).await;
    let (mut silent, mut used, mut begun) = (
        Talk::h2(&served).await,
        Talk::h2(&served).await,
        Talk::h2(&served).await,
    );
    begun.send(frame(HEADERS, END_STREAM, 1, GET)).await;
    used.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    assert_eq!(used.frame_of(DATA).await.payload, b"hello");
    for talk in [&mut silent, &mut used, &mut begun] {
        talk.ends().await;
    }
}
