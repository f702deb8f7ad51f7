//! How far a request has come, for whoever tells its client meanwhile.

use reveille_domain::ProviderId;
use std::sync::{Mutex, PoisonError};

/// What a request waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing yet.
    Begun,
    /// The provider wakes.
    Waking(ProviderId),
    /// The provider is put to sleep, and can be woken only then.
    Leaving(ProviderId),
    /// The provider's agent isn't reached.
    Reaching(ProviderId),
    /// The backend has the request, or is about to get it.
    Answering(ProviderId),
}

/// Shared by the request's work and what is told of it.
#[derive(Debug)]
pub(crate) struct Stage(Mutex<Phase>);

impl Default for Stage {
    fn default() -> Self {
        Self(Mutex::new(Phase::Begun))
    }
}

impl Stage {
    /// The phase begins.
    pub fn enter(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Phase {
    /// The provider it is about.
    pub const fn provider(&self) -> Option<&ProviderId> {
        match self {
            Self::Begun => None,
            Self::Waking(provider)
            | Self::Leaving(provider)
            | Self::Reaching(provider)
            | Self::Answering(provider) => Some(provider),
        }
    }

    /// Whether the wait is ours and not the backend's.
    pub const fn is_ours(&self) -> bool {
        match self {
            Self::Waking(_) | Self::Leaving(_) | Self::Reaching(_) => true,
            Self::Begun | Self::Answering(_) => false,
        }
    }

    /// What is going on, in a word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Begun | Self::Leaving(_) | Self::Answering(_) => "waiting",
            Self::Waking(_) => "waking",
            Self::Reaching(_) => "reaching",
        }
    }
}
