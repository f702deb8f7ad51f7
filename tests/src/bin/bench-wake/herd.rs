//! How many requests can wait for one sleeping model: one wake, all answered, and the memory that each takes in the API.
//!
//! Every request has a connection of its own. Every other one is a stream, which gets keep-alives while it waits.

use super::{AGENT, MODEL, Options, PROVIDER, connect};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use reveille_tests::{AgentConfig, Api, Process, WakeController, World, load_average, wait_until};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// How many connections are opened at a time: fewer than the listener's backlog.
const AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(280);

/// How one request ended, and when.
struct Ended {
    how: String,
    at: Instant,
}

/// Lets a herd of `size` requests wait for one wake, and prints what became of them.
pub async fn measure(size: usize, options: &Options) -> Result<()> {
    let &Options {
        max_concurrency,
        boot_ms,
        max_kb,
        ..
    } = options;
    ensure!(size > 1, "one request is no herd");
    let world = World::new().await;
    let backend = world.backend(&["--tokens", "2"]);
    let controller = WakeController::starting(&backend, Duration::from_millis(boot_ms)).await;
    let config = AgentConfig::new(AGENT)
        .provider(PROVIDER, MODEL, &backend)
        .lines(&format!(
            "max_concurrency = {max_concurrency}\n[provider.wake]\ntype = \"http\"\nurl = {:?}\nmax_wait = \"240s\"\n",
            controller.url()
        ));
    let api = world.api().await;
    let agent = world.agent(&config);
    api.wait_for_status(&format!("{AGENT}/{MODEL}"), "hibernating", PATIENCE)
        .await;
    println!("load average before: {}", load_average());
    let before = [memory_kb(api.process())?, memory_kb(&agent)?];

    let begun = Instant::now();
    let mut herd = JoinSet::new();
    let connections = stream::iter(0..size).map(|number| {
        let url = api.url();
        async move { Ok::<_, anyhow::Error>((number, connect(&url).await?)) }
    });
    let mut connections = connections.buffer_unordered(AT_ONCE);
    while let Some(connected) = connections.next().await {
        let (number, mut connection) = connected?;
        let url = api.url();
        herd.spawn(async move {
            connection.ready().await?;
            let messages = json!([{ "role": "user", "content": "Good morning!" }]);
            let body = json!({ "model": MODEL, "messages": messages, "stream": number % 2 == 0 });
            let request = Request::post("/v1/chat/completions")
                .header("host", url.trim_start_matches("http://"))
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body.to_string())))?;
            let response = connection.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            let at = Instant::now();
            Ok::<_, anyhow::Error>(Ended {
                how: outcome(status, &body),
                at,
            })
        });
    }
    drop(connections);
    wait_until("the whole herd waits", PATIENCE, async || {
        (row(&api).await["queued"] == size).then_some(())
    })
    .await;
    let came_within = begun.elapsed();
    // A stream has begun by then, and gets keep-alives.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let waiting = row(&api).await;
    ensure!(
        waiting["queued"] == size && waiting["status"] == "waking",
        "the backend was up before the herd had come: take a longer --boot-ms"
    );
    let waits = [memory_kb(api.process())?, memory_kb(&agent)?];

    let (mut outcomes, mut ends) = (BTreeMap::<String, usize>::new(), vec![]);
    while let Some(ended) = herd.join_next().await {
        let ended = match ended? {
            Ok(ended) => ended,
            Err(error) => Ended {
                how: format!("broken: {error:#}"),
                at: Instant::now(),
            },
        };
        *outcomes.entry(ended.how).or_default() += 1;
        ends.push(ended.at);
    }
    let (first, last) = (ends.iter().min(), ends.iter().max());
    let (first, last) = first.zip(last).context("nobody was answered")?;
    let wakes = api.get("/reveille/v1/wakes?limit=100").await.json();
    let wakes = wakes["data"].as_array().map_or(0, Vec::len);

    println!("{size} requests, {max_concurrency} at a time, a boot of {boot_ms} ms");
    println!(
        "{:<44}{:>10.1} s",
        "all have come within",
        came_within.as_secs_f64()
    );
    println!("{:<44}{wakes:>10}", "wakes");
    println!(
        "{:<44}{:>10}",
        "the most at the backend at once",
        backend.log().peak()
    );
    for (how, count) in &outcomes {
        println!("{how:<44}{count:>10}");
    }
    let took = last.duration_since(*first).as_secs_f64();
    println!("{:<44}{took:>10.1} s", "first answer → last answer");
    let each = [0, 1].map(|process| waits[process].saturating_sub(before[process]) as f64 / size as f64);
    for (process, name) in ["API", "agent"].into_iter().enumerate() {
        let (each, before, waits) = (each[process], before[process], waits[process]);
        let name = format!("memory of the {name} for each that waits");
        println!("{name:<44}{each:>10.1} kB  ({before} kB before, {waits} kB while all wait)");
    }
    println!("load average after: {}", load_average());
    if let Some(most) = max_kb {
        ensure!(each[0] <= most, "each takes more than {most} kB of the API");
    }
    Ok(())
}

async fn row(api: &Api) -> Value {
    let path = format!("/reveille/v1/providers/{AGENT}/{PROVIDER}");
    api.get(&path).await.json()
}

/// `answered`, or what it got instead.
fn outcome(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let has_content = text.contains("token-0") && !text.contains("\"error\"");
    if status == 200 && has_content {
        return "answered".to_owned();
    }
    let mut error = text.lines().rev();
    let error = error.find(|line| line.contains("\"error\""));
    let json = error.map(|line| line.trim_start_matches("data: "));
    let json = json.and_then(|json| serde_json::from_str::<Value>(json).ok());
    let code = json.map(|json| json["error"]["code"].to_string());
    format!("{status} {}", code.unwrap_or_default())
}

/// How much memory a process has now, in kB.
fn memory_kb(process: &Process) -> Result<u64> {
    let path = format!("/proc/{}/status", process.pid());
    let status = std::fs::read_to_string(&path)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let Some(line) = line else {
        bail!("no VmRSS in {path}")
    };
    let number = line.split_whitespace().next().context("no number")?;
    Ok(number.parse()?)
}
