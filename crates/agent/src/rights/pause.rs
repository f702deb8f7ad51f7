//! A pause: from `reveille agent pause` to `reveille agent resume`, or as long as was said, no wake begins.
//!
//! It is a file in the state directory, so that it needs no hub and no running agent, and outlives both. The agent looks
//! at it before each wake. A file that can't be read is a pause: who has said no isn't overruled by a broken disk.

use super::local;
use crate::state_dir::StateDir;
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::{fmt, io, time::Duration};

const FILE: &str = "paused.json";

/// What the owner of the machine has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When he said it.
    since: Timestamp,
    /// When it ends by itself; when he says so, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// Whether what was awake then is put to sleep.
    #[serde(default)]
    sleep: bool,
}

/// Whether an agent is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Paused {
    No,
    Yes(Pause),
    /// There is a file, and why it can't be read.
    Unreadable(String),
}

impl Pause {
    /// A pause that begins now, for some time or until it is lifted; with `sleep` what is awake is put to sleep.
    #[must_use]
    pub fn begin(now: Timestamp, lasts: Option<Duration>, sleep: bool) -> Self {
        let until = lasts.map(|lasts| now.checked_add(lasts).unwrap_or(Timestamp::MAX));
        Self {
            since: now,
            until,
            sleep,
        }
    }

    /// Pauses the agent of this state directory, in place of any pause before.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, state: &StateDir) -> io::Result<()> {
        state.write(FILE, &serde_json::to_vec(self)?)
    }

    /// Ends any pause of this state directory's agent; whether there was one.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn lift(state: &StateDir, now: Timestamp) -> io::Result<bool> {
        let was = Paused::at(state, now);
        state.remove(FILE)?;
        Ok(was != Paused::No)
    }

    pub(super) const fn sleep(self) -> bool {
        self.sleep
    }

    fn read(state: &StateDir) -> io::Result<Option<Self>> {
        let content = state.read(FILE)?;
        Ok(content
            .map(|content| serde_json::from_slice(&content))
            .transpose()?)
    }
}

/// Until when, as a person of that machine says it.
impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.until {
            Some(until) => write!(f, "until {}", local(until, &TimeZone::system())),
            None => f.write_str("until `reveille agent resume`"),
        }
    }
}

impl Paused {
    /// How it is at a time.
    pub(super) fn at(state: &StateDir, now: Timestamp) -> Self {
        match Pause::read(state) {
            Ok(Some(pause)) if pause.until.is_none_or(|until| now < until) => Self::Yes(pause),
            Ok(_) => Self::No,
            Err(error) => Self::Unreadable(format!("{}: {error}", state.path().join(FILE).display())),
        }
    }
}
