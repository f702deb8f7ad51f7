//! How soon a key's requests have their turn where requests wait.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString};

/// A class of requests that wait for the same provider.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    Display,
    EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Priority {
    /// Soonest, such as for people who wait.
    High,
    /// What a key without another has.
    #[default]
    Normal,
    /// Latest, such as for batches.
    Low,
}

impl Priority {
    /// All, the soonest first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Whether it is what a key without another has.
    #[must_use]
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}
