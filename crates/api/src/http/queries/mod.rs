//! `/reveille/v1`: the present and the past, in [pages](super::paging); and waking and putting to sleep by hand.

pub(super) mod events;
pub(super) mod llms;
pub(super) mod past;
pub(super) mod providers;
pub(super) mod requests;
pub(super) mod status;
pub(super) mod wakes;
pub(super) mod why;

use super::extract::parsed;
use reveille_domain::{
    AgentName, ModelName, ProviderName,
    as_of::Moment,
    provider::StatusName,
    rows::{Cursor, LlmSort, Sort},
};
use serde::Deserialize;

/// Filters on what agents publish: LLMs and providers alike.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Published {
    #[serde(default, deserialize_with = "parsed")]
    agent: Option<AgentName>,
    #[serde(default, deserialize_with = "parsed")]
    provider: Option<ProviderName>,
    #[serde(default, deserialize_with = "parsed")]
    model: Option<ModelName>,
    #[serde(default, deserialize_with = "parsed")]
    status: Option<StatusName>,
    #[serde(default, deserialize_with = "parsed")]
    sort: Option<Sort<LlmSort>>,
    after: Option<Cursor>,
    #[serde(default, rename = "limit", deserialize_with = "parsed")]
    rows: Option<u32>,
    #[serde(default, deserialize_with = "parsed")]
    min_seq: Option<u64>,
    #[serde(default, deserialize_with = "parsed")]
    at: Option<Moment>,
}
