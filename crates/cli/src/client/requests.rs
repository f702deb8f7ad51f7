//! `reveille requests` and `reveille usage`.

use super::{ApiClient, Row, named, output::print, table};
use crate::{
    args::{Listing, duration},
    failure::Failure,
};
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use reveille_domain::ModelName;
use std::time::Duration;

/// How many requests are listed unless a number or a time is given.
const USUAL_REQUESTS: usize = 20;

/// `reveille requests`.
#[derive(Debug, Args)]
pub struct Requests {
    #[command(flatten)]
    pub listing: Listing,
    #[command(flatten)]
    pub filter: RequestFilter,
    /// Only those that waited 5 s or longer for the first byte of their answer.
    #[arg(long)]
    pub slow: bool,
    /// Only those that failed or broke off.
    #[arg(long)]
    pub failed: bool,
    /// How many to list at most [default: 20, or all that --since names].
    #[arg(long = "limit", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rows: Option<u32>,
}

/// `reveille usage`.
#[derive(Debug, Args)]
pub struct UsageByHour {
    #[command(flatten)]
    pub listing: Listing,
    #[command(flatten)]
    pub filter: RequestFilter,
}

/// Which requests.
#[derive(Debug, Args)]
pub struct RequestFilter {
    /// Only those from this time, such as 12h or 2d.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub since: Option<Duration>,
    /// Only those for this model.
    #[arg(long, value_name = "MODEL", value_parser = ModelName::parse)]
    pub model: Option<ModelName>,
    /// Only those at this provider; its name alone will do if only one agent has it.
    #[arg(long, value_name = "AGENT/PROVIDER")]
    pub provider: Option<String>,
    /// Only those with this key, by its name, its id or the beginning of its id.
    #[arg(long, value_name = "KEY")]
    pub of_key: Option<String>,
}

impl RequestFilter {
    async fn query(&self, client: &ApiClient) -> Result<Vec<(&'static str, String)>, Failure> {
        let mut query = vec![];
        if let Some(since) = self.since {
            let begins = Timestamp::now().checked_sub(SignedDuration::try_from(since)?)?;
            query.push(("since_ms", begins.as_millisecond().max(0).to_string()));
        }
        query.extend(self.model.as_ref().map(|model| ("model", model.to_string())));
        if let Some(given) = &self.provider {
            query.push(("provider", named::provider(client, given).await?.to_string()));
        }
        if let Some(given) = &self.of_key {
            query.push(("key", named::key(client, given).await?.to_string()));
        }
        Ok(query)
    }
}

/// Lists the latest requests.
pub async fn requests(args: &Requests) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let mut query = args.filter.query(&client).await?;
    for (flag, is_set) in [("slow", args.slow), ("failed", args.failed)] {
        query.extend(is_set.then(|| (flag, "true".to_owned())));
    }
    let usual = match args.filter.since {
        None => USUAL_REQUESTS,
        Some(_) => usize::MAX,
    };
    let most = args
        .rows
        .map_or(usual, |rows| usize::try_from(rows).unwrap_or(usize::MAX));
    let rows = client.rows("/reveille/v1/requests", &query, most).await?;
    print(&rows, args.listing.output, table::REQUESTS)
}

/// Lists what was used in each hour.
pub async fn usage(args: &UsageByHour) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let query = args.filter.query(&client).await?;
    let rows: Vec<Row> = client.rows("/reveille/v1/usage", &query, usize::MAX).await?;
    print(&rows, args.listing.output, table::USAGE)
}
