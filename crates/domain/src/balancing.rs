//! How a provider shares the requests for a model with the other providers that publish it.

use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use thiserror::Error;

/// What a weight may be.
pub const WEIGHTS: RangeInclusive<u32> = 1..=100;
/// What a priority may be.
pub const PRIORITIES: RangeInclusive<u32> = 0..=100;
/// What a limit of requests at once may be.
pub const CONCURRENCIES: RangeInclusive<u32> = 1..=10_000;

/// A provider's share of the requests for its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawBalancing")]
pub struct Balancing {
    #[serde(skip_serializing_if = "is_one")]
    weight: u32,
    #[serde(skip_serializing_if = "is_zero")]
    priority: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_concurrency: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_one(weight: &u32) -> bool {
    *weight == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(priority: &u32) -> bool {
    *priority == 0
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            weight: 1,
            priority: 0,
            max_concurrency: None,
        }
    }
}

#[derive(Deserialize)]
struct RawBalancing {
    weight: Option<u32>,
    priority: Option<u32>,
    max_concurrency: Option<u32>,
}

impl TryFrom<RawBalancing> for Balancing {
    type Error = InvalidBalancing;
    fn try_from(raw: RawBalancing) -> Result<Self, InvalidBalancing> {
        Self::new(
            raw.weight.unwrap_or(1),
            raw.priority.unwrap_or(0),
            raw.max_concurrency,
        )
    }
}

/// Why a provider can't share requests so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "a weight is {} to {}, a priority at most {}, and a limit of requests at once {} to {}",
    WEIGHTS.start(),
    WEIGHTS.end(),
    PRIORITIES.end(),
    CONCURRENCIES.start(),
    CONCURRENCIES.end()
)]
pub struct InvalidBalancing;

impl Balancing {
    /// A share of this weight, in the order of this priority, up to so many requests at once.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn new(weight: u32, priority: u32, max_concurrency: Option<u32>) -> Result<Self, InvalidBalancing> {
        let legal = WEIGHTS.contains(&weight)
            && PRIORITIES.contains(&priority)
            && max_concurrency.is_none_or(|limit| CONCURRENCIES.contains(&limit));
        legal
            .then_some(Self {
                weight,
                priority,
                max_concurrency,
            })
            .ok_or(InvalidBalancing)
    }

    /// Its share relative to that of the others.
    #[must_use]
    pub const fn weight(&self) -> u32 {
        self.weight
    }

    /// Providers with a higher priority come first.
    #[must_use]
    pub const fn priority(&self) -> u32 {
        self.priority
    }

    /// How many requests it works on at a time.
    #[must_use]
    pub const fn max_concurrency(&self) -> Option<u32> {
        self.max_concurrency
    }

    /// Whether nothing is special about it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_as_it_was_before_and_what_is_out_of_range_is_refused() {
        let read = |text: &str| serde_json::from_str::<Balancing>(text).ok();
        assert_eq!(read("{}"), Some(Balancing::default()));
        assert_eq!(
            read(r#"{"weight":3,"later":true}"#),
            Balancing::new(3, 0, None).ok()
        );
        let written = serde_json::to_string(&Balancing::default()).expect("JSON");
        assert_eq!(written, "{}");
        for refused in [
            r#"{"weight":0}"#,
            r#"{"weight":101}"#,
            r#"{"priority":101}"#,
            r#"{"max_concurrency":0}"#,
            r#"{"max_concurrency":10001}"#,
        ] {
            assert_eq!(read(refused), None, "{refused}");
        }
    }
}
