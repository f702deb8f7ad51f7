//! Reloading: a running agent reads its config file again, at SIGHUP or when `reveille agent reload` asks for it, and takes up
//! what has changed. What can't be used changes nothing.

mod progress;
mod reading;
mod restart;
mod socket;

pub use progress::ReloadEvent;
pub(crate) use progress::ReloadProgress;
pub(crate) use restart::how_to_restart;
pub(crate) use socket::listen;
pub use socket::{Asked, agent, agents};

use crate::config::{Config, ConfigFile};
use reading::{Reader, Reading};
use std::future::pending;
use tokio::sync::{mpsc, watch};

/// How many reloads may wait for the agent.
const WAITING: usize = 16;

/// What an agent can be reloaded from, and when it is asked to.
#[derive(Debug, Clone)]
pub struct Reload {
    pub file: ConfigFile,
    /// How often the process was asked by SIGHUP.
    pub hangups: watch::Receiver<u64>,
}

/// What asks a session to reload.
#[derive(Debug)]
pub(crate) struct Reloads {
    reload: Option<Reload>,
    asked: mpsc::Receiver<ReloadProgress>,
    reader: Reader,
    /// What is read just now, and for whom.
    reading: Option<(ReloadProgress, Reading)>,
}

impl Reloads {
    /// The requests of SIGHUP, and those that come through the returned sender.
    pub(crate) fn new(reload: Option<Reload>) -> (Self, mpsc::Sender<ReloadProgress>) {
        let (sender, asked) = mpsc::channel(WAITING);
        let reloads = Self {
            reload,
            asked,
            reader: Reader::default(),
            reading: None,
        };
        (reloads, sender)
    }

    /// Waits for the next request, and for the config as the file has it then, or why it can't be used. Cancel-safe.
    pub(crate) async fn next(&mut self) -> (ReloadProgress, Result<Config, String>) {
        loop {
            if let Some((_, reading)) = &mut self.reading {
                let read = reading.done().await;
                if let Some((progress, _)) = self.reading.take() {
                    return (progress, read);
                }
            }
            let progress = self.asked().await;
            let Some(reload) = &self.reload else {
                return (progress, Err("this agent has no config file".to_owned()));
            };
            let file = reload.file.clone();
            let read = move || file.read().map_err(|error| error.to_string());
            match self.reader.begin(read) {
                Ok(reading) => self.reading = Some((progress, reading)),
                Err(why) => return (progress, Err(why)),
            }
        }
    }

    async fn asked(&mut self) -> ReloadProgress {
        let hangup = async {
            let hangups = self.reload.as_mut().map(|reload| &mut reload.hangups);
            let heard = match hangups {
                Some(hangups) => hangups.changed().await.is_ok(),
                None => false,
            };
            if !heard {
                // There is no file, or the process no longer listens.
                pending::<()>().await;
            }
        };
        tokio::select! {
            () = hangup => ReloadProgress::unfollowed(),
            Some(progress) = self.asked.recv() => progress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn reloads_that_come_at_once_are_read_in_their_order_each_with_the_file_of_its_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.toml");
        let write = |name: &str| {
            let text = format!("[agent]\nname = \"{name}\"\n");
            std::fs::write(&path, text).expect("written");
        };
        let file = ConfigFile {
            path: path.clone(),
            allow_plaintext: false,
        };
        let (_hangup, hangups) = watch::channel(0);
        let (mut reloads, session) = Reloads::new(Some(Reload { file, hangups }));
        let mut followers = Vec::new();
        for _ in 0..2 {
            let (progress, hears) = ReloadProgress::followed();
            session.send(progress).await.expect("it waits");
            followers.push(hears);
        }
        write("first");
        let mut names = Vec::new();
        let both = async {
            while names.len() < 2 {
                // As the session does when something else happens meanwhile.
                let Some((progress, read)) = reloads.next().now_or_never() else {
                    tokio::task::yield_now().await;
                    continue;
                };
                progress.report(ReloadEvent::Done);
                assert_eq!(followers[names.len()].try_recv(), Ok(ReloadEvent::Done));
                names.push(read.expect("legal").agent.name.to_string());
                write("second");
            }
        };
        let in_time = timeout(Duration::from_secs(60), both).await;
        in_time.expect("neither is lost");
        assert_eq!(names, ["first", "second"]);
    }
}
