//! What a key permits: its scopes, how long and how much.

use super::Scopes;
use crate::{KeyName, Timestamp};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use thiserror::Error;

/// The highest rate that a key may be given, in requests a minute.
pub const MAX_RATE: u32 = 1_000_000;
/// The most requests under way at once that a key may be given.
pub const MAX_CONCURRENCY: u32 = 10_000;
/// The most wakes an hour that a key may be given: each replica remembers as many of them.
pub const MAX_WAKES_PER_HOUR: u32 = 1_000;

/// What a key permits. It never changes: another key is made instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTerms {
    /// What people call it.
    pub name: KeyName,
    /// What it may ask for.
    pub scopes: Scopes,
    /// The first moment at which it is refused; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<Timestamp>,
    /// How much it may ask for.
    pub limits: KeyLimits,
}

impl KeyTerms {
    /// Whether the key is refused at `now` because it is too old.
    #[must_use]
    pub fn expired_at(&self, now: Timestamp) -> bool {
        self.expires_at_ms.is_some_and(|expires| expires <= now)
    }
}

/// How much a key may ask for. What is absent has no limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLimits {
    /// Requests a minute, in each replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<NonZeroU32>,
    /// Requests under way at once, in each replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
    /// Wakes that it starts within an hour, in the whole cluster; 0 for a key that only asks what is awake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wakes_per_hour: Option<u32>,
}

/// A limit that a key can't be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidLimit {
    /// The rate.
    #[error("a rate is 1 to {MAX_RATE} requests a minute")]
    Rate,
    /// The concurrency.
    #[error("a concurrency is 1 to {MAX_CONCURRENCY} requests at once")]
    Concurrency,
    /// The wakes an hour.
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
