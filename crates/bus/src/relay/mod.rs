//! Carries one inference request to an agent and its response back, over core NATS.
//!
//! A small request is one message each way: the head's frame carries the body and says that it is the last. What
//! is larger follows in numbered frames of at most 256 KiB, as the other side allows in bytes. A lost frame, a
//! missing end or three silent keep-alive periods fail the response visibly; it is never cut short in silence.
//!
//! ```text
//!  RelayClient::send ──head──▶ reveille.infer.<agent> ──▶ RelayServer::next ──▶ Incoming { body, responder }
//!    Exchange::head ◀── reveille.replies.<replica>.<agent>.<request> ◀── Responder::stream
//! ```
//!
//! Invariants: frames carry the epoch that the request was sent to, and others are dropped; an agent sees a
//! request id at most once; what the requests of one connection are allowed together never exceeds its pool; a
//! stalled reader holds up its own request only; who leaves is told to the other side.

mod client;
mod error;
mod exchange;
mod frame;
mod head;
mod inbox;
mod incoming;
mod link;
mod outbox;
mod pending_request;
mod responder;
mod server;
mod server_stream;
mod shared;
mod window;

pub use client::RelayClient;
pub use error::{RelayError, RelayStartError};
pub use exchange::{Exchange, ResponseBody};
pub use frame::{BadFrame, RequestId};
pub use head::{
    FaultCode, HOLD_LIMIT, Headers, REQUEST_HEADERS, RESPONSE_HEADERS, RelayFault, RequestHead, ResponseHead,
};
pub use incoming::{Incoming, RequestBody};
pub use link::{DroppedFrames, RelayLimits, RelayStats};
pub use responder::{RespondError, Responder};
pub use server::{RelayServer, RelayServerHandle};
pub use server_stream::Cancelled;
pub use shared::CurrentEpoch;
