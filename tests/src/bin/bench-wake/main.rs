//! With `--herd N`: what it costs to let N requests wait for one sleeping model, see [`herd`]. Otherwise:
//!
//! What a wake costs beside the backend's own boot: how soon its recipe starts, and how soon after the backend is ready
//! the request that waits for it is answered.
//!
//! The backend is a stand-in that the agent serves, with a boot drawn anew for each wake; nothing tells the agent when it
//! will be over. The stand-in writes down when its `main` began, when it listened and when it got the request, by the clock
//! that all processes of a machine share. Figures depend on the machine; its load stands beside them, and so does how
//! long the same program takes to its `main` when nothing is done but starting it, and how long an idle process takes to
//! answer the smallest question.

mod herd;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rand::Rng;
use reveille_tests::{AgentConfig, Api, Backend, World, is_alive, load_average, monotonic_us, wait_until};
use serde_json::json;
use std::{process::Stdio, time::Duration};
use tokio::{net::TcpStream, process::Command};

const AGENT: &str = "bench";
const PROVIDER: &str = "stand-in";
const MODEL: &str = "sleeper";
const PATIENCE: Duration = Duration::from_secs(60);
/// The bounds of a boot, in milliseconds.
const BOOT_MS: (&str, &str) = ("50", "1500");
/// The bounds of the pause before a request, so that it meets no timer in step.
const PAUSE_MS: (u64, u64) = (50, 550);

/// What is measured.
#[derive(Debug, Parser)]
#[command(name = "bench-wake")]
struct Options {
    /// How many wakes.
    #[arg(long, default_value_t = 20)]
    wakes: u32,
    /// All of it in one process, beside a NATS server, as `reveille up` runs it; an API and an agent of their own without.
    #[arg(long)]
    up: bool,
    /// Instead of that, so many requests at once for one sleeping model.
    #[arg(long)]
    herd: Option<usize>,
    /// How many of them the backend works on at a time.
    #[arg(long, default_value_t = 64)]
    max_concurrency: u32,
    /// How long the herd's backend boots, in milliseconds: longer than the herd takes to come.
    #[arg(long, default_value_t = 30_000)]
    boot_ms: u64,
    /// Fail if each of the herd takes more memory of the API than this, in kB.
    #[arg(long)]
    max_kb: Option<f64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.wakes > 0, "without a wake there is nothing to measure");
    if let Some(size) = options.herd {
        return herd::measure(size, &options).await;
    }
    let world = World::new().await;
    let backend = world.backend(&["--boot-delay-ms", BOOT_MS.0, "--boot-delay-max-ms", BOOT_MS.1]);
    let bare = world.backend(&["--fail-boot", "0"]);
    let idle = world.backend(&[]);
    idle.start_and_wait().await;
    let config = AgentConfig::new(AGENT)
        .provider(PROVIDER, MODEL, &backend)
        .woken_by_serving(&backend);
    let (api, _agent) = if options.up {
        let api = world.up(&world.folder().join("data"), &config.to_toml(), &[]);
        api.wait_until_ready().await;
        (api, None)
    } else {
        (world.api().await, Some(world.agent(&config)))
    };
    api.wait_for_status(&llm(), "hibernating", PATIENCE).await;

    let mut connection = connect(&api.url()).await?;
    let mut idle_connection = connect(&idle.url()).await?;
    println!("load average before: {}", load_average());
    let (mut wakes, mut bare_starts, mut bare_answers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=options.wakes {
        pause().await;
        let (sent, first_byte) = request(&mut connection, &api).await?;
        wakes.push(Wake::of(sent, first_byte, &backend).with_context(|| format!("wake {number}"))?);
        put_to_sleep(&api, &backend).await;
        bare_starts.push(bare_start(&bare).await?);
        pause().await;
        bare_answers.push(bare_answer(&mut idle_connection, &idle).await?);
    }
    print(&wakes, bare_starts, bare_answers);
    println!("load average after: {}", load_average());
    Ok(())
}

fn llm() -> String {
    format!("{AGENT}/{MODEL}")
}

/// One wake, in microseconds of the shared clock.
struct Wake {
    sent: u64,
    recipe_started: u64,
    ready: u64,
    handed_over: u64,
    first_byte: u64,
}

impl Wake {
    /// Puts together what the client saw and what the backend's last run wrote down.
    fn of(sent: u64, first_byte: u64, backend: &Backend) -> Result<Self> {
        let log = backend.log();
        let pid = *log.pids().last().context("the backend was not started")?;
        let at = |event: &str| {
            let mut lines = log.of(event).filter(|line| line["pid"] == pid);
            let line = lines
                .next()
                .with_context(|| format!("no `{event}` of run {pid}"))?;
            line["monotonic_us"].as_u64().context("a line without its time")
        };
        let wake = Self {
            sent,
            recipe_started: at("start")?,
            ready: at("listening")?,
            handed_over: at("request")?,
            first_byte,
        };
        let in_order = [
            wake.sent,
            wake.recipe_started,
            wake.ready,
            wake.handed_over,
            wake.first_byte,
        ];
        ensure!(
            in_order.is_sorted(),
            "it did not happen in this order: {in_order:?}"
        );
        Ok(wake)
    }
}

async fn pause() {
    let pause = rand::rng().random_range(PAUSE_MS.0..=PAUSE_MS.1);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

async fn connect(url: &str) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(url.trim_start_matches("http://")).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A streamed chat completion: when it was sent, and when the first byte of its answer's body was there.
async fn request(connection: &mut SendRequest<Full<Bytes>>, api: &Api) -> Result<(u64, u64)> {
    let messages = json!([{ "role": "user", "content": "Good morning!" }]);
    let body = json!({ "model": MODEL, "messages": messages, "stream": true });
    let request = Request::post("/v1/chat/completions")
        .header("host", api.url().trim_start_matches("http://"))
        .header("content-type", "application/json")
        // A wait of more than 8 s would else begin the answer before the backend does.
        .header("x-reveille-progress", "off")
        .body(Full::new(Bytes::from(body.to_string())))?;
    connection.ready().await?;
    let sent = monotonic_us();
    let mut response = connection.send_request(request).await?;
    ensure!(response.status() == 200, "answered {}", response.status());
    let mut first_byte = None;
    while let Some(frame) = response.frame().await {
        if frame?.is_data() {
            first_byte.get_or_insert_with(monotonic_us);
        }
    }
    Ok((sent, first_byte.context("an empty answer")?))
}

/// Starts a program that ends at once, and tells how long it took to its `main`, in microseconds.
async fn bare_start(backend: &Backend) -> Result<u64> {
    let (program, args) = backend.command();
    let began = monotonic_us();
    let ended = Command::new(program)
        .args(args)
        .stderr(Stdio::null())
        .status()
        .await?;
    ensure!(ended.success(), "the program {ended}");
    let log = backend.log();
    let started = log
        .of("start")
        .last()
        .and_then(|line| line["monotonic_us"].as_u64());
    Ok(started.context("the program wrote nothing down")? - began)
}

/// How long a process that has been idle takes to answer the smallest question, in microseconds. A request passes several
/// such processes on its way to a recipe, and on some machines whoever was idle is slow for a while.
async fn bare_answer(connection: &mut SendRequest<Full<Bytes>>, backend: &Backend) -> Result<u64> {
    let request = Request::get("/health")
        .header("host", backend.url().trim_start_matches("http://"))
        .body(Full::default())?;
    connection.ready().await?;
    let sent = monotonic_us();
    let response = connection.send_request(request).await?;
    let took = monotonic_us() - sent;
    ensure!(response.status() == 200, "answered {}", response.status());
    response.into_body().collect().await?;
    Ok(took)
}

/// Until it sleeps and nothing of it is left.
async fn put_to_sleep(api: &Api, backend: &Backend) {
    let order = format!("/reveille/v1/providers/{AGENT}/{PROVIDER}/sleep");
    wait_until("the sleep was ordered", PATIENCE, async || {
        let answer = api.post(&order, &json!({})).await;
        (answer.status == 202).then_some(())
    })
    .await;
    api.wait_for_status(&llm(), "hibernating", PATIENCE).await;
    wait_until("the backend was gone", PATIENCE, async || {
        backend
            .log()
            .pids()
            .iter()
            .all(|pid| !is_alive(*pid))
            .then_some(())
    })
    .await;
}

fn print(wakes: &[Wake], bare_starts: Vec<u64>, bare_answers: Vec<u64>) {
    println!(
        "{} wakes, boots of {} to {} ms; times in ms",
        wakes.len(),
        BOOT_MS.0,
        BOOT_MS.1
    );
    println!("{:<44}{:>10}{:>10}{:>10}", "", "median", "p99", "max");
    let row = |name: &str, part: fn(&Wake) -> u64| print_row(name, wakes.iter().map(part).collect());
    row("request → recipe started", |wake| {
        wake.recipe_started - wake.sent
    });
    print_row("  the same program started by itself", bare_starts);
    print_row("  one idle process asked for its health", bare_answers);
    row("backend ready → first byte", |wake| {
        wake.first_byte - wake.ready
    });
    row("  backend ready → request at the backend", |wake| {
        wake.handed_over - wake.ready
    });
    row("  request at the backend → first byte", |wake| {
        wake.first_byte - wake.handed_over
    });
    row("recipe started → backend ready (its boot)", |wake| {
        wake.ready - wake.recipe_started
    });
    row("request → first byte (all of it)", |wake| {
        wake.first_byte - wake.sent
    });
}

/// A line of the table, from microseconds.
fn print_row(name: &str, mut times: Vec<u64>) {
    times.sort_unstable();
    let last = times.len() - 1;
    let rank = |percent: usize| (times.len() * percent).div_ceil(100).saturating_sub(1).min(last);
    let at = |index: usize| times[index] as f64 / 1e3;
    println!(
        "{name:<44}{:>10.1}{:>10.1}{:>10.1}",
        at(rank(50)),
        at(rank(99)),
        at(last)
    );
}
