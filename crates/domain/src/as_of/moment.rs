//! A moment of the past, as people name it.

use crate::time::Timestamp;
use jiff::Timestamp as Instant;
use std::{fmt, str::FromStr};
use thiserror::Error;

/// A moment of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After the commit with this sequence.
    Sequence(u64),
    /// At this time: after the last commit that was stored by then.
    Time(Timestamp),
}

/// Why a text names no moment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a moment is the sequence of a commit, such as 120, or a time, such as 2026-11-28T10:00:00Z")]
pub struct InvalidMoment;

impl FromStr for Moment {
    type Err = InvalidMoment;
    fn from_str(raw: &str) -> Result<Self, InvalidMoment> {
        if let Ok(sequence) = raw.parse() {
            return Ok(Self::Sequence(sequence));
        }
        let time: Instant = raw.parse().map_err(|_| InvalidMoment)?;
        let millis = u64::try_from(time.as_millisecond()).map_err(|_| InvalidMoment)?;
        Ok(Self::Time(Timestamp::from_millis(millis)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequence(sequence) => sequence.fmt(f),
            Self::Time(at) => {
                let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
                Instant::from_millisecond(millis).unwrap_or(Instant::MAX).fmt(f)
            }
        }
    }
}
