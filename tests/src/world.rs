//! One test's private everything.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{
    Api, Backend, Commit, Database, Facts, Folder, Launch, Nats, Port, Process, journal::read_journal,
    nats_server, program,
};

/// What our own processes log in tests.
const LOG_FILTER: &str = "info";
/// How much of each log is shown when a test fails.
const LOG_LINES_SHOWN: usize = 120;

/// A NATS server, perhaps a database, a folder, and the `reveille` processes that a test starts.
///
/// Make it first, so that it is dropped last: when the test has failed, it then prints the logs.
#[derive(Debug)]
pub struct World {
    /// The test's own NATS server, or the first node of its cluster.
    pub nats: Nats,
    /// The other nodes of its cluster.
    pub peers: Vec<Nats>,
    /// What stands between NATS and the processes, if anything does.
    proxy: Option<String>,
    database: Option<Database>,
    logs: Mutex<Vec<PathBuf>>,
    names: AtomicU32,
    folder: Folder,
}

impl World {
    /// A world without Postgres.
    pub async fn new() -> Self {
        Self::made_with(None).await
    }

    /// A world without Postgres, on a NATS cluster of three nodes.
    pub async fn on_cluster() -> Self {
        let [nats, b, c] = Nats::start_cluster().await;
        Self::around(nats, vec![b, c], None)
    }

    async fn made_with(database: Option<Database>) -> Self {
        Self::around(Nats::start().await, Vec::new(), database)
    }

    fn around(nats: Nats, peers: Vec<Nats>, database: Option<Database>) -> Self {
        Self {
            nats,
            peers,
            proxy: None,
            database,
            logs: Mutex::default(),
            names: AtomicU32::new(0),
            folder: Folder::new(),
        }
    }

    /// A world with an empty database in the shared cluster.
    pub async fn with_postgres() -> Self {
        Self::with_database(Database::create().await).await
    }

    /// A world with a database of the test's choice, such as one in a cluster that it is going to stop.
    pub async fn with_database(database: Database) -> Self {
        Self::made_with(Some(database)).await
    }

    /// A folder for whatever the test wants to keep; removed at its end.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// From now on its processes reach NATS at `url`, where a proxy is.
    pub fn reach_nats_at(&mut self, url: &str) {
        self.proxy = Some(url.to_owned());
    }

    /// Where its processes reach NATS: all nodes of a cluster, with commas, or the proxy.
    pub fn nats_url(&self) -> String {
        if let Some(proxy) = &self.proxy {
            return proxy.clone();
        }
        let nodes = std::iter::once(&self.nats).chain(&self.peers);
        nodes.map(Nats::url).collect::<Vec<_>>().join(",")
    }

    /// The nodes of the cluster, or the only server.
    pub fn node(&mut self, index: usize) -> &mut Nats {
        match index.checked_sub(1) {
            None => &mut self.nats,
            Some(index) => &mut self.peers[index],
        }
    }

    /// The database.
    pub fn database(&self) -> &Database {
        self.database
            .as_ref()
            .expect("this world was made with a database")
    }

    /// Starts an API replica (with the database, if there is one) and waits until it is ready.
    pub async fn api(&self) -> Api {
        let api = self.api_with(&[]);
        api.wait_until_ready().await;
        api
    }

    /// Starts an API replica with more arguments and doesn't wait.
    pub fn api_with(&self, args: &[&str]) -> Api {
        let launch = self.reveille("api").args(["--nats", &self.nats_url()]);
        self.api_of(launch.args(self.database_args()).args(args))
    }

    /// Starts an API replica by a command of the test's own, on a port of its own, and doesn't wait.
    pub fn api_of(&self, launch: Launch) -> Api {
        let port = Port::claim();
        let launch = launch.args(["--listen", &port.address().to_string()]);
        Api::new(launch.start(), port)
    }

    /// Starts an agent. Its registration is for the test to wait for, at an API replica.
    pub fn agent(&self, config: &AgentConfig) -> Process {
        self.agent_from(&config.to_toml())
    }

    /// Starts an agent with a configuration as text.
    pub fn agent_from(&self, toml: &str) -> Process {
        let file = self.write_config(toml);
        self.reveille("agent")
            .args(["--nats", &self.nats_url()])
            .arg("--config")
            .arg(file)
            .start()
    }

    /// Starts a projector.
    pub fn projector(&self) -> Process {
        self.reveille("projector")
            .args(["--nats", &self.nats_url()])
            .args(self.database_args())
            .start()
    }

    /// Starts `reveille up` with its own managed NATS server, its data in `data_dir`, and this configuration, and
    /// doesn't wait.
    pub fn up(&self, data_dir: &Path, toml: &str, args: &[&str]) -> Api {
        self.up_at(Port::claim(), data_dir, toml, args)
    }

    /// The same at a port that its configuration may name.
    pub fn up_at(&self, port: Port, data_dir: &Path, toml: &str, args: &[&str]) -> Api {
        let launch = self.reveille("up").arg("--config").arg(self.write_config(toml));
        let launch = launch
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--listen", &port.address().to_string()]);
        Api::new(launch.args(args).start(), port)
    }

    /// `reveille <subcommand>`, not started yet, with its log in this world.
    pub fn reveille(&self, subcommand: &str) -> Launch {
        let log = self.new_file(subcommand, "log");
        self.logs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(log.clone());
        let nats_folder = nats_server();
        let nats_folder = nats_folder.parent().unwrap_or(Path::new("/")).display();
        let path = format!("{nats_folder}:{}", std::env::var("PATH").unwrap_or_default());
        Launch::new(program("reveille"), log)
            .arg(subcommand)
            .env("REVEILLE_LOG", LOG_FILTER)
            .env("NO_COLOR", "1")
            .env("PATH", path)
            .env("XDG_DATA_HOME", self.data_home())
            .folder(self.folder())
    }

    /// Where its processes keep their data unless they are told otherwise.
    pub fn data_home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// A backend that doesn't run yet, with more arguments of `stand-in-llm`.
    pub fn backend(&self, args: &[&str]) -> Backend {
        Backend::new(self.folder(), args)
    }

    /// A subscriber that remembers the facts from now on.
    pub async fn facts(&self) -> Facts {
        let client = self.nats.connect().await;
        let facts = Facts::listen(client.clone()).await;
        // The server handles what one connection sends in order, so it has the subscription once this comes back.
        let inbox = client.new_inbox();
        let mut echo = client.subscribe(inbox.clone()).await.expect("a subscription");
        client.publish(inbox, "".into()).await.expect("a connection");
        futures::StreamExt::next(&mut echo).await.expect("the message");
        facts
    }

    /// Every commit of the journal.
    pub async fn journal(&self) -> Vec<Commit> {
        read_journal(&self.nats.connect().await).await
    }

    fn database_args(&self) -> Vec<String> {
        let database = self.database.iter();
        database
            .flat_map(|database| ["--database-url".to_owned(), database.url().to_owned()])
            .collect()
    }

    fn write_config(&self, toml: &str) -> PathBuf {
        let file = self.new_file("config", "toml");
        fs::write(&file, toml).expect("a configuration can be written");
        file
    }

    fn new_file(&self, name: &str, ending: &str) -> PathBuf {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        self.folder().join(format!("{number:02}-{name}.{ending}"))
    }
}

/// Shows the logs of a test that fails.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let text = fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            let name = log.file_name().unwrap_or_default().to_string_lossy();
            eprintln!(
                "── {name}, its last {} lines ──\n{}",
                shown.len(),
                shown.join("\n")
            );
        }
    }
}

/// The configuration of an agent, in the words of the file that a person writes.
#[derive(Debug, Clone)]
pub struct AgentConfig(String);

impl AgentConfig {
    /// An agent without providers.
    pub fn new(name: &str) -> Self {
        Self(format!("[agent]\nname = {name:?}\n"))
    }

    /// One more provider, with one model that the stand-in has (`stand-in`) under a public name.
    #[must_use]
    pub fn provider(mut self, name: &str, model: &str, backend: &Backend) -> Self {
        let url = backend.url();
        let text = format!(
            "\n[[provider]]\nname = {name:?}\nbase_url = {url:?}\nmodels = [{{ id = \"stand-in\", as = {model:?} }}]\n"
        );
        self.0 += &text;
        self
    }

    /// The last provider is woken by a POST to this URL.
    #[must_use]
    pub fn woken_by_http(self, url: &str) -> Self {
        self.lines(&format!(
            "\n[provider.wake]\ntype = \"http\"\nurl = {url:?}\nmax_wait = \"30s\"\n"
        ))
    }

    /// The last provider is woken by running its backend as the agent's own child.
    #[must_use]
    pub fn woken_by_serving(self, backend: &Backend) -> Self {
        let (program, args) = backend.command();
        let recipe = format!(
            "\n[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = {:?}\nargs = {args:?}\nmax_wait = \"30s\"\n",
            program.display().to_string()
        );
        self.lines(&recipe)
    }

    /// More lines as they are: they belong to the table that was written last.
    #[must_use]
    pub fn lines(mut self, toml: &str) -> Self {
        let _ = write!(self.0, "{toml}");
        self
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        self.0.clone()
    }
}
