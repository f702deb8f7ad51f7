//! A private NATS server with JetStream, which can be killed and started again on its port and its store.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};

use async_nats::jetstream::{self, stream};

use crate::{Folder, Launch, Port, Process, SOON, nats_server, wait_until};

/// One NATS server of a test's own. Everything is flushed to disk before it is acknowledged, as in production.
#[derive(Debug)]
pub struct Nats {
    process: Process,
    name: String,
    port: Port,
    config: PathBuf,
    folder: Folder,
}

impl Nats {
    /// Starts one server and waits until it answers.
    pub async fn start() -> Self {
        Self::configured("solo", Port::claim(), "").await
    }

    /// Starts one server with more settings, such as who may connect, and waits until it answers.
    pub async fn start_with(settings: &str) -> Self {
        Self::configured("solo", Port::claim(), settings).await
    }

    /// Starts three servers that form a JetStream cluster, and waits until they can replicate.
    pub async fn start_cluster() -> [Self; 3] {
        let routes = [Port::claim(), Port::claim(), Port::claim()];
        let urls: Vec<_> = routes
            .iter()
            .map(|port| format!("\"nats://{}\"", port.address()))
            .collect();
        let settings = routes.each_ref().map(|port| {
            let (listen, urls) = (port.address(), urls.join(", "));
            format!("cluster {{ name: test, listen: \"{listen}\", routes: [{urls}] }}\n")
        });
        let [a, b, c] = &settings;
        let nodes = tokio::join!(
            Self::configured("node-a", Port::claim(), a),
            Self::configured("node-b", Port::claim(), b),
            Self::configured("node-c", Port::claim(), c),
        );
        let nodes = <[Self; 3]>::from(nodes);
        let mut context = jetstream::new(nodes[0].connect().await);
        // A request that came too early is never answered.
        context.set_timeout(Duration::from_millis(500));
        let probe = || stream::Config {
            name: "PROBE".to_owned(),
            num_replicas: 3,
            ..Default::default()
        };
        wait_until("all servers of the cluster took part", SOON, async || {
            context.create_stream(probe()).await.ok()
        })
        .await;
        wait_until("the probe was removed", SOON, async || {
            // A removal whose answer was late has happened.
            context.delete_stream("PROBE").await.ok();
            context.get_stream("PROBE").await.err()
        })
        .await;
        nodes
    }

    async fn configured(name: &str, port: Port, more: &str) -> Self {
        let folder = Folder::new();
        let config = folder.path().join("nats.conf");
        let text = format!(
            "listen: \"{}\"\nserver_name: {name}\n{more}jetstream {{ store_dir: \"{}\", sync_interval: always }}\n",
            port.address(),
            folder.path().join("store").display(),
        );
        fs::write(&config, text).expect("a server configuration can be written");
        let process = Self::launch(&folder, &config);
        let server = Self {
            process,
            name: name.to_owned(),
            port,
            config,
            folder,
        };
        server.wait_until_ready(true).await;
        server
    }

    fn launch(folder: &Folder, config: &PathBuf) -> Process {
        Launch::new(nats_server(), folder.path().join("nats.log"))
            .arg("--config")
            .arg(config)
            .start()
    }

    /// `nats://127.0.0.1:<port>`, the same after a restart.
    pub fn url(&self) -> String {
        format!("nats://{}", self.port.address())
    }

    /// A new connection.
    pub async fn connect(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::new().name("test");
        options
            .connect(self.url())
            .await
            .expect("a connection to the test's own server")
    }

    /// A new connection whose answers come below `inbox`.
    pub async fn connect_hearing(&self, inbox: &str) -> async_nats::Client {
        let options = async_nats::ConnectOptions::new().name("test");
        options
            .custom_inbox_prefix(inbox)
            .connect(self.url())
            .await
            .expect("a connection to the test's own server")
    }

    /// The folder of its store.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The server process: to stop it, let it go on, or kill it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Kills it by SIGKILL.
    pub fn kill9(&self) {
        self.process.kill9();
    }

    /// Starts it again, on the same port and with what its store holds, after killing it if it still runs.
    pub async fn restart(&mut self) {
        self.kill9();
        self.process = Self::launch(&self.folder, &self.config);
        self.wait_until_ready(true).await;
    }

    /// Starts it again without JetStream, on the same port, after killing it if it still runs.
    pub async fn restart_without_jetstream(&mut self) {
        self.kill9();
        let config = self.folder.path().join("without-jetstream.conf");
        fs::write(&config, format!("listen: \"{}\"\n", self.port.address())).expect("written");
        self.process = Self::launch(&self.folder, &config);
        self.wait_until_ready(false).await;
    }

    async fn wait_until_ready(&self, has_jetstream: bool) {
        let what = format!(
            "{} answered; its log: {}",
            self.name,
            self.process.log_file().display()
        );
        wait_until(&what, SOON, async || {
            assert!(
                self.process.is_running(),
                "the server ended at its start:\n{}",
                self.process.log()
            );
            self.greeting()
                .filter(|greeting| greeting.contains(r#""jetstream":true"#) == has_jetstream)
        })
        .await;
    }

    /// The line that a server sends to whoever connects, if it does.
    fn greeting(&self) -> Option<String> {
        let connection = TcpStream::connect_timeout(&self.port.address(), Duration::from_secs(1)).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut line = String::new();
        BufReader::new(connection).read_line(&mut line).ok()?;
        Some(line)
    }
}
