//! The way to the backends. A port, so that the request path can be tested without NATS.

use super::{RequestBody, health::Failure, members::Attempt};
use crate::{
    metrics::FirstByte,
    requests::{self, Tap},
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use reveille_bus::relay::{
    AnswerKind, Content, RelayClient, RelayError, RelayStats, RequestHead, Reservation, ResponseHead, Said,
};
use reveille_domain::{AgentName, Epoch};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The longest error that is waited for, in bytes, and how long that may take.
const MAX_ERROR_BYTES: usize = 4 * 1024;
const ERROR_WITHIN: Duration = Duration::from_secs(1);

/// Hands requests to the agents of backends.
#[async_trait]
pub(crate) trait Relay: Send + Sync {
    /// Reserves memory for a response. While this replica has none, the request waits its turn until `by`.
    async fn reserve<'a>(&'a self, by: Instant) -> Result<Box<dyn Reserved + 'a>, RelayError>;

    /// What it is doing now.
    fn stats(&self) -> RelayStats;
}

/// Memory for one response.
#[async_trait]
pub(crate) trait Reserved: Send {
    /// Sends a request and waits for the response's head. Dropping the future cancels the request.
    async fn send(
        self: Box<Self>,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: RequestBody,
    ) -> Result<(ResponseHead, ResponseBody), RelayError>;
}

/// A response's body.
pub(crate) enum ResponseBody {
    /// It came whole, together with the head.
    Whole(Bytes),
    /// It comes piece by piece; an error means that it broke off. Dropping it cancels the request.
    Pieces(BoxStream<'static, Result<Bytes, RelayError>>),
}

impl ResponseBody {
    /// What has come together with the head.
    pub(super) fn beginning(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Pieces(_) => &[],
        }
    }

    /// The body of an error, in one piece if it is short and comes soon: what follows depends on its words.
    async fn of_error(mut pieces: BoxStream<'static, Result<Bytes, RelayError>>) -> Self {
        let (mut read, by) = (BytesMut::new(), Instant::now() + ERROR_WITHIN);
        let last = loop {
            match timeout_at(by, pieces.next()).await {
                Ok(None) => return Self::Whole(read.freeze()),
                Ok(Some(Ok(piece))) if read.len() + piece.len() <= MAX_ERROR_BYTES => {
                    read.extend_from_slice(&piece);
                }
                Ok(last) => break last,
                Err(_) => break None,
            }
        };
        let read = stream::iter([Ok(read.freeze())]).chain(stream::iter(last));
        Self::Pieces(read.chain(pieces).boxed())
    }

    /// Keeps `attempt` until the last piece of an answer of this kind has come. The first piece of a successful answer tells
    /// `first_byte`. Something of a completion shows that the backend works. An error shows that it doesn't, and so does an end
    /// without anything.
    pub(super) fn observed(
        self,
        head: &ResponseHead,
        kind: AnswerKind,
        attempt: Attempt,
        first_byte: Option<FirstByte>,
    ) -> Self {
        let encoding = head.header("content-encoding");
        let is_compressed = encoding.is_some_and(|encoding| encoding != "identity");
        let has_content = first_byte.is_some() && kind != AnswerKind::Aside;
        let mut observer = Observer {
            content: has_content.then(|| Content::new(kind, is_compressed)),
            status: head.status,
            attempt,
            first_byte,
            is_served: false,
            tap: Tap::new(requests::current(), kind, has_content && !is_compressed),
        };
        match self {
            Self::Whole(bytes) => {
                observer.piece(&bytes);
                observer.end();
                Self::Whole(bytes)
            }
            Self::Pieces(pieces) => {
                let observed = stream::unfold((pieces, observer), async |(mut pieces, mut observer)| {
                    let piece = pieces.next().await;
                    match &piece {
                        Some(Ok(piece)) => observer.piece(piece),
                        Some(Err(error)) => observer.broke(error),
                        None => observer.end(),
                    }
                    Some((piece?, (pieces, observer)))
                });
                Self::Pieces(observed.boxed())
            }
        }
    }
}

/// Learns from an answer that passes whether its member works.
struct Observer {
    attempt: Attempt,
    first_byte: Option<FirstByte>,
    /// Of a successful answer, until its outcome is known.
    content: Option<Content>,
    is_served: bool,
    status: u16,
    tap: Tap,
}

impl Observer {
    fn piece(&mut self, piece: &[u8]) {
        self.attempt.heard();
        self.tap.piece(piece);
        if let Some(first_byte) = self.first_byte.take() {
            first_byte.seen();
        }
        let Some(content) = &mut self.content else {
            return;
        };
        let said = content.next(piece);
        self.tap.parts(content.parts());
        if content.has_error() || content.is_over() {
            self.end();
        } else if said == Said::Content && !std::mem::replace(&mut self.is_served, true) {
            self.attempt.served();
        }
    }

    fn end(&mut self) {
        match self.content.take().map(|mut content| content.end()) {
            Some(Ok(())) if !self.is_served => self.attempt.served(),
            Some(Err(what)) => {
                self.tap.failed(self.status, what);
                self.attempt.failed(Failure::in_success(self.status, what));
            }
            Some(Ok(())) | None => {}
        }
    }

    fn broke(&mut self, error: &RelayError) {
        self.content = None;
        if let Some(failure) = Failure::in_error(error) {
            self.attempt.failed(failure);
        }
    }
}

#[async_trait]
impl Relay for RelayClient {
    async fn reserve<'a>(&'a self, by: Instant) -> Result<Box<dyn Reserved + 'a>, RelayError> {
        Ok(Box::new(Self::reserve(self, by).await?))
    }

    fn stats(&self) -> RelayStats {
        Self::stats(self)
    }
}

#[async_trait]
impl Reserved for Reservation<'_> {
    async fn send(
        self: Box<Self>,
        agent: &AgentName,
        epoch: Epoch,
        head: RequestHead,
        body: RequestBody,
    ) -> Result<(ResponseHead, ResponseBody), RelayError> {
        let response = Self::send(*self, agent, epoch, head, body.upload()).await?;
        let (head, mut body) = response.head().await?;
        let body = match body.whole() {
            Some(whole) => ResponseBody::Whole(whole),
            None if head.status >= 400 => ResponseBody::of_error(body.boxed()).await,
            None => ResponseBody::Pieces(body.boxed()),
        };
        Ok((head, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inference::{choice::Reach, members::Members},
        metrics::Metrics,
        registry::tests::snapshot_at,
    };
    use futures::TryStreamExt;
    use reveille_bus::relay::{FaultCode, RelayFault};
    use std::time::Duration;

    fn success() -> ResponseHead {
        ResponseHead {
            status: 200,
            headers: Vec::new(),
        }
    }

    /// A long stream's beginning says nothing of its end: only its last silence was waited for.
    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_keeps_its_member_away_no_longer_than_its_last_silence() {
        let members = Members::new(Metrics::default());
        let pool = ["a/p", "b/p"].map(|id| snapshot_at(id, 7));
        let broke_off = RelayFault::new(FaultCode::BackendFailed, "it closed the connection").into();
        let ends = [(600, Ok(Bytes::from_static(b"x"))), (4, Err(broke_off))];
        let pieces = stream::iter(ends).then(async |(secs, piece)| {
            tokio::time::sleep(Duration::from_secs(secs)).await;
            piece
        });
        let first_byte = Some(Metrics::default().first_byte(Instant::now(), false));
        let body = ResponseBody::Pieces(Box::pin(pieces)).observed(
            &success(),
            AnswerKind::Completion,
            members.enter(&pool[0]),
            first_byte,
        );
        let ResponseBody::Pieces(pieces) = body else {
            panic!("it comes in pieces")
        };
        assert_eq!(pieces.count().await, 2);
        let next = || {
            members
                .choose(&pool, Reach::All, &[])
                .expect("one")
                .provider
                .id
                .to_string()
        };
        tokio::time::advance(Duration::from_millis(3_900)).await;
        assert_eq!(next(), "b/p");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(next(), "a/p", "the trial");
    }

    /// How many of nine more requests go to a member that has answered three so.
    async fn share_after(body: &'static str, in_pieces: bool) -> usize {
        let members = Members::new(Metrics::default());
        let pool = ["a/p", "b/p"].map(|id| snapshot_at(id, 7));
        for _ in 0..3 {
            let first_byte = Some(Metrics::default().first_byte(Instant::now(), false));
            let answer = if in_pieces {
                let pieces = body
                    .as_bytes()
                    .chunks(5)
                    .map(|piece| Ok(Bytes::from_static(piece)));
                ResponseBody::Pieces(stream::iter(pieces).boxed())
            } else {
                ResponseBody::Whole(Bytes::from_static(body.as_bytes()))
            };
            match answer.observed(
                &success(),
                AnswerKind::Completion,
                members.enter(&pool[0]),
                first_byte,
            ) {
                ResponseBody::Whole(bytes) => assert_eq!(bytes, body),
                ResponseBody::Pieces(pieces) => {
                    let pieces: Vec<Bytes> = pieces.try_collect().await.expect("no error");
                    assert_eq!(pieces.concat(), body.as_bytes());
                }
            }
        }
        let chosen = (0..9).filter_map(|_| members.choose(&pool, Reach::All, &[]));
        chosen
            .filter(|chosen| chosen.provider.id == pool[0].provider.id)
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_answers_200_without_anything_of_a_completion_fails() {
        for body in [
            "data: {\"error\":{\"message\":\"EngineDeadError\"}}\n\ndata: [DONE]\n\n",
            "{\"error\":{\"message\":\"EngineDeadError\"}}",
            ": ping\n\ndata: [DONE]\n\n",
            "",
        ] {
            for in_pieces in [false, true] {
                assert_eq!(share_after(body, in_pieces).await, 0, "{body}, {in_pieces}");
            }
        }
        for body in [
            "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: [DONE]\n\n",
            "{\"choices\":[{\"message\":{}}]}",
        ] {
            for in_pieces in [false, true] {
                assert_eq!(share_after(body, in_pieces).await, 5, "{body}, {in_pieces}");
            }
        }
    }
}
