//! `wake` and `sleep`: what a person does by hand.

use super::{
    ApiClient,
    output::line,
    words::{Row, field, printable, span},
};
use crate::{
    args::{Sleep, Wake},
    failure::Failure,
};
use anyhow::anyhow;
use reqwest::Method;
use reveille_domain::{MAX_WAKE_BUDGET, ProviderId};
use std::time::{Duration, Instant};
use tokio::time::sleep as pause;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// No wake takes longer than its budget, and what it takes for its end to be known.
const WAIT_AT_MOST: Duration = MAX_WAKE_BUDGET.saturating_add(Duration::from_secs(60));

/// `reveille wake`.
pub async fn wake(args: &Wake) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let provider = &args.provider;
    let started = Instant::now();
    let begun: Row = client
        .json(client.request(Method::POST, &path(provider, "/wake")))
        .await?;
    let wake = field(&begun, "wake_id");
    if wake.is_empty() {
        return line(&format!("{provider} is {} already", field(&begun, "status")));
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
    Err(anyhow!("{provider}: the end of wake {wake} did not become known").into())
}

/// `reveille sleep`.
pub async fn sleep(args: &Sleep) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let answer: Row = client
        .json(client.request(Method::POST, &path(&args.provider, "/sleep")))
        .await?;
    match field(&answer, "status") {
        "active" => line(&format!("{} was told to sleep", args.provider)),
        status => line(&format!("{} is {status}", args.provider)),
    }
}

fn path(provider: &ProviderId, order: &str) -> String {
    format!("/reveille/v1/providers/{provider}{order}")
}

/// The wake among those of the provider that have ended.
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
