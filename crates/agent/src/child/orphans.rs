//! Orphans: children of an earlier run of the same agent, which end after it and may take all of their grace.
//!
//! Each shim holds a shared lock on one file while anything runs below it, so a later run can tell when all have ended.

use crate::state_dir::{StateDir, agent_file, is_locked};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use reveille_domain::AgentName;
use serde::{Deserialize, Serialize};
use std::{fs::File, io, path::PathBuf, time::Duration};
use tokio::time::sleep;
use tracing::{info, warn};

const CHECK_EVERY: Duration = Duration::from_millis(20);

/// The file whose lock the shims of one agent share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChildrenLock(PathBuf);

impl ChildrenLock {
    /// The lock of an existing file.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The lock of one agent; several may share a state directory.
    pub(crate) fn of(state: &StateDir, agent: &AgentName) -> Option<Self> {
        let file = state.mark(&agent_file(agent, "children"));
        file.inspect_err(
            |error| warn!(%error, "can't lock a file for children: the next run won't wait for orphans"),
        )
        .ok()
        .map(Self::new)
    }

    /// Takes a share of the lock, until the file is dropped.
    pub(super) fn share(&self) -> io::Result<File> {
        let file = File::open(&self.0)?;
        // A process that checks the lock holds it for an instant.
        file.lock_shared()?;
        Ok(file)
    }

    fn is_shared(&self) -> io::Result<bool> {
        is_locked(&File::open(&self.0)?)
    }
}

/// Waits for the end of an earlier run's children. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Orphans(Shared<BoxFuture<'static, ()>>);

impl Orphans {
    /// For an agent that can't know of any.
    #[must_use]
    pub fn none() -> Self {
        Self(std::future::ready(()).boxed().shared())
    }

    /// The processes that hold `lock` now.
    #[must_use]
    pub fn of(lock: ChildrenLock) -> Self {
        // Checked at once: later the agent's own children hold the lock too.
        let gone = if is_left(&lock) {
            info!(
                "children of an earlier run of this agent are still ending; no recipe wakes a backend before that"
            );
            async move {
                while is_left(&lock) {
                    sleep(CHECK_EVERY).await;
                }
                info!("all children of an earlier run have ended");
            }
            .boxed()
        } else {
            std::future::ready(()).boxed()
        };
        Self(gone.shared())
    }

    /// Waits until all have ended.
    pub async fn gone(self) {
        self.0.await;
    }
}

fn is_left(lock: &ChildrenLock) -> bool {
    lock.is_shared().unwrap_or_else(|error| {
        warn!(%error, "can't tell whether children of an earlier run of this agent still run");
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(60);
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
        let orphans = Orphans::of(lock.clone());
        drop(first);
        assert!(timeout(A_WHILE, orphans.clone().gone()).await.is_err());
        drop(second);
        timeout(SOON, orphans.clone().gone()).await.unwrap();
        let _own = lock.share().unwrap();
        timeout(SOON, orphans.gone()).await.expect("its own are none");
    }

    #[tokio::test]
    async fn a_lock_that_cannot_be_looked_at_holds_nobody_up() {
        let (folder, lock) = lock();
        drop(folder);
        let orphans = Orphans::of(lock);
        timeout(SOON, orphans.gone()).await.unwrap();
    }
}
