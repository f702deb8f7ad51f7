//! `reveille wake` and `reveille sleep`.

use super::{
    ApiClient,
    format::{Row, field, printable, span},
    named,
    output::{line, print_one},
};
use crate::{
    args::{Format, Listing},
    failure::Failure,
};
use anyhow::anyhow;
use clap::Args;
use reqwest::Method;
use reveille_domain::{MAX_WAKE_BUDGET, ProviderId};
use serde_json::json;
use std::{
    io, mem,
    time::{Duration, Instant},
};
use tokio::{signal::ctrl_c, time::sleep as pause};

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The longest budget of a wake, plus the time until its end is known.
const WAIT_AT_MOST: Duration = MAX_WAKE_BUDGET.saturating_add(Duration::from_secs(60));

/// The status of a provider that is being woken.
const WAKING: &str = "waking";
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
    pub listing: Listing,
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
    pub listing: Listing,
}

/// Wakes a provider, and waits for the end of the wake with `--wait`.
pub async fn wake(args: &Wake) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let provider = &named::provider(&client, &args.provider).await?;
    let started = Instant::now();
    let begun: Row = client
        .json(client.request(Method::POST, &path(provider, "/wake")))
        .await?;
    let (wake, format) = (field(&begun, "wake_id"), args.listing.output);
    if wake.is_empty() {
        let text = format!("{provider} is already {}", field(&begun, "status"));
        return print_one(&begun, format, &text);
    }
    let text = format!("{provider} is waking: wake {wake}");
    if !args.wait {
        return print_one(&begun, format, &text);
    }
    if format == Format::Table {
        line(&text)?;
    }
    let waiting = async {
        while started.elapsed() < WAIT_AT_MOST {
            let row: Row = client
                .json(client.request(Method::GET, &path(provider, "")))
                .await?;
            if let Some(ended) = ended(&row, wake) {
                let done = done(provider, &row, started, &ended["failure"]);
                return tell(provider, &done, format, started.elapsed());
            }
            pause(LOOK_EVERY).await;
        }
        Err(anyhow!("{provider}: lost track of wake {wake}").into())
    };
    unless_interrupted(waiting, ctrl_c(), &format!("{provider} goes on waking")).await
}

/// What comes of an order. Whoever stops waiting for that is told that the order stands.
async fn unless_interrupted(
    waiting: impl Future<Output = Result<(), Failure>>,
    interrupted: impl Future<Output = io::Result<()>>,
    goes_on: &str,
) -> Result<(), Failure> {
    tokio::select! {
        outcome = waiting => outcome,
        Ok(()) = interrupted => {
            Err(anyhow!("stopped waiting: {goes_on}, and `reveille status` shows what comes of it").into())
        }
    }
}

/// Puts a provider to sleep, and waits until it is asleep with `--wait`.
pub async fn sleep(args: &Sleep) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let provider = &named::provider(&client, &args.provider).await?;
    let (started, format) = (Instant::now(), args.listing.output);
    let look = async || {
        client
            .json(client.request(Method::GET, &path(provider, "")))
            .await
    };
    let mut before: Row = if args.wait { look().await? } else { Row::Null };
    let mut told = false;
    let answer: Row = loop {
        let asked = client.request(Method::POST, &path(provider, "/sleep"));
        let refused = match client.json(asked).await {
            Ok(answer) => break answer,
            Err(refused) => refused,
        };
        if field(&look().await?, "status") != WAKING || started.elapsed() >= WAIT_AT_MOST {
            return Err(refused);
        }
        if !args.wait {
            return Err(anyhow!(
                "{provider} is being woken: `reveille sleep {provider} --wait` waits for that, and puts it to sleep then"
            )
            .into());
        }
        if format == Format::Table && !mem::replace(&mut told, true) {
            line(&format!(
                "{provider} is being woken, and goes to sleep after that"
            ))?;
        }
        pause(LOOK_EVERY).await;
        before = look().await?;
    };
    let started = Instant::now();
    let going = format!("{provider} is going to sleep");
    match field(&answer, "status") {
        "active" if !args.wait => return print_one(&answer, format, &going),
        "active" if format == Format::Table => line(&going)?,
        "active" => {}
        status => return print_one(&answer, format, &format!("{provider} is {status}")),
    }
    let waiting = falls_asleep(provider, &before, look, started, format);
    unless_interrupted(waiting, ctrl_c(), &going).await
}

async fn falls_asleep(
    provider: &ProviderId,
    before: &Row,
    look: impl AsyncFn() -> Result<Row, Failure>,
    started: Instant,
    format: Format,
) -> Result<(), Failure> {
    while started.elapsed() < SLEEPS_WITHIN {
        let row: Row = look().await?;
        match field(&row, "status") {
            "active" => match stays_awake(&row, before) {
                Some(why) => return Err(anyhow!("{provider} stays awake: {}", printable(why)).into()),
                None => pause(LOOK_EVERY).await,
            },
            "hibernating" => {
                let text = format!("{provider} is asleep after {}", span(started.elapsed()));
                return print_one(&done(provider, &row, started, &Row::Null), format, &text);
            }
            status => return Err(anyhow!("{provider} is {status}").into()),
        }
    }
    let waited = span(started.elapsed());
    Err(anyhow!(
        "{provider} is still awake after {waited}: its requests or its sleep recipe haven't ended; the log of its agent says which"
    )
    .into())
}

/// What has come of an order, for programs.
fn done(provider: &ProviderId, row: &Row, since: Instant, failure: &Row) -> Row {
    let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    json!({"provider": provider, "status": row["status"], "took_ms": took_ms, "failure": failure})
}

/// Why an attempt to put it to sleep that ended after `before` has failed.
fn stays_awake<'a>(row: &'a Row, before: &Row) -> Option<&'a str> {
    let stays = &row["stays_awake"];
    stays["reason"]
        .as_str()
        .filter(|_| stays["attempt"] != before["stays_awake"]["attempt"])
}

fn path(provider: &ProviderId, order: &str) -> String {
    format!("/reveille/v1/providers/{provider}{order}")
}

/// The wake, if it is among the provider's ended ones.
fn ended<'a>(provider: &'a Row, wake: &str) -> Option<&'a Row> {
    let mut ended = provider["last_wakes"].as_array()?.iter();
    ended.find(|ended| ended["id"] == wake)
}

fn tell(provider: &ProviderId, done: &Row, format: Format, took: Duration) -> Result<(), Failure> {
    let (failure, took) = (&done["failure"], span(took));
    let Some(reason) = failure["reason"].as_str() else {
        return print_one(done, format, &format!("{provider} is awake after {took}"));
    };
    if format != Format::Table {
        print_one(done, format, "")?;
    }
    Err(anyhow!(
        "{provider} did not wake: {} (stage `{}`, after {took})",
        printable(reason),
        printable(field(failure, "stage"))
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn whoever_stops_waiting_is_told_that_the_order_stands() {
        let goes_on = "pc/ollama goes on waking";
        let interrupted = unless_interrupted(pending(), ready(Ok(())), goes_on).await;
        let said = interrupted.unwrap_err().to_string();
        assert!(
            said.starts_with("stopped waiting: pc/ollama goes on waking, and `reveille status`"),
            "{said}"
        );
        let deaf = ready(Err(io::Error::other("no signals")));
        unless_interrupted(ready(Ok(())), deaf, goes_on).await.unwrap();
    }

    #[test]
    fn a_sleep_has_failed_once_a_later_attempt_than_before_has() {
        let row = |stays: Row| json!({"status": "active", "stays_awake": stays});
        let failed = |attempt| row(json!({"attempt": attempt, "reason": "still answers"}));
        let none = row(Row::Null);
        for (now, before, failed) in [
            (&none, &none, None),
            (&failed(1), &none, Some("still answers")),
            (&failed(1), &failed(1), None),
            (&failed(2), &failed(1), Some("still answers")),
            // A hub of an earlier version doesn't say.
            (&json!({"status": "active"}), &none, None),
        ] {
            assert_eq!(stays_awake(now, before), failed, "{now} {before}");
        }
    }
}
