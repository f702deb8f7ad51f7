//! `reveille llms`, `reveille providers` and `reveille wakes`.

use super::{ApiClient, Row, named, output::print, table};
use crate::{
    args::{Listing, duration},
    failure::Failure,
};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use reveille_domain::{
    AgentName,
    provider::StatusName,
    rows::{LlmSort, Sort, WakeOutcomeName, WakeSort},
};
use std::time::Duration;

/// How many wakes are listed by default.
const DEFAULT_WAKES: &str = "20";

/// `reveille llms` and `reveille providers`.
#[derive(Debug, Args)]
pub struct Published {
    #[command(flatten)]
    pub listing: Listing,
    /// Sort by name, status or since; a leading - reverses the order [default: name].
    #[arg(long, allow_hyphen_values = true)]
    pub sort: Option<Sort<LlmSort>>,
    /// Only those of this agent.
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<AgentName>,
    /// Only those with this status: active, waking, hibernating, down or inactive.
    #[arg(long, value_name = "STATUS")]
    pub status: Option<StatusName>,
}

/// `reveille wakes`.
#[derive(Debug, Args)]
pub struct Wakes {
    #[command(flatten)]
    pub listing: Listing,
    /// Sort by requested or took; a leading - reverses the order [default: -requested].
    #[arg(long, allow_hyphen_values = true)]
    pub sort: Option<Sort<WakeSort>>,
    /// Only wakes of this provider.
    #[arg(long, value_name = "AGENT/PROVIDER")]
    pub provider: Option<String>,
    /// Only wakes with this outcome: in_flight, succeeded, failed or timed_out.
    #[arg(long, value_name = "OUTCOME")]
    pub outcome: Option<WakeOutcomeName>,
    /// Only wakes requested in this time, such as 12h or 2d.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "sort")]
    pub since: Option<Duration>,
    /// How many wakes to list.
    #[arg(long, value_name = "N", default_value = DEFAULT_WAKES, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}

/// Lists the models.
pub async fn llms(args: &Published) -> Result<(), Failure> {
    let rows = published("/reveille/v1/llms", args).await?;
    print(&rows, args.listing.output, table::LLMS)
}

/// Lists the providers.
pub async fn providers(args: &Published) -> Result<(), Failure> {
    let rows = published("/reveille/v1/providers", args).await?;
    print(&rows, args.listing.output, table::PROVIDERS)
}

async fn published(path: &str, args: &Published) -> Result<Vec<Row>, Failure> {
    let mut query = vec![];
    query.extend(args.sort.map(|sort| ("sort", sort.to_string())));
    query.extend(args.agent.as_ref().map(|agent| ("agent", agent.to_string())));
    query.extend(args.status.map(|status| ("status", status.to_string())));
    let client = ApiClient::new(&args.listing.api)?;
    client.rows(path, &query, usize::MAX).await
}

/// Lists the latest wakes.
pub async fn wakes(args: &Wakes) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let mut query = vec![];
    if let Some(given) = &args.provider {
        query.push(("provider", named::provider(&client, given).await?.to_string()));
    }
    query.extend(args.sort.map(|sort| ("sort", sort.to_string())));
    query.extend(args.outcome.map(|outcome| ("outcome", outcome.to_string())));
    let most = usize::try_from(args.limit)?;
    let mut rows = client.rows("/reveille/v1/wakes", &query, most).await?;
    if let Some(since) = args.since {
        // The latest come first.
        let begin = Timestamp::now()
            .checked_sub(SignedDuration::try_from(since)?)?
            .as_millisecond();
        rows.retain(|row| row["requested_at_ms"].as_i64() >= Some(begin));
    }
    print(&rows, args.listing.output, table::WAKES)
}
