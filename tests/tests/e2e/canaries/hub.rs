//! A locked hub and a machine of backends, with a secret wherever one can be.

use super::{
    machine::{Heard, secretive},
    scanner::{Canary, Planted},
};
use async_nats::{Client, ConnectOptions};
use futures::StreamExt;
use reqwest::{Certificate, RequestBuilder};
use reveille_tests::{
    Answer, Backend, Cluster, Database, Exit, Port, Process, World, nats_server, wait_until,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::scene::SOON;

/// Everything, also of the libraries below us.
const LOUDEST: &str = "trace";

/// A message that somebody said over NATS.
pub(super) struct Overheard {
    pub(super) subject: String,
    pub(super) bytes: Vec<u8>,
}

/// Everything runs, and everything that comes out is kept.
pub struct Hub {
    pub planted: Planted,
    /// A word that everybody may see, in the places of the secrets.
    pub marker: String,
    pub folder: PathBuf,
    /// The keys of the hub.
    pub keys: PathBuf,
    pub agent_config: PathBuf,
    pub root: String,
    pub port: Port,
    pub nats_url: String,
    pub client: reqwest::Client,
    pub database: Database,
    pub(super) api: Process,
    pub(super) projector: Process,
    pub(super) agent: Option<Process>,
    pub(super) commands: Mutex<Vec<Process>>,
    pub(super) answers: Mutex<BTreeMap<Vec<&'static str>, Vec<u8>>>,
    pub(super) overheard: Arc<Mutex<Vec<Overheard>>>,
    pub(super) heard: Heard,
    pub(super) nats: Process,
    pub(super) postgres: Cluster,
    pub(super) served: Backend,
    world: World,
}

impl Hub {
    pub async fn new() -> Self {
        let (world, planted) = (World::new().await, Planted::default());
        let marker = Canary::fresh("marker").text();
        let marker = format!("box-{}", &marker[..8]);
        let folder = world.folder().join(&marker);
        let keys = folder.join("nats/hub/keys");
        let nats_url = prepare_nats(&world, &folder).await;
        let nats = start_nats(&world, &folder, &nats_url);
        for (place, file) in [
            ("key of the API", "api.nk"),
            ("key of the issuer", "issuer.nk"),
            ("key of the system", "system.nk"),
            ("key of the projector", "projector.nk"),
            ("key of the admin", "admin.nk"),
        ] {
            planted.made(place, fs::read_to_string(keys.join(file)).expect("a key").trim());
        }
        let pem = fs::read_to_string(folder.join("nats/hub/server.key")).expect("a key");
        planted.made(
            "key of the certificate",
            pem.lines().nth(1).expect("a line of base64"),
        );

        let postgres = Cluster::start().await;
        let database = postgres.database().await;
        let password = planted.plant("password of the database");
        let database_url = database
            .url()
            .replace("postgres@", &format!("postgres:{password}@"));
        let overheard = spy(&folder, &nats_url).await;
        let port = Port::claim();
        let hub = |name: &str| {
            world
                .reveille(name)
                .args(["--nats", &nats_url])
                .env("REVEILLE_LOG", LOUDEST)
        };
        let locked = |launch: reveille_tests::Launch| {
            let launch = launch
                .arg("--nats-keys")
                .arg(&keys)
                .arg("--nats-ca")
                .arg(folder.join("nats/hub/ca.pem"));
            launch.env("REVEILLE_DATABASE_URL", &database_url)
        };
        let root_file = folder.join("root.key");
        let api = locked(hub("api"))
            .args(["--listen", &port.address().to_string(), "--require-keys"])
            .arg("--root-key-file")
            .arg(&root_file)
            .arg("--tls-cert")
            .arg(folder.join("nats/hub/server.pem"))
            .arg("--tls-key")
            .arg(folder.join("nats/hub/server.key"))
            .start();
        let projector = locked(hub("projector")).start();
        let ca = fs::read(folder.join("nats/hub/ca.pem")).expect("an authority");
        let client = client_trusting(&ca);
        let served = world.backend(&[]);
        let mut hub = Self {
            marker,
            keys,
            agent_config: folder.join("machine/agent.toml"),
            root: String::new(),
            port,
            nats_url,
            client,
            database,
            api,
            projector,
            agent: None,
            commands: Mutex::default(),
            answers: Mutex::default(),
            overheard,
            heard: Heard::default(),
            nats,
            postgres,
            served,
            folder,
            planted,
            world,
        };
        hub.wait_until_ready().await;
        let root = fs::read_to_string(root_file).expect("a root key");
        hub.root = hub.planted.made("root key", root.trim());
        hub
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.port.address())
    }

    async fn wait_until_ready(&self) {
        wait_until("the API was ready", SOON, async || {
            assert!(self.api.is_running(), "{}", self.api.log());
            let answer = self.client.get(self.url("/readyz")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Joins the machine and starts its agent, with secrets in everything that its config has.
    pub async fn start_agent(&mut self) {
        let made = self
            .run(
                &["agent-token", "create", &self.marker, "-o", "json"],
                &[("REVEILLE_API_KEY", &self.root)],
                0,
            )
            .await;
        let made: Value = serde_json::from_str(&made).unwrap_or_else(|_| panic!("{made}"));
        let token = self
            .planted
            .made("token", made["token"].as_str().expect("a token"));
        fs::create_dir(self.folder.join("machine")).expect("a folder");
        let config = self.agent_config.display().to_string();
        self.run(
            &["join", "--config", &config, "--ports", "1", "--no-start"],
            &[("REVEILLE_AGENT_TOKEN", &token)],
            0,
        )
        .await;
        let seed = fs::read_to_string(self.agent_key()).expect("a key");
        self.planted.made("key of the agent", seed.trim());
        let backend = secretive(&self.planted, &self.heard).await;
        let providers = self.providers(&backend);
        let joined = fs::read_to_string(&self.agent_config).expect("a config");
        fs::write(&self.agent_config, joined + &providers).expect("written");
        let mut launch = self
            .world
            .reveille("agent")
            .arg("--config")
            .arg(&self.agent_config)
            .env("REVEILLE_LOG", LOUDEST);
        for (name, value) in self.variables() {
            launch = launch.env(name, value);
        }
        self.agent = Some(
            launch
                .arg("--data-dir")
                .arg(self.folder.join("machine/data"))
                .start(),
        );
    }

    pub fn agent_key(&self) -> PathBuf {
        self.folder.join(format!("machine/{}.nk", self.marker))
    }

    /// What the agent's environment holds and its config fills in.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let find = |place: &str| {
            let all = self.planted.all();
            all.iter().find(|canary| canary.place == place).map(Canary::text)
        };
        let value = |place: &'static str| find(place).unwrap_or_else(|| self.planted.plant(place));
        vec![
            ("BACKEND_KEY", value("api_key of a backend")),
            ("START_KEY", value("variable in a header of a recipe")),
            ("BYSTANDER", value("variable that nothing names")),
            ("REVEILLE_BYSTANDER", value("variable of Reveille's own")),
        ]
    }

    pub(super) fn environment_file(&self) -> PathBuf {
        self.world.folder().join("environment")
    }

    /// Runs a command to its end; what it printed, which is kept.
    pub async fn run(&self, words: &[&str], variables: &[(&str, &str)], code: i32) -> String {
        let process = self.start(words, variables);
        let exit = process.wait_for_exit(SOON).await;
        let log = process.log();
        assert_eq!(exit, Exit::Code(code), "{words:?}: {log}");
        self.commands.lock().expect("not poisoned").push(process);
        log
    }

    /// Runs a service that can't succeed until it has said so.
    pub async fn run_until(&self, says: &str, words: &[&str], variables: &[(&str, &str)]) {
        let process = self.start(words, variables);
        wait_until(says, SOON, async || process.log().contains(says).then_some(())).await;
        process.kill9();
        self.commands.lock().expect("not poisoned").push(process);
    }

    fn start(&self, words: &[&str], variables: &[(&str, &str)]) -> Process {
        let mut launch = self
            .world
            .reveille(words[0])
            .args(&words[1..])
            .env("REVEILLE_LOG", LOUDEST);
        let ca = self.folder.join("nats/hub/ca.pem");
        launch = launch
            .env("REVEILLE_API_URL", self.url(""))
            .env("REVEILLE_CA_FILE", ca)
            .env("REVEILLE_DATA_DIR", self.folder.join("data-of-commands"));
        for (name, value) in variables {
            launch = launch.env(name, value);
        }
        launch.start()
    }

    /// Asks, and keeps the answer; what is `allowed` belongs to whoever asked so.
    pub async fn ask(&self, request: RequestBuilder, allowed: &[&'static str]) -> Answer {
        let answer = Answer::of(request).await;
        let shown = format!("{} {:?}\n{}\n", answer.status, answer.headers, answer.text());
        self.keep(shown.into_bytes(), allowed);
        answer
    }

    /// Keeps an answer that came otherwise.
    pub fn keep(&self, mut answer: Vec<u8>, allowed: &[&'static str]) {
        let mut answers = self.answers.lock().expect("not poisoned");
        answers.entry(allowed.to_vec()).or_default().append(&mut answer);
    }

    /// Makes a key.
    pub async fn make_key(&self, place: &'static str, terms: &Value) -> String {
        let request = self
            .client
            .post(self.url("/reveille/v1/keys"))
            .bearer_auth(&self.root)
            .json(terms);
        let made = Answer::of(request).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let made = made.json();
        let key = made["key"].as_str().expect("a key");
        let secret = key.splitn(3, '_').last().expect("a secret");
        self.planted.made(place, secret);
        key.to_owned()
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path)).bearer_auth(&self.root)
    }

    /// Waits until the row of a provider's model has this status.
    pub async fn wait_for(&self, provider: &str, status: &str) {
        let name = format!("{0}/{provider}-{0}", self.marker);
        wait_until(&format!("{name} was {status}"), SOON, async || {
            let page = Answer::of(self.get("/reveille/v1/llms")).await;
            let rows = page.json()["data"].as_array().cloned().unwrap_or_default();
            rows.iter()
                .any(|row| row["name"] == name.as_str() && row["status"] == status)
                .then_some(())
        })
        .await;
    }

    /// A connection of whoever has this key.
    pub async fn connect(&self, key: &Path, inbox: &str) -> Client {
        connect(&self.folder, &self.nats_url, key, inbox).await
    }
}

/// Keys, certificates and configs of the server, which lets the hub's admin hear everything: the test's own ear.
async fn prepare_nats(world: &World, folder: &Path) -> String {
    let nats = folder.join("nats");
    fs::create_dir_all(&nats).expect("a folder");
    for name in ["single.conf", "locked.conf"] {
        fs::copy(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../nats").join(name),
            nats.join(name),
        )
        .expect("a config");
    }
    let init = world
        .reveille("hub")
        .arg("init")
        .arg(nats.join("hub"))
        .args(["--host", "127.0.0.1"])
        .start();
    assert_eq!(init.wait_for_exit(SOON).await, Exit::Code(0), "{}", init.log());
    let config = nats.join("hub/nats-hub.conf");
    let text = fs::read_to_string(&config).expect("a config");
    let (before, admin) = text.split_once("# admin\n").expect("the admin");
    let (rights, after) = admin.split_once("subscribe: {").expect("what it may hear");
    let (_, after) = after.split_once('\n').expect("more lines");
    let everything = "subscribe: { allow: [\">\"] }";
    fs::write(&config, format!("{before}# admin\n{rights}{everything}\n{after}")).expect("written");
    format!("tls://{}", Port::claim().address())
}

fn start_nats(world: &World, folder: &Path, url: &str) -> Process {
    let launch = reveille_tests::Launch::new(nats_server(), world.folder().join("nats-of-the-hub.log"));
    let launch = launch.arg("--config").arg(folder.join("nats/locked.conf"));
    let launch = launch.env("REVEILLE_NATS_LISTEN", url.trim_start_matches("tls://"));
    launch.env("REVEILLE_NATS_STORE", folder.join("store")).start()
}

async fn connect(folder: &Path, url: &str, key: &Path, inbox: &str) -> Client {
    let seed = fs::read_to_string(key).expect("a key").trim().to_owned();
    let connected = wait_until("NATS let us in", SOON, async || {
        let options = ConnectOptions::with_nkey(seed.clone()).custom_inbox_prefix(inbox);
        let options = options.add_root_certificates(folder.join("nats/hub/ca.pem"));
        options.connect(url).await.ok()
    });
    connected.await
}

/// Hears everything from now on.
async fn spy(folder: &Path, url: &str) -> Arc<Mutex<Vec<Overheard>>> {
    let ear = connect(
        folder,
        url,
        &folder.join("nats/hub/keys/admin.nk"),
        "_INBOX.admin",
    )
    .await;
    let mut everything = ear.subscribe(">").await.expect("subscribed");
    ear.flush().await.expect("the server has the subscription");
    let overheard = Arc::new(Mutex::new(vec![]));
    let noted = overheard.clone();
    tokio::spawn(async move {
        let _ear = ear;
        while let Some(message) = everything.next().await {
            let shown = format!("{} {:?} {:?} ", message.subject, message.reply, message.headers);
            let bytes = [shown.into_bytes(), message.payload.to_vec(), b"\n".to_vec()].concat();
            let said = Overheard {
                subject: message.subject.to_string(),
                bytes,
            };
            noted.lock().expect("not poisoned").push(said);
        }
    });
    overheard
}

fn client_trusting(ca: &[u8]) -> reqwest::Client {
    // Its making installs what TLS needs.
    drop(reveille_tests::http_client());
    let authority = Certificate::from_pem(ca).expect("a certificate");
    let client = reqwest::Client::builder()
        .tls_certs_only([authority])
        .no_proxy()
        .timeout(SOON * 2);
    client.build().expect("an HTTP client")
}
