//! How far a request has come, for the keep-alive that tells its client.

use super::{QueuePosition, QueueView};
use crate::requests::note;
use parking_lot::Mutex;
use reveille_domain::{ProviderId, requests::StepKind};

/// What a request waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Begun,
    /// The provider wakes.
    Waking(ProviderId),
    /// The provider is being put to sleep, and can be woken only after that.
    FallingAsleep(ProviderId),
    /// The provider's agent can't be reached.
    Reaching(ProviderId),
    /// The provider, its agent, or this replica has no room for the request yet. Where it has a place in the queue, that can be
    /// seen.
    Queued(ProviderId, Option<QueueView>),
    /// The backend has the request, or is about to get it.
    Answering(ProviderId),
}

/// The phase of one request, shared by its work and its keep-alive.
#[derive(Debug, Default)]
pub(crate) struct CurrentPhase(Mutex<Phase>);

impl CurrentPhase {
    pub fn enter(&self, phase: Phase) {
        note(|recording| {
            if let Some(step) = phase.step() {
                recording.step(step);
            }
        });
        *self.0.lock() = phase;
    }

    pub fn get(&self) -> Phase {
        self.0.lock().clone()
    }
}

impl Phase {
    pub const fn provider(&self) -> Option<&ProviderId> {
        match self {
            Self::Begun => None,
            Self::Waking(provider)
            | Self::FallingAsleep(provider)
            | Self::Reaching(provider)
            | Self::Queued(provider, _)
            | Self::Answering(provider) => Some(provider),
        }
    }

    /// Where the request stands in the queue, if it waits in one.
    pub fn position(&self) -> Option<QueuePosition> {
        match self {
            Self::Queued(_, view) => view.as_ref()?.position(),
            Self::Begun
            | Self::Waking(_)
            | Self::FallingAsleep(_)
            | Self::Reaching(_)
            | Self::Answering(_) => None,
        }
    }

    /// What a record has of it.
    fn step(&self) -> Option<StepKind> {
        let provider = self.provider()?.clone();
        Some(match self {
            Self::Begun => return None,
            Self::Waking(_) => StepKind::Waking { provider },
            Self::FallingAsleep(_) => StepKind::FallingAsleep { provider },
            Self::Reaching(_) => StepKind::Reaching { provider },
            Self::Queued(..) => StepKind::Queued {
                provider,
                place: self
                    .position()
                    .map(|position| u32::try_from(position.place).unwrap_or(u32::MAX)),
            },
            Self::Answering(_) => StepKind::Sent { provider },
        })
    }

    /// The phase in a word, for clients.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Begun | Self::FallingAsleep(_) | Self::Queued(_, None) | Self::Answering(_) => "waiting",
            Self::Queued(_, Some(_)) => "queued",
            Self::Waking(_) => "waking",
            Self::Reaching(_) => "reaching",
        }
    }
}
