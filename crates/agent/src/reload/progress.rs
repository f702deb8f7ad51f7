//! How a reload goes on, for the one who asked for it.

use crate::config::Change;
use reveille_domain::ProviderName;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::mpsc;

/// How many events of one reload may wait for their reader; a reload has up to three for each of the 64 providers before and after.
const EVENTS: usize = 512;

/// How a reload goes on, as the one who asked for it hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ReloadEvent {
    /// The file can't be used, and nothing has changed.
    Refused {
        /// Why; contains no value of the file.
        reason: String,
    },
    /// The file is used from now on.
    Accepted {
        /// How many providers stay as they are.
        unchanged: usize,
        /// The keys of `[agent]` that differ.
        agent_keys: Vec<String>,
    },
    /// What the file changes of a provider.
    Changes {
        provider: ProviderName,
        #[serde(flatten)]
        change: Change,
        /// How many requests it works on, which finish first if it is removed or restarted.
        in_flight: u32,
    },
    /// A provider can't be used as the file has it. The next reload tries again.
    Failed {
        provider: ProviderName,
        /// Why; contains no value of the file.
        reason: String,
    },
    /// The change of a provider that had to leave first is complete.
    Settled { provider: ProviderName },
    /// Everything is.
    Done,
}

/// Reports a reload to the one who asked for it, if that is anybody. It is over when all clones are dropped.
#[derive(Debug, Clone)]
pub(crate) struct ReloadProgress(Option<Arc<mpsc::Sender<ReloadEvent>>>);

impl ReloadProgress {
    /// A progress that nobody follows.
    pub(crate) const fn unfollowed() -> Self {
        Self(None)
    }

    /// A progress that somebody follows.
    pub(crate) fn followed() -> (Self, mpsc::Receiver<ReloadEvent>) {
        let (sender, events) = mpsc::channel(EVENTS);
        (Self(Some(Arc::new(sender))), events)
    }

    pub(crate) fn report(&self, event: ReloadEvent) {
        if let Some(sender) = &self.0 {
            // Whoever asked may be gone.
            let _ = sender.try_send(event);
        }
    }
}
