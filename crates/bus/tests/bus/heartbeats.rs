//! Signs of life and NATS time: what a replica hears, and what it must not infer while it hears nothing.

use crate::events::{PATIENCE, agent, jetstream, open};
use reveille_bus::{
    Connection, HEARTBEATS_STREAM, NatsClock, Refusals, ensure_streams,
    heartbeats::{self, Heartbeat, HeartbeatWatch, ProviderPulse, ReceivedHeartbeat},
};
use reveille_domain::{AgentName, Availability, Epoch, ProviderName, SessionId, Timestamp};
use reveille_tests::{Nats, wait_until};
use std::time::{Duration, Instant, SystemTime};
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

fn heartbeat(agent: &AgentName) -> Heartbeat {
    Heartbeat {
        agent: agent.clone(),
        session: SessionId(Uuid::now_v7()),
        epoch: Epoch(2),
        silent_after_ms: 30_000,
        refusal: None,
        providers: vec![ProviderPulse {
            stays_awake: None,
            provider: ProviderName::parse("vllm").unwrap(),
            availability: Some(Availability::Available),
            in_flight: 3,
        }],
    }
}

/// A watch that runs by itself, and what it hears.
struct Ear {
    heard: mpsc::UnboundedReceiver<ReceivedHeartbeat>,
    clock: NatsClock,
    task: JoinHandle<()>,
}

impl Ear {
    async fn open(nats: &Nats, replica: &str) -> Self {
        Self::over(&open(&nats.url()).await, replica)
    }

    fn over(connection: &Connection, replica: &str) -> Self {
        let clock = NatsClock::default();
        let mut watch = HeartbeatWatch::new(connection, replica, clock.clone(), &Refusals::default());
        let (tell, heard) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move { while tell.send(watch.next().await).is_ok() {} });
        Self { heard, clock, task }
    }

    async fn next(&mut self) -> ReceivedHeartbeat {
        tokio::time::timeout(PATIENCE, self.heard.recv())
            .await
            .expect("a heartbeat in time")
            .unwrap()
    }

    /// Waits for a canary that comes back from now on.
    async fn fresh_clock(&self) -> Duration {
        let since = Instant::now();
        wait_until("a canary came back", PATIENCE, async || {
            self.clock.age().filter(|age| *age < since.elapsed())
        })
        .await;
        since.elapsed()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[tokio::test]
async fn a_canary_sets_the_clock_late_and_never_early() {
    let nats = Nats::start().await;
    let ear = Ear::open(&nats, "r1").await;
    let now = tokio::time::timeout(PATIENCE, ear.clock.now()).await.unwrap();
    // The server runs on this machine: its time is ours.
    let after = wall_clock();
    assert!(
        now.as_millis() <= after && now.as_millis() + 2000 > after,
        "{now:?} at {after}"
    );
    let first = ear.clock.try_now().unwrap();
    ear.fresh_clock().await;
    assert!(ear.clock.try_now().unwrap() >= first);
    assert!(ear.clock.try_now().unwrap().as_millis() <= wall_clock());
}

#[tokio::test]
async fn heartbeats_are_heard_and_forged_ones_dropped() {
    let nats = Nats::start().await;
    let mut ear = Ear::open(&nats, "r1").await;
    ear.fresh_clock().await;
    let client = nats.connect().await;
    let (ours, other) = (
        heartbeat(&agent()),
        heartbeat(&AgentName::parse("other").unwrap()),
    );
    let forged = serde_json::to_vec(&ours).unwrap();
    for (subject, payload) in [
        ("reveille.heartbeats.other", forged.clone()),
        ("reveille.heartbeats.gpu-box", b"not JSON".to_vec()),
        ("reveille.heartbeats.gpu-box", b"{}".to_vec()),
        ("reveille.heartbeats.gpu-box.more", forged.clone()),
        ("reveille.heartbeats.UPPER", forged),
        (
            "reveille.heartbeats._canary.r1",
            br#"{"nonce":"00000000-0000-0000-0000-000000000000"}"#.to_vec(),
        ),
        ("reveille.heartbeats._canary.r1", b"nonsense".to_vec()),
    ] {
        client.publish(subject, payload.into()).await.unwrap();
    }
    heartbeats::send(&client, &ours).await.unwrap();
    heartbeats::send(&client, &other).await.unwrap();
    for expected in [ours, other] {
        let heard = ear.next().await;
        assert_eq!(heard.heartbeat, expected);
        assert!(heard.stored_at <= Timestamp::from_millis(wall_clock()));
    }
    assert!(ear.heard.try_recv().is_err());
    // A forged canary changes nothing: the clock goes on.
    ear.fresh_clock().await;
}

#[tokio::test]
async fn the_last_heartbeat_of_each_agent_is_heard_by_whoever_starts_later_even_after_a_restart() {
    let mut nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    ensure_streams(&jetstream(&connection)).await.unwrap();
    let client = nats.connect().await;
    let last = heartbeat(&agent());
    for heartbeat in [&heartbeat(&agent()), &last] {
        heartbeats::send(&client, heartbeat).await.unwrap();
    }
    wait_until("both are stored", PATIENCE, async || {
        let stream = connection.jetstream().get_stream(HEARTBEATS_STREAM).await.ok()?;
        (stream.cached_info().state.last_sequence == 2).then_some(())
    })
    .await;
    nats.restart().await;
    let mut ear = Ear::open(&nats, "r2").await;
    let kept = ear.next().await;
    assert_eq!((kept.heartbeat, kept.heard_at), (last.clone(), None));
    ear.fresh_clock().await;
    assert!(ear.heard.try_recv().is_err());
    // One that comes now is a sign of life.
    let client = nats.connect().await;
    heartbeats::send(&client, &last).await.unwrap();
    assert!(ear.next().await.heard_at.is_some());
}

#[tokio::test]
async fn a_reconnect_breaks_the_hearing_however_short_it_was() {
    let mut nats = Nats::start().await;
    let ear = Ear::open(&nats, "r1").await;
    let unbroken = || ear.clock.hearing().map(|hearing| hearing.unbroken);
    let long = Duration::from_secs(2);
    wait_until("it has listened for a while", PATIENCE, async || {
        unbroken().filter(|unbroken| *unbroken >= long)
    })
    .await;
    nats.restart().await;
    wait_until("the hearing was broken", PATIENCE, async || {
        unbroken().filter(|unbroken| *unbroken < long)
    })
    .await;
}

#[tokio::test]
async fn canaries_that_the_server_does_not_store_are_a_trouble_until_it_does() {
    let nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    let js = jetstream(&connection);
    ensure_streams(&js).await.unwrap();
    let ours = js.get_stream(HEARTBEATS_STREAM).await.unwrap();
    let ours = ours.cached_info().config.clone();
    let mut full = ours.clone();
    full.max_message_size = 1;
    js.update_stream(full).await.unwrap();
    let ear = Ear::over(&connection, "r1");
    let trouble = || connection.health().trouble().map(|trouble| trouble.to_string());
    let told = wait_until("the missing canaries were noticed", PATIENCE, async || trouble()).await;
    assert!(told.contains("NATS stores no heartbeats"), "{told}");
    js.update_stream(ours).await.unwrap();
    ear.fresh_clock().await;
    wait_until("the trouble was over", PATIENCE, async || {
        trouble().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn while_nats_is_away_the_clock_ages_and_afterwards_it_is_set_again() {
    let mut nats = Nats::start().await;
    let mut ear = Ear::open(&nats, "r1").await;
    ear.fresh_clock().await;
    nats.kill9();
    wait_until("the clock is old", PATIENCE, async || {
        ear.clock.age().filter(|age| *age > Duration::from_secs(3))
    })
    .await;
    // It still runs, by the monotonic clock.
    let before = wall_clock();
    let now = ear.clock.try_now().unwrap().as_millis();
    assert!(before < now + 2000 && now < wall_clock() + 2000);
    nats.restart().await;
    println!(
        "a canary came back {:?} after the server",
        ear.fresh_clock().await
    );
    let again = heartbeat(&agent());
    let client = nats.connect().await;
    heartbeats::send(&client, &again).await.unwrap();
    assert_eq!(ear.next().await.heartbeat, again);
    assert!(!ear.task.is_finished());
}

/// A paused server answers nothing for a while, and then everything at once: old canaries must not set the clock.
#[tokio::test]
async fn a_canary_that_was_under_way_for_long_does_not_set_the_clock() {
    let nats = Nats::start().await;
    let ear = Ear::open(&nats, "r1").await;
    ear.fresh_clock().await;
    nats.process().sigstop();
    wait_until("the clock is old", PATIENCE, async || {
        ear.clock.age().filter(|age| *age > Duration::from_millis(2500))
    })
    .await;
    nats.process().sigcont();
    ear.fresh_clock().await;
    let before = wall_clock();
    let now = ear.clock.try_now().unwrap().as_millis();
    let after = wall_clock();
    assert!(
        before < now + 1500 && now <= after,
        "{now} between {before} and {after}"
    );
}

#[tokio::test]
async fn heartbeats_whose_stream_is_deleted_are_heard_again() {
    let nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    // As on every hub, it isn't the last stream: the server removes the folder of an account without any, in the background, and may
    // take that of the next one with it.
    ensure_streams(&jetstream(&connection)).await.unwrap();
    let mut ear = Ear::open(&nats, "r1").await;
    ear.fresh_clock().await;
    jetstream(&connection)
        .delete_stream(HEARTBEATS_STREAM)
        .await
        .unwrap();
    println!(
        "a canary came back {:?} after its stream was deleted",
        ear.fresh_clock().await
    );
    let heartbeat = heartbeat(&agent());
    let client = nats.connect().await;
    heartbeats::send(&client, &heartbeat).await.unwrap();
    assert_eq!(ear.next().await.heartbeat, heartbeat);
}

#[tokio::test]
async fn a_watch_that_is_dropped_all_the_time_loses_no_heartbeat() {
    let nats = Nats::start().await;
    let clock = NatsClock::default();
    let mut watch = HeartbeatWatch::new(
        &open(&nats.url()).await,
        "r1",
        clock.clone(),
        &Refusals::default(),
    );
    let client = nats.connect().await;
    let names: Vec<_> = (0..100)
        .map(|index| AgentName::parse(&format!("agent-{index}")).unwrap())
        .collect();
    let (mut heard, started) = (vec![], Instant::now());
    let mut sent = 0;
    while heard.len() < names.len() || clock.age().is_none() {
        assert!(started.elapsed() < PATIENCE, "only {} were heard", heard.len());
        if let Some(name) = names.get(sent).filter(|_| clock.age().is_some()) {
            heartbeats::send(&client, &heartbeat(name)).await.unwrap();
            sent += 1;
        }
        if let Ok(told) = tokio::time::timeout(Duration::from_millis(1), watch.next()).await {
            heard.push(told.heartbeat.agent);
        }
    }
    assert_eq!(heard, names);
}
