//! TLS to backends and to the servers of recipes: which certificates are trusted, and what is wrong with one that isn't.

mod certificate;
mod client_config;
mod reason;
mod scheme;
mod verifier;

pub(crate) use client_config::client_config;
pub(crate) use reason::{is_garbled, reason};
pub(crate) use scheme::other_scheme;
pub use scheme::speaks_other_scheme;

#[cfg(test)]
mod tests;
