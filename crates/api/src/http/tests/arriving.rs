//! Large forms, which are relayed while they come in.

use super::{
    Answer, HttpLimits, Served,
    fake_hub::{Reply, active, hibernating},
    limits,
    surface::WHOLE,
};
use bytes::Bytes;
use futures::{
    StreamExt,
    channel::mpsc::{UnboundedSender, unbounded},
};
use reveille_bus::relay::RelayError;
use reveille_domain::rows::MemoryRows;
use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::task::JoinHandle;

const PATH: &str = "/v1/audio/transcriptions";

fn field(head: &str, content: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
}

/// A form with a file of 200 KiB, and what comes behind it.
fn form(behind: &str) -> String {
    let file = field("name=\"file\"; filename=\"a.wav\"", &"x".repeat(200 * 1024));
    format!("{}{file}{behind}--b--\r\n", field("name=\"model\"", "m"))
}

/// A request that has announced a form, and sends it as the test likes.
struct Sending {
    pieces: UnboundedSender<Result<Bytes, Infallible>>,
    answer: JoinHandle<Answer>,
}

impl Sending {
    fn begin(served: &Served, form: &str) -> Self {
        let (pieces, body) = unbounded();
        let request = served.client.post(format!("{}{PATH}", served.url));
        let request = request
            .header("content-type", "multipart/form-data; boundary=b")
            .header("content-length", form.len())
            .body(reqwest::Body::wrap_stream(body.map(|piece| piece)));
        Self {
            pieces,
            answer: tokio::spawn(Answer::of(request)),
        }
    }

    fn send(&self, text: &str) {
        let piece = Bytes::copy_from_slice(text.as_bytes());
        // The API may have answered.
        let _ = self.pieces.unbounded_send(Ok(piece));
    }

    async fn answer(self) -> Answer {
        drop(self.pieces);
        self.answer.await.expect("an answer")
    }
}

async fn served(replies: impl IntoIterator<Item = Reply>) -> Served {
    served_with(|_| {}, replies).await
}

async fn served_with(
    change: impl FnOnce(&mut HttpLimits),
    replies: impl IntoIterator<Item = Reply>,
) -> Served {
    let mut limits = limits();
    limits.body_bytes = 300 * 1024;
    change(&mut limits);
    let served = Served::with(limits, Arc::new(MemoryRows::new())).await;
    served.hub.publish("gpu-box/whisper", "m", active());
    served.hub.replies(replies);
    served
}

fn whole() -> Reply {
    Reply::Whole(200, "application/json", WHOLE.into())
}

#[tokio::test]
async fn a_large_form_is_relayed_while_it_comes_in() {
    let served = served([Reply::Fails(RelayError::NoResponders), whole()]).await;
    let form = form("");
    let sending = Sending::begin(&served, &form);
    sending.send(&form[..1_000]);
    let uploaded = |hub: &super::FakeHub| hub.uploaded.load(Ordering::SeqCst);
    served.hub.until("the beginning", |hub| uploaded(hub) > 0).await;
    assert!(served.hub.sent().is_empty(), "the rest is still to come");
    assert_eq!(served.state.bodies.used(), 1_000);
    sending.send(&form[1_000..100_000]);
    served.hub.until("more", |hub| uploaded(hub) == 100_000).await;
    sending.send(&form[100_000..]);
    assert_eq!(sending.answer().await.status, 200);
    let sent = served.hub.sent();
    assert_eq!(sent.len(), 2, "it was sent again");
    for sent in sent {
        assert_eq!(sent.head.body_bytes, form.len() as u64);
        assert!(sent.body == form, "byte by byte");
    }
    assert_eq!(served.state.bodies.used(), 0);
}

#[tokio::test]
async fn a_backend_is_woken_while_the_form_for_it_comes_in() {
    let served = served([whole()]).await;
    served
        .hub
        .change("gpu-box/whisper", |provider| provider.status = hibernating());
    let form = form("");
    let sending = Sending::begin(&served, &form);
    sending.send(&form[..1_000]);
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    sending.send(&form[1_000..]);
    served
        .hub
        .until("the form", |_| served.state.bodies.used() == form.len())
        .await;
    served
        .hub
        .change("gpu-box/whisper", |provider| provider.status = active());
    assert_eq!(sending.answer().await.status, 200);
}

#[tokio::test]
async fn what_is_wrong_with_the_rest_of_a_form_is_told_and_no_backend_gets_it() {
    let model = field("name=\"model\"", "other");
    for (behind, end, code) in [
        (model.as_str(), "", "duplicate_field"),
        ("--b nonsense", "", "invalid_form"),
        ("", "--b", "invalid_form"),
    ] {
        let served = served([]).await;
        let form = form(behind) + end;
        let sending = Sending::begin(&served, &form);
        sending.send(&form[..1_000]);
        served
            .hub
            .until("the beginning", |hub| hub.uploaded.load(Ordering::SeqCst) > 0)
            .await;
        sending.send(&form[1_000..]);
        let answer = sending.answer().await;
        assert_eq!((answer.status, answer.error().as_str()), (400, code), "{behind}");
        assert!(served.hub.sent().is_empty());
        assert_eq!(served.state.bodies.used(), 0);
    }
}

#[tokio::test]
async fn a_form_that_stops_coming_in_ends_its_request() {
    let served = served_with(|limits| limits.timings.body_idle = Duration::from_millis(50), []).await;
    let form = form("");
    let sending = Sending::begin(&served, &form);
    sending.send(&form[..1_000]);
    let Sending { pieces, answer } = sending;
    let answer = answer.await.expect("an answer");
    drop(pieces);
    assert_eq!((answer.status, answer.error().as_str()), (408, "request_timeout"));
    assert!(served.hub.sent().is_empty());
    assert_eq!(served.state.bodies.used(), 0);
}
