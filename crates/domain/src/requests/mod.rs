//! Inference requests, remembered: what each one was, how far it came and when, and what keys, models and providers used in each hour.
//!
//! They are no part of the journal, and nothing is decided by them. No prompt, answer or secret is in them: the texts that they
//! have are names, and sentences of Reveille's own.

mod query;
mod recent;
mod record;
mod usage;

pub use query::{PastRequests, RequestPage, RequestQuery, SLOW_MS, UsagePage, UsageQuery};
pub use recent::{MAX_HELD_BYTES, MAX_HELD_REQUESTS, RecentRequests};
pub use record::{
    MAX_OTHERS, MAX_STEPS, NotChosen, RequestError, RequestOutcome, RequestRecord, Step, StepKind, TokenCount,
};
pub use usage::{MAX_USAGE_ROWS, Usage, UsageKey, UsageRow, UsageTable};

#[cfg(test)]
mod tests;
