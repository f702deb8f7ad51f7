//! Backends that are put to sleep while requests come: because nobody uses them, and because others need their memory.

use std::{collections::HashSet, time::Duration};

use async_nats::Subscriber;
use futures::{StreamExt, future::join_all};
use reveille_tests::{
    AgentConfig, Api, Backend, BackendLog, Commit, Process, World, assert_exclusive, wait_until,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    archive::assert_sound,
    scene::{LLM, SOON, refused},
};

const IDLE_MS: u64 = 20;

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    /// One of `0..sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        // Knuth's MMIX generator; its high bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test]
async fn requests_race_the_idle_sleep_and_none_is_lost_or_cut() {
    race(100, 10).await;
}

#[tokio::test]
#[ignore = "slow: more races"]
async fn five_hundred_requests_race_the_idle_sleep_and_none_is_lost_or_cut() {
    race(500, 50).await;
}

/// Asks for a model as often as `races`, around the moments at which its backend is put to sleep.
async fn race(races: u64, least_sleeps: usize) {
    let world = World::new().await;
    let backend = world.backend(&["--asleep"]);
    backend.start_and_wait().await;
    let url = backend.url();
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("probe = { path = \"/is_sleeping\", expect = { is_sleeping = false } }\n")
        .woken_by_http(&format!("{url}/wake_up"))
        .lines(&format!(
            "[provider.sleep]\ntype = \"http\"\nurl = \"{url}/sleep\"\nidle_after = \"{IDLE_MS}ms\"\nmin_awake = \"1ms\"\n"
        ));
    let api = world.api().await;
    let _agent = world.agent(&config);
    api.wait_for_status(LLM, "hibernating", SOON).await;

    let mut dice = Dice(1);
    for race in 0..races {
        // Around the moment at which it is put to sleep: the race is what this is about.
        sleep(Duration::from_millis(dice.roll(2 * IDLE_MS))).await;
        if race % 2 == 0 {
            let answer = api.chat("qwen").await;
            assert_eq!(answer.status, 200, "{race}: {}", answer.text());
            assert!(answer.said().ends_with("token-7"), "{race}: {}", answer.text());
        } else {
            let answer = api.stream("qwen").await;
            assert!(
                answer.is_done() && answer.said().ends_with("token-7"),
                "{race}: {answer:?}"
            );
        }
    }
    api.wait_for_status(LLM, "hibernating", SOON).await;

    let log = backend.log();
    let requests = log.requests();
    let asked = usize::try_from(races).expect("few");
    let ids: HashSet<_> = requests.iter().map(|request| &request.request_id).collect();
    assert_eq!((requests.len(), ids.len()), (asked, asked), "each once");
    assert_eq!((log.answered(), log.aborted()), (asked, 0));

    let journal = world.journal().await;
    let turns = turns(&journal, "vllm");
    let alternate = turns
        .chunks(2)
        .all(|turn| turn == ["WakeSucceeded", "BackendSlept"]);
    assert!(alternate, "{turns:?}");
    let sleeps = turns.len() / 2;
    println!("{races} requests, {sleeps} sleeps");
    assert!(sleeps >= least_sleeps, "it was a race: {sleeps}");
    assert_eq!(sleeps, log.wake_ups());
}

#[tokio::test]
async fn a_backend_that_may_hardly_be_idle_answers_those_who_woke_it_and_one_who_joined_an_operator() {
    let world = World::new().await;
    let backend = world.backend(&["--asleep", "--wake-delay-ms", "300"]);
    backend.start_and_wait().await;
    let url = backend.url();
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("probe = { path = \"/is_sleeping\", expect = { is_sleeping = false } }\n")
        .woken_by_http(&format!("{url}/wake_up"))
        .lines(&format!(
            "[provider.sleep]\ntype = \"http\"\nurl = \"{url}/sleep\"\nidle_after = \"1ms\"\nmin_awake = \"1ms\"\n"
        ));
    let api = world.api().await;
    let _agent = world.agent(&config);
    api.wait_for_status(LLM, "hibernating", SOON).await;
    for answer in join_all((0..20).map(|_| api.chat("qwen"))).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    api.wait_for_status(LLM, "hibernating", SOON).await;

    let before = backend.log().wake_ups();
    let wire = world.nats.connect().await;
    let mut told = wire.subscribe("reveille.wakes.>").await.expect("subscribed");
    wire.flush().await.expect("flushed");
    let path = "/reveille/v1/providers/gpu-box/vllm/wake";
    assert_eq!(api.post(path, &json!({})).await.status, 202);
    api.wait_for_status(LLM, "waking", SOON).await;
    let answer = api.chat("qwen").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        backend.log().wake_ups(),
        before + 1,
        "it was there for the one who joined"
    );
    let awaited = async |told: &mut Subscriber| {
        let message = told.next().await.expect("a wake message");
        let wake: Value = serde_json::from_slice(&message.payload).expect("JSON");
        wake.get("awaited").is_none_or(|awaited| awaited == true)
    };
    assert!(!awaited(&mut told).await, "an operator waits for nothing");
    while !awaited(&mut told).await {}
}

/// What the journal has of a provider's falling asleep and waking, in order; a wake that failed is one that shouldn't be.
fn turns(journal: &[Commit], provider: &str) -> Vec<String> {
    let subject = format!("reveille.events.provider.gpu-box.{provider}");
    let commits = journal.iter().filter(|commit| commit.subject == subject);
    let types = commits.flat_map(|commit| commit.types().into_iter().map(str::to_owned).collect::<Vec<_>>());
    types
        .filter(|name| !["ProviderRegistered", "WakeRequested"].contains(&name.as_str()))
        .collect()
}

/// An agent whose providers share one GPU, each a backend that it serves.
pub struct Shared {
    pub api: Api,
    pub agent: Process,
    pub backends: Vec<Backend>,
    pub config: AgentConfig,
    pub world: World,
}

impl Shared {
    /// Providers of those names, each with the model of the same name. `terms` are lines of each `[[provider]]`,
    /// `sleep` of each `[provider.sleep]`.
    pub async fn start(names: &[&str], args: &[&str], terms: &str, sleep: &str) -> Self {
        let world = World::new().await;
        let gpu = world.folder().join("gpu0").display().to_string();
        let args: Vec<_> = args.iter().copied().chain(["--gpu", &gpu]).collect();
        let mut config = AgentConfig::new("gpu-box");
        let mut backends = vec![];
        for name in names {
            let backend = world.backend(&args);
            config = config
                .provider(name, name, &backend)
                .lines(&format!("exclusive = \"gpu0\"\n{terms}"))
                .woken_by_serving(&backend)
                .lines(&format!("[provider.sleep]\n{sleep}"));
            backends.push(backend);
        }
        let api = world.api().await;
        let agent = world.agent(&config);
        for name in names {
            api.wait_for_status(&format!("gpu-box/{name}"), "hibernating", SOON)
                .await;
        }
        Self {
            api,
            agent,
            backends,
            config,
            world,
        }
    }

    /// How often each was started, and how often one was while another had the memory.
    pub fn starts(&self) -> (Vec<usize>, usize) {
        let logs: Vec<_> = self.backends.iter().map(Backend::log).collect();
        let collisions = logs.iter().map(|log| log.of("out_of_memory").count()).sum();
        (logs.iter().map(BackendLog::starts).collect(), collisions)
    }

    /// Fails unless the journal proves that one was awake at a time.
    pub async fn assert_exclusive(&self) {
        assert_exclusive(&self.world.journal().await);
        assert_sound(&self.world).await;
    }
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn three_models_share_one_gpu_and_three_hundred_requests_are_answered() {
    const MIN_AWAKE: Duration = Duration::from_millis(100);
    const CLIENTS: u64 = 12;
    const EACH: u64 = 25;
    let names = ["a", "b", "c"];
    let args = ["--boot-delay-ms", "30", "--token-delay-ms", "2"];
    let shared = Shared::start(&names, &args, "", "min_awake = \"100ms\"\n").await;

    let began = Instant::now();
    let clients = (0..CLIENTS).map(|client| {
        let api = &shared.api;
        async move {
            let mut dice = Dice(client);
            for request in 0..EACH {
                let model = names[dice.roll(3) as usize];
                let answer = api.stream(model).await;
                let whole = answer.is_done() && answer.said().ends_with("token-7");
                assert!(whole, "{client}.{request} of {model}: {answer:?}");
            }
        }
    });
    join_all(clients).await;
    let took = began.elapsed();

    let (starts, collisions) = shared.starts();
    assert_eq!(collisions, 0, "never two at once");
    let starts: usize = starts.iter().sum();
    let bound = took.as_millis() / MIN_AWAKE.as_millis() + 1;
    println!("300 requests in {took:?}: {starts} starts, at most {bound} by `min_awake`");
    assert!(starts as u128 <= bound, "{starts} starts, not more than {bound}");
    let answered: usize = shared
        .backends
        .iter()
        .map(|backend| backend.log().answered())
        .sum();
    assert_eq!(answered, (CLIENTS * EACH) as usize);
    // Each that slept made room for the wake of another.
    let journal = shared.world.journal().await;
    assert_exclusive(&journal);
    let slept: Vec<_> = journal
        .iter()
        .filter_map(|commit| commit.data("BackendSlept"))
        .collect();
    assert_eq!(slept.len(), starts - 1);
    assert!(
        slept
            .iter()
            .all(|slept| slept["reason"] == "group" && slept["for_wake"].is_string()),
        "{slept:?}"
    );
    assert!(journal.iter().all(|commit| commit.data("WakeFailed").is_none()));
}

#[tokio::test]
async fn a_stream_that_outlasts_the_wait_is_not_cut_and_the_other_is_told_why() {
    let args = ["--tokens", "100", "--token-delay-ms", "30"];
    let terms = "max_group_wait = \"500ms\"\n";
    let shared = Shared::start(&["a", "b"], &args, terms, "min_awake = \"1ms\"\n").await;
    let api = &shared.api;
    let stream = api.stream("a");
    let other = async {
        wait_until("the stream", SOON, async || {
            (!shared.backends[0].log().requests().is_empty()).then_some(())
        })
        .await;
        let blocked = api.chat("b").await;
        assert_eq!(
            refused(&blocked),
            (503, "group_blocked".to_owned()),
            "{}",
            blocked.text()
        );
        assert!(
            blocked.text().contains("gpu-box/b was not woken: a "),
            "{}",
            blocked.text()
        );
        assert!(blocked.header("retry-after").is_some());
        // Nothing is held against it: what is in its way is.
        let again = api.chat("b").await;
        assert_eq!(
            refused(&again),
            (503, "group_blocked".to_owned()),
            "{}",
            again.text()
        );
    };
    let (stream, ()) = tokio::join!(stream, other);
    assert!(
        stream.is_done() && stream.said().ends_with("token-99"),
        "{stream:?}"
    );
    assert_eq!(api.chat("a").await.status, 200, "it went on");
    assert_eq!(shared.starts(), (vec![1, 0], 0));
    assert_eq!(api.chat("b").await.status, 200);
    assert_eq!(shared.starts(), (vec![1, 1], 0));
    shared.assert_exclusive().await;
}

#[tokio::test]
async fn who_comes_while_a_backend_finishes_others_requests_hears_that_he_waits_and_is_answered() {
    let args = ["--tokens", "70", "--token-delay-ms", "200"];
    let shared = Shared::start(&["a", "b"], &args, "", "min_awake = \"1ms\"\n").await;
    let api = &shared.api;
    let first = api.stream("a");
    let others = async {
        wait_until("the stream", SOON, async || {
            (!shared.backends[0].log().requests().is_empty()).then_some(())
        })
        .await;
        // What makes it leave, and who comes meanwhile.
        let short = |model: &str| {
            let messages = json!([{ "role": "user", "content": "hello" }]);
            json!({ "model": model, "stream": true, "max_tokens": 2, "messages": messages })
        };
        let (short_a, short_b) = (short("a"), short("b"));
        let (other, late) = tokio::join!(api.stream_body(&short_b), async {
            wait_until("the other's wake", SOON, async || {
                (api.llm("gpu-box/b").await?["status"] == "waking").then_some(())
            })
            .await;
            api.stream_body(&short_a).await
        });
        assert!(other.is_done() && other.said().ends_with("token-1"), "{other:?}");
        late
    };
    let (first, late) = tokio::join!(first, others);
    assert!(first.is_done() && first.said().ends_with("token-69"), "{first:?}");
    assert!(late.is_done() && late.said().ends_with("token-1"), "{late:?}");
    let said = late.comments();
    assert!(
        said.iter()
            .any(|said| said.contains("waiting gpu-box/a elapsed=")),
        "{said:?}"
    );
    assert_eq!(shared.starts(), (vec![2, 1], 0));
    shared.assert_exclusive().await;
}

#[tokio::test]
async fn a_member_and_an_agent_that_die_leave_the_memory_to_the_others() {
    // Whoever is told to end gives the memory back later than the port.
    let slow = ["--end-delay-ms", "1500"];
    let shared = Shared::start(&["a", "b"], &slow, "", "min_awake = \"1ms\"\n").await;
    let api = &shared.api;
    assert_eq!(api.chat("a").await.status, 200);
    let pid = shared.backends[0].log().pids()[0];
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    assert_eq!(api.chat("b").await.status, 200);
    shared.agent.kill9();
    let again = shared.world.agent(&shared.config);
    assert_eq!(api.chat("a").await.status, 200, "{}", again.log());
    assert_eq!(shared.starts().1, 0);
    shared.assert_exclusive().await;
}

#[tokio::test]
async fn a_backend_that_ends_under_its_requests_is_held_back_with_its_reason_and_never_loops() {
    let world = World::new().await;
    let backend = world.backend(&["--die-after-tokens", "3"]);
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_serving(&backend);
    let api = world.api().await;
    let _agent = world.agent(&config);
    for run in 1..=2 {
        api.wait_for_status(LLM, "hibernating", SOON).await;
        let answer = api.stream("qwen").await;
        assert!(
            answer.said().ends_with("token-2") && !answer.is_done(),
            "{answer:?}"
        );
        assert!(answer.error_code().is_some(), "it is told: {answer:?}");
        api.wait_for_status(LLM, "hibernating", SOON).await;
        assert_eq!(backend.log().starts(), run);
    }
    let held = api.chat("qwen").await;
    assert_eq!(refused(&held), (503, "wake_failed".to_owned()), "{}", held.text());
    assert!(
        held.text()
            .contains("the backend ended while it worked on requests"),
        "{}",
        held.text()
    );
    assert_eq!(backend.log().starts(), 2, "nothing is tried in the hold");
    let journal = world.journal().await;
    let slept: Vec<_> = journal
        .iter()
        .filter_map(|commit| commit.data("BackendSlept"))
        .collect();
    let reasons: Vec<_> = slept.iter().map(|slept| slept["reason"].as_str()).collect();
    assert_eq!(reasons, [Some("crashed"); 2]);
}
