//! `llms`, `providers` and `wakes`.

use super::{ApiClient, output::print, table::Table};
use crate::{
    args::{Listing, Wakes},
    failure::Failure,
};

/// `reveille llms`.
pub async fn llms(args: &Listing) -> Result<(), Failure> {
    let rows = ApiClient::new(&args.api)?.llms().await?;
    print(&rows, args.output, Table::llms)
}

/// `reveille providers`.
pub async fn providers(args: &Listing) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let rows = client
        .rows("/reveille/v1/providers", &[], "after", usize::MAX)
        .await?;
    print(&rows, args.output, Table::providers)
}

/// `reveille wakes`.
pub async fn wakes(args: &Wakes) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let mut query = vec![];
    query.extend(args.provider.as_ref().map(|id| ("provider", id.to_string())));
    let most = usize::try_from(args.limit)?;
    let rows = client.rows("/reveille/v1/wakes", &query, "before", most).await?;
    print(&rows, args.listing.output, Table::wakes)
}
