//! Ctrl-C and SIGTERM: the first one asks for an orderly end, the second one for a quick one.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the signals ask for.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// End in order: finish what was begun, say goodbye.
    pub stop: CancellationToken,
    /// End now.
    pub hurry: CancellationToken,
}

impl Signals {
    /// Listens from now on, and says what it has heard.
    pub fn listen() -> io::Result<Self> {
        Self::heard(|text| eprintln!("{text}"))
    }

    /// Listens from now on, for a command whose end surprises nobody.
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
        say("stopping; once more to hurry");
        self.stop.cancel();
        next().await;
        say("stopping at once");
        self.hurry.cancel();
    }
}
