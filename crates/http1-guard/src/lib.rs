//! Checks HTTP/1.1 before hyper sees it, so that every refusal is answered with its reason.
//!
//! hyper parses and answers; but what it refuses itself it answers with an empty body, or not at all, and it accepts a
//! request that has both lengths. So the guard holds each head until it is whole, and checks it. A refused head never
//! reaches hyper: the guard replaces it by a head of its own, and the service answers that one with the reason. So a
//! refusal is answered like a request: in its turn, after those before it, and then the connection is closed.
//!
//! The guard and hyper must agree on where each body ends, else a head could pass unchecked. `fuzz/` compares the two.

mod chunks;
mod connection_state;
mod error;
mod framing;
mod guard;
mod head;

pub use connection_state::{ConnectionState, Quiet, UnderWay};
pub use error::ProtocolError;
pub use framing::{Framing, Looked};
pub use guard::{Http1Guard, REFUSED_METHOD};
pub use head::MAX_FIELDS;

use std::time::Duration;

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest head of a request, in bytes: its line and its headers.
    pub head_bytes: usize,
    /// How long a head may take from its first byte on.
    pub head_within: Duration,
    /// How long a client may go without reading any of the response.
    pub write_stalls_for: Duration,
}
