//! Base URLs that lead back to the hub: directly, by another name, through proxies, and through another hub.

use reveille_tests::{AgentConfig, Answer, Api, Exit, Port, Process, WakeController, World, wait_until};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
};

use crate::{
    first_use::write,
    scene::{SOON, refused},
};

/// How long an answer may take that waits for nothing.
const AT_ONCE: Duration = Duration::from_secs(10);
const REFUSED: &str = "is refused, and its models aren't published: this is the hub itself";
const HUB: &str = "x-reveille-hub";
/// Of the same length, so that nothing else of the head changes.
const DROPPED: &str = "x-dropped-----";

/// A proxy in front of the API at `to`, which drops the header that names the hub if it `drops` any; its URL.
async fn proxy(to: SocketAddr, drops: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Either end may break off.
                let _ = pass(client, to, drops).await;
            });
        }
    });
    url
}

/// Passes one request and its answer.
async fn pass(client: TcpStream, to: SocketAddr, drops: bool) -> std::io::Result<()> {
    let server = TcpStream::connect(to).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async { copy(&mut from_client, &mut to_server).await.map(drop) };
    let back = async {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if from_server.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        if drops && let Some(at) = head.windows(HUB.len()).position(|name| name == HUB.as_bytes()) {
            head[at..at + HUB.len()].copy_from_slice(DROPPED.as_bytes());
        }
        to_client.write_all(&head).await?;
        copy(&mut from_server, &mut to_client).await.map(drop)
    };
    tokio::select! {
        passed = back => passed,
        Err(error) = there => Err(error),
    }
}

/// One more provider at this URL, which could be woken.
fn provider(name: &str, base_url: &str, models: &str, controller: &WakeController) -> String {
    format!(
        "\n[[provider]]\nname = {name:?}\nbase_url = {base_url:?}\n{models}\
         probe = {{ path = \"/v1/models\", interval = \"200ms\" }}\n\
         [provider.wake]\ntype = \"http\"\nurl = {:?}\nmax_wait = \"30s\"\n",
        controller.url()
    )
}

async fn row(api: &Api, provider: &str) -> Option<Value> {
    let answer = api.get("/reveille/v1/providers").await.json();
    let rows = answer["data"].as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["id"] == provider)
}

async fn doctor(world: &World, args: &[&str]) -> (Exit, String) {
    let doctor: Process = world.reveille("doctor").args(args).args(["-o", "jsonl"]).start();
    let exit = doctor.wait_for_exit(SOON).await;
    (exit, doctor.log())
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_hub_neither_publishes_nor_wakes_itself_whatever_leads_back_to_it() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let controller = WakeController::answering(200).await;
    let port = Port::claim();
    let (to, own) = (port.address(), port.http_url());
    let by_name = format!("http://localhost:{}/v1", port.number());
    let leads_back = [
        ("direct", own.clone(), "models = [\"direct-model\"]\n"),
        ("by-name", by_name, "models = [\"by-name-model\"]\n"),
        (
            "proxied",
            proxy(to, false).await,
            "models = [\"proxied-model\"]\n",
        ),
        (
            "dropping",
            proxy(to, true).await,
            "models = [\"dropping-model\"]\n",
        ),
        ("discovers", own.clone(), ""),
    ];
    let config = AgentConfig::new("gpu-box").provider("vllm", "qwen", &backend);
    let config = leads_back.iter().fold(config, |config, (name, url, models)| {
        config.lines(&provider(name, url, models, &controller))
    });
    let file = write(&world, "agent.toml", &config);
    let (data, nats) = (world.folder().join("data"), world.nats_url());
    let up = world.up_at(port, &data, &config.to_toml(), &["--nats", &nats]);
    up.wait_until_ready().await;
    up.wait_for_status("gpu-box/qwen", "active", SOON).await;
    for (name, ..) in &leads_back {
        let published = wait_until(&format!("{name} was published"), SOON, async || {
            row(&up, &format!("gpu-box/{name}")).await
        })
        .await;
        assert_eq!(
            (&published["status"], &published["models"]),
            (&json!("down"), &json!([]))
        );
        let log = up.process().log();
        assert!(log.contains(&format!("{name} {REFUSED}")), "{log}");
        let answer = up.chat(&format!("{name}-model")).await;
        assert_eq!(refused(&answer), (404, "model_not_found".to_owned()));
        assert!(answer.took < AT_ONCE, "{:?}", answer.took);
    }
    let models = up.get("/v1/models").await.json();
    let models: Vec<_> = models["data"].as_array().expect("a list").iter().collect();
    assert_eq!(models.len(), 1, "{models:?}");
    assert_eq!(up.chat("qwen").await.status, 200);
    // By hand neither.
    let woken = up
        .post("/reveille/v1/providers/gpu-box/direct/wake?wait=true", &json!({}))
        .await;
    assert_eq!(refused(&woken), (409, "no_wake_recipe".to_owned()));

    // By the journal's id, or with no journal in reach by the API's.
    let nowhere = world.folder().join("nowhere").display().to_string();
    let args = ["--config", &file, "--api", &own, "--data-dir", &nowhere];
    for hub in [&["--nats", &nats][..], &[]] {
        let (exit, said) = doctor(&world, &[&args, hub].concat()).await;
        assert_eq!(exit, Exit::Code(1), "{said}");
        for (name, ..) in &leads_back {
            let found =
                |line: &&str| line.contains(&format!("\"provider {name}\"")) && line.contains("\"problem\"");
            let problem = said
                .lines()
                .find(found)
                .unwrap_or_else(|| panic!("nothing of {name}: {said}"));
            assert!(problem.contains("is the hub itself"), "{problem}");
            assert!(
                problem.contains("set base_url to the backend's own address"),
                "{problem}"
            );
        }
    }

    let (init, ports) = (world.folder().join("init.toml"), to.port().to_string());
    let init = init.display().to_string();
    let init: Process = world
        .reveille("init")
        .args(["--config", &init, "--ports", &ports])
        .start();
    init.wait_for_exit(SOON).await;
    assert!(init.log().contains("a Reveille hub"), "{}", init.log());
    assert!(controller.posts().is_empty(), "no recipe ran");
    let journal = world.journal().await;
    let wakes = journal
        .iter()
        .filter(|commit| commit.data("WakeRequested").is_some());
    assert_eq!(wakes.count(), 0);

    let test = ["test", "direct", "--config", &file];
    let test: Process = world.reveille("recipe").args(test).start();
    assert_eq!(test.wait_for_exit(SOON).await, Exit::Code(1), "{}", test.log());
    assert!(test.log().contains("a Reveille hub answers"), "{}", test.log());
}

/// A hub with one agent.
struct Hub {
    api: Api,
    world: World,
}

impl Hub {
    async fn start() -> Self {
        let world = World::new().await;
        let api = world.api().await;
        Self { api, world }
    }

    /// An agent whose provider is another hub, once it is published.
    async fn with(&self, agent: &str, model: &str, at: &Self) -> Process {
        let config = AgentConfig::new(agent).lines(&format!(
            "\n[[provider]]\nname = \"hub\"\nbase_url = \"{}/v1\"\nmodels = [{model}]\n",
            at.api.url()
        ));
        self.world.agent(&config)
    }

    /// How many requests for inference were answered with this status.
    async fn answered(&self, status: u16) -> usize {
        let page = self.api.get("/metrics").await.text();
        let of =
            format!("reveille_http_answers_total{{route=\"/v1/chat/completions\",status=\"{status}\"}} ");
        let count = page.lines().find_map(|line| line.strip_prefix(&of));
        count.map_or(0, |count| count.parse().expect("a number"))
    }
}

#[tokio::test]
async fn a_hub_may_be_the_backend_of_another_one() {
    let (near, far) = (Hub::start().await, Hub::start().await);
    let backend = far.world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_http(&controller.url());
    let _far = far.world.agent(&config);
    far.api.wait_for_status("gpu-box/qwen", "hibernating", SOON).await;
    let _near = near.with("door", "{ id = \"qwen\", as = \"far\" }", &far).await;
    near.api.wait_for_status("door/far", "active", SOON).await;
    let answer = near.api.chat("far").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(controller.posts().len(), 1, "the other hub woke it");
    let id = |answer: &Answer| answer.header(HUB).map(str::to_owned);
    let far_id = id(&far.api.get("/livez").await);
    assert!(far_id.is_some() && id(&answer).is_some());
    assert_ne!(id(&answer), far_id, "each answers for itself");
}

#[tokio::test]
async fn a_circle_of_two_hubs_ends_with_508_after_one_round() {
    let (one, other) = (Hub::start().await, Hub::start().await);
    let agents = [
        one.with("a", "\"m\"", &other).await,
        other.with("b", "\"m\"", &one).await,
    ];
    one.api.wait_for_status("a/m", "active", SOON).await;
    other.api.wait_for_status("b/m", "active", SOON).await;
    for round in 1..=5 {
        let answer = one.api.chat("m").await;
        assert_eq!(refused(&answer), (508, "loop_detected".to_owned()));
        assert!(answer.text().contains("set base_url to"), "{}", answer.text());
        assert!(answer.took < AT_ONCE, "{:?}", answer.took);
        // The client's, and the one that came back; in between, one at the other hub.
        assert_eq!(
            (one.answered(508).await, other.answered(508).await),
            (2 * round, round)
        );
    }
    let stream = one.api.stream("m").await;
    assert_eq!(stream.status, 508, "{stream:?}");
    // No backend is to blame, so nothing is restarted.
    for (hub, llm, agent) in [(&one, "a/m", &agents[0]), (&other, "b/m", &agents[1])] {
        assert_eq!(hub.api.llm(llm).await.expect("a row")["status"], "active");
        assert!(!agent.log().contains("has failed"), "{}", agent.log());
    }
}
