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
/// A server that stores nothing after its restart is noticed within this time, by its missing canaries.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// Watches the disk while the journal takes no commits.
#[derive(Debug)]
pub struct DiskWatch {
    folder: PathBuf,
    health: JournalHealth,
    restarts: Restarts,
}

/// When the server may be restarted.
#[derive(Debug)]
struct Restarts {
    pause: Duration,
    last: Option<Instant>,
}

impl Restarts {
    const fn none() -> Self {
        Self {
            pause: FIRST_PAUSE,
            last: None,
        }
    }

    /// A trouble began at `now`. If the last restart has helped, it isn't held against this one.
    fn troubled(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now - last >= NOTICED_WITHIN) {
            *self = Self::none();
        }
    }

    /// The disk was full again, so the trouble has a reason of its own, which has passed.
    const fn had_a_reason(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// How long it is until the next restart may be.
    fn rest(&self, now: Instant) -> Duration {
        self.last
            .map_or(Duration::ZERO, |last| self.pause.saturating_sub(now - last))
    }

    fn restarted(&mut self, now: Instant) {
        if self.last.replace(now).is_some() {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl DiskWatch {
    pub fn new(data: &DataDir, health: JournalHealth) -> Self {
        Self {
            folder: data.path().to_owned(),
            health,
            restarts: Restarts::none(),
        }
    }

    /// Waits until the journal takes no commits although its disk can be written, so that the server has to be restarted.
    /// Cancel-safe.
    pub async fn restart_is_due(&mut self) {
        let health = self.health.clone();
        loop {
            health.until_unwritten(true).await;
            self.restarts.troubled(Instant::now());
            tokio::select! {
                () = health.until_unwritten(false) => {}
                () = self.until_due() => {
                    self.restarts.restarted(Instant::now());
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

    /// Waits until the disk can be written, and the last restart is long enough ago.
    async fn until_due(&mut self) {
        loop {
            if self.until_writable().await {
                self.restarts.had_a_reason();
            }
            let rest = self.restarts.rest(Instant::now());
            if rest.is_zero() {
                return;
            }
            // By then the disk may be full again.
            sleep(rest).await;
        }
    }

    /// Waits until the disk can be written, and tells whether it could not at first.
    async fn until_writable(&self) -> bool {
        let mut shown = String::new();
        loop {
            let folder = self.folder.clone();
            let tried = spawn_blocking(move || write_something(&folder)).await;
            let Err(reason) = tried.unwrap_or_else(|panic| Err(io::Error::other(panic))) else {
                self.health.note_disk(None);
                return !shown.is_empty();
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
    fn the_pause_doubles_only_while_restarts_do_not_help() {
        let (mut restarts, mut now) = (Restarts::none(), Instant::now());
        let mut next = |restarts: &mut Restarts, came_after: u64, was_full: bool| {
            now += Duration::from_secs(came_after);
            restarts.troubled(now);
            if was_full {
                restarts.had_a_reason();
            }
            let rest = restarts.rest(now);
            now += rest;
            restarts.restarted(now);
            came_after + rest.as_secs()
        };
        assert_eq!(next(&mut restarts, 0, true), 0);
        for pause in [15, 30, 60, 120, 240, 480, 600, 600] {
            assert_eq!(next(&mut restarts, 10, false), pause, "they don't help");
        }
        for _ in 0..9 {
            assert_eq!(next(&mut restarts, 10, true), 15, "the disk is full again");
        }
        assert_eq!(next(&mut restarts, 10, false), 30);
        assert_eq!(next(&mut restarts, 40, false), 40, "the last one has helped");
        assert_eq!(next(&mut restarts, 10, false), 15);
    }

    #[test]
    fn what_was_written_to_try_the_disk_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        write_something(&folder.path().to_owned()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let gone = folder.path().join("gone");
        assert!(write_something(&gone).is_err());
    }
}
