//! Private PostgreSQL clusters: one that all tests of a process share, each with a database of its own, and others
//! for tests that stop the server.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use sqlx::{Connection, PgConnection};
use tokio::sync::OnceCell;

use crate::{Folder, Launch, Port, Process, SOON, process::Exit, programs::postgres_bin, wait_until};

/// Durability is not what the tests are about: a cluster lives for seconds.
const SETTINGS: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=300",
    "shared_buffers=64MB",
    "log_min_messages=warning",
];

static SHARED: OnceCell<Cluster> = OnceCell::const_new();

/// One PostgreSQL server of our own.
#[derive(Debug)]
pub struct Cluster {
    process: Process,
    port: Port,
    databases: AtomicU32,
    folder: Folder,
}

impl Cluster {
    /// Makes and starts a cluster for one test: for tests that stop it.
    pub async fn start() -> Self {
        let folder = Folder::new();
        let owner = owner();
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group)).expect("root can give a folder away");
            // Another user may come in by the socket.
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(folder.path(), mode).expect("it is ours");
        }
        initialise(&folder, owner).await;
        let port = Port::claim();
        let process = launch(&folder, &port, owner);
        let cluster = Self {
            process,
            port,
            databases: AtomicU32::new(0),
            folder,
        };
        cluster.wait_until_ready().await;
        cluster
    }

    /// Makes an empty database and tells its URL.
    pub async fn database(&self) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = self
            .connect("postgres")
            .await
            .expect("a connection to the test's own cluster");
        let statement = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(&statement)
            .execute(&mut connection)
            .await
            .expect("a database can be created");
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        Database {
            url: self.url(&name),
            socket_url: format!(
                "postgres://postgres@{folder}:{}/{name}?sslmode=disable",
                self.port.number()
            ),
        }
    }

    /// Stops the server as its operator would, ending open connections.
    pub async fn stop(&self) -> Exit {
        self.process.sigint();
        self.process.wait_for_exit(SOON).await
    }

    /// Starts it again, on the same port and data, after killing it if it still runs.
    pub async fn restart(&mut self) {
        self.process.kill9();
        self.process = launch(&self.folder, &self.port, owner());
        self.wait_until_ready().await;
    }

    /// The server process: to stop it, let it go on, or kill it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@{}/{database}?sslmode=disable",
            self.port.address()
        )
    }

    async fn connect(&self, database: &str) -> sqlx::Result<PgConnection> {
        PgConnection::connect(&self.url(database)).await
    }

    async fn wait_until_ready(&self) {
        wait_until("PostgreSQL answered", SOON, async || {
            assert!(
                self.process.is_running(),
                "PostgreSQL ended at its start:\n{}",
                self.process.log()
            );
            self.connect("postgres").await.ok()
        })
        .await;
    }
}

/// An empty database in some cluster.
#[derive(Debug, Clone)]
pub struct Database {
    url: String,
    socket_url: String,
}

impl Database {
    /// The database at `url`, such as one that is reached through a pooler.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            socket_url: url.to_owned(),
        }
    }

    /// An empty database in the cluster that this process's tests share, which is started on first use.
    pub async fn create() -> Self {
        SHARED.get_or_init(Cluster::start).await.database().await
    }

    /// What to give as `--database-url`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same for a process that has another network, by a socket in the file system.
    pub fn socket_url(&self) -> &str {
        &self.socket_url
    }

    /// A new connection.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url)
            .await
            .expect("a connection to the test's own database")
    }
}

fn launch(folder: &Folder, port: &Port, owner: Option<(u32, u32)>) -> Process {
    let settings = SETTINGS.iter().flat_map(|setting| ["-c", setting]);
    Launch::new(
        postgres_bin().join("postgres"),
        folder.path().join("postgres.log"),
    )
    .arg("-D")
    .arg(folder.path().join("data"))
    .args(["-p", &port.number().to_string()])
    .args(settings)
    .args([
        "-c",
        &format!("unix_socket_directories={}", folder.path().display()),
    ])
    .user(owner)
    // Asked so, it frees its shared memory.
    .end_with("QUIT")
    .start()
}

async fn initialise(folder: &Folder, owner: Option<(u32, u32)>) {
    let log = folder.path().join("initdb.log");
    let initdb = Launch::new(postgres_bin().join("initdb"), &log)
        .arg("-D")
        .arg(folder.path().join("data"))
        .args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ])
        .user(owner)
        .start();
    let exit = initdb.wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(0), "initdb failed:\n{}", initdb.log());
}

/// PostgreSQL refuses to run as root: then its own user does it, or else nobody.
pub(crate) fn owner() -> Option<(u32, u32)> {
    if id(&["-u"])? != 0 {
        return None;
    }
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|user| Some((id(&["-u", user])?, id(&["-g", user])?)))
}

fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(args).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
