//! A pause: from `reveille agent pause` until `reveille agent resume`, or until its time is up, no wake begins.
//!
//! It is a file in the state directory, so it needs neither a hub nor a running agent, and outlives both. The agent reads
//! it before each wake. An unreadable file counts as a pause: a broken disk doesn't overrule the owner.

use crate::state_dir::StateDir;
use jiff::{Timestamp, tz::TimeZone};
use reveille_bus::open_files;
use serde::{Deserialize, Serialize};
use std::{fmt, io, time::Duration};

const FILE: &str = "paused.json";

/// A pause, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    since: Timestamp,
    /// When it ends by itself; never, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// Whether awake backends are put to sleep.
    #[serde(default)]
    sleep: bool,
}

/// Whether an agent is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PauseState {
    Running,
    Paused(Pause),
    /// The file exists, and this is why it can't be read.
    Unreadable(String),
    /// Whether there is a pause can't be found out now, because the agent has reached this limit of open files.
    Unknown(String),
}

impl Pause {
    /// A pause that begins `now` and lasts for a while, or until it is lifted. `sleep` also puts awake backends to sleep.
    #[must_use]
    pub fn begin(now: Timestamp, lasts: Option<Duration>, sleep: bool) -> Self {
        let until = lasts.map(|lasts| now.checked_add(lasts).unwrap_or(Timestamp::MAX));
        Self {
            since: now,
            until,
            sleep,
        }
    }

    /// Pauses the agent of this state directory, replacing an earlier pause.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, state: &StateDir) -> io::Result<()> {
        state.write(FILE, &serde_json::to_vec(self)?)
    }

    /// Ends the pause of this state directory's agent; returns whether there was one.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn lift(state: &StateDir, now: Timestamp) -> io::Result<bool> {
        let was = PauseState::at(Some(state), now);
        state.remove(FILE)?;
        Ok(was != PauseState::Running)
    }

    /// When it ends by itself, if it does.
    #[must_use]
    pub const fn until(self) -> Option<Timestamp> {
        self.until
    }

    pub(crate) const fn sleep(self) -> bool {
        self.sleep
    }

    fn read(state: &StateDir) -> io::Result<Option<Self>> {
        let content = state.read(FILE)?;
        Ok(content
            .map(|content| serde_json::from_slice(&content))
            .transpose()?)
    }
}

/// When the pause ends, in words for people at this machine.
impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.until {
            Some(until) => write!(f, "until {}", local_time(until, &TimeZone::system())),
            None => f.write_str("until `reveille agent resume`"),
        }
    }
}

impl PauseState {
    /// The state at `now`; without a state directory nothing can pause the agent.
    pub(super) fn at(state: Option<&StateDir>, now: Timestamp) -> Self {
        let Some(state) = state else {
            return Self::Running;
        };
        match Pause::read(state) {
            Ok(Some(pause)) if pause.until.is_none_or(|until| now < until) => Self::Paused(pause),
            Ok(_) => Self::Running,
            Err(error) => Self::unread(state, &error),
        }
    }

    pub(super) fn unread(state: &StateDir, error: &io::Error) -> Self {
        open_files::reached_in(error).map_or_else(
            || Self::Unreadable(format!("{}: {error}", state.path().join(FILE).display())),
            Self::Unknown,
        )
    }
}

/// A time on that zone's wall clock, with the offset from UTC: the reader may be in another zone.
pub(super) fn local_time(at: Timestamp, zone: &TimeZone) -> String {
    let at = at.to_zoned(zone.clone());
    let seconds = if at.second() == 0 { "" } else { ":%S" };
    at.strftime(&format!("%Y-%m-%d %H:%M{seconds} %:z")).to_string()
}
