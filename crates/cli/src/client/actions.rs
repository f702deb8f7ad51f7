//! `reveille wake` and `reveille sleep`.

use super::{
    ApiClient,
    format::{Row, field, printable, span},
    named,
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

/// How long a sleep may take: requests in progress have two minutes to finish, and the recipe as long again.
const SLEEPS_WITHIN: Duration = Duration::from_secs(5 * 60);

/// `reveille wake`.
#[derive(Debug, Args)]
pub struct Wake {
    /// The provider; its name alone will do if only one agent has it.
    #[arg(value_name = "AGENT/PROVIDER")]
    pub provider: String,
    /// Wait until the provider is awake or the wake has failed.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub api: ApiAddress,
}

/// `reveille sleep`.
#[derive(Debug, Args)]
pub struct Sleep {
    /// The provider; its name alone will do if only one agent has it.
    #[arg(value_name = "AGENT/PROVIDER")]
    pub provider: String,
    /// Wait until the provider is asleep, or stays awake after all.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub api: ApiAddress,
}

/// Wakes a provider, and waits for the end of the wake with `--wait`.
pub async fn wake(args: &Wake) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let provider = &named::provider(&client, &args.provider).await?;
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

/// Puts a provider to sleep, and waits until it is asleep with `--wait`.
pub async fn sleep(args: &Sleep) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let provider = &named::provider(&client, &args.provider).await?;
    let started = Instant::now();
    let answer: Row = client
        .json(client.request(Method::POST, &path(provider, "/sleep")))
        .await?;
    match field(&answer, "status") {
        "active" => line(&format!("{provider} is going to sleep"))?,
        status => return line(&format!("{provider} is {status}")),
    }
    while args.wait && started.elapsed() < SLEEPS_WITHIN {
        let row: Row = client
            .json(client.request(Method::GET, &path(provider, "")))
            .await?;
        match field(&row, "status") {
            "active" => pause(LOOK_EVERY).await,
            "hibernating" => return line(&format!("{provider} is asleep after {}", span(started.elapsed()))),
            status => return Err(anyhow!("{provider} is {status}").into()),
        }
    }
    if args.wait {
        let waited = span(started.elapsed());
        return Err(anyhow!(
            "{provider} is still awake after {waited}: requests keep it awake, or its sleep recipe failed; the log of its agent says \
             which"
        )
        .into());
    }
    Ok(())
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
