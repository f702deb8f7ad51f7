//! The key aggregate: what a client may do, until when and how often. It stores the hash of a key's secret and never the
//! secret, which is shown once, when the key is created.

mod command;
mod decide;
mod event;
mod policy;
mod priority;
mod rejection;
mod scope;
mod state;

#[cfg(test)]
mod tests;

pub use command::{KeyCommand, MAX_GRACE};
pub use event::KeyEvent;
pub use policy::{
    InvalidLimit, KeyLimits, KeyPolicy, MAX_CONCURRENCY, MAX_RATE, MAX_WAKES_PER_HOUR, ProgressForm,
};
pub use priority::Priority;
pub use rejection::KeyRejection;
pub use scope::{InvalidScope, MAX_SCOPES, Scope, Scopes};
pub use state::{IssuedKey, Key, PreviousSecret, RevokedKey};

crate::aggregate::aggregate!(Key, "key", KeyCommand, KeyEvent, KeyRejection);
