//! What `docker-compose.yml` says runs as it says: the same commands, environment and config files, as plain processes.
//!
//! What a container would have to itself is given to each service here: service names become loopback addresses, ports
//! become ports of the test's own, volumes become folders. Nothing else is changed.

use reveille_tests::{
    Answer, Cluster, Exit, Folder, Launch, Port, Process, http_client, nats_server, program, wait_until,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::TcpStream,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use crate::scene::SOON;

const LLM: &str = "demo-box/demo";
const PASSWORD: &str = "abc123";
/// How the file asks for the password.
const PASSWORD_VARIABLE: &str = "${REVEILLE_POSTGRES_PASSWORD:?put it into .env}";

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    image: String,
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    depends_on: BTreeMap<String, Value>,
    restart: Option<String>,
    healthcheck: Option<Healthcheck>,
}

#[derive(Deserialize)]
struct Healthcheck {
    test: Vec<String>,
}

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are in the workspace's folder")
}

fn compose() -> Compose {
    let text = fs::read_to_string(root().join("docker-compose.yml")).expect("the compose file");
    serde_saphyr::from_str(&text).expect("the compose file is what compose expects")
}

/// The variables that every container of the image has.
fn image_environment() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("Dockerfile")).expect("the Dockerfile");
    let lines = text.lines().filter_map(|line| line.strip_prefix("ENV "));
    let variables: Vec<_> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert!(!variables.is_empty(), "the Dockerfile sets nothing");
    variables
}

/// The services, without an engine.
struct Engine {
    file: Compose,
    /// What a text of the file is here, for all services.
    names: Vec<(String, String)>,
    started: Mutex<Vec<(String, Process)>>,
    folder: Folder,
}

impl Engine {
    fn new(names: Vec<(String, String)>) -> Self {
        Self {
            file: compose(),
            names,
            started: Mutex::default(),
            folder: Folder::new(),
        }
    }

    fn service(&self, name: &str) -> &Service {
        let service = self.file.services.get(name);
        service.unwrap_or_else(|| panic!("the compose file has no service {name}"))
    }

    /// The service's command or health check, not started yet; `own` is what only this service has to itself.
    fn command(&self, name: &str, words: &[String], own: &[(&str, String)]) -> Launch {
        let service = self.service(name);
        let here = self.here(name, own);
        let ours = service.image.starts_with("reveille");
        let log = self.folder.path().join(format!("{name}.log"));
        let (image_program, mut environment) = if ours {
            (program("reveille"), image_environment())
        } else {
            (nats_server(), vec![])
        };
        let entrypoint = service.entrypoint.as_deref().filter(|_| words == service.command);
        let program = entrypoint.map_or_else(
            || image_program.clone(),
            |entrypoint| PathBuf::from(&entrypoint[0]),
        );
        environment.extend(service.environment.clone());
        let environment = environment
            .into_iter()
            .map(|(name, value)| (name, translated(&value, &here)));
        let mut launch = Launch::new(program, log).env("PATH", path_with(&image_program));
        for (name, value) in environment {
            launch = launch.env(name, value);
        }
        launch.args(words.iter().map(|word| translated(word, &here)))
    }

    /// What texts of the service are here: its own addresses, its mounts, and what all have.
    fn here(&self, name: &str, own: &[(&str, String)]) -> Vec<(String, String)> {
        let own = own.iter().map(|(text, here)| ((*text).to_owned(), here.clone()));
        let mounts = self.service(name).volumes.iter().map(|mount| {
            let (source, target) = mount.split_once(':').expect("a mount has two sides");
            let target = target.trim_end_matches(":ro").to_owned();
            let here = self.mounted(name, source, &target).display().to_string();
            (target, here)
        });
        own.chain(mounts).chain(self.names.clone()).collect()
    }

    /// Mounts it for this service, so that what lies beside each other there does so here.
    fn mounted(&self, name: &str, source: &str, target: &str) -> PathBuf {
        let roots = self.folder.path().join("roots");
        let here = roots.join(name).join(target.trim_start_matches('/'));
        if !here.exists() {
            fs::create_dir_all(here.parent().expect("it is in the service's folder")).expect("a folder");
            symlink(self.source(source), &here).expect("a link");
        }
        here
    }

    fn source(&self, source: &str) -> PathBuf {
        if source.starts_with("./") {
            let file = root().join(source);
            assert!(file.exists(), "{source} is mounted and doesn't exist");
            return file;
        }
        let volume = self.folder.path().join("volumes").join(source);
        fs::create_dir_all(&volume).expect("a volume's folder");
        volume
    }

    fn start(&self, name: &str, own: &[(&str, String)]) {
        let mut started = self.started();
        for needed in self.service(name).depends_on.keys() {
            let running = needed == "postgres" || started.iter().any(|(name, _)| name == needed);
            assert!(running, "{name} is started before {needed}");
        }
        let words = self.service(name).command.clone();
        let process = self.command(name, &words, own).start();
        started.push((name.to_owned(), process));
    }

    /// Runs a service that others wait for to have done its work; what it printed.
    async fn completes(&self, name: &str, own: &[(&str, String)], more: &[(&str, String)]) -> String {
        let words = self.service(name).command.clone();
        let mut launch = self.command(name, &words, own);
        for (variable, value) in more {
            launch = launch.env(variable, value);
        }
        let process = launch.start();
        assert_eq!(
            process.wait_for_exit(SOON).await,
            Exit::Code(0),
            "{name}: {}",
            process.log()
        );
        let printed = process.log();
        self.started().push((name.to_owned(), process));
        printed
    }

    fn started(&self) -> MutexGuard<'_, Vec<(String, Process)>> {
        self.started.lock().expect("no test panics here")
    }

    /// `docker compose stop`: the volumes stay.
    async fn stop(&self) {
        let mut started = std::mem::take(&mut *self.started());
        while let Some((name, process)) = started.pop() {
            if process.is_running() {
                assert_eq!(
                    process.stop(SOON).await,
                    Exit::Code(0),
                    "{name}: {}",
                    process.log()
                );
            }
        }
    }

    /// Makes a key as the file's first lines say, in the container of an API.
    async fn make_key(&self, name: &str, api: &Port) -> String {
        let words = ["key", "create", "--name", "me", "--scope", "infer:*,query"].map(str::to_owned);
        let made = self
            .command(name, &words, &[])
            .env("REVEILLE_API_URL", api.http_url());
        let made = made.start();
        assert_eq!(made.wait_for_exit(SOON).await, Exit::Code(0), "{}", made.log());
        let log = made.log();
        let key = log.lines().find(|line| line.starts_with("rv_"));
        key.expect("a key").to_owned()
    }

    /// Runs the health check of an API once.
    async fn is_healthy(&self, name: &str, api: &Port) -> bool {
        let check = self.service(name).healthcheck.as_ref();
        let words = &check.expect("an API has a health check").test;
        assert_eq!(words[..2], ["CMD", "reveille"]);
        // In its container the API is at the address that the program asks unless it is told otherwise.
        let check = self
            .command(name, &words[2..], &[])
            .env("REVEILLE_API_URL", api.http_url());
        check.start().wait_for_exit(SOON).await == Exit::Code(0)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, process) in self.started.get_mut().iter().flat_map(|started| started.iter()) {
                eprintln!("── {name} ──\n{}", process.log());
            }
        }
    }
}

fn translated(text: &str, here: &[(String, String)]) -> String {
    let text = here.iter().fold(text.to_owned(), |text, (from, to)| {
        text.replace(from.as_str(), to)
    });
    assert!(!text.contains("${"), "a variable is left in {text}");
    text
}

/// Where the image has its programs, before everything else.
fn path_with(program: &Path) -> String {
    let programs = program.parent().expect("a program is in a folder").display();
    format!("{programs}:{}", std::env::var("PATH").unwrap_or_default())
}

/// A cluster with the user and the database that the service's environment names, and its address.
async fn postgres(service: &Service) -> (Cluster, String) {
    let cluster = Cluster::start().await;
    let database = cluster.database().await;
    let mut connection = database.connect().await;
    let [user, name] = ["POSTGRES_USER", "POSTGRES_DB"].map(|variable| &service.environment[variable]);
    for statement in [
        format!("CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{PASSWORD}'"),
        format!("CREATE DATABASE {name} OWNER {user}"),
    ] {
        let done = sqlx::raw_sql(&statement).execute(&mut connection).await;
        done.expect("what the image does at its first start");
    }
    let address = database
        .url()
        .split(['@', '/'])
        .nth(3)
        .expect("a URL has an address");
    (cluster, address.to_owned())
}

async fn get(api: &Port, key: &str, path: &str) -> Answer {
    let request = http_client().get(format!("{}{path}", api.http_url()));
    Answer::of(request.bearer_auth(key)).await
}

async fn chat(api: &Port, key: &str) -> Answer {
    let body = json!({"model": "demo", "messages": [{"role": "user", "content": "hello"}]});
    let url = format!("{}/v1/chat/completions", api.http_url());
    Answer::of(http_client().post(url).bearer_auth(key).json(&body)).await
}

async fn wait_for_row(api: &Port, key: &str, status: &str) {
    wait_until(&format!("the row was {status}"), SOON, async || {
        let rows = get(api, key, "/reveille/v1/llms").await.json();
        let mut rows = rows["data"].as_array()?.iter();
        rows.find(|row| row["name"] == LLM && row["status"] == status)
            .map(drop)
    })
    .await;
}

/// The ports of one test.
struct Ports {
    nats: Port,
    monitor: Port,
    apis: [Port; 2],
    stand_in: Port,
}

impl Engine {
    /// `docker compose up` without the agent: everything in its order, each as soon as what it needs is there.
    async fn up(&self, ports: &Ports) {
        let Ports {
            nats, monitor, apis, ..
        } = ports;
        // The certificate is for what the server is called.
        self.completes("hub", &[("nats", nats.address().ip().to_string())], &[])
            .await;
        let own = [
            ("0.0.0.0:4222", nats.address().to_string()),
            ("127.0.0.1:8222", monitor.address().to_string()),
        ];
        self.start("nats", &own);
        wait_until("NATS was healthy", SOON, async || {
            TcpStream::connect(nats.address()).ok()?;
            let health = http_client().get(format!("{}/healthz", monitor.http_url()));
            let health = health.send().await.ok()?;
            health.status().is_success().then_some(())
        })
        .await;
        let apis = [("api-1", &apis[0]), ("api-2", &apis[1])];
        for (name, port) in apis {
            assert!(
                !self.is_healthy(name, port).await,
                "{name} is healthy before it runs"
            );
            self.start(name, &[("0.0.0.0:8420", port.address().to_string())]);
        }
        self.start("projector", &[]);
        for (name, port) in apis {
            wait_until(&format!("{name} was healthy"), SOON, async || {
                self.is_healthy(name, port).await.then_some(())
            })
            .await;
        }
    }

    /// The rest of it: the agent joins in the network of the first API, and runs. What its joining has printed, ever.
    async fn up_agent(&self, ports: &Ports) -> String {
        let loopback = [("REVEILLE_API_URL", ports.apis[0].http_url())];
        let printed = self.completes("join", &[], &loopback).await;
        self.start(
            "agent",
            &[("127.0.0.1:9000", ports.stand_in.address().to_string())],
        );
        printed
    }
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn the_services_of_the_compose_file_wake_the_demo_backend_and_answer_from_postgres() {
    let ports = Ports {
        nats: Port::claim(),
        monitor: Port::claim(),
        apis: [Port::claim(), Port::claim()],
        stand_in: Port::claim(),
    };
    let [api_1, api_2] = &ports.apis;
    let (database, database_address) = postgres(&compose().services["postgres"]).await;
    let engine = Engine::new(vec![
        ("nats:4222".to_owned(), ports.nats.address().to_string()),
        ("postgres:5432".to_owned(), database_address),
        (PASSWORD_VARIABLE.to_owned(), PASSWORD.to_owned()),
    ]);
    engine.up(&ports).await;
    let joined = engine.up_agent(&ports).await;
    assert!(joined.contains("demo-box has joined"), "{joined}");

    let key = &engine.make_key("api-1", api_1).await;
    assert_eq!(chat(api_1, "unused").await.status, 401);
    wait_for_row(api_1, key, "hibernating").await;
    let answer = chat(api_1, key).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.said().contains("token-0"), "{}", answer.text());
    wait_for_row(api_2, key, "active").await;
    assert_eq!(chat(api_2, key).await.status, 200);
    let wakes = get(api_2, key, "/reveille/v1/wakes").await.json();
    assert_eq!(wakes["data"].as_array().map(Vec::len), Some(1), "{wakes}");

    // Stopped and started again, everybody finds what he had.
    engine.stop().await;
    engine.up(&ports).await;
    let joined = engine.up_agent(&ports).await;
    // The log has what it said the first time, too.
    assert!(
        joined.trim().ends_with("\ndemo-box has joined before"),
        "{joined}"
    );
    assert_eq!(
        joined.matches("demo-box has joined the hub at http").count(),
        1,
        "{joined}"
    );
    wait_for_row(api_2, key, "hibernating").await;
    assert_eq!(chat(api_1, key).await.status, 200);

    // The rows were Postgres's: without it there are none, and inference goes on.
    database.stop().await;
    for port in &ports.apis {
        assert_eq!(get(port, key, "/reveille/v1/llms").await.status, 503);
        assert_eq!(chat(port, key).await.status, 200);
    }
}

#[test]
fn nobody_in_the_compose_file_speaks_nats_in_plaintext_and_the_agent_sees_no_key_of_the_hub() {
    for (name, service) in &compose().services {
        let mounts = |volume: &str| {
            service
                .volumes
                .iter()
                .any(|mount| mount.starts_with(&format!("{volume}:")))
        };
        let expected = ["hub", "nats", "api-1", "api-2", "projector"].contains(&name.as_str());
        assert_eq!(mounts("hub"), expected, "{name} and the keys of the hub");
        let expected = ["api-1", "api-2", "join"].contains(&name.as_str());
        assert_eq!(mounts("keys"), expected, "{name} and the root key");
        if let Some(url) = service.environment.get("REVEILLE_NATS_URL") {
            assert!(url.starts_with("tls://"), "{name} speaks to {url}");
        }
        // The flag is for the APIs' HTTP, which is published on loopback only.
        let allowed = service.environment.contains_key("REVEILLE_ALLOW_PLAINTEXT");
        assert_eq!(allowed, name.starts_with("api-"), "{name}");
    }
}

#[test]
fn the_compose_file_publishes_nothing_beyond_this_machine_and_waits_for_who_is_healthy() {
    let services = compose().services;
    let mut published = 0;
    for (name, service) in &services {
        for port in &service.ports {
            assert!(port.starts_with("127.0.0.1:"), "{name} publishes {port}");
            published += 1;
        }
        for (needed, how) in &service.depends_on {
            let needed_service = &services[needed];
            match how["condition"].as_str() {
                Some("service_healthy") => {
                    assert!(
                        needed_service.healthcheck.is_some(),
                        "{needed} has no health check"
                    );
                }
                // It ends, and isn't started again for that.
                Some("service_completed_successfully") => {
                    assert!(
                        ["hub", "join"].contains(&needed.as_str()),
                        "{name} waits for {needed}'s end"
                    );
                    assert!(needed_service.restart.is_none(), "{needed} is started again");
                }
                other => panic!("{name} needs {needed} to be {other:?}"),
            }
        }
    }
    assert_eq!(published, 2, "the two replicas are published");
}
