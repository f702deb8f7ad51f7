//! The record of one request while it is made.

use super::recorder::Inner;
use parking_lot::Mutex;
use reveille_domain::{
    ModelName, ProviderId, WakeId,
    requests::{RequestError, RequestOutcome, RequestRecord, StepKind, TokenCount},
};
use std::{fmt, sync::Arc};
use tokio::time::Instant;

/// The code of a request that ended with a panic.
const PANICKED: &str = "internal_error";
/// The code of the error that a request for an unknown model gets. Its name may be anything, so it isn't kept.
const UNKNOWN_MODEL: &str = "model_not_found";

/// Records one request. Its clones record the same one, and the record is kept once the last of them is dropped. An empty one
/// records nothing.
#[derive(Clone, Default)]
pub(crate) struct Recording(Option<Arc<Open>>);

/// A request that hasn't ended.
pub(super) struct Open {
    recorder: Arc<Inner>,
    begun: Instant,
    /// Nothing once it is kept.
    record: Mutex<Option<RequestRecord>>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").finish_non_exhaustive()
    }
}

impl Recording {
    pub(super) const fn of(open: Arc<Open>) -> Self {
        Self(Some(open))
    }

    fn change(&self, change: impl FnOnce(&mut RequestRecord, u64)) {
        if let Some(open) = &self.0 {
            let after_ms = open.after_ms();
            if let Some(record) = open.record.lock().as_mut() {
                change(record, after_ms);
            }
        }
    }

    /// It is known what the request asks for.
    pub fn asked(&self, model: &ModelName, stream: bool) {
        self.change(|record, after_ms| {
            record.model = Some(model.clone());
            record.stream = stream;
            record.step(after_ms, StepKind::Read);
        });
    }

    /// The request takes a step.
    pub fn step(&self, kind: StepKind) {
        self.change(|record, after_ms| {
            if let StepKind::Sent { provider } = &kind {
                record.handed_over_ms = Some(after_ms);
                record.provider = Some(provider.clone());
            }
            record.step(after_ms, kind);
        });
    }

    /// A provider answers with this status, after this wake.
    pub fn answered(&self, provider: &ProviderId, wake_id: Option<WakeId>, status: u16) {
        self.change(|record, _| {
            record.provider = Some(provider.clone());
            record.wake_id = wake_id;
            record.status = Some(status);
        });
    }

    /// The first byte of an answer's body has come.
    pub fn first_byte(&self) {
        self.change(|record, after_ms| _ = record.first_byte_ms.get_or_insert(after_ms));
    }

    /// So many bytes and tokens have come.
    pub fn used(&self, bytes: u64, tokens: Option<TokenCount>) {
        self.change(|record, _| {
            record.answer_bytes = bytes;
            record.tokens = tokens;
        });
    }

    /// The request fails; what is known of the first failure counts.
    pub fn failed(&self, error: RequestError, provider: Option<&ProviderId>, wake_id: Option<WakeId>) {
        self.change(|record, _| {
            if record.error.is_some() {
                return;
            }
            if error.code == UNKNOWN_MODEL {
                record.model = None;
            }
            record.outcome = match record.first_byte_ms {
                Some(_) => RequestOutcome::Cut,
                None => RequestOutcome::Failed,
            };
            record.error = Some(error);
            record.provider = provider.cloned().or_else(|| record.provider.take());
            record.wake_id = wake_id.or(record.wake_id);
        });
    }

    /// The work on the request ends with a panic.
    pub fn panicked(&self) {
        let reason = "this replica broke off its work on the request";
        self.failed(RequestError::new(PANICKED, reason), None, None);
    }

    /// The client gets this status.
    pub fn status(&self, status: u16) {
        self.change(|record, _| record.status = Some(status));
    }

    /// The answer has ended: broken off, or as it should.
    pub fn ended(&self, is_whole: bool) {
        self.change(|record, after_ms| {
            record.ended_ms.get_or_insert(after_ms);
            if record.outcome != RequestOutcome::InFlight {
                return;
            }
            record.outcome = match record.status {
                _ if !is_whole => RequestOutcome::Cut,
                Some(400..) => RequestOutcome::Failed,
                Some(_) | None => RequestOutcome::Done,
            };
        });
    }
}

impl Open {
    pub fn new(recorder: Arc<Inner>, record: RequestRecord) -> Self {
        Self {
            recorder,
            begun: Instant::now(),
            record: Mutex::new(Some(record)),
        }
    }

    /// The record as it is now.
    pub fn now(&self) -> Option<RequestRecord> {
        self.record.lock().clone()
    }

    fn after_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let after_ms = self.after_ms();
        let Some(mut record) = self.record.get_mut().take() else {
            return;
        };
        record.ended_ms.get_or_insert(after_ms);
        if record.outcome == RequestOutcome::InFlight {
            record.outcome = RequestOutcome::Disconnected;
        }
        self.recorder.keep(record);
    }
}
