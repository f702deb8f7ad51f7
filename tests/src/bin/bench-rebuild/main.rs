//! How long rebuilding the rows takes, and whether anybody notices: a journal of many commits, a projector that has
//! taken them in, requests at a steady rate through the API and the agent, and lists asked all the while.
//!
//! It needs PostgreSQL's programs, as the tests do. Figures depend on the machine; its load stands beside them.

use anyhow::{Context, Result, ensure};
use async_nats::{Client, HeaderMap, jetstream};
use clap::Parser;
use futures::{StreamExt, future::join_all, stream};
use reveille_tests::{AgentConfig, Api, Exit, World, load_average, wait_until};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::MissedTickBehavior};

const MODEL: &str = "stand-in";
/// The provider whose commits are copied, and how many others they are written for.
const COPIED: &str = "source";
const COPIES: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(60);
const LONG_PATIENCE: Duration = Duration::from_secs(1_800);
/// How many acknowledgements are waited for at once while the journal is filled.
const ACKS_AT_ONCE: usize = 512;
/// How often the lists are asked.
const LIST_EVERY: Duration = Duration::from_millis(20);

/// The size of it.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// How many commits the journal holds.
    #[arg(long, default_value_t = 100_000)]
    commits: u64,
    /// How many requests are sent a second.
    #[arg(long, default_value_t = 50)]
    requests_per_s: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let world = World::with_postgres().await;
    let _projector = world.projector();
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let api = Arc::new(world.api().await);
    let provider = |name: &str, model: &str| {
        format!(
            "\n[[provider]]\nname = {name:?}\nbase_url = {:?}\nmodels = [{{ id = {MODEL:?}, as = {model:?} }}]\n",
            backend.url()
        )
    };
    let agent = world.agent(&AgentConfig::new(COPIED).lines(&provider(COPIED, COPIED)));
    api.wait_for_status(&format!("{COPIED}/{COPIED}"), "active", PATIENCE)
        .await;
    agent.stop(PATIENCE).await;
    api.wait_for_status(&format!("{COPIED}/{COPIED}"), "inactive", PATIENCE)
        .await;
    let _agent = world.agent(&AgentConfig::new("bench").lines(&provider(MODEL, MODEL)));
    api.wait_for_status(&format!("bench/{MODEL}"), "active", PATIENCE)
        .await;

    println!("load average before: {}", load_average());
    let begun = Instant::now();
    fill(&world.nats.connect().await, options.commits).await?;
    println!(
        "journal of {} commits written in {:.1} s",
        options.commits,
        begun.elapsed().as_secs_f64()
    );
    wait_until("the projector took them in", LONG_PATIENCE, async || {
        let applied = applied(&api).await?;
        (applied >= options.commits).then_some(())
    })
    .await;
    println!(
        "the projector had taken them in after {:.1} s",
        begun.elapsed().as_secs_f64()
    );

    let traffic = Traffic::start(&api, options.requests_per_s);
    // A while without a rebuild, to compare with.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let quiet = traffic.seen();
    let begun = Instant::now();
    let process = world
        .reveille("rows")
        .args(["rebuild", "--nats", &world.nats_url()])
        .args(["--database-url", world.database().url()])
        .start();
    let exit = process.wait_for_exit(LONG_PATIENCE).await;
    let took = begun.elapsed().as_secs_f64();
    ensure!(exit == Exit::Code(0), "the rebuild failed:\n{}", process.log());
    let during = traffic.seen();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let all = traffic.stop().await;
    println!("the rebuild said:\n{}", process.log().trim_end());
    println!(
        "it took {took:.1} s in all; load average after: {}",
        load_average()
    );
    for (name, seen) in [("before", quiet), ("before and during", during), ("in all", all)] {
        println!("{name}: {seen}");
    }
    ensure!(all.failed == 0 && all.lists_failed == 0, "something failed");
    ensure!(all.empty_lists == 0, "a list was empty");
    Ok(())
}

async fn applied(api: &Api) -> Option<u64> {
    let page = api.get("/reveille/v1/llms?limit=1").await;
    (page.status == 200)
        .then(|| page.json()["applied"].as_u64())
        .flatten()
}

/// Writes commits of providers that are gone from sight: copies of those that a real one left.
async fn fill(client: &Client, commits: u64) -> Result<()> {
    let js = jetstream::new(client.clone());
    let stream = js.get_stream("REVEILLE_EVENTS").await?;
    let subject = format!("reveille.events.provider.{COPIED}.{COPIED}");
    let last = stream.get_last_raw_message_by_subject(&subject).await?;
    let text = String::from_utf8(last.payload.to_vec()).context("a commit is text")?;
    let present = stream.cached_info().state.messages;
    let writes = (present..commits).map(|number| {
        let name = format!("old-{}", number % COPIES);
        let payload = text.replace(&format!("\"{COPIED}\""), &format!("\"{name}\""));
        let payload = payload.replace(&format!("{COPIED}/{COPIED}"), &format!("{name}/{name}"));
        let (js, headers) = (js.clone(), HeaderMap::new());
        async move {
            let subject = format!("reveille.events.provider.{name}.{name}");
            let ack = js.publish_with_headers(subject, headers, payload.into()).await?;
            ack.await?;
            anyhow::Ok(())
        }
    });
    let mut writes = stream::iter(writes).buffered(ACKS_AT_ONCE);
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
    slowest_us: AtomicU64,
    lists: AtomicU64,
    lists_failed: AtomicU64,
    empty_lists: AtomicU64,
    slowest_list_us: AtomicU64,
}

/// What was seen so far.
#[derive(Clone, Copy)]
struct Seen {
    answered: u64,
    failed: u64,
    slowest_us: u64,
    lists: u64,
    lists_failed: u64,
    empty_lists: u64,
    slowest_list_us: u64,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests answered, {} failed, slowest {} ms; {} lists, {} failed, {} empty, slowest {} ms",
            self.answered,
            self.failed,
            self.slowest_us / 1_000,
            self.lists,
            self.lists_failed,
            self.empty_lists,
            self.slowest_list_us / 1_000
        )
    }
}

/// Requests at a steady rate, however long each takes, and lists.
struct Traffic {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Traffic {
    fn start(api: &Arc<Api>, requests_per_s: u32) -> Self {
        let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let requests = tokio::spawn(requests(
            api.clone(),
            requests_per_s,
            counts.clone(),
            stop.clone(),
        ));
        let lists = tokio::spawn(lists(api.clone(), counts.clone(), stop.clone()));
        Self {
            counts,
            stop,
            tasks: vec![requests, lists],
        }
    }

    fn seen(&self) -> Seen {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        Seen {
            answered: read(&counts.answered),
            failed: read(&counts.failed),
            slowest_us: read(&counts.slowest_us),
            lists: read(&counts.lists),
            lists_failed: read(&counts.lists_failed),
            empty_lists: read(&counts.empty_lists),
            slowest_list_us: read(&counts.slowest_list_us),
        }
    }

    async fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        join_all(std::mem::take(&mut self.tasks)).await;
        self.seen()
    }
}

async fn requests(api: Arc<Api>, per_s: u32, counts: Arc<Counts>, stop: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_s.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut running = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let (api, counts) = (api.clone(), counts.clone());
        running.spawn(async move {
            let begun = Instant::now();
            let answer = api.chat(MODEL).await;
            counts.slowest_us.fetch_max(micros(begun), Ordering::Relaxed);
            if answer.status == 200 {
                counts.answered.fetch_add(1, Ordering::Relaxed);
            } else {
                eprintln!("a request failed: {}", answer.text());
                counts.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

async fn lists(api: Arc<Api>, counts: Arc<Counts>, stop: Arc<AtomicBool>) {
    let paths = ["llms?limit=5", "events?limit=5"];
    for path in paths.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let begun = Instant::now();
        let page = api.get(&format!("/reveille/v1/{path}")).await;
        counts.slowest_list_us.fetch_max(micros(begun), Ordering::Relaxed);
        counts.lists.fetch_add(1, Ordering::Relaxed);
        if page.status != 200 {
            eprintln!("a list failed: {}", page.text());
            counts.lists_failed.fetch_add(1, Ordering::Relaxed);
        } else if page.json()["data"].as_array().is_none_or(Vec::is_empty) {
            counts.empty_lists.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(LIST_EVERY).await;
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
