//! `reveille health`: whether an API is ready, as an exit code for service managers and container engines.

use super::{ApiClient, output::line, readiness::missing};
use crate::{args::ApiAddress, failure::Failure};
use anyhow::anyhow;
use reqwest::Method;

/// The status of an API that has all it needs.
const READY: &str = "ready";

/// Succeeds if the API is ready.
pub async fn health(address: &ApiAddress) -> Result<(), Failure> {
    let client = ApiClient::new(address)?;
    let answer = client.body(client.request(Method::GET, "/readyz")).await?;
    if answer["status"] == READY {
        return line(READY);
    }
    let missing = missing(&answer);
    Err(anyhow!("the API is not ready: {missing}").into())
}
