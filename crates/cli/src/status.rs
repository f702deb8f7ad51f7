//! `reveille status`: one screen of what runs, what waits, the latest wakes, and what is wrong with the command that mends it.

use crate::{
    args::{ApiAddress, Format},
    client::{
        self, ApiClient, NOT_RUNNING, Row, age, field, line, missing, printable,
        table::{self, table_at},
    },
    data_dir,
    doctor::{Findings, published},
    failure::Failure,
    signals::Signals,
};
use anyhow::anyhow;
use clap::Args;
use jiff::{Timestamp, Zoned};
use reqwest::Method;
use reveille_domain::counted;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
    time::Duration,
};
use tokio::time::sleep;

/// How many of the latest wakes are shown.
const WAKES: usize = 5;
/// How often `--watch` looks again by default.
const WATCH: &str = "2s";
/// The status of an API that has all it needs.
const READY: &str = "ready";
const SEE_DOCTOR: &str = "`reveille doctor` looks for the cause";
/// A start takes a few seconds, and nothing shows how long ago it was.
const WAIT_OR_SEE_DOCTOR: &str =
    "wait a few seconds if it has just started; if it stays so, `reveille doctor` looks for the cause";
/// Clears a terminal and moves the cursor to its first line.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// `reveille status`.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub api: ApiAddress,
    /// Show it again and again, every 2 s or as given, until Ctrl-C.
    #[arg(long, short, value_name = "EVERY", num_args = 0..=1, default_missing_value = WATCH, value_parser = crate::args::duration)]
    pub watch: Option<Duration>,
    /// Output format.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// Prints the screen; fails if the hub can't be reached or isn't ready.
pub async fn run(args: &Status) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let Some(every) = args.watch else {
        return show(&client, args, "").await;
    };
    let signals = Signals::quiet()?;
    let clear = if io::stdout().is_terminal() && args.output == Format::Table {
        CLEAR
    } else {
        ""
    };
    loop {
        let shown = tokio::select! {
            shown = show(&client, args, clear) => shown,
            () = signals.stop.cancelled() => return Ok(()),
        };
        // It is part of the screen already.
        drop(shown);
        tokio::select! {
            () = sleep(every) => {}
            () = signals.stop.cancelled() => return Ok(()),
        }
    }
}

async fn show(client: &ApiClient, args: &Status, before: &str) -> Result<(), Failure> {
    let screen = Screen::look(client, args).await?;
    match args.output {
        Format::Table => client::screen(before, &screen.text(&Zoned::now()))?,
        Format::Json => line(&serde_json::to_string_pretty(&screen.json())?)?,
        Format::Jsonl => line(&screen.json().to_string())?,
    }
    match screen.trouble {
        None => Ok(()),
        Some(trouble) => Err(anyhow!("the hub was {trouble}").into()),
    }
}

/// What there is to see.
#[derive(Debug, Default)]
struct Screen {
    /// The API's URL.
    api: String,
    /// Why the API can't be reached or isn't ready.
    trouble: Option<String>,
    /// The answer of `/reveille/v1/status`.
    replica: Row,
    agents: Vec<Row>,
    /// The providers, each with the number of requests that wait for it.
    providers: Vec<Row>,
    wakes: Vec<Row>,
    /// What the owners of machines let nobody wake now.
    held_back: Findings,
    /// What is wrong, and what mends it.
    findings: Findings,
}

impl Screen {
    async fn look(client: &ApiClient, args: &Status) -> Result<Self, Failure> {
        let mut screen = Self {
            api: args.api.url()?.as_str().trim_end_matches('/').to_owned(),
            ..Self::default()
        };
        match client.body(client.request(Method::GET, "/readyz")).await {
            Ok(answer) if answer["status"] == READY => {}
            Ok(answer) => screen.not_ready(&missing(&answer)),
            Err(failure) => {
                screen.unreachable(&failure.to_string(), &args.api);
                return Ok(screen);
            }
        }
        if let Err(failure) = screen.ask(client).await {
            let failure = failure.to_string();
            let (found, remedy) = failure.split_once('\n').unwrap_or((&failure, SEE_DOCTOR));
            screen.findings.problem("hub", found, remedy);
        }
        Ok(screen)
    }

    async fn ask(&mut self, client: &ApiClient) -> Result<(), Failure> {
        self.replica = client
            .json(client.request(Method::GET, "/reveille/v1/status"))
            .await?;
        self.agents = client.rows("/reveille/v1/agents", &[], usize::MAX).await?;
        self.providers = client.rows("/reveille/v1/providers", &[], usize::MAX).await?;
        for row in &self.agents {
            published::agent(row, &mut self.findings);
        }
        let now = Timestamp::now();
        for row in &mut self.providers {
            row["waiting"] = self.replica["waiting"][field(row, "id")].clone();
            published::provider(row, now, &mut self.findings);
        }
        published::held_back(&self.agents, &self.providers, now, &mut self.held_back);
        self.wakes = client.rows("/reveille/v1/wakes", &[], WAKES).await?;
        Ok(())
    }

    fn not_ready(&mut self, reason: &str) {
        self.trouble = Some(format!("not ready: {reason}"));
        self.findings
            .problem("hub", format!("it is not ready: {reason}"), WAIT_OR_SEE_DOCTOR);
    }

    fn unreachable(&mut self, failure: &str, address: &ApiAddress) {
        let (reason, remedy) = failure.split_once('\n').unwrap_or((failure, SEE_DOCTOR));
        self.trouble = Some("not reached".to_owned());
        let running = address
            .data_dir
            .path()
            .ok()
            .filter(|path| data_dir::is_locked(path));
        let remedy = match running {
            _ if remedy != NOT_RUNNING => remedy,
            Some(_) if address.api.is_some() => {
                "a `reveille up` is running on this machine: leave out --api and REVEILLE_API_URL to reach that one"
            }
            Some(_) => {
                "a `reveille up` is running, so wait until it listens, or name its address with --api URL"
            }
            None => "start it with `reveille up`, or name another address with --api URL",
        };
        self.findings.problem("hub", reason, remedy);
    }

    const fn is_ready(&self) -> bool {
        self.trouble.is_none()
    }

    fn text(&self, now: &Zoned) -> String {
        let mut text = format!(
            "hub      {}, {}\n",
            self.api,
            self.trouble.as_deref().unwrap_or(READY)
        );
        if !self.replica.is_null() {
            let _ = writeln!(
                text,
                "journal  {}\nlists    {}",
                counted(self.replica["journal"].as_u64().unwrap_or_default(), "commit"),
                self.lists()
            );
            let _ = writeln!(text, "agents   {}", self.agents(now.timestamp()));
            if self.providers.is_empty() {
                text += "\nno providers yet: `reveille init` writes a config for this machine's backends\n";
            } else {
                let _ = writeln!(text, "\n{}", table_at(table::STATUS, &self.providers, now));
            }
        }
        if !self.wakes.is_empty() {
            let _ = writeln!(
                text,
                "\nlatest wakes\n\n{}",
                table_at(table::LATEST, &self.wakes, now)
            );
        }
        if !self.held_back.all().is_empty() {
            text += &section("held back by the owners of machines", &self.held_back);
            text += "\n";
        }
        match self.findings.all() {
            [] => text += "\nnothing is wrong",
            _ => text += &section("what is wrong", &self.findings),
        }
        text
    }

    /// How far the lists are.
    fn lists(&self) -> String {
        match self.replica["rows"]["lag"].as_u64() {
            None => "unavailable, since Postgres can't be reached; requests still work".to_owned(),
            Some(0) => "up to date".to_owned(),
            Some(lag) => format!("{} behind", counted(lag, "commit")),
        }
    }

    fn agents(&self, now: Timestamp) -> String {
        let agents: Vec<_> = self
            .agents
            .iter()
            .map(|row| {
                let name = field(row, "agent");
                let state = agent_state(row, now);
                format!("{} ({state})", printable(name))
            })
            .collect();
        match agents.as_slice() {
            [] => "none yet".to_owned(),
            agents => agents.join(", "),
        }
    }

    fn json(&self) -> Value {
        json!({
            "api": self.api,
            "status": if self.is_ready() { READY } else { "not_ready" },
            "reason": self.trouble,
            "replica": self.replica,
            "agents": self.agents,
            "providers": self.providers,
            "wakes": self.wakes,
            "held_back": self.held_back.all(),
            "findings": self.findings.all(),
        })
    }
}

/// Whether an agent is there, and for how long it has been or hasn't.
fn agent_state(row: &Row, now: Timestamp) -> String {
    let since = |what: &str, at: &str| match row[at].is_null() {
        true => what.to_owned(),
        false => format!("{what} for {}", age(&row[at], now)),
    };
    match field(row, "status") {
        "connected" => {
            let refused = &row["wakes_refused"];
            let rule = match field(refused, "stage") {
                "" => String::new(),
                _ => format!(", {}", table::rule(refused)),
            };
            since("connected", "connected_at_ms") + &rule
        }
        "away" => since("away", "status_since_ms"),
        other => printable(other),
    }
}

/// A heading, and below it each finding with its remedy.
fn section(heading: &str, findings: &Findings) -> String {
    let mut text = format!("\n{heading}\n");
    for finding in findings.all() {
        let _ = write!(text, "\n  {}: {}", finding.check, finding.found);
        if let Some(remedy) = &finding.remedy {
            let _ = write!(text, "\n    -> {remedy}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated_docs;
    use jiff::tz::TimeZone;

    const NOW_MS: i64 = 1_795_449_600_000;
    /// What the documentation shows, in its order.
    const STATES: &[&str] = &["stopped", "starting", "quiet", "waking", "paused", "failing"];

    fn ready() -> Screen {
        Screen {
            api: "http://127.0.0.1:8420".to_owned(),
            replica: json!({"journal": 42, "rows": {"applied": 42, "lag": 0}}),
            agents: vec![
                json!({"agent": "gpu-box", "status": "connected", "connected_at_ms": NOW_MS - 11_000_000}),
            ],
            ..Screen::default()
        }
    }

    fn provider(id: &str, status: &str, since_s: i64, models: &[&str]) -> Row {
        let (agent, provider) = id.split_once('/').unwrap();
        json!({"id": id, "agent": agent, "provider": provider, "status": status, "since_ms": NOW_MS - since_s * 1000,
            "models": models, "last_wakes": [{"requested_at_ms": NOW_MS - since_s * 1000 - 9_000,
            "ended_at_ms": NOW_MS - since_s * 1000 - 600}]})
    }

    fn wake(id: &str, outcome: &str, ago_s: i64, took_ms: Option<i64>) -> Row {
        let requested = NOW_MS - ago_s * 1000;
        json!({"requested_at_ms": requested, "ended_at_ms": took_ms.map(|took| requested + took), "provider": id,
            "outcome": outcome, "cause": {"by": "request", "model": "qwen3-8b"}})
    }

    fn screen(state: &str) -> Screen {
        let mut screen = ready();
        match state {
            "stopped" => {
                screen = Screen {
                    api: screen.api,
                    ..Screen::default()
                };
                let nowhere = ApiAddress {
                    data_dir: crate::args::DataDirArg {
                        data_dir: Some("/nowhere".into()),
                    },
                    ..ApiAddress::keyless(screen.api.parse().unwrap())
                };
                screen.unreachable(
                    &format!(
                        "cannot reach the API at http://127.0.0.1:8420: Connection refused (os error 111)\n{NOT_RUNNING}"
                    ),
                    &nowhere,
                );
            }
            "starting" => screen.not_ready("waiting for nats, clock"),
            "quiet" => {
                screen.agents.push(
                    json!({"agent": "nas", "status": "away", "connected_at_ms": NOW_MS - 90_000_000,
                    "status_since_ms": NOW_MS - 7_200_000}),
                );
                screen.providers = vec![
                    provider("gpu-box/vllm", "hibernating", 754, &["qwen3-8b"]),
                    provider("nas/ollama", "inactive", 7_200, &["llama3:8b", "phi"]),
                ];
                screen.wakes = vec![wake("gpu-box/vllm", "succeeded", 4_000, Some(8_400))];
            }
            "waking" => {
                let mut waking = provider("gpu-box/vllm", "waking", 4, &["qwen3-8b"]);
                waking["waiting"] = json!(3);
                screen.providers = vec![waking];
                screen.wakes = vec![wake("gpu-box/vllm", "in_flight", 4, None)];
            }
            "paused" => {
                let reason = "its owner has paused this agent until 2026-11-23 18:00 +00:00";
                let refused = json!({"kind": "not_allowed", "stage": "paused", "reason": reason});
                screen.agents[0]["wakes_refused"] = refused.clone();
                let mut paused = provider("gpu-box/vllm", "hibernating", 754, &["qwen3-8b"]);
                paused["wakes_refused"] = refused;
                screen.providers = vec![paused];
                screen.wakes = vec![wake("gpu-box/vllm", "succeeded", 4_000, Some(8_400))];
            }
            "failing" => {
                let mut failing = provider("gpu-box/vllm", "hibernating", 60, &["qwen3-8b"]);
                failing["last_wakes"][0]["failure"] =
                    json!({"reason": "the served command exited with code 3"});
                failing["failures"] =
                    json!({"count": 3, "last": {"reason": "the served command exited with code 3"}});
                screen.providers = vec![failing, provider("gpu-box/whisper", "down", 300, &["whisper"])];
                screen.wakes = vec![wake("gpu-box/vllm", "failed", 61, Some(400))];
                screen.replica["rows"] = json!({"applied": null, "lag": null});
            }
            other => panic!("{other}"),
        }
        let now = Timestamp::from_millisecond(NOW_MS).unwrap();
        for row in &screen.providers {
            published::provider(row, now, &mut screen.findings);
        }
        published::held_back(&screen.agents, &screen.providers, now, &mut screen.held_back);
        screen
    }

    fn shown(state: &str) -> String {
        let now = Timestamp::from_millisecond(NOW_MS)
            .unwrap()
            .to_zoned(TimeZone::UTC);
        format!("```text\n{}\n```\n", screen(state).text(&now))
    }

    #[test]
    fn the_generated_screens_are_up_to_date() {
        generated_docs::assert_up_to_date("docs/status.md", STATES, &shown);
    }

    #[test]
    fn an_agent_that_never_connected_is_not_called_connected() {
        let mut screen = ready();
        screen.agents = vec![
            json!({"agent": "nas", "status": "invited", "key": null, "connected_at_ms": null}),
            json!({"agent": "lost", "status": "revoked", "connected_at_ms": null, "status_since_ms": 7}),
            json!({"agent": "idle", "status": "away", "connected_at_ms": null, "status_since_ms": null}),
        ];
        assert_eq!(
            screen.agents(Timestamp::from_millisecond(NOW_MS).unwrap()),
            "nas (invited), lost (revoked), idle (away)"
        );
    }

    #[test]
    fn every_table_fits_a_hundred_columns() {
        for state in STATES {
            let shown = shown(state);
            // What is found is a sentence.
            for line in shown.lines().filter(|line| !line.starts_with("  ")) {
                assert!(line.len() <= 100, "{state}: {line}");
            }
        }
    }

    #[test]
    fn programs_get_the_same_facts() {
        let failing = screen("failing").json();
        assert_eq!(failing["status"], "ready");
        assert_eq!(failing["findings"].as_array().map(Vec::len), Some(2), "{failing}");
        let paused = screen("paused").json();
        assert_eq!(paused["held_back"][0]["check"], "agent gpu-box", "{paused}");
        let starting = screen("starting").json();
        assert_eq!(starting["status"], "not_ready");
        assert_eq!(starting["reason"], "not ready: waiting for nats, clock");
    }
}
