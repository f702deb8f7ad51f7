//! The examples of `docs/recipes/`: each is read as it stands there, but for its addresses, and its backend is put to sleep and
//! woken again. The backends are stand-ins that have the paths and the traps of those that the examples are for.

use axum::{Router, extract::State, http::StatusCode, routing::post};
use reveille_tests::{Answer, Api, Backend, Process, World, is_alive, wait_until};
use serde_json::{Value, json};
use std::{fs, path::PathBuf};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::AbortHandle,
};

use crate::{docs::root, machine::write_script, scene::SOON};

/// What the stand-in answers to [`ask`].
const TOKENS: &str = "token-0 token-1";

/// A hub, and an agent with an example as its config.
struct Scene {
    api: Api,
    agent: Process,
    provider: String,
    llm: String,
    _world: World,
}

/// An example's text with other addresses; each of them must stand in it.
fn example(name: &str, addresses: &[(&str, &str)]) -> String {
    let file = root().join("docs/recipes").join(name);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    addresses.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{name} has no {from}");
        text.replace(from, to)
    })
}

fn address(backend: &Backend) -> String {
    backend.url().replace("http://", "")
}

fn port(backend: &Backend) -> String {
    let address = address(backend);
    address.rsplit(':').next().expect("a port").to_owned()
}

/// A folder for programs that stand in for those that an example names.
fn programs(world: &World, scripts: &[(&str, String)]) -> PathBuf {
    let folder = world.folder().join("programs");
    fs::create_dir(&folder).expect("a folder");
    for (name, script) in scripts {
        write_script(&folder.join(name), script);
    }
    folder
}

impl Scene {
    async fn of(world: World, config: &str, path: Option<PathBuf>) -> Self {
        let api = world.api().await;
        let file = world.folder().join("agent.toml");
        fs::write(&file, format!("[agent]\nname = \"gpu-box\"\n\n{config}")).expect("a config");
        let read: toml::Table = config.parse().expect("TOML");
        let provider = &read["provider"][0];
        let model = &provider["models"][0];
        let model = model.get("as").unwrap_or(model).as_str().expect("a name");
        let (name, llm) = (
            provider["name"].as_str().expect("a name"),
            format!("gpu-box/{model}"),
        );
        let path = path.map_or(String::new(), |folder| format!("{}:", folder.display()));
        let path = format!("{path}{}", std::env::var("PATH").unwrap_or_default());
        let agent = world.reveille("agent").args(["--nats", &world.nats_url()]);
        let agent = agent.arg("--config").arg(&file).env("PATH", path);
        // What `systemctl --user` finds its manager by.
        let agent = agent.env("XDG_RUNTIME_DIR", world.folder()).start();
        Self {
            provider: format!("gpu-box/{name}"),
            llm,
            api,
            agent,
            _world: world,
        }
    }

    fn model(&self) -> &str {
        self.llm.split_once('/').expect("agent/model").1
    }

    async fn is(&self, status: &str) {
        self.api.wait_for_status(&self.llm, status, SOON).await;
    }

    async fn ask(&self) -> Answer {
        let body = json!({"model": self.model(), "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2});
        self.api.post("/v1/chat/completions", &body).await
    }

    async fn answers(&self) {
        let answer = self.ask().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(said(&answer), TOKENS);
        self.is("active").await;
    }

    /// By an order; and until the recipe has ended, since a request would cut it short before.
    async fn sleeps(&self) {
        let slept = || self.agent.log().matches(" sleeps (operator)").count();
        let before = slept();
        let path = format!("/reveille/v1/providers/{}/sleep", self.provider);
        let ordered = self.api.post(&path, &json!({})).await;
        assert_eq!(ordered.status, 202, "{}", ordered.text());
        wait_until("the sleep recipe ended", SOON, async || {
            (slept() > before).then_some(())
        })
        .await;
        self.is("hibernating").await;
    }

    /// Asked, slept, and asked twice more: the second time nothing is done any more.
    async fn slept_and_woken(&self) {
        self.answers().await;
        self.sleeps().await;
        self.answers().await;
        self.answers().await;
    }
}

fn said(answer: &Answer) -> String {
    let said = &answer.json()["choices"][0]["message"]["content"];
    said.as_str().unwrap_or_default().to_owned()
}

/// What a stand-in wrote down, but for requests and their answers.
fn events(backend: &Backend) -> Vec<String> {
    let plain = |line: &Value| {
        let event = line["event"].as_str()?.to_owned();
        let ignored = ["start", "listening", "request", "answered"].contains(&event.as_str());
        let more = ["level", "tags", "method", "keep_alive", "why"].map(|key| &line[key]);
        let more = more.into_iter().find(|value| !value.is_null());
        (!ignored).then(|| more.map_or(event.clone(), |more| format!("{event} {more}")))
    };
    backend.log().0.iter().filter_map(plain).collect()
}

// ── vLLM ──

async fn vllm(file: &str, change: impl FnOnce(String) -> String) -> (Scene, Backend) {
    let world = World::new().await;
    let model = [
        "--imitates",
        "vllm",
        "--model",
        "Qwen/Qwen3-8B",
        "--load-delay-ms",
        "50",
    ];
    let backend = world.backend(&model);
    backend.start_and_wait().await;
    let config = change(example(file, &[("http://127.0.0.1:8000", &backend.url())]));
    let scene = Scene::of(world, &config, None).await;
    scene.is("active").await;
    (scene, backend)
}

#[tokio::test]
async fn vllm_sleeps_with_its_weights_in_memory() {
    let (scene, backend) = vllm("vllm-level-1.toml", |config| config).await;
    scene.slept_and_woken().await;
    assert_eq!(events(&backend), ["sleep 1", "wake_up []"]);
    assert_eq!(backend.log().starts(), 1, "it never crashed");
}

#[tokio::test]
async fn vllm_gets_its_weights_back_before_its_cache() {
    let (scene, backend) = vllm("vllm-level-2.toml", |config| config).await;
    scene.slept_and_woken().await;
    let expected = [
        "sleep 2",
        "wake_up [\"weights\"]",
        "collective_rpc \"reload_weights\"",
        "wake_up [\"kv_cache\"]",
    ];
    assert_eq!(events(&backend), expected);
}

#[tokio::test]
async fn vllm_without_its_weights_is_not_called_awake_when_an_answer_is_expected() {
    // What anybody would write first.
    let (scene, backend) = vllm("vllm-level-1.toml", |config| {
        config.replace("level=1", "level=2").replace(
            "verify = { timeout = \"10s\" }",
            "verify = { expect = { choices = [{ message = { content = \"token-0\" } }] } }",
        )
    })
    .await;
    scene.sleeps().await;
    let refused = scene.ask().await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("stage `verify`"), "{}", refused.text());
    assert!(
        events(&backend).contains(&"nonsense".to_owned()),
        "{:?}",
        events(&backend)
    );
    scene.is("hibernating").await;
    // Its probe goes on saying yes, and nobody is sent there.
    let awake = reqwest::get(format!("{}/is_sleeping", backend.url()))
        .await
        .expect("an answer");
    assert_eq!(awake.text().await.expect("text"), r#"{"is_sleeping":false}"#);
}

// ── Ollama ──

#[tokio::test]
async fn ollama_loads_a_model_until_it_is_told_to_unload_it() {
    let world = World::new().await;
    let models = [
        "--imitates",
        "ollama",
        "--model",
        "qwen2.5:7b",
        "--model",
        "other",
        "--load-delay-ms",
        "50",
    ];
    let backend = world.backend(&models);
    backend.start_and_wait().await;
    let config = example("ollama.toml", &[("http://127.0.0.1:11434", &backend.url())]);
    let scene = Scene::of(world, &config, None).await;
    scene.is("hibernating").await;
    // Another model in memory is none of its business.
    let client = scene.api.client();
    let load = client
        .post(format!("{}/api/generate", backend.url()))
        .json(&json!({"model": "other"}));
    assert_eq!(Answer::of(load).await.status, 200);
    scene.slept_and_woken().await;
    assert_eq!(
        events(&backend),
        ["load", "load -1", "unload 0", "load -1"],
        "and no request had to load it"
    );
}

// ── llama.cpp ──

#[tokio::test]
async fn llama_cpp_is_started_and_stopped_by_the_agent_and_loads_before_it_is_asked() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let (stand_in, args) = backend.command();
    let log = args
        .iter()
        .skip_while(|arg| *arg != "--log")
        .nth(1)
        .expect("a log");
    let script = format!(
        "while [ $# -gt 1 ]; do\n  case $1 in\n    --alias) alias=$2 ;;\n    --host) host=$2 ;;\n    --port) port=$2 ;;\n  \
         esac\n  shift 2\ndone\nexec {} --imitates llama-cpp --load-delay-ms 300 --log {log} --model \"$alias\" --listen \
         \"$host:$port\"\n",
        stand_in.display()
    );
    let path = programs(&world, &[("llama-server", script)]);
    let config = example("llama-cpp.toml", &[("8080", &port(&backend))]);
    let scene = Scene::of(world, &config, Some(path)).await;
    scene.is("hibernating").await;
    scene.slept_and_woken().await;
    let log = backend.log();
    assert_eq!(log.starts(), 2);
    for request in log.requests() {
        let refused = log.of("answered").any(|line| line["status"] == 503);
        assert!(!refused, "asked while it loaded: {request:?}");
    }
}

#[tokio::test]
async fn llama_cpps_router_loads_and_unloads_and_says_when() {
    let world = World::new().await;
    let models = [
        "--imitates",
        "llama-cpp-router",
        "--model",
        "other",
        "--model",
        "qwen3-8b",
        "--load-delay-ms",
        "300",
    ];
    let backend = world.backend(&models);
    backend.start_and_wait().await;
    let config = example(
        "llama-cpp-router.toml",
        &[("http://127.0.0.1:8080", &backend.url())],
    );
    let scene = Scene::of(world, &config, None).await;
    scene.is("hibernating").await;
    scene.slept_and_woken().await;
    assert_eq!(
        events(&backend),
        ["load", "unload", "load"],
        "and it was loaded whenever it was asked"
    );
    // Somebody else has it loaded already when the wake comes: the router refuses to do it again.
    scene.sleeps().await;
    let client = scene.api.client();
    let load = client
        .post(format!("{}/models/load", backend.url()))
        .json(&json!({"model": "qwen3-8b"}));
    assert_eq!(Answer::of(load).await.status, 200);
    scene.answers().await;
}

// ── Services and machines ──

/// Starts and stops a backend that isn't the agent's child, as a service manager does.
struct Manager {
    url: String,
    server: AbortHandle,
}

impl Manager {
    async fn of(backend: &Backend) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let start = |State(backend): State<Backend>| async move {
            backend.start();
            StatusCode::OK
        };
        let stop = |State(backend): State<Backend>| async move {
            backend.kill9();
            StatusCode::OK
        };
        let router = Router::new()
            .route("/start", post(start))
            .route("/stop", post(stop));
        let router = router.with_state(backend.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { url, server }
    }

    /// Orders it by a script: `start` or `stop`.
    fn order(&self, what: &str) -> String {
        format!(
            "exec curl --disable --noproxy '*' --fail --silent --show-error -X POST {}/{what}\n",
            self.url
        )
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An example whose program takes two orders, and starts and stops a backend at them.
async fn ordered(file: &str, port_there: &str, program: &str, orders: [&str; 2], imitation: &[&str]) {
    let world = World::new().await;
    let backend = world.backend(imitation);
    let manager = Manager::of(&backend).await;
    let [start, stop] = orders;
    let script = format!(
        "[ -n \"$XDG_RUNTIME_DIR\" ] || {{ echo 'Failed to connect to bus' >&2; exit 1; }}\ncase \"$*\" in\n  \
         '{start}') {} ;;\n  '{stop}') {} ;;\nesac\nexit 5\n",
        manager.order("start"),
        manager.order("stop")
    );
    let path = programs(&world, &[(program, script)]);
    let config = example(file, &[(port_there, &port(&backend))]);
    let scene = Scene::of(world, &config, Some(path)).await;
    scene.is("hibernating").await;
    scene.slept_and_woken().await;
    assert_eq!(backend.log().starts(), 2);
}

#[tokio::test]
async fn a_systemd_unit_is_started_and_stopped() {
    let orders = ["start", "stop"].map(|order| format!("--user {order} llama-server.service"));
    let orders = orders.each_ref().map(String::as_str);
    let loads = [
        "--imitates",
        "llama-cpp",
        "--model",
        "qwen3-8b",
        "--load-delay-ms",
        "200",
    ];
    ordered("systemd.toml", "8080", "systemctl", orders, &loads).await;
}

#[tokio::test]
async fn a_container_is_started_and_stopped() {
    let boots = [
        "--imitates",
        "vllm",
        "--model",
        "Qwen/Qwen3-8B",
        "--boot-delay-ms",
        "200",
    ];
    let orders = ["start vllm", "stop -t 30 vllm"];
    ordered("docker.toml", "8000", "docker", orders, &boots).await;
}

#[tokio::test]
async fn lm_studio_is_started_and_stopped_by_a_command_that_leaves_it_running() {
    let world = World::new().await;
    let backend = world.backend(&["--model", "qwen3-8b"]);
    let (stand_in, args) = backend.command();
    let server = format!("{} {}", stand_in.display(), args.join(" "));
    let pid = world.folder().join("lms.pid").display().to_string();
    let script = format!(
        "case \"$*\" in\n  \"server start --port {}\") setsid {server} & echo $! > {pid} ;;\n  \"server stop\") kill $(cat {pid}) ;;\n  \
         *) exit 5 ;;\nesac\necho 'Success! Server is now running'\n",
        port(&backend)
    );
    let path = programs(&world, &[("lms", script)]);
    let port = port(&backend);
    let config = example("lm-studio.toml", &[("1234", &port)]);
    let scene = Scene::of(world, &config, Some(path)).await;
    scene.is("hibernating").await;
    scene.slept_and_woken().await;
    assert_eq!(backend.log().starts(), 2);
    let pids = backend.log().pids();
    assert!(!is_alive(pids[0]) && is_alive(pids[1]), "{pids:?}");
    // It outlives the agent.
    scene.agent.stop(SOON).await;
    assert!(is_alive(pids[1]));
}

#[tokio::test]
async fn a_container_is_made_for_each_wake_and_outlives_its_client_never() {
    let world = World::new().await;
    let backend = world.backend(&["--imitates", "vllm", "--model", "Qwen/Qwen3-8B"]);
    let manager = Manager::of(&backend).await;
    let name = world.folder().join("container").display().to_string();
    // The client passes no signal on, as when it is killed, so that only `rm` ends the container.
    let script = format!(
        "case \"$1 $2\" in\n  'run --rm')\n    [ -e {name} ] && {{ echo 'Conflict. The name is in use' >&2; exit 125; }}\n    touch {name}\n    \
         ( {} )\n    exec sleep 1000 ;;\n  'rm --force')\n    [ -e {name} ] || exit 1\n    rm {name}\n    {} ;;\nesac\nexit 5\n",
        manager.order("start"),
        manager.order("stop")
    );
    let path = programs(&world, &[("docker", script)]);
    let config = example("docker-run.toml", &[("http://127.0.0.1:8000", &backend.url())]);
    let scene = Scene::of(world, &config, Some(path)).await;
    scene.is("hibernating").await;
    scene.slept_and_woken().await;
    assert_eq!(backend.log().starts(), 2);
    assert!(std::path::Path::new(&name).exists());
    scene.agent.stop(SOON).await;
    assert!(
        !std::path::Path::new(&name).exists(),
        "the container was left behind"
    );
}

#[tokio::test]
async fn a_pc_is_woken_over_the_lan() {
    let world = World::new().await;
    let models = [
        "--imitates",
        "ollama",
        "--model",
        "qwen2.5:32b",
        "--boot-delay-ms",
        "300",
    ];
    let pc = world.backend(&models);
    let manager = Manager::of(&pc).await;
    let card = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let card_port = card.local_addr().expect("an address").port();
    let network = tokio::spawn(listens(card, pc.clone()));
    let script = format!(
        "[ \"$5\" = reveille@192.168.1.20 ] && [ \"$6\" = 'systemctl suspend' ] || exit 255\n{}",
        manager.order("stop")
    );
    let path = programs(&world, &[("ssh", script)]);
    let config = example(
        "wake-on-lan.toml",
        &[
            ("192.168.1.20:11434", &address(&pc)),
            ("192.168.1.255", "127.0.0.1"),
            ("port = 9", &format!("port = {card_port}")),
        ],
    );
    let scene = Scene::of(world, &config, Some(path)).await;
    scene.is("hibernating").await;
    scene.slept_and_woken().await;
    assert_eq!(pc.log().starts(), 2);
    let wakes = scene.api.get("/reveille/v1/wakes?limit=1").await.json();
    let stages: Vec<_> = wakes["data"][0]["stages"]
        .as_array()
        .expect("stages")
        .iter()
        .map(|s| &s["name"])
        .collect();
    assert_eq!(stages, ["step 1 wol", "step 2 tcp", "probe"], "{wakes}");
    network.abort();
}

/// A network card that starts its machine when it hears its name.
async fn listens(card: UdpSocket, pc: Backend) {
    let mac = [0x00, 0x11, 0x22, 0x33, 0x44, 0x55];
    let magic = [&[0xff; 6][..], &mac.repeat(16)].concat();
    let mut packet = [0; 1024];
    loop {
        let bytes = card.recv(&mut packet).await.expect("a packet");
        assert_eq!(packet[..bytes], magic);
        pc.start();
    }
}

#[test]
fn every_example_is_slept_and_woken_by_a_test_and_explained() {
    let page = fs::read_to_string(root().join("docs/recipes.md")).expect("the page");
    let tests = fs::read_to_string(root().join("tests/tests/e2e/recipes.rs")).expect("this file");
    let mut examples = 0;
    for file in fs::read_dir(root().join("docs/recipes")).expect("a folder") {
        let name = file.expect("a file").file_name().into_string().expect("a name");
        assert!(tests.contains(&format!("\"{name}\"")), "no test has {name}");
        assert!(
            page.contains(&format!("(recipes/{name})")),
            "docs/recipes.md has no {name}"
        );
        examples += 1;
    }
    assert_eq!(examples, 10);
}
