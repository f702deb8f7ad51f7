//! One inference request and its response, and how long it waits for what.

use super::{Endpoint, ModelPlace, Options, RequestBody, ResponseBody, WakeMode, headers::PassedOn};
use crate::{keys::Caller, registry::ProviderSnapshot};
use reveille_bus::relay::{HOLD_LIMIT, RequestHead, ResponseHead, takes_presets};
use reveille_domain::{ModelName, Priority, ProviderId, WakeCause, WakeId, rows::READ_WAIT};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use uuid::{Builder, Uuid};

/// How long a request waits for what. Tests make these shorter.
#[derive(Debug, Clone)]
pub(crate) struct Timings {
    /// A waiting stream stays silent for this long, so that an early failure keeps its status.
    pub quiet: Duration,
    /// After that it sends a keep-alive this often: under the 10 s that clients tolerate.
    pub keepalive: Duration,
    /// How long a caller waits for a wake by default: under the 300 s after which Node's `fetch` gives up.
    pub wait: Duration,
    /// How long a request waits for a model that may only be missing because this replica has just started: under `quiet`, so
    /// that a stream's failure keeps its status.
    pub startup: Duration,
    /// How long an agent may be away before its request is tried once more; it reconnects within 2 s.
    pub absence: Duration,
    /// How long an agent's report may take to come back through the journal.
    pub report: Duration,
    /// How long a request's body may make no progress, and how much longer it may take than its slowest pace allows.
    pub body_idle: Duration,
    /// How long a read waits for this replica to fold the sequence that the caller asks for.
    pub fold: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(8),
            keepalive: Duration::from_secs(5),
            wait: Duration::from_secs(290),
            startup: Duration::from_secs(6),
            absence: Duration::from_secs(3),
            report: Duration::from_secs(5),
            body_idle: Duration::from_secs(30),
            fold: READ_WAIT,
        }
    }
}

/// One request, read and checked.
#[derive(Debug)]
pub(crate) struct InferenceRequest {
    pub endpoint: &'static Endpoint,
    /// The path and query that the backend gets.
    pub path: String,
    pub model: ModelName,
    /// The only member of the model's pool that can answer it.
    pub member: Option<ProviderId>,
    pub caller: Caller,
    pub request_id: String,
    pub options: Options,
    /// What is passed on of the caller's headers.
    pub headers: PassedOn,
    /// The body as it comes, until the backend answers.
    pub body: RequestBody,
}

impl InferenceRequest {
    /// Why a wake is requested on its behalf.
    pub(super) fn cause(&self) -> WakeCause {
        WakeCause::Request {
            request_id: self.request_id.clone(),
            model: self.model.clone(),
            key: self.caller.key().cloned(),
        }
    }

    /// Its path without the query.
    pub fn plain_path(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// Whether it counts for `max_concurrency`. What only asks about a backend doesn't, nor does the end of a response.
    pub(super) const fn takes_a_turn(&self) -> bool {
        self.endpoint.wakes
    }

    /// Its class where requests wait: its key's, or a lower one.
    pub(super) fn priority(&self) -> Priority {
        let own = self.caller.priority();
        self.options.priority.map_or(own, |lowered| own.max(lowered))
    }

    /// The members of a pool that may be asked for its path.
    pub(super) fn at_its_path(&self, mut pool: Vec<Arc<ProviderSnapshot>>) -> Vec<Arc<ProviderSnapshot>> {
        pool.retain(|snapshot| {
            let provider = &snapshot.provider;
            let is_member = self.member.as_ref().is_none_or(|member| *member == provider.id);
            let is_at = is_member && self.endpoint.is_at(&provider.spec, self.plain_path());
            is_at && (self.takes_presets() || snapshot.preset(self.model.as_str()).is_none())
        });
        pool
    }

    /// Whether it has a place for a preset, or needs none.
    pub(super) fn takes_presets(&self) -> bool {
        takes_presets(self.endpoint.verb.as_str(), self.plain_path())
    }

    /// Whether it still waits for a backend to be put to sleep and woken again.
    pub(super) fn waits(&self, until: Instant) -> bool {
        self.options.wake == WakeMode::Block && Instant::now() < until
    }

    /// Until when it waits for memory.
    pub(super) fn room_by(&self, until: Instant) -> Instant {
        match self.options.wake {
            WakeMode::Block => until,
            WakeMode::Never | WakeMode::Async => Instant::now(),
        }
    }

    /// The id of one attempt, which no other attempt has: callers may use an id again, and a backend that knows an id may refuse
    /// the second request with it, or answer the first one twice. It is a UUID if the request's own id is, because some
    /// backends, such as llama-cpp-python, refuse any other; or else the request's own with a number.
    fn attempt_id(&self) -> String {
        match Uuid::try_parse(&self.request_id) {
            Ok(_) => Builder::from_random_bytes(rand::random()).into_uuid().to_string(),
            Err(_) => format!("{}-{}", self.request_id, rand::random::<u64>()),
        }
    }

    /// The head that the provider's agent gets, for one attempt: the request waits `until` then altogether, and for its turn at the
    /// backend until `turn_by`.
    pub(super) fn head(&self, snapshot: &ProviderSnapshot, until: Instant, turn_by: Instant) -> RequestHead {
        let left = match self.options.wake {
            WakeMode::Block => until.saturating_duration_since(Instant::now()),
            WakeMode::Never | WakeMode::Async => Duration::ZERO,
        };
        let millis = |time: Duration| time.as_millis().try_into().unwrap_or(0);
        let hold_ms = (left < HOLD_LIMIT).then_some(millis(left));
        let turn_within = turn_by.saturating_duration_since(Instant::now());
        RequestHead {
            provider: snapshot.provider.id.provider.clone(),
            method: self.endpoint.verb.as_str().to_owned(),
            path: self.path.clone(),
            headers: self.headers.to_backend(self.attempt_id()),
            traceparent: self.headers.traceparent.clone(),
            hold_ms,
            turn_within_ms: self.takes_a_turn().then_some(millis(turn_within)),
            model: (self.endpoint.model == ModelPlace::Stored).then(|| self.model.clone()),
            preset: snapshot
                .preset(self.model.as_str())
                .map(|preset| preset.hash.clone()),
            body_bytes: self.body.len() as u64,
        }
    }
}

pub(crate) struct InferenceResponse {
    pub provider: ProviderId,
    /// The wake that the request waited for.
    pub wake_id: Option<WakeId>,
    pub head: ResponseHead,
    pub body: ResponseBody,
}

impl InferenceResponse {
    pub fn is_success(&self) -> bool {
        matches!(self.head.status, 200..300)
    }
}
