//! One inference request and its answer, and how long it may wait for what.

use super::{Counted, HeldBytes, Options, RelayedBody, Surface, WakeMode, headers};
use crate::{keys::Caller, metrics::FirstByte, registry::Known};
use axum::http::HeaderMap;
use bytes::Bytes;
use reveille_bus::relay::{HOLD_LIMIT, RequestHead, ResponseHead};
use reveille_domain::{ModelName, ProviderId, WakeCause, WakeId};
use std::time::Duration;
use tokio::time::Instant;

/// How long things take that a request waits for. Tests make them shorter.
#[derive(Debug, Clone)]
pub struct Timings {
    /// A stream that waits says nothing for this long, so that a failure keeps its status.
    pub quiet: Duration,
    /// Then it says something this often: under the 10 s that clients tolerate.
    pub heartbeat: Duration,
    /// How long a caller waits for a wake who doesn't say: under the 300 s after which Node's `fetch` gives up.
    pub wait: Duration,
    /// How long an agent may be away before its request is tried once more; it reconnects within 2 s.
    pub absence: Duration,
    /// How long an agent's report may take to come back through the journal.
    pub report: Duration,
    /// How long a request's body may stand still, and how much longer it may take than its slowest pace allows.
    pub body_idle: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(8),
            heartbeat: Duration::from_secs(5),
            wait: Duration::from_secs(290),
            absence: Duration::from_secs(3),
            report: Duration::from_secs(5),
            body_idle: Duration::from_secs(30),
        }
    }
}

/// One request, read and checked.
#[derive(Debug)]
pub(crate) struct Ask {
    /// Where it came in, and where it goes at the backend.
    pub surface: Surface,
    /// The model it names.
    pub model: ModelName,
    /// Who asks.
    pub caller: Caller,
    /// Its id.
    pub request_id: String,
    /// The caller's wishes.
    pub options: Options,
    /// The caller's headers, all of them.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Bytes,
    /// The body's share of the memory for bodies, given back once the backend answers.
    #[expect(dead_code, reason = "dropping it is what it is for")]
    pub held: HeldBytes,
}

impl Ask {
    /// Why a wake is asked for on its behalf.
    pub(super) fn cause(&self) -> WakeCause {
        WakeCause::Request {
            request_id: self.request_id.clone(),
            model: self.model.clone(),
            key: self.caller.key().cloned(),
        }
    }

    /// Whether it still waits for a backend to be put to sleep and woken again.
    pub(super) fn waits(&self, until: Instant) -> bool {
        self.options.wake == WakeMode::Block && Instant::now() < until
    }

    /// Until when it waits for memory or a place that others have.
    pub(super) fn room_by(&self, until: Instant) -> Instant {
        match self.options.wake {
            WakeMode::Block => until,
            WakeMode::Never | WakeMode::Async => Instant::now(),
        }
    }

    /// What the agent of `known` is told of it.
    pub(super) fn head(&self, known: &Known, until: Instant) -> RequestHead {
        let left = match self.options.wake {
            WakeMode::Block => until.saturating_duration_since(Instant::now()),
            WakeMode::Never | WakeMode::Async => Duration::ZERO,
        };
        let hold_ms = (left < HOLD_LIMIT).then_some(left.as_millis().try_into().unwrap_or(0));
        RequestHead {
            provider: known.provider.id.provider.clone(),
            method: "POST".to_owned(),
            path: self.surface.path().to_owned(),
            headers: headers::to_backend(&self.headers, &self.request_id),
            traceparent: headers::traceparent(&self.headers),
            hold_ms,
            body_bytes: self.body.len() as u64,
        }
    }
}

/// A backend's answer.
pub(crate) struct Answered {
    /// Who answers.
    pub provider: ProviderId,
    /// The wake that the request waited for.
    pub wake_id: Option<WakeId>,
    /// Status and headers.
    pub head: ResponseHead,
    /// The body.
    pub body: RelayedBody,
    /// The request counts until the body is over.
    pub counted: Counted,
    /// Wants to know when the body begins.
    pub first_byte: FirstByte,
}

impl Answered {
    /// Whether the backend did what it was asked.
    pub(super) const fn is_success(&self) -> bool {
        matches!(self.head.status, 200..300)
    }
}
