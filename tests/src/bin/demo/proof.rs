//! What happened, from those who were told: the journal through the API, and a plain NATS subscriber.

use crate::{
    chat::Answer,
    stage::{PROVIDER, Stage},
};
use anyhow::{Context, Result, bail, ensure};
use reveille_tests::Facts;
use serde_json::Value;
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Facts are told as soon as they are committed.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The one wake of the demo, as everybody knows it.
#[derive(Debug)]
pub struct Proof {
    wake_id: String,
    requested: Event,
    succeeded: Event,
    stages: Vec<RecipeStage>,
}

/// An event of the journal.
#[derive(Debug)]
struct Event {
    commit: u64,
    at_ms: u64,
}

/// A stage of the recipe, counted from the recipe's start.
#[derive(Debug)]
struct RecipeStage {
    name: String,
    started_after_ms: u64,
    took_ms: u64,
}

impl Proof {
    /// Asks everybody, and compares what they say.
    pub async fn gather(stage: &Stage, facts: &Facts, answer: &Answer) -> Result<Self> {
        let wakes = stage
            .rows(&format!("/reveille/v1/wakes?provider={PROVIDER}"))
            .await?;
        let [wake] = wakes.as_slice() else {
            bail!("there were {} wakes instead of one", wakes.len());
        };
        ensure!(wake["outcome"] == "succeeded", "the wake did not succeed: {wake}");
        ensure!(
            wake["cause"]["by"] == "request" && wake["cause"]["request_id"] == answer.request_id.as_str(),
            "the wake was not caused by our request {}: {wake}",
            answer.request_id
        );
        let wake_id = wake["wake_id"].as_str().context("the wake has no id")?.to_owned();
        let events = stage
            .rows("/reveille/v1/events?aggregate_type=provider&limit=1000")
            .await?;
        let proof = Self {
            requested: Event::find(&events, "WakeRequested", &wake_id)?,
            succeeded: Event::find(&events, "WakeSucceeded", &wake_id)?,
            stages: RecipeStage::all(&wake["stages"])?,
            wake_id,
        };
        proof.was_told(facts).await?;
        Ok(proof)
    }

    /// A subscriber that knows nothing of our types heard both events with the same wake and in the same commits.
    async fn was_told(&self, facts: &Facts) -> Result<()> {
        for (event, at) in [
            ("WakeRequested", &self.requested),
            ("WakeSucceeded", &self.succeeded),
        ] {
            let started = Instant::now();
            while !heard(facts, event, &self.wake_id, at.commit) {
                ensure!(
                    started.elapsed() < TOLD_WITHIN,
                    "the subscriber of reveille.facts.> was not told of {event} {}",
                    self.wake_id
                );
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Who did what when, counted from the request.
    pub fn timeline(&self, answer: &Answer) -> String {
        let span = self
            .stages
            .iter()
            .map(|stage| stage.started_after_ms + stage.took_ms);
        // The agent's stages are counted from its own start of the recipe; they end with the report of the success.
        let recipe = self.succeeded.at_ms.saturating_sub(span.max().unwrap_or(0));
        let mut text = format!(
            "wake {}, as the journal and this client have it:\n\n",
            self.wake_id
        );
        let mut line = |at_ms: u64, what: &str, source: &str| {
            let after = Duration::from_millis(at_ms.saturating_sub(answer.sent_at_ms));
            let _ = writeln!(text, "  {:>7.3} s  {what:<44}  {source}", after.as_secs_f64());
        };
        let commit = |event: &Event| format!("journal, commit {}", event.commit);
        let stages = format!("journal, stages of commit {}", self.succeeded.commit);
        line(answer.sent_at_ms, "request sent", "this client");
        line(self.requested.at_ms, "wake requested", &commit(&self.requested));
        line(recipe, "recipe started", &stages);
        for stage in &self.stages {
            let what = format!("  {}, took {} ms", stage.name, stage.took_ms);
            line(recipe + stage.started_after_ms, &what, &stages);
        }
        line(self.succeeded.at_ms, "backend ready", &commit(&self.succeeded));
        line(answer.first_token_at_ms, "first token", "this client");
        line(
            answer.done_at_ms,
            &format!("done, {} tokens", answer.tokens),
            "this client",
        );
        text += "\n  A plain subscriber of reveille.facts.> was told of both commits, with the same wake.\n";
        text
    }
}

impl Event {
    fn find(events: &[Value], event_type: &str, wake_id: &str) -> Result<Self> {
        let mut found = events
            .iter()
            .filter(|event| event["event_type"] == event_type && event["wake_id"] == wake_id);
        let (Some(event), None) = (found.next(), found.next()) else {
            bail!("the journal does not hold exactly one {event_type} of wake {wake_id}");
        };
        Ok(Self {
            commit: event["stream_seq"]
                .as_u64()
                .context("an event without its commit")?,
            at_ms: event["at_ms"].as_u64().context("an event without its time")?,
        })
    }
}

impl RecipeStage {
    fn all(stages: &Value) -> Result<Vec<Self>> {
        let stages = stages.as_array().filter(|stages| !stages.is_empty());
        let stages = stages
            .context("the journal does not say what the recipe did")?
            .iter();
        let read = |stage: &Value| {
            Some(Self {
                name: stage["name"].as_str()?.to_owned(),
                started_after_ms: stage["started_after_ms"].as_u64()?,
                took_ms: stage["took_ms"].as_u64()?,
            })
        };
        stages
            .map(read)
            .collect::<Option<_>>()
            .context("a stage of the recipe is incomplete")
    }
}

fn heard(facts: &Facts, event_type: &str, wake_id: &str, commit: u64) -> bool {
    let told = facts.with(event_type);
    told.iter().any(|fact| {
        let data = fact.data(event_type);
        let id = data.map(|data| data["wake_id"].as_str().or(data["wake"]["id"].as_str()));
        fact.sequence == commit && id == Some(Some(wake_id))
    })
}
