//! The owner of one provider: one task that holds everything that is known of its backend, runs its recipes, and
//! tells control what changes.

mod activity;
mod belief;
mod gate;
mod groups;
mod owner;
mod report_order;

pub use gate::{Gate, Slot};
pub use groups::{Groups, Terms};
pub use owner::{Owner, Setup};

use reveille_bus::wakes::WakeMessage;
use reveille_domain::{ProviderName, ReportId};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

/// How many inputs an owner may be behind. Wakes are sent again, so one too many may be dropped.
const MAILBOX: usize = 1024;

/// What an owner is told by others.
#[derive(Debug)]
enum Input {
    /// A wake is in flight.
    Wake(WakeMessage),
    /// Put the backend to sleep; answered with why not, if so.
    Sleep(oneshot::Sender<Result<(), &'static str>>),
    /// The owner of the machine has paused the agent, and wants the backend to sleep; or no longer does.
    Rest(bool),
    /// Control takes the agent for lost.
    Resume,
    /// The connection was made again: whatever control knows may be old.
    Reconnected,
    /// A request found no backend. Answered with the report that says so, once it is settled; with `None` when the
    /// backend is up after all or nothing can wake it.
    Refused(oneshot::Sender<Option<ReportId>>),
    /// A backend broke off in the middle of a request.
    Suspect,
}

/// How others reach an owner.
#[derive(Debug, Clone)]
pub struct Handle {
    /// The provider.
    pub name: ProviderName,
    /// Who may pass to its backend.
    pub gate: Gate,
    mailbox: mpsc::Sender<Input>,
}

impl Handle {
    /// Tells the owner of a wake in flight.
    pub fn wake(&self, wake: WakeMessage) {
        self.tell(Input::Wake(wake));
    }

    /// Tells the owner that control takes the agent for lost.
    pub fn resume(&self) {
        self.tell(Input::Resume);
    }

    /// Tells the owner that the connection was made again.
    pub fn reconnected(&self) {
        self.tell(Input::Reconnected);
    }

    /// Tells the owner that the backend broke off in the middle of a request.
    pub fn suspect(&self) {
        self.tell(Input::Suspect);
    }

    /// Asks the owner to put the backend to sleep.
    ///
    /// # Errors
    /// Why it can't be.
    pub async fn sleep(&self) -> Result<(), &'static str> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Sleep(reply));
        answer.await.unwrap_or(Err("the agent is stopping"))
    }

    /// Tells the owner that the backend is to be put to sleep, as soon as nothing else is done with it; or no longer.
    pub fn rest(&self, wanted: bool) {
        self.tell(Input::Rest(wanted));
    }

    /// Tells the owner that a request found no backend, and waits until it is settled what that means.
    pub async fn refused(&self) -> Option<ReportId> {
        let (reply, answer) = oneshot::channel();
        self.tell(Input::Refused(reply));
        answer.await.ok().flatten()
    }

    /// Whoever tells it tells it again, or learns that the answer got lost.
    fn tell(&self, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.mailbox.try_send(input) {
            warn!(provider.name = %self.name, "{} is behind with its inputs, so one was dropped", self.name);
        }
    }
}
