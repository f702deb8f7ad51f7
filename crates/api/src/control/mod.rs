//! Control: turns what agents report, and passing time, into commands. Every replica runs it and none leads: the journal's
//! compare-and-set decides, so a command that is issued twice changes nothing.

pub(crate) mod admission;
pub(crate) mod enrollment;
mod observed;
mod presence;
mod requests;
mod sweeps;

pub(crate) use presence::Presence;
pub(crate) use requests::serve;
pub(crate) use sweeps::Sweeper;

use crate::{commands::Commands, registry::Registry, wakes::Wakes};
use async_nats::Client;

/// What answering agents and sweeping need. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Control {
    pub registry: Registry,
    pub commands: Commands,
    pub wakes: Wakes,
    pub client: Client,
}
