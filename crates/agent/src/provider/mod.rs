//! The owner of one provider: one task that knows everything about its backend, runs its recipes, and reports changes to
//! control.

mod activity;
mod demand;
mod gate;
mod groups;
mod handle;
mod happened;
mod health;
mod last_sleep;
mod owner;
mod report_numbers;
mod report_order;
mod reported_state;

pub use gate::{Gate, NoTurn, Slot};
pub use groups::{GroupPolicy, Groups, Membership};
pub use handle::{Handle, Input, Leave, Symptom};
#[cfg(test)]
pub(crate) use health::LEFT_IN_A_ROW;
pub use health::{Asked, Health};
pub use last_sleep::{Attempt, LastSleep, SleepResult};
pub use owner::{Owner, Setup};
pub use report_numbers::ReportNumbers;
