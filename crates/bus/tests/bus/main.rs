//! The journal and the messages around it, on real nats-servers of the tests' own.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the way to fail")]

mod access;
mod as_of;
mod audit;
mod cluster;
mod commits;
mod events;
mod follow;
mod golden;
mod heartbeats;
mod journal;
mod keys;
mod lost_answers;
mod lost_journal;
mod messages;
mod proxy;
mod races;
mod raw_client;
mod requests;
mod streams;
mod versions;
