//! A hub on servers that ask for keys: each of its processes works with the files that are its own, and with no others.

use reveille_tests::{
    AgentConfig, Api, Exit, Facts, Folder, Launch, Port, Process, World, http_client, nats_server, wait_until,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::scene::{LLM, SOON};

/// One server or a cluster of three, with the configs in `nats/` and what `reveille hub init` has written for them.
pub struct LockedServers {
    /// The running servers, in order.
    pub nodes: Vec<Process>,
    /// Where clients connect: all of them, with commas.
    pub url: String,
    hub: PathBuf,
    _ports: Vec<Port>,
    folder: Folder,
}

impl LockedServers {
    /// One server.
    pub async fn one(world: &World) -> Self {
        Self::start(world, &["locked.conf"]).await
    }

    /// Three that are a cluster.
    pub async fn three(world: &World) -> Self {
        Self::start(world, &["cluster/a.conf", "cluster/b.conf", "cluster/c.conf"]).await
    }

    async fn start(world: &World, configs: &[&str]) -> Self {
        let folder = Folder::new();
        let nats = folder.path().join("nats");
        copy_configs(&nats);
        let hub = nats.join("hub");
        let init = world.reveille("hub").arg("init").arg(&hub);
        let init = init.args(["--host", "127.0.0.1"]).start();
        assert_eq!(init.wait_for_exit(SOON).await, Exit::Code(0), "{}", init.log());

        let ports: Vec<_> = configs.iter().map(|_| [Port::claim(), Port::claim()]).collect();
        let nodes = configs.iter().zip(&ports).map(|(config, [clients, routes])| {
            let name = config.replace('/', "-");
            let mut launch = Launch::new(nats_server(), folder.path().join(format!("{name}.log")))
                .arg("--config")
                .arg(nats.join(config))
                .env("REVEILLE_NATS_LISTEN", clients.address().to_string())
                .env("REVEILLE_NATS_CLUSTER", routes.address().to_string())
                .env("REVEILLE_NATS_STORE", folder.path().join(format!("{name}.store")));
            for ([_, route], variable) in ports.iter().zip(["A", "B", "C"]) {
                let url = format!("nats-route://{}", route.address());
                launch = launch.env(format!("REVEILLE_NATS_ROUTE_{variable}"), url);
            }
            launch.start()
        });
        let nodes = nodes.collect();
        let urls: Vec<_> = ports
            .iter()
            .map(|[clients, _]| format!("tls://{}", clients.address()))
            .collect();
        Self {
            nodes,
            url: urls.join(","),
            hub,
            _ports: ports.into_iter().flatten().collect(),
            folder,
        }
    }

    /// `reveille <subcommand>` with the keys of these names and no others, not started yet.
    pub fn reveille(&self, world: &World, subcommand: &str, keys: &[&str]) -> Launch {
        let folder = self.hub.join(format!("of-{}", keys.join("-")));
        fs::create_dir_all(&folder).expect("a folder");
        for key in keys {
            let file = format!("{key}.nk");
            fs::copy(self.hub.join("keys").join(&file), folder.join(&file)).expect("a key");
        }
        world
            .reveille(subcommand)
            .env("REVEILLE_NATS_URL", &self.url)
            .env("REVEILLE_NATS_CA", self.hub.join("ca.pem"))
            .env("REVEILLE_NATS_KEYS", folder)
    }

    /// Starts an API replica, with these words more.
    pub fn api(&self, world: &World, words: &[&str]) -> Api {
        let api = self.reveille(world, "api", &["api", "issuer", "system"]);
        world.api_of(api.arg("--root-key-file").arg(self.root_key()).args(words))
    }

    fn root_key(&self) -> PathBuf {
        self.folder.path().join("root.key")
    }

    /// A raw connection with the key of a role.
    pub async fn connect(&self, role: &str) -> Result<async_nats::Client, async_nats::ConnectError> {
        // Installs what TLS needs.
        let _ = http_client();
        let seed = fs::read_to_string(self.hub.join(format!("keys/{role}.nk"))).expect("a key");
        let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned())
            .custom_inbox_prefix(format!("_INBOX.{role}"))
            .add_root_certificates(self.hub.join("ca.pem"));
        let urls: Vec<async_nats::ServerAddr> = self
            .url
            .split(',')
            .map(|url| url.parse().expect("a URL"))
            .collect();
        options.connect(urls).await
    }
}

/// Copies the servers' configs, for `hub init` to write beside.
pub fn copy_configs(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nats");
    fs::create_dir_all(to.join("cluster")).expect("a folder");
    for name in [
        "single.conf",
        "locked.conf",
        "cluster/a.conf",
        "cluster/b.conf",
        "cluster/c.conf",
        "cluster/common.conf",
    ] {
        fs::copy(from.join(name), to.join(name)).expect("a config");
    }
}

/// Has a machine join by a token, and starts its agent with `config`'s provider; its folder is in the world's.
pub async fn join(servers: &LockedServers, world: &World, api: &Api, config: &AgentConfig) -> Process {
    let at_api = |subcommand: &str| world.reveille(subcommand).env("REVEILLE_API_URL", api.url());
    let root = fs::read_to_string(servers.root_key()).expect("a key");
    let made = at_api("agent-token")
        .env("REVEILLE_API_KEY", root.trim())
        .args(["create", "gpu-box", "-o", "json"])
        .start();
    assert_eq!(made.wait_for_exit(SOON).await, Exit::Code(0), "{}", made.log());
    let made: Value = serde_json::from_str(&made.log()).expect("JSON");
    let file = world.folder().join("machine/agent.toml");
    let joined = at_api("join").arg(made["token"].as_str().expect("a token"));
    let joined = joined
        .args(["--no-start", "--ports", "1", "--config"])
        .arg(&file)
        .start();
    assert_eq!(
        joined.wait_for_exit(SOON).await,
        Exit::Code(0),
        "{}",
        joined.log()
    );
    let written = fs::read_to_string(&file).expect("a config");
    let (_, provider) = config.to_toml().split_once("\n[[provider]]").map_or_else(
        || panic!("the config has a provider"),
        |(agent, provider)| (agent.to_owned(), provider.to_owned()),
    );
    fs::write(&file, format!("{written}\n[[provider]]{provider}")).expect("written");
    let agent = world.reveille("agent").arg("--config").arg(&file);
    agent
        .arg("--data-dir")
        .arg(world.folder().join("machine/data"))
        .start()
}

/// Runs a command to its end, which must be a good one; what it printed.
async fn does(command: Launch) -> String {
    let process = command.start();
    let exit = process.wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(0), "{}", process.log());
    process.log()
}

async fn applied(api: &Api) -> Option<u64> {
    let status = api.get("/reveille/v1/status").await;
    (status.json()["rows"]["lag"].as_u64() == Some(0)).then_some(())?;
    status.json()["rows"]["applied"].as_u64()
}

#[tokio::test]
async fn every_process_of_a_locked_hub_works_with_its_own_keys_alone() {
    let world = World::with_postgres().await;
    let servers = LockedServers::one(&world).await;
    let database = world.database().url().to_owned();
    let database = ["--database-url", &database];

    // Nobody has made the journal yet, and a projector may not.
    let projector = servers.reveille(&world, "projector", &["projector"]);
    let projector = projector.args(database).start();
    let waits =
        "the stream REVEILLE_EVENTS is missing: an API replica creates it when it starts; waiting for it";
    wait_until("the projector said what it waits for", SOON, async || {
        projector.log().contains(waits).then_some(())
    })
    .await;
    let api = servers.api(&world, &database);
    api.wait_until_ready().await;
    let facts = Facts::listen(servers.connect("subscriber").await.expect("it is let in")).await;

    let backend = world.backend(&[]);
    let controller = reveille_tests::WakeController::starting(&backend, std::time::Duration::ZERO).await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_http(&controller.url());
    let agent = join(&servers, &world, &api, &config).await;
    api.wait_for_status(LLM, "hibernating", SOON).await;
    assert_eq!(api.chat("qwen").await.status, 200);
    facts.wait_for("WakeSucceeded", SOON).await;
    api.wait_for_status(LLM, "active", SOON).await;
    wait_until("a heartbeat is in the rows", SOON, async || {
        api.llm(LLM).await?["last_heartbeat_ms"].as_u64()
    })
    .await;
    let last = wait_until("the rows have everything", SOON, async || applied(&api).await).await;
    assert_eq!(projector.log().matches(waits).count(), 1, "{}", projector.log());

    let admin = |subcommand: &str| servers.reveille(&world, subcommand, &["admin"]);
    let archive = world.folder().join("journal.jsonl").display().to_string();
    does(admin("journal").args(["export", &archive])).await;
    for sound in [
        does(admin("journal").arg("verify")).await,
        does(admin("journal").args(["verify", &archive])).await,
    ] {
        assert!(sound.contains(&format!("sound: {last} commits")), "{sound}");
    }
    does(admin("journal").arg("stats")).await;
    let doctor = admin("doctor").args(["--api", &api.url()]).args(database);
    let found: Value = serde_json::from_str(&does(doctor.args(["-o", "json"])).await).expect("JSON");
    let is_ok = |check: &str| {
        let mut found = found.as_array().into_iter().flatten();
        found.any(|finding| finding["check"] == check && finding["level"] == "ok")
    };
    for check in [
        "NATS",
        "stream REVEILLE_EVENTS",
        "stream REVEILLE_HEARTBEATS",
        "clock",
    ] {
        assert!(is_ok(check), "{check}: {found}");
    }
    let rebuild = servers.reveille(&world, "rows", &["projector"]).arg("rebuild");
    let rebuilt = does(rebuild.args(database)).await;
    assert!(
        rebuilt.contains(&format!("rebuilt the rows up to commit {last}")),
        "{rebuilt}"
    );
    api.wait_for_status(LLM, "active", SOON).await;

    // Another hub's keys open nothing here, and its empty journal takes the archive in.
    let others = LockedServers::one(&world).await;
    let other_admin = || others.reveille(&world, "journal", &["admin"]);
    let stranger = other_admin()
        .arg("verify")
        .env("REVEILLE_NATS_URL", &servers.url)
        .env("REVEILLE_NATS_CA", servers.hub.join("ca.pem"))
        .start();
    assert_eq!(stranger.wait_for_exit(SOON).await, Exit::Code(1));
    assert!(stranger.log().contains("refuses this key"), "{}", stranger.log());
    let imported = does(other_admin().args(["import", &archive])).await;
    assert!(
        imported.contains(&format!("imported {last} commits")),
        "{imported}"
    );
    let restored = does(other_admin().arg("verify")).await;
    assert!(restored.contains("sound:"), "{restored}");

    // Nobody has ever asked for what he may not.
    for process in [&projector, &agent, api.process()] {
        let log = process.log();
        assert!(!log.to_lowercase().contains("permissions violation"), "{log}");
    }
}

#[tokio::test]
async fn a_projector_without_its_key_or_with_anothers_says_what_is_missing() {
    let world = World::with_postgres().await;
    let servers = LockedServers::one(&world).await;
    let database = world.database().url().to_owned();
    let with = |keys: &[&str]| {
        let projector = servers.reveille(&world, "projector", keys);
        projector.args(["--database-url", &database]).start()
    };
    let without = with(&["subscriber"]);
    assert_eq!(without.wait_for_exit(SOON).await, Exit::Code(2));
    assert!(without.log().contains("--nats-keys: "), "{}", without.log());
    assert!(without.log().contains("projector.nk"), "{}", without.log());
}

/// Somebody on the way, who adds a server of his own to what the real one says before the handshake, and cuts connections.
struct OnTheWay {
    url: String,
    /// How often he was dialled.
    dialled: Arc<AtomicUsize>,
    /// How often the server of his own was.
    lured: Arc<AtomicUsize>,
    cut: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl OnTheWay {
    async fn to(server: &str) -> Self {
        let own = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let way = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("tls://{}", way.local_addr().expect("an address"));
        let lure = format!(
            r#"{{"connect_urls":["{}"],"#,
            own.local_addr().expect("an address")
        );
        let [dialled, lured]: [Arc<AtomicUsize>; 2] = Default::default();
        let server = server.trim_start_matches("tls://").to_owned();
        let (cut, mut cuts) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let lures = lured.clone();
        tasks.spawn(async move {
            while own.accept().await.is_ok() {
                lures.fetch_add(1, Ordering::SeqCst);
            }
        });
        let dials = dialled.clone();
        tasks.spawn(async move {
            while let Ok((client, _)) = way.accept().await {
                dials.fetch_add(1, Ordering::SeqCst);
                // One connection after the other; none any more once they were cut.
                tokio::select! {
                    biased;
                    _ = cuts.wait_for(|cut| *cut) => {}
                    _ = carry(client, &server, &lure) => {}
                }
            }
        });
        Self {
            url,
            dialled,
            lured,
            cut,
            tasks,
        }
    }
}

async fn carry(client: TcpStream, server: &str, lure: &str) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    let (mut client, mut server) = (client, BufReader::new(server));
    let mut info = String::new();
    server.read_line(&mut info).await?;
    client.write_all(info.replacen('{', lure, 1).as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

#[tokio::test]
async fn nobody_on_the_way_leads_a_process_to_a_server_of_his_own() {
    let world = World::with_postgres().await;
    let servers = LockedServers::one(&world).await;
    let way = OnTheWay::to(&servers.url).await;
    let projector = servers.reveille(&world, "projector", &["projector"]);
    let projector = projector.args(["--nats", &way.url, "--database-url", world.database().url()]);
    let projector = projector.start();
    wait_until("the projector was connected", SOON, async || {
        projector.log().contains("connected to NATS").then_some(())
    })
    .await;
    way.cut.send_replace(true);
    wait_until("it came back several times", SOON, async || {
        (way.dialled.load(Ordering::SeqCst) + way.lured.load(Ordering::SeqCst) > 5).then_some(())
    })
    .await;
    assert_eq!(way.lured.load(Ordering::SeqCst), 0, "{}", projector.log());
    drop(way.tasks);
}
