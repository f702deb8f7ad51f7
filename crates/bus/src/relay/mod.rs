//! Carries one inference request to an agent and its response back, over core NATS.
//!
//! A small request is one message each way: the head's frame carries the whole body and is marked as the last. A larger
//! body follows in numbered frames of at most 256 KiB, as fast as the receiver grants credit in bytes. A lost frame, a
//! missing end or three silent keep-alive periods fail the response with an error; it is never silently cut short.
//!
//! ```text
//!  Reservation::send ──head──▶ reveille.infer.<agent> ──▶ RelayServer::next ──▶ Incoming { body, responder }
//!    Exchange::head ◀── reveille.replies.<replica>.<agent>.<request> ◀── Responder::stream
//! ```
//!
//! Invariants: frames carry the epoch that the request was sent to, and frames of another epoch are dropped; an agent
//! serves a request id at most once; the credit granted to all requests of a connection never exceeds its pool; a stalled
//! reader holds up only its own request; an end that gives up tells the other.

mod client;
mod content;
mod error;
mod exchange;
mod form;
mod frame;
mod head;
mod inbox;
mod incoming;
mod last_event;
mod link;
mod outbox;
mod pending_request;
mod responder;
mod server;
mod server_stream;
mod shared;
mod tokens;
mod upload;
mod window;

pub use client::{RelayClient, Reservation};
pub use content::{AnswerKind, Content, Said};
pub use error::{RelayError, RelayStartError};
pub use exchange::{Exchange, ResponseBody};
pub use form::{BadForm, FormPart, FormReader, MAX_FORM_PARTS, MAX_PART_HEAD_BYTES, boundary, form_parts};
pub use frame::{BadFrame, RequestId};
pub use head::{
    FaultCode, GET_PATHS, HOLD_LIMIT, Headers, MAX_BODY_BYTES, MAX_STORED_ID_BYTES, OWN_PATHS, POST_PATHS,
    PRESET_PATHS, REQUEST_HEADERS, RESPONSE_HEADERS, RelayFault, RequestHead, ResponseHead, STORED_PATH,
    UselessPath, is_relayed, is_stored_id, takes_presets, useless_path,
};
pub use incoming::{Incoming, RequestBody};
pub use last_event::LastEvent;
pub use link::{DroppedFrames, RelayLimits, RelayStats};
pub use responder::{RespondError, Responder};
pub use server::{RelayServer, RelayServerHandle};
pub use server_stream::Cancelled;
pub use shared::CurrentEpoch;
pub use tokens::{TokenScan, Tokens};
pub use upload::Upload;
