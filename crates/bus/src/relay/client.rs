//! The API's end: sends requests to agents and hands each response to its caller. One subscription carries the responses
//! of all requests; the task that reads it never waits for a reader.

use super::error::{RelayError, RelayStartError};
use super::exchange::Exchange;
use super::frame::{Frame, HEAD_FIELDS_BYTES, Origin, RequestId};
use super::head::{RequestHead, write_meta};
use super::link::{Counters, DroppedFrames, Link, RelayLimits, RelayStats};
use super::pending_request::{Effect, PendingRequest, RequestState};
use super::shared::ClientShared;
use super::upload::Upload;
use super::window::{Pool, Window};
use crate::subjects;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures::StreamExt;
use parking_lot::Mutex;
use reveille_domain::{AgentName, Epoch};
use std::future::poll_fn;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

/// Relays requests for one API replica. Clones share the connection; when the last clone is dropped, open requests fail
/// with [`RelayError::Closed`].
#[derive(Debug, Clone)]
pub struct RelayClient {
    shared: Arc<ClientShared>,
    _tasks: Arc<Tasks>,
}

/// Memory for one response, given back when dropped unused.
#[derive(Debug)]
pub struct Reservation<'a> {
    shared: &'a Arc<ClientShared>,
    window: Window,
}

#[derive(Debug)]
struct Tasks {
    shared: Arc<ClientShared>,
    running: [JoinHandle<()>; 2],
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.running {
            task.abort();
        }
        self.shared.fail_all();
    }
}

impl RelayClient {
    /// Subscribes to this replica's replies. The relay should have the connection `client` to itself; `replica` is a
    /// subject token that no other replica uses.
    ///
    /// # Errors
    /// When the name isn't a token, or the subscription fails.
    pub async fn start(client: Client, replica: &str, limits: RelayLimits) -> Result<Self, RelayStartError> {
        if AgentName::parse(replica).is_err() {
            return Err(RelayStartError::ReplicaName(replica.to_owned()));
        }
        let link = Link::new(client, &limits);
        let replies = format!("reveille.replies.{replica}");
        let subscriber = link.subscribe(format!("{replies}.>")).await?;
        let shared = Arc::new(ClientShared {
            link,
            replies,
            pool: Pool::new(limits.pool_bytes),
            limits,
            pending: Mutex::default(),
            counters: Counters::default(),
        });
        let running = [
            tokio::spawn(receive(Arc::clone(&shared), subscriber)),
            tokio::spawn(tend(Arc::clone(&shared))),
        ];
        let tasks = Arc::new(Tasks {
            shared: Arc::clone(&shared),
            running,
        });
        Ok(Self {
            shared,
            _tasks: tasks,
        })
    }

    /// Reserves memory for a response. While there is none, the request waits its turn until `by`.
    ///
    /// # Errors
    /// [`RelayError::Overloaded`] if there was none in time.
    pub async fn reserve(&self, by: Instant) -> Result<Reservation<'_>, RelayError> {
        let shared = &self.shared;
        let window = timeout_at(by, Window::open_in_turn(&shared.pool));
        let window = window.await.map_err(|_| RelayError::Overloaded)?;
        Ok(Reservation { shared, window })
    }

    /// The number of open requests.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.pending.lock().len()
    }

    /// The bytes of the window pool that no request holds.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.shared.pool.free()
    }

    /// A snapshot for metrics.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        RelayStats {
            in_flight: self.in_flight(),
            dropped: self.dropped_frames(),
        }
    }

    /// The frames dropped since the start.
    #[must_use]
    pub fn dropped_frames(&self) -> DroppedFrames {
        self.shared.counters.read()
    }
}

impl Reservation<'_> {
    /// Sends a request to the session `epoch` of `agent`. Returns once the first frame is on its way; the rest of the
    /// body follows in the background as the agent grants credit. Dropping the exchange, or the response's body before
    /// its end, cancels the request at the agent.
    ///
    /// # Errors
    /// Every error means that the agent got nothing.
    pub async fn send(
        mut self,
        agent: &AgentName,
        epoch: Epoch,
        mut head: RequestHead,
        body: impl Into<Upload>,
    ) -> Result<Exchange, RelayError> {
        let mut body: Upload = body.into();
        let shared = self.shared;
        if !shared.link.is_up() {
            return Err(RelayError::Disconnected);
        }
        head.body_bytes = body.left();
        let meta = write_meta(&head).map_err(|_| RelayError::HeadTooLarge)?;
        let beside = HEAD_FIELDS_BYTES + meta.len();
        if !shared.link.takes(beside) {
            return Err(RelayError::HeadTooLarge);
        }
        let first = body
            .next(shared.link.chunk_bytes(beside))
            .await
            .unwrap_or_default();
        let window = std::mem::take(&mut self.window);
        let origin = Origin {
            id: RequestId::random(),
            epoch: epoch.0,
        };
        let mut frame = origin.head(0, window.allowed(), &meta, first.len());
        frame.push(&first);
        let request = Arc::new(PendingRequest::new(
            origin,
            Subject::from(subjects::infer(agent)),
            Subject::from(format!("{}.{agent}.{}", shared.replies, origin.id)),
            window,
            first.len(),
        ));
        shared.pending.lock().insert(origin.id, Arc::clone(&request));
        let exchange = Exchange::new(Arc::clone(shared), Arc::clone(&request));
        let (to, reply) = (request.infer.clone(), request.reply.clone());
        let sent = shared
            .link
            .publish(to, Some(reply), frame.finish(body.left() == 0))
            .await;
        sent.map_err(|_| RelayError::Disconnected)?;
        if body.left() > 0 {
            tokio::spawn(upload(Arc::clone(shared), request, body));
        }
        Ok(exchange)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.window.close(&self.shared.pool);
    }
}

impl ClientShared {
    fn find(&self, id: &RequestId) -> Option<Arc<PendingRequest>> {
        self.pending.lock().get(id).cloned()
    }

    fn take(&self, message: Message) {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return self.nobody_listens(&message.subject);
        }
        let Ok(frame) = Frame::decode(message.payload) else {
            return self.counters.add(|dropped| &mut dropped.malformed);
        };
        let Some(request) = self.find(&frame.id) else {
            return self.counters.add(|dropped| &mut dropped.unknown_request);
        };
        // The server lets only this agent publish to its reply subjects, so an agent can't answer for another.
        if request.reply != message.subject {
            return self.counters.add(|dropped| &mut dropped.other_agent);
        }
        if request.origin.epoch != frame.epoch {
            return self.counters.add(|dropped| &mut dropped.other_epoch);
        }
        match request.accept(&frame, &self.pool, Instant::now()) {
            Effect::Accepted(state) => self.settle(&request, state),
            Effect::Repeated => self.counters.add(|dropped| &mut dropped.repeated),
            Effect::Malformed => self.counters.add(|dropped| &mut dropped.malformed),
        }
    }

    fn nobody_listens(&self, subject: &Subject) {
        let id = subject.rsplit('.').next().and_then(|token| token.parse().ok());
        if let Some(request) = id.and_then(|id| self.find(&id)) {
            self.settle(&request, request.nobody_listens(&self.pool));
        }
    }

    fn settle(&self, request: &PendingRequest, state: RequestState) {
        if state != RequestState::Open {
            self.pending.lock().remove(&request.origin.id);
        }
        if state == RequestState::Broken {
            self.tell(request, request.origin.cancel());
        }
    }

    /// Ends a request whose body can't be sent, and tells its agent, unless it has ended already.
    fn give_up(&self, request: &PendingRequest, error: RelayError) {
        if request.fail(error, &self.pool) {
            self.settle(request, RequestState::Broken);
        }
    }

    fn fail_all(&self) {
        let pending = std::mem::take(&mut *self.pending.lock());
        for request in pending.values() {
            if request.fail(RelayError::Closed, &self.pool) {
                self.tell(request, request.origin.cancel());
            }
        }
    }

    fn tend(&self, now: Instant) {
        let pending: Vec<_> = self.pending.lock().values().cloned().collect();
        for request in pending {
            if request.time_out(self.limits.timeout(), &self.pool, now) {
                self.settle(&request, RequestState::Broken);
            } else if let Some(frame) = request.keep_alive(self.limits.keep_alive, now) {
                self.link
                    .publish_asking(request.infer.clone(), request.reply.clone(), frame);
            }
        }
    }
}

/// Reads the subscription for as long as the connection lives.
async fn receive(shared: Arc<ClientShared>, mut subscriber: Subscriber) {
    while let Some(message) = subscriber.next().await {
        shared.take(message);
    }
    shared.fail_all();
}

/// Sends keep-alives that are due and ends requests whose agent fell silent.
async fn tend(shared: Arc<ClientShared>) {
    let mut ticks = tokio::time::interval(shared.limits.tick());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        shared.tend(ticks.tick().await);
    }
}

/// Sends the rest of a body as it comes in and the agent grants credit.
async fn upload(shared: Arc<ClientShared>, request: Arc<PendingRequest>, mut body: Upload) {
    let mut number = 1;
    while body.left() > 0 {
        let Some(mut piece) = body.next(shared.link.chunk_bytes(0)).await else {
            return shared.give_up(&request, RelayError::BodyBrokeOff);
        };
        while !piece.is_empty() {
            let Some(room) = poll_fn(|cx| request.poll_upload(piece.len(), cx)).await else {
                return;
            };
            let chunk = piece.split_to(room.min(piece.len()));
            let mut frame = request.origin.body(number, chunk.len());
            frame.push(&chunk);
            let frame = frame.finish(body.left() == 0 && piece.is_empty());
            let sent = shared.link.publish(request.infer.clone(), None, frame).await;
            if sent.is_err() {
                return shared.give_up(&request, RelayError::Closed);
            }
            request.uploaded(chunk.len(), Instant::now());
            number += 1;
        }
    }
}
