//! What the parts of each end share: the connection, the pool of windows, the open requests and the counters.

use super::frame::{Origin, RequestId};
use super::head::{RelayFault, write_meta};
use super::link::{Counters, Link, RelayLimits};
use super::pending_request::PendingRequest;
use super::server_stream::ServerStream;
use super::window::Pool;
use async_nats::Subject;
use bytes::Bytes;
use parking_lot::Mutex;
use reveille_domain::{AgentName, Epoch};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// How many request ids an agent remembers, so that no backend gets a request twice.
const REMEMBERED_IDS: usize = 64 * 1024;

/// What the client, its tasks and its exchanges share.
#[derive(Debug)]
pub(super) struct ClientShared {
    pub link: Link,
    pub limits: RelayLimits,
    pub replies: String,
    pub pool: Pool,
    pub pending: Mutex<HashMap<RequestId, Arc<PendingRequest>>>,
    pub counters: Counters,
}

impl ClientShared {
    pub fn tell(&self, request: &PendingRequest, frame: Bytes) {
        self.link.publish_soon(request.infer.clone(), frame);
    }

    /// Ends a request whose response has been read or given up.
    pub fn leave(&self, request: &PendingRequest) {
        if request.abandon(&self.pool) {
            self.pending.lock().remove(&request.origin.id);
            self.tell(request, request.origin.cancel());
        }
    }
}

/// What the server, its requests and its handle share.
#[derive(Debug)]
pub(super) struct ServerShared {
    pub link: Link,
    pub limits: RelayLimits,
    pub agent: AgentName,
    pub epoch: CurrentEpoch,
    pub pool: Pool,
    pub streams: Mutex<HashMap<RequestId, Arc<ServerStream>>>,
    pub seen: Mutex<SeenRequests>,
    pub in_flight: AtomicUsize,
    pub stopping: AtomicBool,
    pub counters: Counters,
}

impl ServerShared {
    /// Sends a fault in place of (the rest of) a response.
    pub fn refuse(&self, origin: Origin, reply: Subject, fault: &RelayFault) {
        if let Ok(fault) = write_meta(fault) {
            self.link.publish_soon(reply, origin.error(&fault));
        }
    }

    pub fn tell(&self, stream: &ServerStream, frame: Bytes) {
        self.link.publish_soon(stream.reply.clone(), frame);
    }

    pub fn forget(&self, id: &RequestId) {
        self.streams.lock().remove(id);
    }

    pub fn release_slot(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The epoch of the agent's accepted session, shared with the task that connects. Requests for other epochs are dropped.
#[derive(Debug, Clone, Default)]
pub struct CurrentEpoch(Arc<AtomicU64>);

impl CurrentEpoch {
    /// No session is accepted; epochs start at 1.
    const NONE: u64 = 0;

    /// Serves this epoch from now on; `None` while no session is accepted.
    pub fn set(&self, epoch: Option<Epoch>) {
        self.0
            .store(epoch.map_or(Self::NONE, |epoch| epoch.0), Ordering::Release);
    }

    /// The epoch that is served now.
    #[must_use]
    pub fn get(&self) -> Option<Epoch> {
        match self.0.load(Ordering::Acquire) {
            Self::NONE => None,
            epoch => Some(Epoch(epoch)),
        }
    }
}

/// The ids of the most recent requests.
#[derive(Debug, Default)]
pub(super) struct SeenRequests {
    ids: HashSet<RequestId>,
    order: VecDeque<RequestId>,
}

impl SeenRequests {
    pub fn is_new(&mut self, id: RequestId) -> bool {
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
