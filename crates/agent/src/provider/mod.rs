//! The owner of one provider: one task that knows everything about its backend, runs its recipes, and reports changes to
//! control.

mod activity;
mod demand;
mod gate;
mod groups;
mod handle;
mod happened;
mod health;
mod owner;
mod report_order;
mod reported_state;

pub use gate::{Gate, Slot};
pub use groups::{GroupPolicy, Groups};
pub use handle::{Handle, Input, Symptom};
pub use health::{Asked, Health};
pub use owner::{Owner, Setup};
