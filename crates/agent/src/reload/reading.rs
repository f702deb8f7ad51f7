//! Reading the config while the agent goes on: a file of a network folder may take its time, or never come.

use crate::config::Config;
use std::{sync::Arc, thread, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

/// How long reading a config may take.
const READS_WITHIN: Duration = Duration::from_secs(10);
/// How many readings may go on, those included that took too long and can't be ended.
const MAX_READINGS: usize = 4;

/// Reads configs, each on a thread of its own: the process may end although one is stuck.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Each reading has a clone.
    readings: Arc<()>,
}

/// A config that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    read: oneshot::Receiver<Result<Config, String>>,
    until: Instant,
}

impl Reader {
    pub fn begin(
        &self,
        read: impl FnOnce() -> Result<Config, String> + Send + 'static,
    ) -> Result<Reading, String> {
        if Arc::strong_count(&self.readings) > MAX_READINGS {
            return Err("the config can't be read: earlier attempts haven't ended yet".to_owned());
        }
        let (sender, receiver) = oneshot::channel();
        let counted = self.readings.clone();
        let spawned = thread::Builder::new().name("config".to_owned()).spawn(move || {
            let read = read();
            drop(counted);
            // It may have taken too long.
            let _ = sender.send(read);
        });
        spawned.map_err(|error| format!("the config can't be read: {error}"))?;
        Ok(Reading {
            read: receiver,
            until: Instant::now() + READS_WITHIN,
        })
    }
}

impl Reading {
    /// Waits until it is read or has taken too long. Cancel-safe.
    pub async fn done(&mut self) -> Result<Config, String> {
        match timeout_at(self.until, &mut self.read).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => Err("reading the config failed".to_owned()),
            Err(_) => Err(format!(
                "the config can't be read: that takes longer than {} s",
                READS_WITHIN.as_secs()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn a_config_that_takes_too_long_is_given_up_and_only_some_are_read_at_once() {
        let reader = Reader::default();
        let (ends, stuck) = mpsc::channel::<()>();
        let stuck = Arc::new(parking_lot::Mutex::new(stuck));
        for _ in 0..MAX_READINGS {
            let stuck = stuck.clone();
            let read = move || {
                // Until the sender is gone.
                let _ = stuck.lock().recv();
                Err("read at last".to_owned())
            };
            let mut reading = reader.begin(read).expect("a thread");
            let why = reading.done().await.expect_err("it is stuck");
            assert!(why.contains("longer than 10 s"), "{why}");
        }
        let why = reader.begin(|| unreachable!()).expect_err("too many");
        assert!(why.contains("earlier attempts"), "{why}");
        drop(ends);
        while Arc::strong_count(&reader.readings) > 1 {
            thread::yield_now();
        }
        assert!(reader.begin(|| Err("none".to_owned())).is_ok());
    }
}
