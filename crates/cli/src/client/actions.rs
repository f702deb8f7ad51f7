//! `reveille wake` and `reveille sleep`.

use super::{
    ApiClient,
    format::{Row, field, printable, span},
    output::line,
};
use crate::{args::ApiAddress, failure::Failure};
use anyhow::anyhow;
use clap::Args;
use reqwest::Method;
use reveille_domain::{MAX_WAKE_BUDGET, ProviderId};
use std::time::{Duration, Instant};
use tokio::time::sleep as pause;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The longest budget of a wake, plus the time until its end is known.
const WAIT_AT_MOST: Duration = MAX_WAKE_BUDGET.saturating_add(Duration::from_secs(60));

/// `reveille wake`.
#[derive(Debug, Args)]
pub struct Wake {
    /// The provider.
    #[arg(value_name = "AGENT/PROVIDER")]
    pub provider: ProviderId,
    /// Wait until the provider is awake or the wake has failed.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub api: ApiAddress,
}

/// `reveille sleep`.
#[derive(Debug, Args)]
pub struct Sleep {
    /// The provider.
    #[arg(value_name = "AGENT/PROVIDER")]
    pub provider: ProviderId,
    #[command(flatten)]
    pub api: ApiAddress,
}

/// Wakes a provider, and waits for the end of the wake with `--wait`.
pub async fn wake(args: &Wake) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let provider = &args.provider;
    let started = Instant::now();
    let started_wake: Row = client
        .json(client.request(Method::POST, &path(provider, "/wake")))
        .await?;
    let wake = field(&started_wake, "wake_id");
    if wake.is_empty() {
        return line(&format!(
            "{provider} is already {}",
            field(&started_wake, "status")
        ));
    }
    line(&format!("{provider} is waking: wake {wake}"))?;
    if !args.wait {
        return Ok(());
    }
    while started.elapsed() < WAIT_AT_MOST {
        let row: Row = client
            .json(client.request(Method::GET, &path(provider, "")))
            .await?;
        if let Some(ended) = ended(&row, wake) {
            return tell(provider, ended, started.elapsed());
        }
        pause(LOOK_EVERY).await;
    }
    Err(anyhow!("{provider}: lost track of wake {wake}").into())
}

/// Puts a provider to sleep.
pub async fn sleep(args: &Sleep) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let answer: Row = client
        .json(client.request(Method::POST, &path(&args.provider, "/sleep")))
        .await?;
    match field(&answer, "status") {
        "active" => line(&format!("{} is going to sleep", args.provider)),
        status => line(&format!("{} is {status}", args.provider)),
    }
}

fn path(provider: &ProviderId, order: &str) -> String {
    format!("/reveille/v1/providers/{provider}{order}")
}

/// The wake, if it is among the provider's ended ones.
fn ended<'a>(provider: &'a Row, wake: &str) -> Option<&'a Row> {
    let mut ended = provider["last_wakes"].as_array()?.iter();
    ended.find(|ended| ended["id"] == wake)
}

fn tell(provider: &ProviderId, wake: &Row, took: Duration) -> Result<(), Failure> {
    let (failure, took) = (&wake["failure"], span(took));
    match failure["reason"].as_str() {
        None => line(&format!("{provider} is awake after {took}")),
        Some(reason) => Err(anyhow!(
            "{provider} did not wake: {} (stage `{}`, after {took})",
            printable(reason),
            printable(field(failure, "stage"))
        )
        .into()),
    }
}
