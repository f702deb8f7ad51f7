//! The main job on a NATS cluster of three nodes, one of which dies: nobody becomes inactive, what was told stays told, and
//! requests and wakes go on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream;
use futures::future::join_all;
use reveille_tests::{AgentConfig, Api, Facts, JOURNAL, WakeController, World, http_client, wait_until};
use serde_json::{Value, json};

use crate::{
    locked::{self, LockedServers},
    scene::{LLM, QUICK_HEARTBEAT, SOON, Scene},
};

const HEARTBEATS: &str = "REVEILLE_HEARTBEATS";
/// After a node died, requests are answered again within this.
/// How many answers in a row show that they are.
const ANSWERS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: run by cargo xtask test --all"]
async fn each_of_three_nodes_may_die_under_requests_and_wakes() {
    let world = World::on_cluster().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let mut scene = Scene::set(world, backend, controller, QUICK_HEARTBEAT, "", "hibernating").await;
    let second = scene.world.api().await;
    let client = cluster_client(&scene.world).await;
    for stream in [JOURNAL, HEARTBEATS] {
        let stream = jetstream::new(client.clone()).get_stream(stream).await;
        let config = stream.expect("the stream").cached_info().config.clone();
        assert_eq!(config.num_replicas, 3, "{}", config.name);
    }
    let facts = Facts::listen(cluster_client(&scene.world).await).await;
    let answer = scene.chat().await;
    assert_eq!(answer.status, 200, "a wake works: {}", answer.text());

    let load = Load::start(&[&scene.api, &second]);
    for victim in 0..3 {
        scene.world.node(victim).kill9();
        load.goes_on(&format!("with node {victim} dead")).await;
        // Somebody has to wake it, whatever of the cluster is left. That it dies so soon after a wake counts as a failure,
        // so some requests are refused for as long as the hold lasts.
        let posts = scene.posts();
        scene.backend.kill9();
        load.goes_on("after the backend died too").await;
        assert!(scene.posts() > posts, "it was woken");
        scene.world.node(victim).restart().await;
        load.goes_on(&format!("with node {victim} back")).await;
        whole(&client).await;
    }
    let (answered, refused, longest) = load.stop().await;
    println!("{answered} requests answered, refusals {refused:?}, longest pause {longest:?}");

    let journal = scene.world.journal().await;
    for fact in facts.all() {
        let stored = &journal[usize::try_from(fact.sequence).expect("a sequence") - 1];
        assert_eq!(
            (stored.sequence, &stored.payload),
            (fact.sequence, &fact.payload),
            "what was told stands in the journal as it was told"
        );
    }
    let ended = ["WakeSucceeded", "WakeFailed", "WakeTimedOut"];
    let count = |event: &str| {
        journal
            .iter()
            .filter(|commit| commit.data(event).is_some())
            .count()
    };
    assert_eq!(count("ProviderBecameInactive"), 0, "nobody becomes inactive");
    scene.is("active").await;
    assert_eq!(
        count("WakeRequested"),
        ended.iter().map(|event| count(event)).sum::<usize>(),
        "every wake ends once"
    );
    wait_until("both replicas tell the same", SOON, async || {
        let rows = [&scene.api, &second].map(async |replica| replica.llm(LLM).await);
        let [one, other] = <[_; 2]>::try_from(join_all(rows).await).expect("two");
        (one.is_some() && one == other).then_some(())
    })
    .await;
}

/// The files in `nats/cluster`, as a person runs them, with the keys and certificates that they include.
#[tokio::test]
async fn three_locked_servers_with_our_own_configs_survive_one_and_other_replica_counts_are_told() {
    let world = World::new().await;
    let servers = LockedServers::three(&world).await;
    let client = wait_until("a node answered", SOON, async || {
        servers.connect("admin").await.ok()
    })
    .await;
    let mut context = jetstream::new(client);
    context.set_timeout(Duration::from_secs(1));
    wait_until("an operator's own stream was made", SOON, async || {
        let single = jetstream::stream::Config {
            name: HEARTBEATS.to_owned(),
            subjects: vec!["reveille.heartbeats.>".to_owned()],
            max_messages_per_subject: 1,
            no_ack: true,
            num_replicas: 1,
            ..Default::default()
        };
        context.create_stream(single).await.ok()
    })
    .await;
    let api = servers.api(&world, &[]);
    api.wait_until_ready().await;
    for (stream, replicas) in [(JOURNAL, 3), (HEARTBEATS, 1)] {
        let stream = context.get_stream(stream).await.expect("the stream");
        assert_eq!(stream.cached_info().config.num_replicas, replicas);
    }
    let log = api.process().log();
    let reported = format!("the stream {HEARTBEATS} has 1 replicas instead of the usual 3");
    assert_eq!(log.matches(&reported).count(), 1, "{log}");

    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_http(&controller.url());
    let agent = locked::join(&servers, &world, &api, &config).await;
    api.wait_for_status(LLM, "hibernating", SOON).await;
    assert_eq!(api.chat("qwen").await.status, 200);
    api.wait_for_status(LLM, "active", SOON).await;

    // The one that nobody would miss in the heartbeats' stream, which has no copies here.
    let stream = context.get_stream(HEARTBEATS).await.expect("the stream");
    let kept_by = stream
        .cached_info()
        .cluster
        .clone()
        .and_then(|cluster| cluster.leader);
    let kept_by = kept_by.expect("a leader");
    let victim = ["reveille-a", "reveille-b", "reveille-c"]
        .iter()
        .position(|name| *name != kept_by);
    servers.nodes[victim.expect("two others")].kill9();
    backend.kill9();
    wait_until("somebody woke it by a commit of two nodes", SOON, async || {
        (api.chat("qwen").await.status == 200).then_some(())
    })
    .await;
    assert!(controller.posts().len() >= 2, "it was woken");
    for process in [&agent, api.process()] {
        let log = process.log();
        assert!(process.is_running(), "{log}");
        assert!(!log.to_lowercase().contains("permissions violation"), "{log}");
    }
}

async fn cluster_client(world: &World) -> async_nats::Client {
    let urls: Vec<async_nats::ServerAddr> = world
        .nats_url()
        .split(',')
        .map(|url| url.parse().expect("a URL"))
        .collect();
    async_nats::connect(urls).await.expect("a connection")
}

/// Waits until every node has the whole journal.
async fn whole(client: &async_nats::Client) {
    let mut context = jetstream::new(client.clone());
    context.set_timeout(Duration::from_secs(1));
    wait_until("every node has the whole journal", SOON, async || {
        let stream = context.get_stream(JOURNAL).await.ok()?;
        let cluster = stream.cached_info().cluster.clone()?;
        let current = cluster
            .replicas
            .iter()
            .filter(|peer| peer.current && !peer.offline);
        (cluster.leader.is_some() && current.count() == 2).then_some(())
    })
    .await;
}

/// One request after the other, through each of the replicas.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<(Instant, u16, String)>>>,
    senders: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(replicas: &[&Api]) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<_>>>::default());
        let send = |replica: &&Api| {
            let url = format!("{}/v1/chat/completions", replica.url());
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            tokio::spawn(async move {
                let body = json!({ "model": "qwen", "messages": [{ "role": "user", "content": "hello" }] });
                let client = http_client();
                while !stop.load(Ordering::Relaxed) {
                    let answer = client
                        .post(&url)
                        .json(&body)
                        .send()
                        .await
                        .expect("the API answers");
                    let (status, text) = (answer.status().as_u16(), answer.text().await);
                    let told = text.expect("an answer arrives whole");
                    answers.lock().expect("lock").push((Instant::now(), status, told));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        };
        let senders = replicas.iter().map(send).collect();
        Self {
            stop,
            answers,
            senders,
        }
    }

    /// Waits for some answers in a row that come from the backend.
    async fn goes_on(&self, when: &str) {
        let from = self.answers.lock().expect("lock").len();
        let what = format!("requests go on {when}");
        wait_until(&what, SOON, async || {
            let answers = self.answers.lock().expect("lock");
            let ok = answers[from..]
                .iter()
                .rev()
                .take_while(|(_, status, _)| *status == 200);
            (ok.count() >= ANSWERS).then_some(())
        })
        .await;
    }

    /// How many were answered, what the others were told and how often, and the longest time without an answer from the
    /// backend.
    async fn stop(self) -> (usize, BTreeMap<String, usize>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        for sender in join_all(self.senders).await {
            sender.expect("each request was answered");
        }
        let answers = self.answers.lock().expect("lock");
        let (good, others): (Vec<_>, Vec<_>) = answers.iter().partition(|(_, status, _)| *status == 200);
        let pauses = good.windows(2).map(|pair| pair[1].0 - pair[0].0);
        let mut refused = BTreeMap::new();
        for (_, status, text) in others {
            assert!(*status >= 500, "{status}: {text}");
            let answer: Value = serde_json::from_str(text).expect("JSON");
            let code = answer["error"]["code"].as_str().unwrap_or_default();
            *refused.entry(format!("{status} {code}")).or_default() += 1;
        }
        (good.len(), refused, pauses.max().unwrap_or_default())
    }
}
