//! A cluster whose leader moves and whose nodes die under racing commands: what was acknowledged stays where it was said
//! to be, nothing takes effect twice, and it goes on within seconds.

use crate::events::{PATIENCE, check, meta, open, stored};
use async_nats::jetstream;
use futures::future::join_all;
use reveille_bus::{
    AggregateId, Connection, Follow, Followed, Follower, JOURNAL_STREAM, Journal, commit::CommitHash,
    ensure_streams,
};
use reveille_domain::{Agent, AgentCommand, AgentName, Epoch, SessionId};
use reveille_tests::{Nats, wait_until};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    env, fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tracing::{Event, Metadata, Subscriber, field, span};
use uuid::Uuid;

/// Few, so that nearly every command meets a rival.
const AGENTS: u64 = 3;
const WRITERS: usize = 12;
/// How many commits must follow on each fault.
const COMMITS_BETWEEN: usize = 60;
/// After a fault, commits go on within this.
/// How often the leader is moved, unless `REVEILLE_TEST_SOAK` says otherwise.
const STEP_DOWNS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: run by cargo xtask test --all"]
async fn no_commit_is_lost_or_doubled_while_the_leader_moves_and_nodes_die() {
    let codes = Codes::count();
    let mut nodes = Nats::start_cluster().await;
    let urls = [0, 1, 2].map(|first| {
        let order = [first, (first + 1) % 3, (first + 2) % 3];
        order.map(|node| nodes[node].url()).join(",")
    });
    let connections = join_all(urls.iter().map(|url| open(url))).await;
    let connection = &connections[0];
    wait_until("the streams are there", PATIENCE, async || {
        ensure_streams(&connection.jetstream()).await.ok()
    })
    .await;
    let followed = Followers::start(&connections);
    let race = Race::start(&connections);

    let soak = env::var("REVEILLE_TEST_SOAK").ok();
    let step_downs = soak.and_then(|rounds| rounds.parse().ok()).unwrap_or(STEP_DOWNS);
    for _ in 0..step_downs {
        race.goes_on("after the leader moved").await;
        step_down(connection).await;
    }
    race.goes_on("after the last move").await;
    for leads in [true, false] {
        let leader = leader(connection).await;
        let is_victim = |index: &usize| (leader == ["node-a", "node-b", "node-c"][*index]) == leads;
        let victim = (0..3).find(is_victim).unwrap();
        nodes[victim].kill9();
        race.goes_on("after a node died").await;
        nodes[victim].restart().await;
        race.goes_on("after it came back").await;
        whole(connection).await;
    }

    let race = race.stop().await;
    let all = stored(connection).await;
    check(&all);
    let mut told = HashMap::new();
    for stored in &all {
        for event in stored.agent().events {
            let reveille_domain::AgentEvent::AgentConnected { session, epoch, .. } = event else {
                panic!("{event:?}")
            };
            let before = told.insert(session, (stored.sequence, epoch));
            assert!(before.is_none(), "{session} took effect twice");
        }
    }
    for (session, acknowledged) in &race.acknowledged {
        assert_eq!(
            told.get(session),
            Some(acknowledged),
            "what was acknowledged is there"
        );
    }
    let unknown = race
        .failed
        .iter()
        .filter(|(session, _)| told.contains_key(session))
        .count();
    assert_eq!(
        told.len(),
        race.acknowledged.len() + unknown,
        "nobody else's commit is there"
    );
    let hashes: Vec<_> = all
        .iter()
        .map(|stored| (stored.sequence, stored.hash()))
        .collect();
    followed.all_saw(&hashes).await;

    let reasons: HashSet<_> = race.failed.values().collect();
    println!(
        "{} commits acknowledged in {:?}, {} commands failed ({unknown} of them are in the journal): {reasons:?}; \
         refused appends by code: {:?}; longest pause {:?}",
        race.acknowledged.len(),
        race.took,
        race.failed.len(),
        codes.seen(),
        race.longest_pause,
    );
    // Other tests of this process may meet others.
    let codes = codes.seen();
    let both = [10071, 10164].iter().all(|code| codes.contains_key(code));
    assert!(both, "not both of a cluster's codes were met: {codes:?}");
}

async fn info(connection: &Connection) -> Option<jetstream::stream::ClusterInfo> {
    let stream = connection.jetstream().get_stream(JOURNAL_STREAM).await.ok()?;
    stream.cached_info().cluster.clone()
}

async fn leader(connection: &Connection) -> String {
    wait_until("the journal has a leader", PATIENCE, async || {
        info(connection).await?.leader
    })
    .await
}

async fn step_down(connection: &Connection) {
    let was = leader(connection).await;
    let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{JOURNAL_STREAM}");
    let answer = connection.client().request(subject, "".into()).await.unwrap();
    let answer = String::from_utf8_lossy(&answer.payload).into_owned();
    assert!(answer.contains(r#""success":true"#), "{answer}");
    wait_until("another node leads", PATIENCE, async || {
        (info(connection).await?.leader? != was).then_some(())
    })
    .await;
}

/// Waits until every node has the whole journal.
async fn whole(connection: &Connection) {
    wait_until("every node has the whole journal", PATIENCE, async || {
        let info = info(connection).await?;
        let current = |peer: &jetstream::stream::PeerInfo| peer.current && !peer.offline;
        (info.replicas.len() == 2 && info.replicas.iter().all(current)).then_some(())
    })
    .await;
}

/// Writers that race for a few aggregates until they are stopped. Each command is another session, so that each takes
/// effect as an event of its own or not at all.
struct Race {
    stop: Arc<AtomicBool>,
    raced: Arc<Mutex<Raced>>,
    writers: Vec<tokio::task::JoinHandle<()>>,
    started: Instant,
}

#[derive(Default)]
struct Raced {
    acknowledged: HashMap<SessionId, (u64, Epoch)>,
    /// Commands whose answer was an error: they may have taken effect.
    failed: HashMap<SessionId, String>,
    last: Option<Instant>,
    longest_pause: Duration,
    took: Duration,
}

impl Race {
    fn start(connections: &[Connection]) -> Self {
        let (stop, raced) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let writers = (0..WRITERS).map(|writer| {
            let journal = Journal::new(connections[writer % connections.len()].jetstream());
            tokio::spawn(race(
                journal,
                writer as u64,
                Arc::clone(&stop),
                Arc::clone(&raced),
            ))
        });
        Self {
            writers: writers.collect(),
            stop,
            raced,
            started: Instant::now(),
        }
    }

    async fn goes_on(&self, when: &str) {
        let count = || self.raced.lock().unwrap().acknowledged.len();
        let wanted = count() + COMMITS_BETWEEN;
        let what = format!("commits go on {when}");
        wait_until(&what, PATIENCE, async || (count() >= wanted).then_some(())).await;
    }

    async fn stop(self) -> Raced {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        let mut raced = std::mem::take(&mut *self.raced.lock().unwrap());
        raced.took = self.started.elapsed();
        raced
    }
}

async fn race(journal: Journal, writer: u64, stop: Arc<AtomicBool>, raced: Arc<Mutex<Raced>>) {
    let mut turn = writer;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let name = AgentName::parse(&format!("racer-{}", turn % AGENTS)).unwrap();
        let session = SessionId(Uuid::now_v7());
        let command = AgentCommand::Connect {
            name: name.clone(),
            session,
            version: "0.1.0".to_owned(),
            at: crate::events::at(turn),
        };
        let done = journal
            .execute::<Agent>(&AggregateId::Agent(name), command, &meta(turn))
            .await;
        let mut raced = raced.lock().unwrap();
        match done {
            Ok(done) => {
                assert_eq!(done.events.len(), 1);
                raced
                    .acknowledged
                    .insert(session, (done.sequence, done.state.epoch()));
                let now = Instant::now();
                let pause = raced.last.map_or(Duration::ZERO, |last| now - last);
                raced.longest_pause = raced.longest_pause.max(pause);
                raced.last = Some(now);
            }
            Err(error) => {
                raced.failed.insert(session, error.to_string());
            }
        }
    }
}

/// One follower on each connection, which must see every commit once and in order.
struct Followers(Vec<Seen>);

type Seen = Arc<Mutex<Vec<(u64, CommitHash)>>>;

impl Followers {
    fn start(connections: &[Connection]) -> Self {
        let start = |connection: &Connection| {
            let seen = Seen::default();
            let mut follower = Follower::new(connection, Follow::After(None));
            let told = Arc::clone(&seen);
            tokio::spawn(async move {
                while let Ok(followed) = follower.next().await {
                    if let Followed::Commit(entry) = followed {
                        told.lock().unwrap().push((entry.sequence, entry.hash));
                    }
                }
            });
            seen
        };
        Self(connections.iter().map(start).collect())
    }

    async fn all_saw(&self, all: &[(u64, CommitHash)]) {
        for seen in &self.0 {
            wait_until("a follower saw the last commit", PATIENCE, async || {
                (seen.lock().unwrap().len() >= all.len()).then_some(())
            })
            .await;
            assert!(
                *seen.lock().unwrap() == all,
                "each commit once, in order, with its bytes"
            );
        }
    }
}

/// Counts what the journal says of refused appends, by the server's code.
#[derive(Clone, Default)]
struct Codes(Arc<Mutex<BTreeMap<u64, u64>>>);

impl Codes {
    fn count() -> Self {
        let codes = Self::default();
        // Nobody else in this program has a subscriber.
        tracing::subscriber::set_global_default(codes.clone()).unwrap();
        codes
    }

    fn seen(&self) -> BTreeMap<u64, u64> {
        self.0.lock().unwrap().clone()
    }
}

impl Subscriber for Codes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("reveille_bus::journal")
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Code(self));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        span::Id::from_u64(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Code<'a>(&'a Codes);

impl field::Visit for Code<'_> {
    fn record_u64(&mut self, field: &field::Field, value: u64) {
        if field.name() == "nats.code" {
            *self.0.0.lock().unwrap().entry(value).or_default() += 1;
        }
    }

    fn record_debug(&mut self, _: &field::Field, _: &dyn fmt::Debug) {}
}
