//! What keys, models and providers used in each hour.

use super::record::RequestRecord;
use crate::{
    names::{KeyId, ModelName, ProviderId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::HashMap, ops::AddAssign, time::Duration};

/// The most rows of usage in memory. Those of the oldest hours are dropped first.
pub const MAX_USAGE_ROWS: usize = 50_000;

/// What usage is summed up by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UsageKey {
    /// When the hour began in which the requests ended.
    pub hour_ms: Timestamp,
    /// The key; absent for the operator of a replica's machine.
    pub key: Option<KeyId>,
    /// The model as it was asked for; absent for requests that ended before it was known.
    pub model: Option<ModelName>,
    /// The provider that answered; absent if none did.
    pub provider: Option<ProviderId>,
}

impl UsageKey {
    /// An hour.
    pub const HOUR: Duration = Duration::from_secs(60 * 60);

    /// What a request that has ended is summed up by.
    #[must_use]
    pub fn of(record: &RequestRecord) -> Self {
        let ended_at = record.ended_at().unwrap_or(record.received_at_ms).as_millis();
        let hour = millis(Self::HOUR);
        Self {
            hour_ms: Timestamp::from_millis(ended_at - ended_at % hour),
            key: record.key.clone(),
            model: record.model.clone(),
            provider: record.provider.clone(),
        }
    }

    /// Where it comes in lists: the latest hours come first.
    #[must_use]
    pub const fn place(
        &self,
    ) -> (
        Reverse<Timestamp>,
        Option<&KeyId>,
        Option<&ModelName>,
        Option<&ProviderId>,
    ) {
        (
            Reverse(self.hour_ms),
            self.key.as_ref(),
            self.model.as_ref(),
            self.provider.as_ref(),
        )
    }

    /// Whether its hour ends after `at`.
    #[must_use]
    pub fn ends_after(&self, at: Timestamp) -> bool {
        self.hour_ms.plus(Self::HOUR) > at
    }
}

/// Sums of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// How many requests ended.
    pub requests: u64,
    /// How many of them failed or broke off.
    pub failures: u64,
    /// Tokens of prompts.
    pub tokens_in: u64,
    /// Tokens of answers.
    pub tokens_out: u64,
    /// How many of these were estimated.
    pub tokens_estimated: u64,
    /// How long providers worked on them, in milliseconds.
    pub busy_ms: u64,
}

impl Usage {
    /// That of one request.
    #[must_use]
    pub fn of(record: &RequestRecord) -> Self {
        let tokens = record.tokens.unwrap_or_default();
        let output = tokens.output.unwrap_or_default();
        Self {
            requests: 1,
            failures: u64::from(record.outcome.is_failure()),
            tokens_in: tokens.input.unwrap_or_default(),
            tokens_out: output,
            tokens_estimated: if tokens.estimated { output } else { 0 },
            busy_ms: record.busy_ms(),
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        let add = u64::saturating_add;
        *self = Self {
            requests: add(self.requests, other.requests),
            failures: add(self.failures, other.failures),
            tokens_in: add(self.tokens_in, other.tokens_in),
            tokens_out: add(self.tokens_out, other.tokens_out),
            tokens_estimated: add(self.tokens_estimated, other.tokens_estimated),
            busy_ms: add(self.busy_ms, other.busy_ms),
        };
    }
}

/// The sums of one hour, key, model and provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// What they are of.
    #[serde(flatten)]
    pub key: UsageKey,
    /// The sums.
    #[serde(flatten)]
    pub usage: Usage,
}

/// Usage in memory.
#[derive(Debug, Default)]
pub struct UsageTable {
    rows: HashMap<UsageKey, Usage>,
}

impl UsageTable {
    /// Adds to the sums of `key`.
    pub fn add(&mut self, key: UsageKey, usage: Usage) {
        *self.rows.entry(key).or_default() += usage;
        if self.rows.len() > MAX_USAGE_ROWS
            && let Some(oldest) = self.rows.keys().map(|key| key.hour_ms).min()
        {
            self.rows.retain(|key, _| key.hour_ms > oldest);
        }
    }

    /// Removes all rows and returns them.
    pub fn take(&mut self) -> Vec<UsageRow> {
        let rows = std::mem::take(&mut self.rows).into_iter();
        rows.map(|(key, usage)| UsageRow { key, usage }).collect()
    }

    /// Whether nothing was used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows, in no order.
    pub fn rows(&self) -> impl Iterator<Item = UsageRow> {
        self.rows.iter().map(|(key, usage)| UsageRow {
            key: key.clone(),
            usage: *usage,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
