//! The provider aggregate: the status machine and the single wake in flight.
//!
//! ```text
//!  (none) ──Register(up)──────▶ Active ──ReportAsleep──▶ Hibernating ──RequestWake──▶ Waking ──success──▶ Active
//!  (none) ──Register(asleep)──▶ Hibernating ◀──failure / deadline── Waking         any ──Deregister──▶ gone
//!  without a wake recipe: (none) ──Register(down)──▶ Down ──ReportAwake──▶ Active ──ReportAsleep──▶ Down
//!  any ──MarkInactive / AgentStopped──▶ Inactive ──Register / Resume──▶ Active | Hibernating | Down
//!  Inactive ──Expire──▶ gone
//! ```

mod command;
mod decide;
mod event;
mod evolve;
mod rejection;
mod state;
mod wake_rules;

#[cfg(test)]
mod tests;

pub use command::ProviderCommand;
pub use decide::STABLE_AFTER;
pub use event::{ProviderEvent, RegisteredAs};
pub use rejection::Rejection;
pub use state::{Gone, InactiveReason, Provider, Registered, StableStatus, Status, StatusName, WakeCounts};
pub use wake_rules::DEADLINE_MARGIN;

crate::aggregate::aggregate!(Provider, "provider", ProviderCommand, ProviderEvent, Rejection);
