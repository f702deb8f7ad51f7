//! The first use for real: a config from what is there, recipes tried without a hub, and a doctor who names what is
//! wrong and what to do.

use reveille_tests::{AgentConfig, Cluster, Exit, Port, Process, World, is_alive, wait_until};
use serde_json::{Value, json};
use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::PathBuf};

use crate::scene::SOON;

/// Runs a command to its end.
async fn run(world: &World, command: &str, args: &[&str]) -> (Exit, String) {
    let process: Process = world.reveille(command).args(args).start();
    let exit = process.wait_for_exit(SOON).await;
    (exit, process.log())
}

/// Writes a config for its owner alone.
pub fn write(world: &World, name: &str, config: &AgentConfig) -> String {
    let file = world.folder().join(name);
    fs::write(&file, config.to_toml()).expect("the config is written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    file.display().to_string()
}

fn port_of(url: &str) -> &str {
    url.rsplit(':').next().expect("a port")
}

/// What a doctor found: each finding by its check.
struct Diagnosis {
    exit: Exit,
    findings: Vec<Value>,
    said: String,
}

impl Diagnosis {
    async fn make(world: &World, args: &[&str]) -> Self {
        let (exit, said) = run(world, "doctor", &[args, &["-o", "jsonl"]].concat()).await;
        let findings = said
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        Self { exit, findings, said }
    }

    fn of(&self, check: &str, level: &str) -> &Value {
        let find = |finding: &&Value| finding["check"] == check && finding["level"] == level;
        self.findings
            .iter()
            .find(find)
            .unwrap_or_else(|| panic!("no {level} of {check}:\n{}", self.said))
    }

    fn assert_problem(&self, check: &str, found: &str, remedy: &str) {
        assert_eq!(self.exit, Exit::Code(1), "{}", self.said);
        let problem = self.of(check, "problem");
        let text = |key: &str| problem[key].as_str().unwrap_or_default();
        assert!(text("found").contains(found), "{problem}");
        assert_eq!(text("remedy"), remedy);
    }
}

#[tokio::test]
async fn init_writes_a_config_for_what_answers_and_its_recipe_works() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let unused = Port::claim();
    let ports = format!("{},{}", port_of(&backend.url()), unused.number());
    let file = world.folder().join("reveille.toml").display().to_string();

    let (exit, said) = run(&world, "init", &["--config", &file, "--ports", &ports]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    for part in [
        "lists stand-in",
        "supports sleep mode",
        "nothing listens",
        "wrote ",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let (exit, said) = run(&world, "config", &["check", &file]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");

    let (exit, said) = run(&world, "recipe", &["test", "backend", "--config", &file]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    for part in [
        "sleep   step 1 http",
        "not available, as it should be",
        "wake    step 1 http",
        "ok: backend was awake",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert_eq!(backend.log().wake_ups(), 1);
}

#[tokio::test]
async fn a_recipe_test_that_serves_leaves_nothing_and_one_that_fails_names_the_stage() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let serves = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_serving(&backend);
    let file = write(&world, "good.toml", &serves);
    let (exit, said) = run(&world, "recipe", &["test", "vllm", "--config", &file]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    for part in [
        "wake    step 1 serve",
        "wake    probe",
        "the backend was stopped",
        "nothing is left running",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let pids = backend.log().pids();
    assert!(pids.len() == 1 && !is_alive(pids[0]), "{pids:?} still run");

    let fails = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("[provider.wake]\ntype = \"command\"\ncommand = \"false\"\n");
    let file = write(&world, "bad.toml", &fails);
    let (exit, said) = run(&world, "recipe", &["test", "gpu-box/vllm", "--config", &file]).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    let named = "error: wake: step 1 command: the command exited with code 1";
    assert!(said.contains(named), "{said}");
}

#[tokio::test]
async fn a_wake_that_would_prove_nothing_is_run_only_when_told() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("[provider.wake]\ntype = \"command\"\ncommand = \"true\"\n");
    let file = write(&world, "up.toml", &config);
    let test = ["test", "vllm", "--config", &file];
    let (exit, said) = run(&world, "recipe", &test).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    assert!(
        said.contains("a wake would prove nothing") && said.contains("--yes"),
        "{said}"
    );
    let url = backend.url();
    let port = port_of(&url);
    let taken = format!(
        "the recipe wasn't tested: the backend is already available (port {port} is taken by `stand-in-llm` ("
    );
    assert!(said.contains(&taken), "{said}");
    let (exit, said) = run(&world, "recipe", &[&test[..], &["--yes"]].concat()).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    assert!(
        said.contains("wasn't tested: the backend was available before it"),
        "{said}"
    );
}

#[tokio::test]
async fn a_server_that_the_agent_starts_proves_nothing_to_a_test_and_a_sleep_waits_for_its_wake() {
    let world = World::new().await;
    let backend = world.backend(&["--boot-delay-ms", "2500"]);
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_serving(&backend);
    let file = write(&world, "reveille.toml", &config);
    let data_dir = world.folder().join("hub");
    let up = world.up(&data_dir, &config.to_toml(), &[]);
    up.wait_until_ready().await;
    up.wait_for_status("gpu-box/qwen", "hibernating", SOON).await;
    let (data_dir, api) = (data_dir.display().to_string(), up.url());
    let order = async |command: &str, more: &[&str]| {
        run(&world, command, &[&["vllm", "--api", &api], more].concat()).await
    };

    let (exit, said) = order("wake", &[]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    let test = ["test", "vllm", "--config", &file, "--data-dir", &data_dir];
    let (exit, said) = run(&world, "recipe", &test).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    for part in [
        "the recipe wasn't tested: an agent was waking this backend",
        "`reveille sleep gpu-box/vllm --wait`",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let (exit, said) = order("sleep", &["--wait"]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");

    order("wake", &[]).await;
    let (exit, said) = order("sleep", &[]).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    assert!(
        said.contains("gpu-box/vllm is being woken: `reveille sleep gpu-box/vllm --wait`"),
        "{said}"
    );
    let (exit, said) = order("sleep", &["--wait"]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    assert!(
        said.contains("goes to sleep after that") && said.contains("is asleep after"),
        "{said}"
    );
}

#[tokio::test]
async fn another_server_on_a_backends_port_is_named_by_the_doctor_and_by_a_test_of_the_recipe() {
    let world = World::new().await;
    let backend = world.backend(&["--model", "other"]);
    backend.start_and_wait().await;
    let config = AgentConfig::new("gpu-box").provider("vllm", "qwen", &backend);
    let config = config.lines("probe = { check_models = true }\n");
    let file = write(&world, "alone.toml", &config);
    let data = world.folder().join("data").display().to_string();
    let lists = "the server there lists `other`, not `stand-in`";
    let url = backend.url();
    let taken = format!("port {} is taken by `stand-in-llm` (process ", port_of(&url));
    let alone = Diagnosis::make(&world, &["--config", &file, "--data-dir", &data]).await;
    let remedy = "correct `base_url` or `models` in the config, or end the program that listens there";
    alone.assert_problem("provider vllm", lists, remedy);
    alone.assert_problem("provider vllm", &taken, remedy);
    let served = config.lines("[provider.wake]\ntype = \"command\"\ncommand = \"sleep\"\nargs = [\"1000\"]\nrun = \"serve\"\nmax_wait = \"3s\"\n");
    let file = write(&world, "served.toml", &served);
    let woken = Diagnosis::make(&world, &["--config", &file, "--data-dir", &data]).await;
    assert!(
        woken.of("provider vllm", "warning")["found"]
            .to_string()
            .contains(&taken)
    );
    let (exit, said) = run(
        &world,
        "recipe",
        &["test", "vllm", "--config", &file, "--data-dir", &data],
    )
    .await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    for part in [
        format!("not available: {lists}"),
        format!("FAILED: {lists}"),
        taken,
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
}

#[tokio::test]
async fn a_healthy_hub_has_no_problem_and_no_warning() {
    let world = World::with_postgres().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_serving(&backend);
    let file = write(&world, "reveille.toml", &config);
    let data = world.folder().join("data");
    let up = world.up(
        &data,
        &config.to_toml(),
        &["--database-url", world.database().url()],
    );
    up.wait_until_ready().await;
    up.wait_for_status("gpu-box/qwen", "active", SOON).await;
    let data = data.display().to_string();
    let url = up.url();
    let args = [
        "--config",
        &file,
        "--data-dir",
        &data,
        "--database-url",
        world.database().url(),
        "--api",
        &url,
    ];
    let healthy = wait_until("the rows had caught up", SOON, async || {
        let diagnosis = Diagnosis::make(&world, &args).await;
        diagnosis.said.contains("the whole journal").then_some(diagnosis)
    })
    .await;
    assert_eq!(healthy.exit, Exit::Code(0), "{}", healthy.said);
    let not_ok: Vec<_> = healthy
        .findings
        .iter()
        .filter(|finding| finding["level"] != "ok")
        .collect();
    assert!(not_ok.is_empty(), "{not_ok:?}");
    for check in [
        "config",
        "data directory",
        "disk",
        "nats-server",
        "NATS",
        "durability",
        "stream REVEILLE_EVENTS",
        "stream REVEILLE_HEARTBEATS",
        "clock",
        "Postgres",
        "rows",
        "owner",
        "provider vllm",
        "API",
    ] {
        healthy.of(check, "ok");
    }
    let (exit, table) = run(&world, "doctor", &args).await;
    assert_eq!(exit, Exit::Code(0), "{table}");
    assert!(table.contains(" 0 warnings, 0 problems"), "{table}");
}

#[tokio::test]
async fn a_nats_that_is_down_is_a_problem_with_a_remedy() {
    let world = World::new().await;
    world.nats.kill9();
    let data = world.folder().join("data").display().to_string();
    let sick = Diagnosis::make(&world, &["--nats", &world.nats.url(), "--data-dir", &data]).await;
    sick.assert_problem(
        "NATS",
        "NATS is not available",
        "start the server (`reveille up` runs its own), correct --nats, and check for a firewall in between",
    );
}

#[tokio::test]
async fn a_stream_with_other_settings_is_named_with_what_differs() {
    let world = World::new().await;
    let js = async_nats::jetstream::new(world.nats.connect().await);
    js.create_stream(async_nats::jetstream::stream::Config {
        name: "REVEILLE_EVENTS".to_owned(),
        subjects: vec!["reveille.events.>".to_owned()],
        max_age: std::time::Duration::from_secs(3600),
        ..Default::default()
    })
    .await
    .expect("the stream is made");
    let data = world.folder().join("data").display().to_string();
    let sick = Diagnosis::make(&world, &["--nats", &world.nats.url(), "--data-dir", &data]).await;
    sick.assert_problem(
        "stream REVEILLE_EVENTS",
        "max_age is 3600s, should be 0ns",
        "correct them with `nats stream edit REVEILLE_EVENTS`; or, if its data can go, delete the stream with \
         `nats stream rm REVEILLE_EVENTS` and start once with --new-journal",
    );
    sick.of("stream REVEILLE_HEARTBEATS", "warning");
    let streams = js.get_stream("REVEILLE_HEARTBEATS").await;
    assert!(streams.is_err(), "the doctor made a stream");
}

#[tokio::test]
async fn a_postgres_that_is_down_is_a_problem_with_a_remedy() {
    let cluster = Cluster::start().await;
    let world = World::with_database(cluster.database().await).await;
    cluster.stop().await;
    let data = world.folder().join("data").display().to_string();
    let database = world.database().url();
    let sick = Diagnosis::make(
        &world,
        &[
            "--nats",
            &world.nats.url(),
            "--data-dir",
            &data,
            "--database-url",
            database,
        ],
    )
    .await;
    sick.assert_problem(
        "Postgres",
        "unreachable",
        "start PostgreSQL, or correct --database-url; requests and wakes work without it, lists and history \
         don't",
    );
}

#[tokio::test]
async fn a_missing_program_and_a_closed_port_are_problems_with_remedies() {
    let world = World::new().await;
    let (woken, alone) = (world.backend(&[]), world.backend(&[]));
    let config = AgentConfig::new("gpu-box")
        .provider("alone", "other", &alone)
        .provider("vllm", "qwen", &woken)
        .lines("[provider.wake]\ntype = \"command\"\ncommand = \"no-such-server\"\n");
    let file = write(&world, "reveille.toml", &config);
    let data = world.folder().join("data").display().to_string();
    let sick = Diagnosis::make(
        &world,
        &[
            "--nats",
            &world.nats.url(),
            "--data-dir",
            &data,
            "--config",
            &file,
        ],
    )
    .await;
    sick.assert_problem(
        "provider vllm",
        "step 1 of [provider.wake] can't run `no-such-server`: the program was not found in PATH",
        "install `no-such-server`, put its folder into the agent's PATH, or write its absolute path as `command`",
    );
    sick.assert_problem(
        "provider alone",
        "and there is no [provider.wake] to start it",
        "start the backend, correct base_url, or add a [provider.wake]",
    );
}

#[tokio::test]
async fn what_the_owner_of_the_machine_does_not_allow_is_a_warning_that_says_until_when() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("[provider.wake]\ntype = \"command\"\ncommand = \"true\"\nmax_per_day = 1\n");
    let file = write(&world, "reveille.toml", &config);
    let data = world.folder().join("data");
    fs::create_dir_all(data.join("agent")).expect("a folder");
    let paused = json!({ "since": "2026-01-01T00:00:00Z" }).to_string();
    fs::write(data.join("agent/paused.json"), paused).expect("as `reveille agent pause` does");
    // A clock that was put back: it counts as now, and what only looks leaves it so.
    let (wakes, begun) = (
        data.join("agent/gpu-box.vllm.wakes.json"),
        "[\"2999-01-01T00:00:00Z\"]",
    );
    fs::write(&wakes, begun).expect("as the agent does");
    let data = data.display().to_string();
    let paused = Diagnosis::make(&world, &["--config", &file, "--data-dir", &data]).await;
    assert_eq!(
        paused.of("owner", "warning")["found"],
        "wakes are refused: its owner has paused this agent until `reveille agent resume`"
    );
    let used_up = paused.of("provider vllm", "warning")["found"].to_string();
    assert!(used_up.contains("no more than 1 wake in 24 hours"), "{used_up}");
    assert_eq!(fs::read_to_string(wakes).expect("it is there"), begun);
}

#[tokio::test]
async fn secrets_that_others_may_read_and_a_port_that_was_taken_are_warnings() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("api_key = \"k\"\n");
    let file = write(&world, "reveille.toml", &config);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let data: PathBuf = world.folder().join("data");
    fs::create_dir(&data).expect("a folder");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("it has one").port();
    fs::write(data.join("nats-port"), port.to_string()).expect("a leftover");
    let data = data.display().to_string();
    let warned = Diagnosis::make(&world, &["--config", &file, "--data-dir", &data]).await;
    assert_eq!(warned.exit, Exit::Code(0), "{}", warned.said);
    assert_eq!(
        warned.of("secrets", "warning")["remedy"],
        format!("run `chmod 600 {file}`")
    );
    let stale = warned.of("data directory", "warning");
    assert!(stale["found"].to_string().contains(&port.to_string()), "{stale}");
}
