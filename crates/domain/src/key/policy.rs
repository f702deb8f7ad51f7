//! What a key permits: which scopes, until when and how much.

use super::{priority::Priority, scope::Scopes};
use crate::{names::KeyName, time::Timestamp};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use thiserror::Error;

/// The highest rate of a key, in requests per minute.
pub const MAX_RATE: u32 = 1_000_000;
/// The highest concurrency of a key, in requests at once.
pub const MAX_CONCURRENCY: u32 = 10_000;
/// The most wakes per hour of a key: each replica remembers that many.
pub const MAX_WAKES_PER_HOUR: u32 = 1_000;

/// What a key permits. It never changes: a key with another policy is another key. The journal calls it `terms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPolicy {
    /// Its name, for people.
    pub name: KeyName,
    /// What it may be used for.
    pub scopes: Scopes,
    /// When it expires; absent when it never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<Timestamp>,
    /// How much it may be used.
    pub limits: KeyLimits,
    /// How its waiting streams report progress; absent to go by the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressForm>,
    /// How soon its requests have their turn where requests wait.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
}

/// How a waiting stream reports that it waits, if its request doesn't say that itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressForm {
    /// By comments, which every client skips.
    Comment,
    /// By chunks or events without text, for clients whose timers ignore comments.
    Delta,
    /// By reasoning, for clients that show it.
    Reasoning,
    /// Not at all.
    Off,
}

impl KeyPolicy {
    /// Whether the key has expired at `now`.
    #[must_use]
    pub fn expired_at(&self, now: Timestamp) -> bool {
        self.expires_at_ms.is_some_and(|expires| expires <= now)
    }
}

/// How much a key may be used. An absent limit is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLimits {
    /// Requests per minute, in each replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<NonZeroU32>,
    /// Requests at once, in each replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
    /// Wakes that it starts per hour, in the whole cluster; 0 for a key that may use only what is awake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wakes_per_hour: Option<u32>,
}

/// A limit out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidLimit {
    /// The rate.
    #[error("a rate is 1 to {MAX_RATE} requests per minute")]
    Rate,
    /// The concurrency.
    #[error("a concurrency is 1 to {MAX_CONCURRENCY} requests at once")]
    Concurrency,
    /// The wakes per hour.
    #[error("wakes per hour are 0 to {MAX_WAKES_PER_HOUR}")]
    WakesPerHour,
}

impl KeyLimits {
    /// The limits with these numbers.
    ///
    /// # Errors
    /// When one is out of its range.
    pub fn new(
        rate: Option<u32>,
        concurrency: Option<u32>,
        wakes_per_hour: Option<u32>,
    ) -> Result<Self, InvalidLimit> {
        let within = |limit: Option<u32>, max: u32, error| match limit.map(NonZeroU32::new) {
            None => Ok(None),
            Some(Some(limit)) if limit.get() <= max => Ok(Some(limit)),
            Some(_) => Err(error),
        };
        if wakes_per_hour.is_some_and(|wakes| wakes > MAX_WAKES_PER_HOUR) {
            return Err(InvalidLimit::WakesPerHour);
        }
        Ok(Self {
            rate: within(rate, MAX_RATE, InvalidLimit::Rate)?,
            concurrency: within(concurrency, MAX_CONCURRENCY, InvalidLimit::Concurrency)?,
            wakes_per_hour,
        })
    }
}
