//! How the session and the relay reach an owner.

use super::{
    Gate, Health,
    last_sleep::{Attempt, LastSleep, WantedBy},
};
use crate::config::ProviderConfig;
use reveille_bus::wakes::WakeMessage;
use reveille_domain::{ProviderName, ReportId};
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::warn;

/// How many inputs may wait for an owner. One too many may be dropped, since wakes are sent again.
const MAILBOX: usize = 1024;

/// What others tell an owner.
#[derive(Debug)]
pub enum Input {
    /// A wake is in flight.
    Wake(WakeMessage),
    /// An operator orders the backend to sleep. The answer says why it can't, if so.
    Sleep(oneshot::Sender<Result<(), String>>),
    /// A pause of the agent asks for sleep as soon as the owner has nothing else to do, with this attempt, or no longer does.
    Rest(Option<Attempt>),
    /// Control has counted the agent as lost.
    Resume,
    /// The connection was restored, so what control knows may be outdated.
    Reconnected,
    /// A request found no backend. The answer is the report about that, or `None` if the backend is up after all or has no
    /// wake recipe.
    Refused(oneshot::Sender<Option<ReportId>>),
    /// A request has shown that the backend may be dead.
    Suspect(Symptom),
}

/// What reloads have told an owner. The last config counts, and whoever must leave isn't told otherwise.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reloaded {
    /// Another config, with the same backend and groups.
    pub config: Option<ProviderConfig>,
    /// The owner must leave.
    pub leave: Option<Leave>,
}

/// What a request has shown of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symptom {
    /// The backend broke off a request.
    BrokeOff,
    /// No connection came about, or the backend's machine no longer acknowledges what it gets.
    Unreachable,
    /// Requests fail, see [`Health::failed`].
    Failing,
    /// The hub itself has answered.
    HubItself,
}

/// Why an owner leaves while its agent goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// For an owner with another config of the same provider.
    Replaced,
    /// The provider is no longer in the config, so control forgets it first.
    Removed,
}

/// Reaches an owner from elsewhere.
#[derive(Debug, Clone)]
pub struct Handle {
    pub name: ProviderName,
    pub gate: Gate,
    pub health: Health,
    pub last_sleep: LastSleep,
    mailbox: mpsc::Sender<Input>,
    reloaded: watch::Sender<Reloaded>,
}

impl Handle {
    pub(crate) fn new(
        name: ProviderName,
        gate: Gate,
        sleep_changes: Arc<Notify>,
    ) -> (Self, mpsc::Receiver<Input>, watch::Receiver<Reloaded>) {
        let (mailbox, inputs) = mpsc::channel(MAILBOX);
        let (reloaded, reloads) = watch::channel(Reloaded::default());
        let handle = Self {
            name,
            gate,
            health: Health::default(),
            last_sleep: LastSleep::notifying(sleep_changes),
            mailbox,
            reloaded,
        };
        (handle, inputs, reloads)
    }

    /// Orders the backend to sleep.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn sleep(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Sleep(reply));
        answer
            .await
            .unwrap_or_else(|_| Err("its agent is stopping, or has reloaded its config".to_owned()))
    }

    /// A pause wants the backend asleep.
    pub fn rest(&self) {
        // Now, so that nobody takes an earlier attempt's result for this one's.
        let attempt = self.last_sleep.begin(WantedBy::Pause);
        self.send(Input::Rest(Some(attempt)));
    }

    /// A request found no backend. Waits until its owner knows why; see [`Input::Refused`].
    pub async fn refused(&self) -> Option<ReportId> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Refused(reply));
        answer.await.ok().flatten()
    }

    /// The same for a request that got no connection.
    pub async fn unreachable(&self) -> Option<ReportId> {
        self.send(Input::Suspect(Symptom::Unreachable));
        self.refused().await
    }

    /// Makes the owner use another config, with the same backend and groups.
    pub fn configure(&self, config: ProviderConfig) {
        self.reloaded
            .send_modify(|reloaded| reloaded.config = Some(config));
    }

    /// Makes the owner leave; it ends once its backend is stopped and control knows.
    pub fn leave(&self, why: Leave) {
        self.reloaded.send_modify(|reloaded| reloaded.leave = Some(why));
    }

    /// Drops the input if the mailbox is full: its sender repeats it, or notices that the reply was dropped.
    pub fn send(&self, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.mailbox.try_send(input) {
            warn!(provider.name = %self.name, "{} is behind, so an input was dropped", self.name);
        }
    }
}
