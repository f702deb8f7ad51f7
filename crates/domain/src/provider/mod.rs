//! The provider aggregate: the status machine and the single wake in flight.
//!
//! ```text
//!  (none) ──Register(up)──────▶ Active ──ReportAsleep──▶ Hibernating ──RequestWake──▶ Waking ──success──▶ Active
//!  (none) ──Register(asleep)──▶ Hibernating ◀──failure / deadline── Waking         any ──Deregister──▶ gone
//!  any ──MarkInactive / AgentStopped──▶ Inactive ──Register / Resume──▶ Active | Hibernating
//!  Inactive ──Expire──▶ gone
//! ```

mod command;
mod decide;
mod event;
mod evolve;
mod rejection;
mod state;
mod waking;

#[cfg(test)]
mod tests;

pub use command::ProviderCommand;
pub use decide::STABLE_AFTER;
pub use event::{ProviderEvent, RegisteredAs};
pub use rejection::Rejection;
pub use state::{Gone, InactiveReason, Provider, Registered, StableStatus, Status, StatusName, WakeCounts};
pub use waking::DEADLINE_MARGIN;

use cqrs_es::{Aggregate, event_sink::EventSink};

impl Aggregate for Provider {
    const TYPE: &'static str = "provider";
    type Command = ProviderCommand;
    type Event = ProviderEvent;
    type Error = Rejection;
    type Services = ();

    async fn handle(
        &mut self,
        command: ProviderCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Rejection> {
        // The sink applies each event to `self`, so a committer must not apply them again.
        for event in self.decide(&command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: ProviderEvent) {
        *self = std::mem::take(self).evolve(&event);
    }
}
