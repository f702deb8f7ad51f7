//! Ctrl-C and SIGTERM: the first shuts down in order, the second at once.

use crate::logging::notice;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the signals have requested.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Finish work in progress, sign off, then end.
    pub stop: CancellationToken,
    /// End at once.
    pub hurry: CancellationToken,
}

impl Signals {
    /// Listens from now on, and prints what each signal does.
    pub fn listen() -> io::Result<Self> {
        Self::heard(|text| notice(text))
    }

    /// Listens from now on, without printing anything.
    pub fn quiet() -> io::Result<Self> {
        Self::heard(|_| {})
    }

    fn heard(say: fn(&str)) -> io::Result<Self> {
        let interrupts = signal(SignalKind::interrupt())?;
        let terms = signal(SignalKind::terminate())?;
        let signals = Self::default();
        tokio::spawn(signals.clone().pass_on(interrupts, terms, say));
        Ok(signals)
    }

    async fn pass_on(self, mut interrupts: Signal, mut terms: Signal, say: fn(&str)) {
        let mut next = async || {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terms.recv() => {}
            }
        };
        next().await;
        self.stop.cancel();
        say("Stopping. Press Ctrl-C again to stop now.");
        next().await;
        self.hurry.cancel();
        say("Stopping now.");
    }
}
