//! `reveille llms`, `reveille providers` and `reveille wakes`.

use super::{ApiClient, Row, output::print, table};
use crate::{args::Listing, failure::Failure};
use clap::Args;
use reveille_domain::{
    ProviderId,
    rows::{LlmSort, Sort, WakeSort},
};

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
    pub provider: Option<ProviderId>,
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
    let sort = args.sort.map(|sort| ("sort", sort.to_string()));
    let query: Vec<_> = sort.into_iter().collect();
    let client = ApiClient::new(&args.listing.api)?;
    client.rows(path, &query, usize::MAX).await
}

/// Lists the latest wakes.
pub async fn wakes(args: &Wakes) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let mut query = vec![];
    query.extend(args.provider.as_ref().map(|id| ("provider", id.to_string())));
    query.extend(args.sort.map(|sort| ("sort", sort.to_string())));
    let most = usize::try_from(args.limit)?;
    let rows = client.rows("/reveille/v1/wakes", &query, most).await?;
    print(&rows, args.listing.output, table::WAKES)
}
