//! `reveille init` beside a server that runs: what it writes puts that server to sleep and wakes it, as it stands.

use reveille_tests::{
    Api, Backend, Exit, Launch, Port, Process, World, is_alive, nats_server, program, wait_until,
};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::scene::SOON;

/// A machine on which somebody runs `init`.
pub struct Machine {
    pub world: World,
    pub path: String,
    pub file: String,
}

impl Machine {
    /// With a folder in `PATH` in which these names are the stand-in.
    pub async fn with(programs: &[&str]) -> Self {
        let world = World::new().await;
        let bin = world.folder().join("programs");
        fs::create_dir(&bin).expect("a folder");
        for name in programs {
            symlink(program("stand-in-llm"), bin.join(name)).expect("a link");
        }
        let nats = nats_server();
        let folders =
            [&bin, nats.parent().unwrap_or(Path::new("/"))].map(|folder| folder.display().to_string());
        let path = format!(
            "{}:{}",
            folders.join(":"),
            std::env::var("PATH").unwrap_or_default()
        );
        let file = world.folder().join("reveille.toml").display().to_string();
        Self { world, path, file }
    }

    /// A program of its `PATH`, started in its folder.
    pub fn start(&self, name: &str, args: &[&str]) -> Process {
        let log = self.world.folder().join(format!("{name}.log"));
        let launch = Launch::new(name, log).args(args).env("PATH", &self.path);
        launch.folder(self.world.folder()).start()
    }

    pub async fn run(&self, command: &str, args: &[&str]) -> String {
        let process = self
            .world
            .reveille(command)
            .args(args)
            .env("PATH", &self.path)
            .env("HOME", self.home())
            .start();
        let exit = process.wait_for_exit(SOON).await;
        assert_eq!(exit, Exit::Code(0), "{}", process.log());
        process.log()
    }

    /// What `init` says about the backend on this port, and the file that it writes.
    async fn init(&self, port: u16) -> (String, String) {
        let said = self
            .run("init", &["--config", &self.file, "--ports", &port.to_string()])
            .await;
        let text = fs::read_to_string(&self.file).expect("the file");
        (said, text)
    }

    /// `reveille up` with that file.
    pub async fn up(&self) -> Api {
        let data = self.world.folder().join("data");
        let launch = self.world.reveille("up").env("PATH", &self.path);
        let launch = launch.args(["--config", &self.file]).arg("--data-dir").arg(data);
        let up = self.world.api_of(launch);
        up.wait_until_ready().await;
        up
    }

    /// The name of a model's row.
    pub fn row(&self, model: &str) -> String {
        let text = fs::read_to_string(&self.file).expect("the file");
        let config: toml::Table = text.parse().expect("TOML");
        format!("{}/{model}", config["agent"]["name"].as_str().expect("a name"))
    }

    /// The home of the user, who has no models but those of the test.
    pub fn home(&self) -> PathBuf {
        self.folder().join("user")
    }

    pub fn folder(&self) -> &Path {
        self.world.folder()
    }
}

/// The provider's order to sleep, and until its model does.
async fn sleeps(up: &Api, provider: &str, model: &str) {
    let ordered = up
        .post(&format!("/reveille/v1/providers/{provider}/sleep"), &json!({}))
        .await;
    assert_eq!(ordered.status, 202, "{}", ordered.text());
    up.wait_for_status(model, "hibernating", SOON).await;
}

/// The processes that a stand-in's log names.
pub fn pids(log: &PathBuf) -> Vec<u32> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let starts = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let starts = starts.filter(|line| line["event"] == "start");
    starts
        .filter_map(|line| u32::try_from(line["pid"].as_u64()?).ok())
        .collect()
}

#[tokio::test]
async fn a_running_llama_server_is_started_again_by_its_own_command() {
    let machine = Machine::with(&["llama-server"]).await;
    let port = Port::claim();
    let listen = port.address().to_string();
    // It makes its log in the folder that it runs in, which the recipe has to name therefore.
    fs::write(machine.folder().join("llama.jsonl"), "").expect("a file");
    let args = [
        "--imitates",
        "llama-cpp",
        "--model",
        "qwen3-8b",
        "--load-delay-ms",
        "300",
    ];
    let args = [&args[..], &["--listen", &listen, "--log", "llama.jsonl"]].concat();
    let server = machine.start("llama-server", &args);
    wait_until("it listened", SOON, async || {
        tokio::net::TcpStream::connect(port.address()).await.ok()
    })
    .await;

    let (said, text) = machine.init(port.number()).await;
    let stop = format!(
        "stop process {pid} (`kill {pid}`), and run `reveille recipe test llama-cpp",
        pid = server.pid()
    );
    assert!(said.contains(&stop), "{said}");
    for line in [
        "command = \"llama-server\"",
        "probe = { path = \"/health\" }",
        "cwd = ",
    ] {
        assert!(text.contains(&format!("\n{line}")), "{line} is not in:\n{text}");
    }
    server.stop(SOON).await;

    let up = machine.up().await;
    let model = machine.row("qwen3-8b");
    up.wait_for_status(&model, "hibernating", SOON).await;
    let answer = up.chat("qwen3-8b").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let provider = machine.row("llama-cpp");
    sleeps(&up, &provider, &model).await;
    let pids = pids(&machine.folder().join("llama.jsonl"));
    assert!(pids.len() == 2 && !is_alive(pids[1]), "{pids:?}");
    assert_eq!(up.chat("qwen3-8b").await.status, 200);
}

#[tokio::test]
async fn a_recipe_that_holds_once_the_server_is_stopped_passes_its_test_then() {
    let machine = Machine::with(&["my-server"]).await;
    let port = Port::claim();
    let server = machine.start(
        "my-server",
        &[
            "--imitates",
            "llama-cpp-router",
            "--listen",
            &port.address().to_string(),
        ],
    );
    wait_until("it listened", SOON, async || {
        tokio::net::TcpStream::connect(port.address()).await.ok()
    })
    .await;
    machine.init(port.number()).await;
    server.stop(SOON).await;
    let said = machine
        .run("recipe", &["test", "backend", "--config", &machine.file])
        .await;
    assert!(
        said.contains("ok: backend was awake") && said.contains("nothing is left running"),
        "{said}"
    );
}

/// An Ollama that somebody else runs.
async fn ollama(world: &World, models: &[&str]) -> Backend {
    let models = models.iter().flat_map(|model| ["--model", model]);
    let args: Vec<_> = ["--imitates", "ollama", "--load-delay-ms", "50"]
        .into_iter()
        .chain(models)
        .collect();
    let backend = world.backend(&args);
    backend.start_and_wait().await;
    backend
}

fn port_of(backend: &Backend) -> u16 {
    let url = backend.url();
    url.rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port")
}

#[tokio::test]
async fn the_only_model_of_a_running_ollama_is_unloaded_and_loaded() {
    let machine = Machine::with(&[]).await;
    let backend = ollama(&machine.world, &["qwen2.5:7b"]).await;
    let (said, _) = machine.init(port_of(&backend)).await;
    assert!(said.contains("run `reveille recipe test ollama"), "{said}");
    let tested = machine
        .run("recipe", &["test", "ollama", "--config", &machine.file])
        .await;
    assert!(tested.contains("ok: ollama was awake"), "{tested}");

    let up = machine.up().await;
    let model = machine.row("qwen2.5:7b");
    up.wait_for_status(&model, "active", SOON).await;
    let provider = machine.row("ollama");
    sleeps(&up, &provider, &model).await;
    assert_eq!(backend.log().of("unload").count(), 1);
    let answer = up.chat("qwen2.5:7b").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.log().of("load").count(), 2, "the test's, and the wake's");
    assert_eq!(backend.log().of("loaded_by_request").count(), 0);
    assert_eq!(backend.log().starts(), 1, "nobody else's Ollama is stopped");
}

#[tokio::test]
async fn of_an_ollama_with_many_models_those_in_memory_sleep_and_all_are_published() {
    let machine = Machine::with(&[]).await;
    let backend = ollama(&machine.world, &["qwen2.5:7b", "llama3:8b", "gemma:2b"]).await;
    let load = reveille_tests::http_client().post(format!("{}/api/generate", backend.url()));
    let loaded = reveille_tests::Answer::of(load.json(&json!({ "model": "llama3:8b" }))).await;
    assert_eq!(loaded.status, 200);
    let (_, text) = machine.init(port_of(&backend)).await;
    assert!(text.contains("name = \"ollama-llama3-8b\""), "{text}");

    let up = machine.up().await;
    for model in ["qwen2.5:7b", "llama3:8b", "gemma:2b"] {
        up.wait_for_status(&machine.row(model), "active", SOON).await;
    }
    let provider = machine.row("ollama-llama3-8b");
    sleeps(&up, &provider, &machine.row("llama3:8b")).await;
    for model in ["llama3:8b", "gemma:2b"] {
        let answer = up.chat(model).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let log = backend.log();
    assert_eq!((log.of("unload").count(), log.of("load").count()), (1, 2));
}
