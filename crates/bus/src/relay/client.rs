//! The API's end: sends requests to agents and hands each response to whoever asked for it. One subscription
//! carries the responses of all requests; the task that reads it never waits for a reader.

use super::error::{RelayError, RelayStartError};
use super::exchange::Exchange;
use super::flight::{Effect, Flight, Standing};
use super::frame::{Frame, HEAD_FIELDS_BYTES, Origin, RequestId};
use super::head::{RequestHead, write_meta};
use super::link::{Counters, DroppedFrames, Link, RelayLimits, RelayStats, lock};
use super::window::{Pool, Window};
use crate::subjects;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use reveille_domain::{AgentName, Epoch};
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// Relays requests for one API replica. Clones share the connection; when the last is dropped, what is still
/// open fails with [`RelayError::Closed`].
#[derive(Debug, Clone)]
pub struct RelayClient {
    hub: Arc<Hub>,
    _tasks: Arc<Tasks>,
}

/// What the client, its tasks and its exchanges share.
#[derive(Debug)]
pub(super) struct Hub {
    link: Link,
    limits: RelayLimits,
    replies: String,
    pool: Pool,
    flights: Mutex<HashMap<RequestId, Arc<Flight>>>,
    counters: Counters,
}

#[derive(Debug)]
struct Tasks {
    hub: Arc<Hub>,
    running: [JoinHandle<()>; 2],
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.running {
            task.abort();
        }
        self.hub.fail_all();
    }
}

impl RelayClient {
    /// Subscribes to this replica's replies. `client` should be a connection of the relay's own; `replica` is one
    /// subject token that no other replica uses.
    ///
    /// # Errors
    /// When the name isn't a token, or the subscription can't be made.
    pub async fn start(client: Client, replica: &str, limits: RelayLimits) -> Result<Self, RelayStartError> {
        if AgentName::parse(replica).is_err() {
            return Err(RelayStartError::ReplicaName(replica.to_owned()));
        }
        let link = Link::new(client, &limits);
        let replies = format!("reveille.replies.{replica}");
        let subscriber = link.subscribe(format!("{replies}.>")).await?;
        let hub = Arc::new(Hub {
            link,
            replies,
            pool: Pool::new(limits.pool_bytes),
            limits,
            flights: Mutex::default(),
            counters: Counters::default(),
        });
        let running = [
            tokio::spawn(receive(Arc::clone(&hub), subscriber)),
            tokio::spawn(tend(Arc::clone(&hub))),
        ];
        let tasks = Arc::new(Tasks {
            hub: Arc::clone(&hub),
            running,
        });
        Ok(Self { hub, _tasks: tasks })
    }

    /// Sends a request to the session `epoch` of `agent`. Returns when the first frame is on its way; what
    /// doesn't fit into it follows by itself, as the agent allows. Dropping the exchange, or its body before the
    /// end, cancels the request at the agent.
    ///
    /// # Errors
    /// All of them mean that nothing was handed over.
    pub async fn send(
        &self,
        agent: &AgentName,
        epoch: Epoch,
        mut head: RequestHead,
        body: Bytes,
    ) -> Result<Exchange, RelayError> {
        let hub = &self.hub;
        if !hub.link.is_up() {
            return Err(RelayError::Disconnected);
        }
        head.body_bytes = body.len() as u64;
        let meta = write_meta(&head).map_err(|_| RelayError::HeadTooLarge)?;
        let beside = HEAD_FIELDS_BYTES + meta.len();
        if !hub.link.takes(beside) {
            return Err(RelayError::HeadTooLarge);
        }
        let first = hub.link.chunk_bytes(beside).min(body.len());
        let window = Window::open(&hub.pool).ok_or(RelayError::Overloaded)?;
        let origin = Origin {
            id: RequestId::random(),
            epoch: epoch.0,
        };
        let mut frame = origin.head(0, window.allowed(), &meta, first);
        frame.push(&body[..first]);
        let flight = Arc::new(Flight::new(
            origin,
            Subject::from(subjects::infer(agent)),
            Subject::from(format!("{}.{agent}.{}", hub.replies, origin.id)),
            window,
            first,
        ));
        lock(&hub.flights).insert(origin.id, Arc::clone(&flight));
        let exchange = Exchange::new(Arc::clone(hub), Arc::clone(&flight));
        let (to, reply) = (flight.infer.clone(), flight.reply.clone());
        let sent = hub
            .link
            .publish(to, Some(reply), frame.finish(first == body.len()))
            .await;
        sent.map_err(|_| RelayError::Disconnected)?;
        if first < body.len() {
            tokio::spawn(upload(Arc::clone(hub), flight, body.slice(first..)));
        }
        Ok(exchange)
    }

    /// How many requests are open.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        lock(&self.hub.flights).len()
    }

    /// How many bytes of the window pool no request holds.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.hub.pool.free()
    }

    /// How it stands: for metrics.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        RelayStats {
            in_flight: self.in_flight(),
            dropped: self.dropped_frames(),
        }
    }

    /// Frames that were dropped since the start.
    #[must_use]
    pub fn dropped_frames(&self) -> DroppedFrames {
        self.hub.counters.read()
    }
}

impl Hub {
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn tell(&self, flight: &Flight, frame: Bytes) {
        self.link.publish_soon(flight.infer.clone(), frame);
    }

    /// The reader of a response is done with it, or has left.
    pub(super) fn leave(&self, flight: &Flight) {
        if flight.abandon(&self.pool) {
            lock(&self.flights).remove(&flight.origin.id);
            self.tell(flight, flight.origin.cancel());
        }
    }

    fn find(&self, id: &RequestId) -> Option<Arc<Flight>> {
        lock(&self.flights).get(id).cloned()
    }

    fn take(&self, message: Message) {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return self.nobody_listens(&message.subject);
        }
        let Ok(frame) = Frame::decode(message.payload) else {
            return self.counters.malformed();
        };
        let Some(flight) = self.find(&frame.id) else {
            return self.counters.unknown_request();
        };
        // The subject says who may have published it: an agent must not answer for another.
        if flight.reply != message.subject {
            return self.counters.other_agent();
        }
        if flight.origin.epoch != frame.epoch {
            return self.counters.other_epoch();
        }
        match flight.accept(&frame, &self.pool, Instant::now()) {
            Effect::Took(standing) => self.settle(&flight, standing),
            Effect::Repeated => self.counters.repeated(),
            Effect::Nonsense => self.counters.malformed(),
        }
    }

    fn nobody_listens(&self, subject: &Subject) {
        let id = subject.rsplit('.').next().and_then(|token| token.parse().ok());
        if let Some(flight) = id.and_then(|id| self.find(&id)) {
            self.settle(&flight, flight.nobody_listens(&self.pool));
        }
    }

    fn settle(&self, flight: &Flight, standing: Standing) {
        if standing != Standing::Open {
            lock(&self.flights).remove(&flight.origin.id);
        }
        if standing == Standing::Broken {
            self.tell(flight, flight.origin.cancel());
        }
    }

    fn fail_all(&self) {
        let flights = std::mem::take(&mut *lock(&self.flights));
        for flight in flights.values() {
            if flight.fail(RelayError::Closed, &self.pool) {
                self.tell(flight, flight.origin.cancel());
            }
        }
    }

    fn tend(&self, now: Instant) {
        let flights: Vec<_> = lock(&self.flights).values().cloned().collect();
        for flight in flights {
            if flight.lapse(self.limits.lapse(), &self.pool, now) {
                self.settle(&flight, Standing::Broken);
            } else if let Some(frame) = flight.keep_alive(self.limits.keep_alive, now) {
                self.link
                    .publish_asking(flight.infer.clone(), flight.reply.clone(), frame);
            }
        }
    }
}

/// Reads the subscription for as long as the connection lives.
async fn receive(hub: Arc<Hub>, mut subscriber: Subscriber) {
    while let Some(message) = subscriber.next().await {
        hub.take(message);
    }
    hub.fail_all();
}

/// Sends what keep-alives are due and ends requests whose agent fell silent.
async fn tend(hub: Arc<Hub>) {
    let mut ticks = tokio::time::interval(hub.limits.tick());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        hub.tend(ticks.tick().await);
    }
}

/// Sends the rest of a body as the agent allows.
async fn upload(hub: Arc<Hub>, flight: Arc<Flight>, mut rest: Bytes) {
    let mut number = 1;
    while !rest.is_empty() {
        let most = rest.len().min(hub.link.chunk_bytes(0));
        let Some(room) = poll_fn(|cx| flight.poll_upload(most, cx)).await else {
            return;
        };
        let chunk = rest.split_to(room.min(most));
        let mut frame = flight.origin.body(number, chunk.len());
        frame.push(&chunk);
        let frame = frame.finish(rest.is_empty());
        if hub.link.publish(flight.infer.clone(), None, frame).await.is_err() {
            flight.fail(RelayError::Closed, &hub.pool);
            return hub.settle(&flight, Standing::Broken);
        }
        flight.uploaded(chunk.len(), Instant::now());
        number += 1;
    }
}
