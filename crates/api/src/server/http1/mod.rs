//! What is looked at of HTTP/1.1 before hyper sees it.
//!
//! hyper parses and answers; but what it refuses by itself it answers with an empty body, or not at all, and a request
//! with both lengths it takes. So each head is held until it is whole and looked at. One that is refused never reaches
//! hyper: in its place hyper is given a head of ours, whose request is answered with the reason. So the refusal is
//! answered like a request: in its turn, after those before it, and the connection is closed after it.

mod chunks;
mod framing;
mod head;
mod watched;

pub(super) use watched::{REFUSED_METHOD, Watched};
