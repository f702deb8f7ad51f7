//! Reloading: a running agent reads its config file again, at SIGHUP or when `reveille agent reload` asks for it, and takes up
//! what has changed. What can't be used changes nothing.

mod progress;
mod socket;

pub(crate) use progress::Progress;
pub use progress::ReloadEvent;
pub(crate) use socket::listen;
pub use socket::{Asked, agents};

use crate::config::ConfigFile;
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
    asked: mpsc::Receiver<Progress>,
}

impl Reloads {
    /// The requests of SIGHUP, and those that come through the returned sender.
    pub(crate) fn new(reload: Option<Reload>) -> (Self, mpsc::Sender<Progress>) {
        let (sender, asked) = mpsc::channel(WAITING);
        (Self { reload, asked }, sender)
    }

    /// Where the config is read from; `None` for an agent whose config isn't a file.
    pub(crate) fn file(&self) -> Option<&ConfigFile> {
        self.reload.as_ref().map(|reload| &reload.file)
    }

    /// Waits for the next request. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Progress {
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
            () = hangup => Progress::unfollowed(),
            Some(progress) = self.asked.recv() => progress,
        }
    }
}
