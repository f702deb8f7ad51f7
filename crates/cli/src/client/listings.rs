//! `llms`, `providers` and `wakes`.

use super::{ApiClient, Row, output::print, table::Table};
use crate::{
    args::{Published, Wakes},
    failure::Failure,
};

/// `reveille llms`.
pub async fn llms(args: &Published) -> Result<(), Failure> {
    let rows = published("/reveille/v1/llms", args).await?;
    print(&rows, args.listing.output, Table::llms)
}

/// `reveille providers`.
pub async fn providers(args: &Published) -> Result<(), Failure> {
    let rows = published("/reveille/v1/providers", args).await?;
    print(&rows, args.listing.output, Table::providers)
}

async fn published(path: &str, args: &Published) -> Result<Vec<Row>, Failure> {
    let sort = args.sort.map(|sort| ("sort", sort.to_string()));
    let query: Vec<_> = sort.into_iter().collect();
    let client = ApiClient::new(&args.listing.api)?;
    client.rows(path, &query, usize::MAX).await
}

/// `reveille wakes`.
pub async fn wakes(args: &Wakes) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let mut query = vec![];
    query.extend(args.provider.as_ref().map(|id| ("provider", id.to_string())));
    query.extend(args.sort.map(|sort| ("sort", sort.to_string())));
    let most = usize::try_from(args.limit)?;
    let rows = client.rows("/reveille/v1/wakes", &query, most).await?;
    print(&rows, args.listing.output, Table::wakes)
}
