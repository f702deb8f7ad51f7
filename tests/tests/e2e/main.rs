//! End-to-end tests: real processes, real NATS, real PostgreSQL; only the model server is a stand-in.
//!
//! One binary, so that it is linked once.

mod harness;
mod stand_in;
