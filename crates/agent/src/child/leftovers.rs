//! What an earlier run of the same agent has left: its children end after it, and may take all of their grace.
//!
//! Each shim has a share of a file's lock for as long as anything runs below it, so a later run can tell when nothing does.

use crate::state_dir::{StateDir, agent_file};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use reveille_domain::AgentName;
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, TryLockError},
    io,
    path::PathBuf,
    time::Duration,
};
use tokio::time::sleep;
use tracing::{info, warn};

/// How often it is looked whether something is left.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The file whose lock the shims of one agent share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChildrenLock(PathBuf);

impl ChildrenLock {
    /// The lock of the file at `path`, which is there.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// That of one agent: others may share its state directory.
    pub(crate) fn of(state: &StateDir, agent: &AgentName) -> Option<Self> {
        let file = state.mark(&agent_file(agent, "children"));
        file.inspect_err(|error| warn!(%error, "the next run can't tell what this one leaves running"))
            .ok()
            .map(Self::new)
    }

    /// Shares it until the file is dropped.
    pub(super) fn share(&self) -> io::Result<File> {
        let file = File::open(&self.0)?;
        // Somebody who looks has it for an instant.
        file.lock_shared()?;
        Ok(file)
    }

    fn is_shared(&self) -> io::Result<bool> {
        match File::open(&self.0)?.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The end of what an earlier run has left. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leftovers(Shared<BoxFuture<'static, ()>>);

impl Leftovers {
    /// Nothing, or nothing that could be known of.
    #[must_use]
    pub fn none() -> Self {
        Self(std::future::ready(()).boxed().shared())
    }

    /// What shares `lock` now.
    #[must_use]
    pub fn of(lock: ChildrenLock) -> Self {
        // Looked for at once: later the agent's own children have the lock too.
        let gone = if is_left(&lock) {
            info!(
                "an earlier run of this agent has left processes that are being ended; nothing is woken before"
            );
            async move {
                while is_left(&lock) {
                    sleep(LOOK_EVERY).await;
                }
                info!("nothing of an earlier run is left");
            }
            .boxed()
        } else {
            std::future::ready(()).boxed()
        };
        Self(gone.shared())
    }

    /// Waits until nothing is left.
    pub async fn gone(self) {
        self.0.await;
    }
}

fn is_left(lock: &ChildrenLock) -> bool {
    lock.is_shared().unwrap_or_else(|error| {
        warn!(%error, "can't tell whether an earlier run of this agent has left something");
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(10);
    const A_WHILE: Duration = Duration::from_millis(100);

    fn lock() -> (tempfile::TempDir, ChildrenLock) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("box.children");
        File::create(&path).unwrap();
        (folder, ChildrenLock::new(path))
    }

    #[tokio::test]
    async fn they_are_gone_when_the_last_of_them_has_given_the_lock_back() {
        let (_folder, lock) = lock();
        let [first, second] = [lock.share().unwrap(), lock.share().unwrap()];
        let leftovers = Leftovers::of(lock.clone());
        drop(first);
        assert!(timeout(A_WHILE, leftovers.clone().gone()).await.is_err());
        drop(second);
        timeout(SOON, leftovers.clone().gone()).await.unwrap();
        let _own = lock.share().unwrap();
        timeout(SOON, leftovers.gone()).await.expect("its own are none");
    }

    #[tokio::test]
    async fn a_lock_that_cannot_be_looked_at_holds_nobody_up() {
        let (folder, lock) = lock();
        drop(folder);
        let leftovers = Leftovers::of(lock);
        timeout(SOON, leftovers.gone()).await.unwrap();
    }
}
