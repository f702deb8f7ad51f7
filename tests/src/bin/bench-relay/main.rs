//! How much the relay costs: the same requests straight to a backend, over the barest path through NATS that could
//! work, and through Reveille, in turns within one run.
//!
//! Every figure is the median of the rounds; the machine's load stands beside them, since neighbours are noisy.

mod bare;
mod load;

use anyhow::{Context, Result, bail};
use load::{Latencies, Target};
use reveille_tests::{AgentConfig, Answer, Api, Launch, Port, Process, World, load_average, wait_until};
use std::{fs, time::Duration};

const MODEL: &str = "stand-in";
const ROUNDS: usize = 5;
const LATENCY_REQUESTS: usize = 1_500;
const CONCURRENCY: usize = 32;
const THROUGHPUT_TIME: Duration = Duration::from_secs(3);
const STREAM_CONCURRENCY: usize = 8;
const STREAM_TIME: Duration = Duration::from_secs(2);
const STREAM_TOKENS: u32 = 64;
const START_WAIT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare().await,
        ["bare-api", listen, nats] => bare::api(listen, nats).await,
        ["bare-agent", backend, nats] => bare::agent(backend, nats).await,
        _ => bail!("usage: bench-relay"),
    }
}

/// One way to the backend and what was measured on it.
struct Path {
    name: &'static str,
    target: Target,
    singles: Vec<Latencies>,
    first_tokens: Vec<Latencies>,
    requests_per_s: Vec<f64>,
    streams_per_s: Vec<f64>,
}

impl Path {
    fn new(name: &'static str, target: Target) -> Self {
        let (singles, first_tokens, requests_per_s, streams_per_s) = (vec![], vec![], vec![], vec![]);
        Self {
            name,
            target,
            singles,
            first_tokens,
            requests_per_s,
            streams_per_s,
        }
    }

    async fn round(&mut self) -> Result<()> {
        self.singles
            .push(load::one_by_one(&self.target, LATENCY_REQUESTS, false).await?);
        self.first_tokens
            .push(load::one_by_one(&self.target, LATENCY_REQUESTS / 5, true).await?);
        self.requests_per_s
            .push(load::at_once(&self.target, CONCURRENCY, THROUGHPUT_TIME, false).await?);
        self.streams_per_s
            .push(load::at_once(&self.target, STREAM_CONCURRENCY, STREAM_TIME, true).await?);
        Ok(())
    }
}

async fn compare() -> Result<()> {
    let world = World::new().await;
    let tokens = STREAM_TOKENS.to_string();
    let backend = world.backend(&["--tokens", &tokens]);
    backend.start_and_wait().await;

    let bare_port = Port::claim();
    let _bare_api = bare_process(&world, "bare-api", &bare_port.address().to_string())?;
    let _bare_agent = bare_process(&world, "bare-agent", &backend.url())?;

    let root_key = world.folder().join("root.key");
    let api = world.api_with(&["--root-key-file", &root_key.display().to_string()]);
    api.wait_until_ready().await;
    let provider = format!(
        "\n[[provider]]\nname = \"stand-in\"\nbase_url = {:?}\nmodels = [{MODEL:?}]\n",
        backend.url()
    );
    let _agent = world.agent(&AgentConfig::new("bench").lines(&provider));
    api.wait_for_status(&format!("bench/{MODEL}"), "active", START_WAIT)
        .await;

    let mut paths = [
        Path::new("direct", Target::of(&backend.url(), MODEL)?),
        Path::new("bare", Target::of(&bare_port.http_url(), MODEL)?),
        Path::new("reveille", Target::of(&api.url(), MODEL)?),
        Path::new(
            "with a key",
            Target::of(&api.url(), MODEL)?.with_key(&key(&api, &root_key).await?),
        ),
    ];
    for path in &paths {
        let target = &path.target;
        wait_until("every path answers", START_WAIT, async || {
            load::one_by_one(target, 50, false).await.ok()
        })
        .await;
    }
    println!("load average before: {}", load_average());
    for round in 1..=ROUNDS {
        for path in &mut paths {
            path.round().await?;
        }
        eprintln!("round {round} of {ROUNDS} done, load average {}", load_average());
    }
    print(&paths);
    println!("load average after: {}", load_average());
    Ok(())
}

/// A key with every limit that a key can have, none of them ever reached.
async fn key(api: &Api, root_key: &std::path::Path) -> Result<String> {
    let terms = serde_json::json!({"name": "bench", "scopes": [format!("infer:{MODEL}")], "expires_in_s": 86_400,
        "rate": 1_000_000, "concurrency": 10_000, "wakes_per_hour": 1_000});
    let root = fs::read_to_string(root_key)?;
    let request = api.client().post(format!("{}/reveille/v1/keys", api.url()));
    let made = Answer::of(request.bearer_auth(root.trim()).json(&terms)).await;
    let key = made.json()["key"].as_str().map(str::to_owned);
    key.with_context(|| format!("no key was made: {}", made.text()))
}

fn bare_process(world: &World, role: &str, address: &str) -> Result<Process> {
    let log = world.folder().join(format!("{role}.log"));
    Ok(Launch::new(std::env::current_exe()?, log)
        .args([role, address, &world.nats.url()])
        .start())
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(paths: &[Path]) {
    let requests = ROUNDS * LATENCY_REQUESTS;
    println!(
        "medians of {ROUNDS} rounds; c=1: {requests} requests a path; c={CONCURRENCY}: {} s a path; streams of \
         {STREAM_TOKENS} tokens: {} s a path at c={STREAM_CONCURRENCY}, first token at c=1",
        ROUNDS as u64 * THROUGHPUT_TIME.as_secs(),
        ROUNDS as u64 * STREAM_TIME.as_secs(),
    );
    println!(
        "{:<12}{:>14}{:>12}{:>12}{:>14}{:>14}{:>14}",
        "path", "req/s c=32", "p50 µs c=1", "p99 µs c=1", "streams/s", "TTFT p50 µs", "TTFT p99 µs"
    );
    let row = |path: &Path| {
        [
            median(path.requests_per_s.iter().copied()),
            median(path.singles.iter().map(|l| l.p50_us)),
            median(path.singles.iter().map(|l| l.p99_us)),
            median(path.streams_per_s.iter().copied()),
            median(path.first_tokens.iter().map(|l| l.p50_us)),
            median(path.first_tokens.iter().map(|l| l.p99_us)),
        ]
    };
    for path in paths {
        let [requests, p50, p99, streams, ttft, ttft99] = row(path);
        println!(
            "{:<12}{requests:>14.0}{p50:>12.0}{p99:>12.0}{streams:>14.0}{ttft:>14.0}{ttft99:>14.0}",
            path.name
        );
    }
    if let [direct, bare, ours, keyed] = paths {
        let [d, b, o, k] = [row(direct), row(bare), row(ours), row(keyed)];
        let at = |x: f64, y: f64| x / y;
        println!(
            "with a key / without: req/s ×{:.2}, p50 ×{:.2} ({:+.0} µs at c=1)",
            at(k[0], o[0]),
            at(k[1], o[1]),
            k[1] - o[1],
        );
        println!(
            "reveille / bare: req/s ×{:.2}, p50 ×{:.2}, streams/s ×{:.2}, TTFT ×{:.2}; added to direct at c=1: \
             reveille {:+.0} µs, bare {:+.0} µs",
            at(o[0], b[0]),
            at(o[1], b[1]),
            at(o[3], b[3]),
            at(o[4], b[4]),
            o[1] - d[1],
            b[1] - d[1],
        );
    }
}
