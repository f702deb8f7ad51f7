//! Control: turns what agents report, and passing time, into commands. Every replica runs it and none leads: the journal's
//! compare-and-set decides, so a command that is issued twice changes nothing.

pub(crate) mod agent_auth;
mod presence;
mod requests;
mod sweeps;

pub(crate) use presence::Presence;
pub(crate) use requests::{Control, serve};
pub(crate) use sweeps::Sweeper;
