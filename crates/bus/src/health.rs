//! What keeps a process from using its journal, as the parts of the process find it out.

use crate::hub_id::HubId;
use async_nats::jetstream::stream::Info;
use std::{sync::Arc, time::Duration};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{error, info};

/// Why the journal can't be used, or not fully.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JournalTrouble {
    /// It isn't the journal that this process has read, or it is no journal. Nothing is read or written until it is one
    /// again.
    #[error("the journal is lost: {0}")]
    Lost(String),
    /// It is read, and takes no commits.
    #[error("the journal takes no commits: {0}")]
    Full(String),
}

/// The health of a process's journal. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct JournalHealth {
    state: Arc<watch::Sender<State>>,
}

/// Why a commit was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotStored {
    pub(crate) why: String,
    /// Whether the stream's own settings forbid it; otherwise the server is unable to.
    pub(crate) by_settings: bool,
    /// The journal then, as soon as it could be looked at.
    pub(crate) journal: Option<JournalExtent>,
}

/// How far the journal goes, and how far it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalExtent {
    last_sequence: u64,
    max_messages: i64,
    max_bytes: i64,
}

impl JournalExtent {
    pub(crate) const fn of(info: &Info) -> Self {
        Self {
            last_sequence: info.state.last_sequence,
            max_messages: info.config.max_messages,
            max_bytes: info.config.max_bytes,
        }
    }

    const fn limits(self) -> (i64, i64) {
        (self.max_messages, self.max_bytes)
    }
}

impl NotStored {
    /// Whether the journal, as it is now, shows that this is over: it has a newer commit, or the limit that forbade one has
    /// been changed.
    fn is_past(&self, now: JournalExtent) -> bool {
        self.journal.is_some_and(|then| {
            now.last_sequence > then.last_sequence || (self.by_settings && now.limits() != then.limits())
        })
    }
}

#[derive(Debug, Clone, Default)]
struct State {
    /// The hub that the journal found last belongs to.
    hub: Option<HubId>,
    lost: Option<String>,
    /// Whether this process has ever read a commit.
    has_read: bool,
    /// Why it can't be read, since the last attempt.
    unread: Option<String>,
    /// Why the last commit was not stored.
    commits: Option<NotStored>,
    /// Whether NATS answers and doesn't store this replica's canaries.
    canaries_missing: bool,
    /// Why the disk of the journal can't be written, where this process can see it. It is looked at only while the server is
    /// unable to store something.
    disk: Option<String>,
}

impl State {
    fn is_unwritten(&self) -> bool {
        let unable = self.commits.as_ref().is_some_and(|commits| !commits.by_settings);
        unable || self.canaries_missing
    }

    const fn is_full(&self) -> bool {
        self.commits.is_some() || self.canaries_missing
    }

    fn trouble(&self) -> Option<JournalTrouble> {
        if let Some(lost) = &self.lost {
            return Some(JournalTrouble::Lost(lost.clone()));
        }
        let symptom = match &self.commits {
            Some(NotStored {
                why,
                by_settings: true,
                ..
            }) => return Some(JournalTrouble::Full(why.clone())),
            Some(NotStored { why, .. }) => why,
            None if self.canaries_missing => "NATS stores no heartbeats",
            None => return None,
        };
        Some(JournalTrouble::Full(match &self.disk {
            Some(disk) => format!("{symptom}: {disk}"),
            None => format!("{symptom}: the disk of its NATS server may be full; the server's log says why"),
        }))
    }
}

impl JournalHealth {
    /// What is wrong; `None` if nothing is known to be.
    #[must_use]
    pub fn trouble(&self) -> Option<JournalTrouble> {
        self.state.borrow().trouble()
    }

    /// Why the journal can't be used now: its trouble, or an outage, which those who wait for the journal wait out.
    #[must_use]
    pub fn unusable(&self) -> Option<String> {
        let state = self.state.borrow();
        let unread = || Some(format!("the journal can't be read: {}", state.unread.as_ref()?));
        match state.trouble() {
            Some(lost @ JournalTrouble::Lost(_)) => Some(lost.to_string()),
            trouble => unread().or_else(|| Some(trouble?.to_string())),
        }
    }

    /// Whether the journal is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.state.borrow().lost.is_some()
    }

    /// Whether this process has ever read a commit.
    pub(crate) fn has_read(&self) -> bool {
        self.state.borrow().has_read
    }

    /// This process has read a commit.
    pub(crate) fn read(&self) {
        if !self.has_read() {
            self.state.send_if_modified(|state| {
                state.has_read = true;
                false
            });
        }
    }

    /// The id of this process's hub; `None` until the journal was found. It stays while the journal is lost.
    #[must_use]
    pub fn hub(&self) -> Option<HubId> {
        self.state.borrow().hub
    }

    /// Waits until the server is unable to store what it should, or is able to again.
    pub async fn until_unwritten(&self, unwritten: bool) {
        self.until(|state| state.is_unwritten() == unwritten).await;
    }

    /// Waits until something has been wrong for `time` without a break, and tells what.
    pub async fn until_troubled_for(&self, time: Duration) -> JournalTrouble {
        loop {
            self.until(|state| state.trouble().is_some()).await;
            // On the heap: thousands of requests wait here, as a rule for the first of the two.
            let over = tokio::time::timeout(time, self.until(|state| state.trouble().is_none()));
            if Box::pin(over).await.is_err()
                && let Some(trouble) = self.trouble()
            {
                return trouble;
            }
        }
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        // The sender lives as long as this.
        let _ = self.state.subscribe().wait_for(|state| condition(state)).await;
    }

    /// Notes why the disk can't be written, or that it can. What is found once everything is stored again tells nothing of the
    /// next trouble.
    pub fn note_disk(&self, why: Option<String>) {
        self.state.send_if_modified(|state| {
            let why = why.filter(|_| state.is_unwritten());
            let changed = state.disk != why;
            state.disk = why;
            changed
        });
    }

    /// The journal can't be found, or another stream has its place.
    pub(crate) fn lost(&self, why: &str) {
        let changed = self.state.send_if_modified(|state| {
            let changed = state.lost.as_deref() != Some(why);
            state.lost = Some(why.to_owned());
            state.unread = None;
            changed
        });
        if changed {
            error!(
                "the journal is lost: {why}. Nothing is written, and agents, providers and keys stay as they were last \
                 known. Restore it with `reveille journal import`, or restart with --new-journal to begin an empty one"
            );
        }
    }

    /// The journal can't be read.
    pub(crate) fn unread(&self, why: &str) {
        self.state.send_if_modified(|state| {
            state.unread = Some(why.to_owned());
            false
        });
    }

    /// The journal is there, that of this hub.
    pub(crate) fn found(&self, hub: HubId) {
        let mut was_lost = false;
        self.state.send_if_modified(|state| {
            was_lost = state.lost.take().is_some();
            state.unread = None;
            state.hub.replace(hub) != Some(hub) || was_lost
        });
        if was_lost {
            info!("the journal is there again");
        }
    }

    /// Whether the last commit was stored, and if not, why.
    pub(crate) fn stored(&self, outcome: Result<(), NotStored>) {
        self.change(|state| state.commits = outcome.err());
    }

    /// The journal as it is now. Another replica may have been able to append to it, and this one may have nothing to append.
    pub(crate) fn seen(&self, now: JournalExtent) {
        self.change(|state| match &mut state.commits {
            Some(commits) if commits.is_past(now) => state.commits = None,
            Some(commits) => _ = commits.journal.get_or_insert(now),
            None => {}
        });
    }

    /// Whether canaries are missing although NATS answers.
    pub(crate) fn canaries_missing(&self, missing: bool) {
        self.change(|state| state.canaries_missing = missing);
    }

    /// Changes the state, and logs whether the journal takes commits once that has changed.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut told = None;
        self.state.send_if_modified(|state| {
            let before = state.clone();
            change(state);
            if !state.is_unwritten() {
                state.disk = None;
            }
            told = (before.is_full() != state.is_full()).then(|| state.trouble().filter(|_| state.is_full()));
            told.is_some() || before.commits != state.commits
        });
        match told {
            Some(Some(trouble)) => error!("{trouble}. Backends that are awake are still used"),
            Some(None) => info!("the journal takes commits again"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unable() -> NotStored {
        NotStored {
            why: "no answer".to_owned(),
            by_settings: false,
            journal: None,
        }
    }

    #[test]
    fn a_lost_journal_says_more_than_a_full_one() {
        let health = JournalHealth::default();
        assert_eq!(health.trouble(), None);
        health.stored(Err(unable()));
        health.lost("it is gone");
        assert_eq!(
            health.trouble(),
            Some(JournalTrouble::Lost("it is gone".to_owned()))
        );
        let hub = "00112233445566aa".parse().expect("an id");
        assert_eq!(health.hub(), None);
        health.found(hub);
        assert_eq!(health.hub(), Some(hub));
        assert!(
            matches!(health.trouble(), Some(JournalTrouble::Full(why)) if why.starts_with("no answer: "))
        );
        health.stored(Ok(()));
        assert_eq!(health.trouble(), None);
    }

    #[test]
    fn the_disk_is_named_where_it_is_known() {
        let health = JournalHealth::default();
        health.note_disk(Some("no space left".to_owned()));
        assert_eq!(health.trouble(), None, "a full disk alone is no trouble");
        health.canaries_missing(true);
        health.note_disk(Some("no space left".to_owned()));
        let full = JournalTrouble::Full("NATS stores no heartbeats: no space left".to_owned());
        assert_eq!(health.trouble(), Some(full));
        health.stored(Ok(()));
        assert!(
            health.trouble().is_some(),
            "one stream may take what the other doesn't"
        );
        health.canaries_missing(false);
        assert_eq!(health.trouble(), None);
        health.note_disk(Some("found too late".to_owned()));
        health.stored(Err(unable()));
        let next = health.trouble().expect("another trouble").to_string();
        assert!(next.contains("may be full"), "the disk isn't its reason: {next}");
    }

    #[tokio::test]
    async fn a_stream_at_its_own_limit_has_nothing_to_do_with_the_disk() {
        let health = JournalHealth::default();
        health.note_disk(Some("no space left".to_owned()));
        let by_settings = true;
        health.stored(Err(NotStored {
            by_settings,
            ..unable()
        }));
        assert_eq!(
            health.trouble(),
            Some(JournalTrouble::Full("no answer".to_owned()))
        );
        health.until_unwritten(false).await;
    }

    #[test]
    fn a_newer_commit_shows_that_the_journal_takes_commits_again_and_so_does_another_limit() {
        let then = JournalExtent {
            last_sequence: 7,
            max_messages: 7,
            max_bytes: -1,
        };
        let newer = JournalExtent {
            last_sequence: 8,
            ..then
        };
        let raised = JournalExtent {
            max_messages: 9,
            ..then
        };
        for (by_settings, now, is_past) in [
            (true, then, false),
            (true, newer, true),
            (true, raised, true),
            (false, newer, true),
            (false, raised, false),
        ] {
            for journal in [Some(then), None] {
                let health = JournalHealth::default();
                health.stored(Err(NotStored {
                    by_settings,
                    journal,
                    ..unable()
                }));
                health.seen(then);
                assert!(health.trouble().is_some());
                health.seen(now);
                assert_eq!(health.trouble().is_none(), is_past, "{by_settings} {now:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trouble_that_passes_is_waited_out() {
        let (health, waits) = (JournalHealth::default(), Duration::from_secs(10));
        let waiting = tokio::spawn({
            let health = health.clone();
            async move { health.until_troubled_for(waits).await }
        });
        health.stored(Err(unable()));
        tokio::time::sleep(Duration::from_secs(9)).await;
        health.stored(Ok(()));
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(!waiting.is_finished());
        health.stored(Err(unable()));
        let trouble = waiting.await.expect("no panic");
        assert!(matches!(trouble, JournalTrouble::Full(_)), "{trouble}");
    }

    #[tokio::test]
    async fn who_waits_for_a_change_sees_it() {
        let health = JournalHealth::default();
        health.until_unwritten(false).await;
        let (other, waits) = (health.clone(), health.clone());
        let waiting = tokio::spawn(async move { waits.until_unwritten(true).await });
        other.stored(Err(unable()));
        waiting.await.expect("no panic");
    }
}
