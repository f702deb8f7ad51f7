//! How the session and the relay reach an owner.

use super::Gate;
use reveille_bus::wakes::WakeMessage;
use reveille_domain::{ProviderName, ReportId};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

/// How many inputs may wait for an owner. One too many may be dropped, since wakes are sent again.
const MAILBOX: usize = 1024;

/// What others tell an owner.
#[derive(Debug)]
pub enum Input {
    /// A wake is in flight.
    Wake(WakeMessage),
    /// An operator orders the backend to sleep. The answer says why it can't, if so.
    Sleep(oneshot::Sender<Result<(), &'static str>>),
    /// A pause of the agent asks for sleep as soon as the owner has nothing else to do (`true`), or no longer does.
    Rest(bool),
    /// Control has counted the agent as lost.
    Resume,
    /// The connection was restored, so what control knows may be outdated.
    Reconnected,
    /// A request found no backend. The answer is the report about that, or `None` if the backend is up after all or has no
    /// wake recipe.
    Refused(oneshot::Sender<Option<ReportId>>),
    /// The backend broke off a request.
    Suspect,
}

/// Reaches an owner from elsewhere.
#[derive(Debug, Clone)]
pub struct Handle {
    pub name: ProviderName,
    pub gate: Gate,
    mailbox: mpsc::Sender<Input>,
}

impl Handle {
    pub(super) fn new(name: ProviderName, gate: Gate) -> (Self, mpsc::Receiver<Input>) {
        let (mailbox, inputs) = mpsc::channel(MAILBOX);
        (Self { name, gate, mailbox }, inputs)
    }

    /// Orders the backend to sleep.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn sleep(&self) -> Result<(), &'static str> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Sleep(reply));
        answer.await.unwrap_or(Err("the agent is stopping"))
    }

    /// A request found no backend. Waits until its owner knows why; see [`Input::Refused`].
    pub async fn refused(&self) -> Option<ReportId> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Refused(reply));
        answer.await.ok().flatten()
    }

    /// Drops the input if the mailbox is full: its sender repeats it, or notices that the reply was dropped.
    pub fn send(&self, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.mailbox.try_send(input) {
            warn!(provider.name = %self.name, "{} is behind, so an input was dropped", self.name);
        }
    }
}
