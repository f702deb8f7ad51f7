//! The NATS server that `reveille up` runs: on loopback, or with TLS on the port for agents, with its journal in the data
//! directory, flushing every message to disk before it acknowledges it.
//!
//! It runs below a shim, so it stops whenever this process does, however that happens. When it dies it is restarted on
//! the same port, with growing pauses, and also when its disk was full and can be written again.

use super::{
    agents_port::{AgentsPort, PID_FILE},
    disk::DiskWatch,
    nats_program::ServerProgram,
};
use crate::{
    data_dir::{self, DataDir, PORT_FILE, URL_FILE, nats_port},
    failure::Failure,
    listen::{is_free, reachable},
};
use anyhow::{Context, Result, anyhow, bail};
use reveille_agent::{
    child::{Child, Shims, Start},
    config::{CommandAction, Secret},
};
use reveille_bus::{JournalHealth, access::HubKeys};
use serde::Deserialize;
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

const CONFIG_FILE: &str = "nats.conf";
const LOG_FILE: &str = "nats.log";
/// The folder of its streams.
pub const STORE: &str = "nats";
/// More than any journal: the disk is the limit.
const MOST_STORED: &str = "1TB";
/// The time between TERM and KILL, in which the server flushes and closes its files.
const GRACE: Duration = Duration::from_secs(10);
/// How long it may take to answer: it reads its journal first.
const STARTS_WITHIN: Duration = Duration::from_secs(120);
/// How many ports to try: another program may take one between the choice and the start.
const MOST_PORTS: u32 = 4;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long one connection attempt may take.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A server that ran this long started well, so the pauses begin from the shortest again.
const RAN_WELL: Duration = Duration::from_secs(60);
/// How many lines of the server's log to show when it fails to start.
const LOG_LINES_SHOWN: usize = 8;

/// A server that is kept running until [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    url: String,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When it doesn't start; the error shows what it logged.
    pub async fn start(
        program: &ServerProgram,
        data: &DataDir,
        keys: &HubKeys,
        health: JournalHealth,
        agents: Option<&AgentsPort>,
    ) -> Result<Self, Failure> {
        let mut ports = 1;
        let (address, files, child) = loop {
            let address = match agents {
                Some(agents) => fixed_address(agents.listens()).await?,
                None => choose_address(data).await?,
            };
            let files = Files::write(program, data, keys, address, agents)?;
            match files.start_at(reachable(address)).await {
                Ok(child) => break (address, files, child),
                // Another program was quicker. The next choice is another port.
                Err(error)
                    if agents.is_none()
                        && ports < MOST_PORTS
                        && TcpListener::bind(address).await.is_err() =>
                {
                    info!(
                        reason = format!("{error:#}"),
                        "port {} was taken in the meantime; trying another",
                        address.port()
                    );
                }
                Err(error) => return Err(error.into()),
            }
            ports += 1;
        };
        let url = agents.map_or_else(|| format!("nats://{address}"), AgentsPort::url);
        data_dir::note(data, PORT_FILE, &address.port().to_string())?;
        data_dir::note(data, URL_FILE, &url)?;
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(files.keep(child, DiskWatch::new(data, health), stop.clone()));
        Ok(Self { url, stop, keeper })
    }

    /// The URL at which this machine's processes reach it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the server and waits until it is gone.
    pub async fn stop(self) {
        self.stop.cancel();
        // A keeper that panicked has dropped its child, which stops the server too.
        let _ = self.keeper.await;
    }
}

/// The port of the last run, so that agents find it again; another one if that port is taken.
async fn choose_address(data: &DataDir) -> Result<SocketAddr> {
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let free = |address: SocketAddr| async move { TcpListener::bind(address).await?.local_addr() };
    if let Some(port) = nats_port(data.path()) {
        if let Ok(address) = free(at(port)).await {
            return Ok(address);
        }
        warn!(
            nats.port = port,
            "port {port}, which NATS used in the last run, is taken; choosing another"
        );
    }
    free(at(0)).await.context("there is no free port for NATS")
}

/// The address for agents, if it is free: they know its port, so no other one is chosen.
async fn fixed_address(address: SocketAddr) -> Result<SocketAddr> {
    is_free(address, "--agents").await?;
    Ok(address)
}

/// What the server needs to start.
struct Files {
    program: String,
    config: String,
    log: PathBuf,
    name: String,
    shims: Shims,
}

/// The line with which a server greets a client.
#[derive(Debug, Deserialize)]
struct Greeting {
    server_name: String,
    #[serde(default)]
    jetstream: bool,
}

impl Files {
    fn write(
        program: &ServerProgram,
        data: &DataDir,
        keys: &HubKeys,
        address: SocketAddr,
        agents: Option<&AgentsPort>,
    ) -> Result<Self> {
        // Unique to this run: another server that answers on the port isn't mistaken for ours.
        let name = format!("reveille-{}", Uuid::now_v7().simple());
        let (config, log) = (data.join(CONFIG_FILE), data.join(LOG_FILE));
        let tls = agents.map(AgentsPort::server_config).transpose();
        let tls = tls.map_err(|failure| anyhow!("{failure}"))?;
        let text = format!(
            "# Written by `reveille up` at each start.\n\
             server_name: {name}\nlisten: \"{address}\"\npid_file: {}\n\
             log_file: {}\nlog_size_limit: 10MB\nlogfile_max_num: 2\n\
             # Without max_file_store, three quarters of the space that was free at the start would be the limit.\n\
             jetstream {{ store_dir: {}, sync_interval: always, max_file_store: {MOST_STORED} }}\n{}{}",
            quoted(&data.join(PID_FILE))?,
            quoted(&log)?,
            quoted(&data.join(STORE))?,
            keys.server_config()?,
            tls.unwrap_or_default(),
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        Ok(Self {
            program: text_of(&program.path)?,
            config: text_of(&config)?,
            log,
            name,
            shims: Shims::of_this_program()?.holding(data.share()?),
        })
    }

    /// Starts a server and waits until it answers.
    async fn start_at(&self, address: SocketAddr) -> Result<Child> {
        let mut child = self.start().await?;
        tokio::select! {
            answered = timeout(STARTS_WITHIN, self.answers(address)) => {
                if answered.is_err() {
                    child.stop().await;
                    bail!("nats-server did not answer within {} s{}", STARTS_WITHIN.as_secs(), self.log_tail());
                }
            }
            exit = child.exited() => bail!("nats-server {exit} while starting{}", self.log_tail()),
        }
        Ok(child)
    }

    async fn start(&self) -> Result<Child> {
        let action = CommandAction {
            program: self.program.clone(),
            args: vec![
                Secret::new("--config".to_owned()),
                Secret::new(self.config.clone()),
            ],
            env: vec![],
            env_pass: vec![],
            cwd: None,
        };
        Child::start(&self.shims, Start::new(&action, GRACE))
            .await
            .with_context(|| format!("cannot start {}", self.program))
    }

    /// Returns as soon as our server answers at `address`, with JetStream.
    async fn answers(&self, address: SocketAddr) {
        loop {
            if let Ok(Ok(greeting)) = timeout(LOOK_LIMIT, greeting(address)).await
                && greeting.server_name == self.name
                && greeting.jetstream
            {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Keeps a server running until `stop`.
    async fn keep(self, mut child: Child, mut disk: DiskWatch, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut started = Instant::now();
        loop {
            tokio::select! {
                exit = child.ended() => {
                    warn!(%exit, nats.log = %self.log.display(), "nats-server {exit}; restarting it");
                }
                () = disk.restart_is_due() => {
                    child.stop().await;
                }
                () = stop.cancelled() => {
                    child.stop().await;
                    return;
                }
            }
            if started.elapsed() >= RAN_WELL {
                pause = FIRST_PAUSE;
            }
            child = loop {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = stop.cancelled() => return,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                match self.start().await {
                    Ok(child) => break child,
                    Err(error) => warn!(reason = format!("{error:#}"), "nats-server failed to start"),
                }
            };
            started = Instant::now();
            info!("nats-server is running again");
        }
    }

    /// The end of the server's log, which holds no secrets, for an error message.
    fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        if tail.is_empty() {
            return String::new();
        }
        format!("; last lines of {}:\n  {}", self.log.display(), tail.join("\n  "))
    }
}

async fn greeting(address: SocketAddr) -> io::Result<Greeting> {
    let mut lines = BufReader::new(TcpStream::connect(address).await?).lines();
    let line = lines.next_line().await?.unwrap_or_default();
    serde_json::from_str(line.trim_start_matches("INFO ")).map_err(io::Error::from)
}

/// A path as a string in the server's config, which quotes like JSON.
fn quoted(path: &Path) -> Result<String> {
    let text = text_of(path)?;
    if text.chars().any(char::is_control) {
        bail!(
            "{} contains control characters: use --data-dir for another folder",
            path.display()
        );
    }
    Ok(serde_json::to_string(&text)?)
}

fn text_of(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not valid UTF-8", path.display()))
}
