//! The disk of `up`'s own NATS server. A nats-server that could not write keeps its error when there is space again: it stores
//! nothing until it is restarted.

use crate::data_dir::DataDir;
use jiff::{Timestamp, Unit};
use reveille_bus::JournalHealth;
use std::{
    fs, io,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{error, warn};

/// The file in which the last such restart is noted, for `reveille doctor`.
pub const RESTART_NOTE: &str = "nats-restart";
/// What has to fit on the disk before a restart: more than a server writes while it starts.
const ROOM: usize = 4 * 1024 * 1024;
/// How often the disk is tried.
const TRY_EVERY: Duration = Duration::from_secs(2);
/// The pause between two restarts; it doubles while they don't help, because each cuts off the requests under way.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// Watches the disk while the journal takes no commits.
#[derive(Debug)]
pub struct DiskWatch {
    folder: PathBuf,
    health: JournalHealth,
    pause: Duration,
    last_restart: Option<Instant>,
}

impl DiskWatch {
    pub fn new(data: &DataDir, health: JournalHealth) -> Self {
        Self {
            folder: data.path().to_owned(),
            health,
            pause: FIRST_PAUSE,
            last_restart: None,
        }
    }

    /// Waits until the journal takes no commits although its disk can be written, so that the server has to be restarted.
    /// Cancel-safe.
    pub async fn restart_is_due(&mut self) {
        loop {
            self.health.until_unwritten(true).await;
            if let Some(last) = self.last_restart {
                sleep(self.pause.saturating_sub(last.elapsed())).await;
            }
            tokio::select! {
                () = self.health.until_unwritten(false) => {}
                () = self.until_writable() => {
                    self.pause = match self.last_restart.replace(Instant::now()) {
                        Some(last) if last.elapsed() < LONGEST_PAUSE => (self.pause * 2).min(LONGEST_PAUSE),
                        _ => FIRST_PAUSE,
                    };
                    warn!(
                        data_dir = %self.folder.display(),
                        "nats-server stores nothing, as after a full disk, and the disk can be written: restarting it"
                    );
                    self.note();
                    return;
                }
            }
        }
    }

    async fn until_writable(&self) {
        let mut shown = String::new();
        loop {
            let folder = self.folder.clone();
            let tried = spawn_blocking(move || write_something(&folder)).await;
            let Err(reason) = tried.unwrap_or_else(|panic| Err(io::Error::other(panic))) else {
                self.health.note_disk(None);
                return;
            };
            let reason = reason.to_string();
            if reason != shown {
                let folder = self.folder.display();
                error!(reason, data_dir = %folder, "the disk of the journal, with {folder}, can't be written: {reason}");
            }
            self.health
                .note_disk(Some(format!("the disk of the hub can't be written: {reason}")));
            shown = reason;
            sleep(TRY_EVERY).await;
        }
    }

    fn note(&self) {
        let now = Timestamp::now();
        let now = now.round(Unit::Second).unwrap_or(now);
        let text = format!(
            "nats-server was restarted at {now}: it stored nothing although its disk could be written, as after a full disk"
        );
        if let Err(error) = fs::write(self.folder.join(RESTART_NOTE), text) {
            warn!(%error, "can't note the restart of nats-server");
        }
    }
}

/// Writes a file that has no name, so that nothing is left of it.
fn write_something(folder: &PathBuf) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    file.write_all(&vec![1; ROOM])?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_to_try_the_disk_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        write_something(&folder.path().to_owned()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let gone = folder.path().join("gone");
        assert!(write_something(&gone).is_err());
    }
}
