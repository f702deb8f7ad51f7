use super::*;
use crate::relay::head::{FaultCode, RelayFault, RequestHead, ResponseHead, read_meta, write_meta};
use proptest::prelude::*;
use reveille_domain::{Epoch, ProviderName, ReportId, ReportSeq};

const ID: RequestId = RequestId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf]);
const ORIGIN: Origin = Origin {
    id: ID,
    epoch: 0x1122,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Version, kind, flags, reserved; number; epoch; id.
fn prefix(kind: &str, flags: &str, number: &str) -> String {
    format!("01{kind}{flags}00{number}2211000000000000000102030405060708090a0b0c0d0e0f")
}

#[test]
fn the_bytes_of_every_kind_stay_as_they_are() {
    let mut head = ORIGIN.head(0, 0x1_0000, b"{}", 2);
    head.push(b"hi");
    let head = head.finish(true);
    assert_eq!(
        hex(&head),
        prefix("01", "01", "00000000") + "0000010000000000" + "02000000" + "7b7d" + "6869"
    );
    let mut body = ORIGIN.body(0x0304, 1);
    body.push(b"x");
    assert_eq!(hex(&body.finish(false)), prefix("02", "00", "04030000") + "78");
    assert_eq!(
        hex(&ORIGIN.body(1, 0).finish(true)),
        prefix("02", "01", "01000000")
    );
    assert_eq!(
        hex(&ORIGIN.credit(5)),
        prefix("03", "00", "00000000") + "0500000000000000"
    );
    assert_eq!(
        hex(&ORIGIN.keep_alive(2, 5)),
        prefix("04", "00", "02000000") + "0500000000000000"
    );
    assert_eq!(hex(&ORIGIN.cancel()), prefix("05", "00", "00000000"));
    assert_eq!(hex(&ORIGIN.error(b"{}")), prefix("06", "00", "00000000") + "7b7d");
}

#[test]
fn what_heads_and_faults_say_stays_as_it_is() {
    let request = RequestHead {
        provider: ProviderName::parse("vllm").unwrap(),
        method: "POST".into(),
        path: "/v1/embeddings".into(),
        headers: vec![("accept".into(), "*/*".into())],
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        hold_ms: None,
        turn_within_ms: None,
        model: None,
        preset: None,
        body_bytes: 12,
    };
    let response = ResponseHead {
        status: 200,
        headers: vec![("content-type".into(), "text/plain".into())],
    };
    let report = ReportId {
        epoch: Epoch(2),
        seq: ReportSeq(3),
    };
    let faults = [
        RelayFault::asleep("it sleeps", report),
        RelayFault::new(FaultCode::BackendFailed, "it died"),
    ];
    let text = |meta: Vec<u8>| String::from_utf8(meta).unwrap();
    insta::assert_snapshot!(text(write_meta(&request).unwrap()), @r#"{"provider":"vllm","method":"POST","path":"/v1/embeddings","headers":[["accept","*/*"]],"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","body_bytes":12}"#);
    insta::assert_snapshot!(text(write_meta(&response).unwrap()), @r#"{"status":200,"headers":[["content-type","text/plain"]]}"#);
    insta::assert_snapshot!(text(write_meta(&faults).unwrap()), @r#"[{"code":"asleep","message":"it sleeps","report":{"epoch":2,"seq":3}},{"code":"backend_failed","message":"it died"}]"#);
    assert_eq!(read_meta(&write_meta(&request).unwrap()), Ok(request));
    assert_eq!(read_meta(&write_meta(&response).unwrap()), Ok(response));
    assert_eq!(read_meta(&write_meta(&faults).unwrap()), Ok(faults));
}

#[test]
fn fields_and_codes_of_a_newer_version_are_read_over() {
    let fault = read_meta::<RelayFault>(br#"{"code":"on_fire","message":"m","colour":"red"}"#).unwrap();
    assert_eq!(fault.code, FaultCode::Unknown);
    assert!(!fault.code.never_handed_over());
    let head = read_meta::<ResponseHead>(br#"{"status":200,"trailers":[]}"#).unwrap();
    assert_eq!(
        head,
        ResponseHead {
            status: 200,
            headers: vec![]
        }
    );
}

#[test]
fn a_fault_code_is_written_as_it_is_named() {
    use FaultCode::*;
    let all = [
        Asleep,
        BackendUnavailable,
        BackendFailed,
        BackendTimeout,
        FirstByteTimeout,
        Busy,
        Cancelled,
        UnknownProvider,
        UnknownModel,
        Overloaded,
        ShuttingDown,
        BadFrame,
        Lost,
    ];
    for code in all {
        assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
    }
}

#[test]
fn malformed_frames_are_refused_by_what_is_wrong() {
    let body = ORIGIN.body(0, 0).finish(false);
    let with = |at: usize, byte: u8| {
        let mut bytes = body.to_vec();
        bytes[at] = byte;
        Frame::decode(bytes.into())
    };
    assert_eq!(Frame::decode(body.slice(..31)), Err(BadFrame::Short));
    assert_eq!(with(0, 2), Err(BadFrame::Version(2)));
    assert_eq!(with(1, 0), Err(BadFrame::Kind));
    assert_eq!(with(1, 7), Err(BadFrame::Kind));
    assert_eq!(with(2, 2), Err(BadFrame::Kind));
    assert_eq!(with(3, 1), Err(BadFrame::Kind));
    assert_eq!(with(1, KIND_CREDIT), Err(BadFrame::Short));
    assert_eq!(with(1, KIND_HEAD), Err(BadFrame::Short));
    let longer = |frame: Bytes| Frame::decode([frame.as_ref(), b"x"].concat().into());
    assert_eq!(longer(ORIGIN.cancel()), Err(BadFrame::Long));
    assert_eq!(longer(ORIGIN.credit(1)), Err(BadFrame::Long));
    let mut last_cancel = ORIGIN.cancel().to_vec();
    last_cancel[2] = FLAG_LAST;
    assert_eq!(Frame::decode(last_cancel.into()), Err(BadFrame::Kind));
    let mut greedy = ORIGIN.head(0, 0, b"{}", 0).finish(false).to_vec();
    greedy[40..44].copy_from_slice(&3u32.to_le_bytes());
    assert_eq!(Frame::decode(greedy.clone().into()), Err(BadFrame::Short));
    greedy[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Frame::decode(greedy.into()), Err(BadFrame::Meta));
}

#[test]
fn reading_a_body_shares_the_messages_memory() {
    let mut body = ORIGIN.body(0, 4);
    body.push(b"body");
    let payload = body.finish(false);
    let Content::Body(chunk) = Frame::decode(payload.clone()).unwrap().content else {
        panic!("no body")
    };
    assert_eq!(chunk.as_ptr(), payload[PREFIX_BYTES..].as_ptr());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>, honest in any::<bool>()) {
        let mut bytes = bytes;
        if honest && bytes.len() > 3 {
            bytes[0] = VERSION;
            bytes[1] %= 7;
            bytes[2] = 0;
            bytes[3] = 0;
        }
        let _ = Frame::decode(bytes.into());
    }

    #[test]
    fn frames_read_back_as_written(
        id: [u8; 16], epoch: u64, number: u32, credit: u64, last: bool, meta: Vec<u8>, chunks: Vec<Vec<u8>>,
    ) {
        let origin = Origin { id: RequestId::from_bytes(id), epoch };
        let mut head = origin.head(number, credit, &meta, 0);
        let mut body = origin.body(number, 0);
        for chunk in &chunks {
            head.push(chunk);
            body.push(chunk);
        }
        let chunk = Bytes::from(chunks.concat());
        let frame = |number, last, content| Ok(Frame { id: origin.id, epoch, number, last, content });
        let content = Content::Head { credit, meta: meta.into(), chunk: chunk.clone() };
        prop_assert_eq!(Frame::decode(head.finish(last)), frame(number, last, content));
        prop_assert_eq!(Frame::decode(body.finish(last)), frame(number, last, Content::Body(chunk.clone())));
        prop_assert_eq!(Frame::decode(origin.credit(credit)), frame(0, false, Content::Credit(credit)));
        let alive = Frame::decode(origin.keep_alive(number, credit));
        prop_assert_eq!(alive, frame(number, false, Content::KeepAlive(credit)));
        prop_assert_eq!(Frame::decode(origin.cancel()), frame(0, false, Content::Cancel));
        prop_assert_eq!(Frame::decode(origin.error(&chunk)), frame(0, false, Content::Error(chunk)));
        prop_assert_eq!(origin.id.to_string().parse(), Ok(origin.id));
    }
}
