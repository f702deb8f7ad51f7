//! What signals ask of a process: Ctrl-C and SIGTERM to shut down in order, and a second one at once; SIGHUP to read files again.

use crate::logging::notice;
use std::{future::pending, io};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
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

/// How often a service was asked by SIGHUP to read its files again. The signal ends no service, so one that was started in a
/// terminal outlives it. Each clone notices the signals that come after it was made.
#[derive(Debug, Clone)]
pub struct Hangups(watch::Receiver<u64>);

impl Hangups {
    /// Listens from now on.
    pub fn listen() -> io::Result<Self> {
        let mut signals = signal(SignalKind::hangup())?;
        let (count, counted) = watch::channel(0);
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(counted))
    }

    /// The count itself.
    pub fn counted(self) -> watch::Receiver<u64> {
        self.0
    }

    /// Waits for the next one, or several. Cancel-safe.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The runtime is ending.
            pending::<()>().await;
        }
    }
}
