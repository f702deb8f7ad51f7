//! The agent's end. One subscription carries everything about all requests, in order. [`RelayServer::next`] itself
//! reads it, which saves every message a hop between tasks.

use super::error::RelayStartError;
use super::frame::{Content, Frame, Origin, RequestId, cost};
use super::head::{FaultCode, RelayFault, RequestHead, read_meta};
use super::incoming::{Incoming, RequestBody};
use super::link::{Counters, DroppedFrames, Link, RelayLimits};
use super::responder::Responder;
use super::server_stream::{Effect, Opening, ServerStream};
use super::shared::{CurrentEpoch, ServerShared};
use super::window::{Pool, Window};
use crate::subjects;
use async_nats::{Client, Message, Subject, Subscriber};
use futures::StreamExt;
use parking_lot::Mutex;
use reveille_domain::{AgentName, Epoch};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// Receives the requests for one agent. Frames are processed only while [`Self::next`] is polled. Dropping the server
/// ends open requests at both ends.
#[derive(Debug)]
pub struct RelayServer {
    shared: Arc<ServerShared>,
    subscriber: Subscriber,
    tending: JoinHandle<()>,
}

/// Watches and stops a [`RelayServer`] from elsewhere.
#[derive(Debug, Clone)]
pub struct RelayServerHandle(Arc<ServerShared>);

impl RelayServer {
    /// Subscribes to the agent's requests. The relay should have the connection `client` to itself.
    ///
    /// # Errors
    /// When the subscription fails.
    pub async fn start(
        client: Client,
        agent: AgentName,
        epoch: CurrentEpoch,
        limits: RelayLimits,
    ) -> Result<Self, RelayStartError> {
        let link = Link::new(client, &limits);
        let subscriber = link.subscribe(subjects::infer(&agent)).await?;
        let shared = Arc::new(ServerShared {
            link,
            agent,
            epoch,
            pool: Pool::new(limits.pool_bytes),
            limits,
            streams: Mutex::default(),
            seen: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            counters: Counters::default(),
        });
        let tending = tokio::spawn(tend(Arc::clone(&shared)));
        Ok(Self {
            shared,
            subscriber,
            tending,
        })
    }

    /// The next request; `None` when the connection is closed for good. Call it in a loop that only spawns a task for
    /// each request: while it isn't polled, credit and cancels wait too. Cancel-safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        loop {
            let message = self.subscriber.next().await?;
            if let Some(incoming) = self.shared.take(message) {
                return Some(incoming);
            }
        }
    }

    /// A handle that outlives the borrow of [`Self::next`].
    #[must_use]
    pub fn handle(&self) -> RelayServerHandle {
        RelayServerHandle(Arc::clone(&self.shared))
    }
}

impl Drop for RelayServer {
    fn drop(&mut self) {
        self.tending.abort();
        let open = std::mem::take(&mut *self.shared.streams.lock());
        let fault = RelayFault::new(FaultCode::BackendFailed, "the agent stopped");
        for stream in open.into_values() {
            stream.cancel(&self.shared.pool);
            self.shared.refuse(stream.origin, stream.reply.clone(), &fault);
        }
    }
}

impl RelayServerHandle {
    /// Answers new requests with `shutting_down` from now on; those in flight continue.
    pub fn stop_accepting(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// The number of requests in progress: those whose responder is alive.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// The bytes of the upload pool that no request holds.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.0.pool.free()
    }

    /// The frames dropped since the start.
    #[must_use]
    pub fn dropped_frames(&self) -> DroppedFrames {
        self.0.counters.read()
    }
}

impl ServerShared {
    fn take(self: &Arc<Self>, message: Message) -> Option<Incoming> {
        let Ok(frame) = Frame::decode(message.payload) else {
            self.counters.add(|dropped| &mut dropped.malformed);
            return None;
        };
        if matches!(frame.content, Content::Head { .. }) {
            return self.take_head(frame, message.reply);
        }
        let found = self.streams.lock().get(&frame.id).cloned();
        match found {
            Some(stream) if stream.origin.epoch == frame.epoch => self.take_other(&stream, frame),
            Some(_) => self.counters.add(|dropped| &mut dropped.other_epoch),
            None => self.take_unknown(&frame, message.reply),
        }
        None
    }

    fn take_other(&self, stream: &ServerStream, frame: Frame) {
        match stream.accept(frame, &self.pool, Instant::now()) {
            Effect::Accepted => {}
            Effect::Repeated => self.counters.add(|dropped| &mut dropped.repeated),
            Effect::Malformed => self.counters.add(|dropped| &mut dropped.malformed),
            Effect::Cancel => self.cancel(stream),
            Effect::Refuse(fault) => {
                self.forget(&stream.origin.id);
                self.refuse(stream.origin, stream.reply.clone(), &fault);
            }
        }
    }

    /// A frame of an unknown request. A keep-alive means that the sender waits in vain, because the request's head or
    /// end was lost. Only the current session can know that, of its own epoch and earlier ones.
    fn take_unknown(&self, frame: &Frame, reply: Option<Subject>) {
        let current = self.epoch.get().filter(|epoch| frame.epoch <= epoch.0);
        let asks = matches!(frame.content, Content::KeepAlive(_));
        let origin = Origin {
            id: frame.id,
            epoch: frame.epoch,
        };
        match current.zip(reply.filter(|reply| asks && self.is_reply(reply, &frame.id))) {
            Some((current, reply)) => {
                let why = if frame.epoch < current.0 {
                    "its agent has restarted meanwhile, and the backend may have seen the request"
                } else {
                    "its agent doesn't have the request, and the backend may have seen it"
                };
                self.refuse(origin, reply, &RelayFault::new(FaultCode::Lost, why));
            }
            None => self.counters.add(|dropped| &mut dropped.unknown_request),
        }
    }

    fn take_head(self: &Arc<Self>, frame: Frame, reply: Option<Subject>) -> Option<Incoming> {
        if self.epoch.get() != Some(Epoch(frame.epoch)) {
            self.counters.add(|dropped| &mut dropped.other_epoch);
            return None;
        }
        let Some(reply) = reply.filter(|reply| frame.number == 0 && self.is_reply(reply, &frame.id)) else {
            self.counters.add(|dropped| &mut dropped.malformed);
            return None;
        };
        if !self.seen.lock().is_new(frame.id) {
            self.counters.add(|dropped| &mut dropped.repeated);
            return None;
        }
        let origin = Origin {
            id: frame.id,
            epoch: frame.epoch,
        };
        match self.open(frame, reply.clone()) {
            Ok(incoming) => Some(incoming),
            Err(fault) => {
                self.refuse(origin, reply, &fault);
                None
            }
        }
    }

    fn open(self: &Arc<Self>, frame: Frame, reply: Subject) -> Result<Incoming, RelayFault> {
        let Content::Head { credit, meta, chunk } = frame.content else {
            return Err(RelayFault::new(
                FaultCode::BadFrame,
                "the request doesn't start with its head",
            ));
        };
        let head: RequestHead = read_meta(&meta).map_err(|_| {
            self.counters.add(|dropped| &mut dropped.malformed);
            RelayFault::new(FaultCode::BadFrame, "the agent can't read the request's head")
        })?;
        if self.stopping.load(Ordering::Relaxed) {
            return Err(RelayFault::new(FaultCode::ShuttingDown, "the agent is stopping"));
        }
        let busy = || {
            RelayFault::new(
                FaultCode::Overloaded,
                "the agent is at its limit of concurrent requests",
            )
        };
        if self.in_flight.load(Ordering::Relaxed) >= self.limits.max_in_flight {
            return Err(busy());
        }
        let window = Window::open_after(&self.pool, cost(chunk.len()), !frame.last).ok_or_else(busy)?;
        let origin = Origin {
            id: frame.id,
            epoch: frame.epoch,
        };
        let opening = Opening {
            credit,
            chunk,
            last: frame.last,
            body_bytes: head.body_bytes,
        };
        let stream = Arc::new(ServerStream::open(origin, reply, opening, window, &self.pool)?);
        self.streams.lock().insert(origin.id, Arc::clone(&stream));
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if let Some(credit) = stream.first_credit() {
            self.link.publish_soon(stream.reply.clone(), credit);
        }
        Ok(Incoming {
            id: origin.id,
            epoch: Epoch(origin.epoch),
            replica: stream.reply.split('.').nth(2).unwrap_or_default().to_owned(),
            head,
            cancelled: stream.cancelled.clone(),
            body: RequestBody::new(Arc::clone(self), Arc::clone(&stream)),
            responder: Responder::new(Arc::clone(self), stream),
        })
    }

    /// Whether a message's reply subject belongs to this agent and this request; any other is ignored.
    fn is_reply(&self, reply: &Subject, id: &RequestId) -> bool {
        let mut tokens = reply.split('.');
        let mut is = |token: &str| tokens.next() == Some(token);
        is("reveille")
            && is("replies")
            && tokens.next().is_some_and(|replica| !replica.is_empty())
            && tokens.next() == Some(self.agent.as_str())
            && tokens.next().and_then(|token| token.parse().ok()) == Some(*id)
            && tokens.next().is_none()
    }

    fn cancel(&self, stream: &ServerStream) {
        self.forget(&stream.origin.id);
        stream.cancel(&self.pool);
    }

    fn tend(&self, now: Instant) {
        let open: Vec<_> = self.streams.lock().values().cloned().collect();
        for stream in open {
            if stream.timed_out(self.limits.timeout(), now) {
                self.cancel(&stream);
            } else if let Some(frame) = stream.keep_alive(self.limits.keep_alive, now) {
                self.tell(&stream, frame);
            }
        }
    }
}

/// Sends keep-alives that are due and cancels requests whose API replica fell silent.
async fn tend(shared: Arc<ServerShared>) {
    let mut ticks = tokio::time::interval(shared.limits.tick());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        shared.tend(ticks.tick().await);
    }
}
