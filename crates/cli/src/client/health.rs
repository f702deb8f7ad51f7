//! `reveille health`: whether an API is ready, as an exit code for service managers and container engines.

use super::{ApiClient, output::print_one, readiness::missing};
use crate::{
    args::{Format, Listing},
    failure::Failure,
};
use anyhow::anyhow;
use reqwest::Method;

/// The status of an API that has all it needs.
const READY: &str = "ready";

/// Succeeds if the API is ready.
pub async fn health(args: &Listing) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let answer = client.body(client.request(Method::GET, "/readyz")).await?;
    let is_ready = answer["status"] == READY;
    if is_ready || args.output != Format::Table {
        print_one(&answer, args.output, READY)?;
    }
    if is_ready {
        return Ok(());
    }
    let missing = missing(&answer);
    Err(anyhow!("the API is not ready: {missing}").into())
}
