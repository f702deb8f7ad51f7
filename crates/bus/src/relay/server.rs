//! The agent's end: one subscription, whose order is the order of everything that is said about a request.
//! [`RelayServer::next`] itself reads it, so that no message crosses one task more than it must.

use super::error::RelayStartError;
use super::frame::{Content, Frame, Origin, RequestId, cost};
use super::head::{FaultCode, RelayFault, RequestHead, read_meta, write_meta};
use super::incoming::{Incoming, RequestBody};
use super::link::{Counters, DroppedFrames, Link, RelayLimits, lock};
use super::responder::Responder;
use super::served::{Effect, Opening, Served};
use super::window::{Pool, Window};
use crate::subjects;
use async_nats::{Client, Message, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use reveille_domain::{AgentName, Epoch};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// How many request ids are remembered, so that no backend sees one twice.
const REMEMBERED_IDS: usize = 64 * 1024;

/// The epoch of the agent's accepted session; shared with whoever connects. Requests for another are dropped.
#[derive(Debug, Clone, Default)]
pub struct CurrentEpoch(Arc<AtomicU64>);

impl CurrentEpoch {
    /// Epochs begin at 1, so 0 stands for none.
    const NONE: u64 = 0;

    /// Says which epoch is served from now on; None while no session is accepted.
    pub fn set(&self, epoch: Option<Epoch>) {
        self.0
            .store(epoch.map_or(Self::NONE, |epoch| epoch.0), Ordering::Release);
    }

    /// The epoch that is served.
    #[must_use]
    pub fn get(&self) -> Option<Epoch> {
        match self.0.load(Ordering::Acquire) {
            Self::NONE => None,
            epoch => Some(Epoch(epoch)),
        }
    }
}

/// Receives the requests for one agent. Requests and everything about them move only while [`Self::next`] is
/// polled; dropping the server ends what is open, at both ends.
#[derive(Debug)]
pub struct RelayServer {
    desk: Arc<Desk>,
    subscriber: Subscriber,
    tending: JoinHandle<()>,
}

/// Watches and stops a [`RelayServer`] from elsewhere.
#[derive(Debug, Clone)]
pub struct RelayServerHandle(Arc<Desk>);

/// What the server, its requests and its handle share.
#[derive(Debug)]
pub(super) struct Desk {
    pub link: Link,
    limits: RelayLimits,
    agent: AgentName,
    epoch: CurrentEpoch,
    pub pool: Pool,
    served: Mutex<HashMap<RequestId, Arc<Served>>>,
    seen: Mutex<Seen>,
    in_flight: AtomicUsize,
    stopping: AtomicBool,
    counters: Counters,
}

impl RelayServer {
    /// Subscribes to the agent's requests. `client` should be a connection of the relay's own.
    ///
    /// # Errors
    /// When the subscription can't be made.
    pub async fn start(
        client: Client,
        agent: AgentName,
        epoch: CurrentEpoch,
        limits: RelayLimits,
    ) -> Result<Self, RelayStartError> {
        let link = Link::new(client, &limits);
        let subscriber = link.subscribe(subjects::infer(&agent)).await?;
        let desk = Arc::new(Desk {
            link,
            agent,
            epoch,
            pool: Pool::new(limits.pool_bytes),
            limits,
            served: Mutex::default(),
            seen: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            counters: Counters::default(),
        });
        let tending = tokio::spawn(tend(Arc::clone(&desk)));
        Ok(Self {
            desk,
            subscriber,
            tending,
        })
    }

    /// The next request. Call it in a loop that does nothing but spawn what works on it: while nobody polls
    /// this, credit and cancels wait too. It may be dropped and called again. None when the connection is closed
    /// for good.
    pub async fn next(&mut self) -> Option<Incoming> {
        loop {
            let message = self.subscriber.next().await?;
            if let Some(incoming) = self.desk.take(message) {
                return Some(incoming);
            }
        }
    }

    /// A handle that outlives the borrow of [`Self::next`].
    #[must_use]
    pub fn handle(&self) -> RelayServerHandle {
        RelayServerHandle(Arc::clone(&self.desk))
    }
}

impl Drop for RelayServer {
    fn drop(&mut self) {
        self.tending.abort();
        let open = std::mem::take(&mut *lock(&self.desk.served));
        let fault = RelayFault::new(FaultCode::BackendFailed, "the agent stopped");
        for served in open.into_values() {
            served.cancel(&self.desk.pool);
            self.desk.refuse(served.origin, served.reply.clone(), &fault);
        }
    }
}

impl RelayServerHandle {
    /// From now on new requests are answered `shutting_down`; those in flight go on.
    pub fn stop_accepting(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// How many requests are being worked on: their responders live.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// How many bytes of the upload pool no request holds.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.0.pool.free()
    }

    /// Frames that were dropped since the start.
    #[must_use]
    pub fn dropped_frames(&self) -> DroppedFrames {
        self.0.counters.read()
    }
}

impl Desk {
    fn take(self: &Arc<Self>, message: Message) -> Option<Incoming> {
        let Ok(frame) = Frame::decode(message.payload) else {
            self.counters.malformed();
            return None;
        };
        if matches!(frame.content, Content::Head { .. }) {
            return self.take_head(frame, message.reply);
        }
        let found = lock(&self.served).get(&frame.id).cloned();
        match found {
            Some(served) if served.origin.epoch == frame.epoch => self.take_other(&served, frame),
            Some(_) => self.counters.other_epoch(),
            None => self.take_unknown(&frame, message.reply),
        }
        None
    }

    fn take_other(&self, served: &Served, frame: Frame) {
        match served.accept(frame, &self.pool, Instant::now()) {
            Effect::Took => {}
            Effect::Repeated => self.counters.repeated(),
            Effect::Nonsense => self.counters.malformed(),
            Effect::Cancel => self.cancel(served),
            Effect::Refuse(fault) => {
                self.forget(&served.origin.id);
                self.refuse(served.origin, served.reply.clone(), &fault);
            }
        }
    }

    /// Whoever keeps a request alive that isn't here waits in vain: its head or its end was lost. Only the
    /// serving epoch knows that, for itself and for those before it.
    fn take_unknown(&self, frame: &Frame, reply: Option<Subject>) {
        let current = self.epoch.get().is_some_and(|epoch| frame.epoch <= epoch.0);
        let asks = matches!(frame.content, Content::KeepAlive(_));
        let origin = Origin {
            id: frame.id,
            epoch: frame.epoch,
        };
        match reply.filter(|reply| asks && current && self.is_reply(reply, &frame.id)) {
            Some(reply) => {
                let fault = RelayFault::new(
                    FaultCode::Lost,
                    "the agent knows nothing of this request any more",
                );
                self.refuse(origin, reply, &fault);
            }
            None => self.counters.unknown_request(),
        }
    }

    fn take_head(self: &Arc<Self>, frame: Frame, reply: Option<Subject>) -> Option<Incoming> {
        if self.epoch.get() != Some(Epoch(frame.epoch)) {
            self.counters.other_epoch();
            return None;
        }
        let Some(reply) = reply.filter(|reply| frame.number == 0 && self.is_reply(reply, &frame.id)) else {
            self.counters.malformed();
            return None;
        };
        if !lock(&self.seen).is_new(frame.id) {
            self.counters.repeated();
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
                "the request doesn't begin with its head",
            ));
        };
        let head: RequestHead = read_meta(&meta).map_err(|_| {
            self.counters.malformed();
            RelayFault::new(FaultCode::BadFrame, "the agent can't read the request's head")
        })?;
        if self.stopping.load(Ordering::Relaxed) {
            return Err(RelayFault::new(FaultCode::ShuttingDown, "the agent is stopping"));
        }
        let busy = || RelayFault::new(FaultCode::Overloaded, "the agent is at its limit of requests");
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
        let served = Arc::new(Served::open(origin, reply, opening, window, &self.pool)?);
        lock(&self.served).insert(origin.id, Arc::clone(&served));
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if let Some(credit) = served.first_credit() {
            self.link.publish_soon(served.reply.clone(), credit);
        }
        Ok(Incoming {
            id: origin.id,
            epoch: Epoch(origin.epoch),
            head,
            cancelled: served.cancelled.clone(),
            body: RequestBody::new(Arc::clone(self), Arc::clone(&served)),
            responder: Responder::new(Arc::clone(self), served),
        })
    }

    /// A reply subject is taken from the message only if it is this agent's and this request's.
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

    /// Sends a fault in place of (the rest of) a response.
    pub(super) fn refuse(&self, origin: Origin, reply: Subject, fault: &RelayFault) {
        if let Ok(fault) = write_meta(fault) {
            self.link.publish_soon(reply, origin.error(&fault));
        }
    }

    pub(super) fn tell(&self, served: &Served, frame: Bytes) {
        self.link.publish_soon(served.reply.clone(), frame);
    }

    pub(super) fn forget(&self, id: &RequestId) {
        lock(&self.served).remove(id);
    }

    pub(super) fn release_slot(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn cancel(&self, served: &Served) {
        self.forget(&served.origin.id);
        served.cancel(&self.pool);
    }

    fn tend(&self, now: Instant) {
        let open: Vec<_> = lock(&self.served).values().cloned().collect();
        for served in open {
            if served.lapsed(self.limits.lapse(), now) {
                self.cancel(&served);
            } else if let Some(frame) = served.keep_alive(self.limits.keep_alive, now) {
                self.tell(&served, frame);
            }
        }
    }
}

/// Sends what keep-alives are due and cancels requests whose API replica fell silent.
async fn tend(desk: Arc<Desk>) {
    let mut ticks = tokio::time::interval(desk.limits.tick());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        desk.tend(ticks.tick().await);
    }
}

/// The ids of the latest requests.
#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<RequestId>,
    order: VecDeque<RequestId>,
}

impl Seen {
    fn is_new(&mut self, id: RequestId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}
