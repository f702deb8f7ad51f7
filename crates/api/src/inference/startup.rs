//! What a replica that has just started doesn't know yet. A request for a model that isn't there waits a moment for it: the model
//! may only not have been read or published yet.

use super::InferenceError;
use crate::registry::Registry;
use std::{fmt, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// What is still missing after a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The fold doesn't include everything that was in the journal at the start.
    Journal,
    /// The agent of the same process hasn't published its providers.
    OwnAgent,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Journal => "this replica has not read the journal yet",
            Self::OwnAgent => "this machine's agent has just started and has not published its models yet",
        })
    }
}

/// The start of a replica. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Startup {
    registry: Registry,
    own_agent: CancellationToken,
    /// How long anything waits for its end.
    patience: Duration,
}

impl Startup {
    /// `own_agent` is cancelled once the agent of the same process has published its providers.
    pub fn new(registry: Registry, own_agent: CancellationToken, patience: Duration) -> Self {
        Self {
            registry,
            own_agent,
            patience,
        }
    }

    /// What is still missing; `None` once the start is over.
    pub fn missing(&self) -> Option<Missing> {
        match (self.registry.is_ready(), self.own_agent.is_cancelled()) {
            (false, _) => Some(Missing::Journal),
            (true, false) => Some(Missing::OwnAgent),
            (true, true) => None,
        }
    }

    /// What `find` finds; if the start may be why it finds nothing, what it finds once that is over, or its wait.
    pub async fn wait_for<T>(
        &self,
        until: Instant,
        find: impl Fn() -> Result<T, InferenceError>,
    ) -> Result<T, InferenceError> {
        match find() {
            Err(InferenceError::NotReady(_)) => {
                // Whether it is over or not, what is there then decides.
                let _ = timeout_at(until, self.over()).await;
                find()
            }
            found => found,
        }
    }

    /// Waits until the start is over, but not for long.
    pub async fn over(&self) {
        let over = async {
            self.own_agent.cancelled().await;
            self.registry.ready().await;
        };
        let _ = timeout(self.patience, over).await;
    }
}
