//! The key aggregate: what a client may do, until when and how often. It stores the hash of a key's secret and never the
//! secret, which is shown once, when the key is created.

mod command;
mod decide;
mod event;
mod policy;
mod rejection;
mod scope;
mod state;

#[cfg(test)]
mod tests;

pub use command::{KeyCommand, MAX_GRACE};
pub use event::KeyEvent;
pub use policy::{InvalidLimit, KeyLimits, KeyPolicy, MAX_CONCURRENCY, MAX_RATE, MAX_WAKES_PER_HOUR};
pub use rejection::KeyRejection;
pub use scope::{InvalidScope, MAX_SCOPES, Scope, Scopes};
pub use state::{IssuedKey, Key, PreviousSecret, RevokedKey};

use cqrs_es::{Aggregate, event_sink::EventSink};

impl Aggregate for Key {
    const TYPE: &'static str = "key";
    type Command = KeyCommand;
    type Event = KeyEvent;
    type Error = KeyRejection;
    type Services = ();

    async fn handle(
        &mut self,
        command: KeyCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), KeyRejection> {
        for event in self.decide(&command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: KeyEvent) {
        *self = std::mem::take(self).evolve(&event);
    }
}
