//! Remembers each inference request: who asked for what, which steps it took, how it ended, and what it used.
//!
//! A [`Recording`] begins with the request and ends when nothing holds it any longer, however that comes about: with the last byte of
//! the answer, with the client's connection, or with a panic. So each request has exactly one record. What works on a request finds
//! its recording as its log lines find their span: [`current`] has it, and what is polled later takes it along with
//! [`in_current`].

mod body;
mod current;
mod outgoing;
mod past;
mod publisher;
mod recorder;
mod recording;
mod tap;

#[cfg(test)]
mod tests;

pub(crate) use body::RecordedBody;
pub(crate) use current::{current, in_current, note, within};
pub(crate) use past::EveryRequest;
pub(crate) use publisher::{follow, publish};
pub(crate) use recorder::{Received, Recorder};
pub(crate) use recording::Recording;
pub(crate) use tap::Tap;
