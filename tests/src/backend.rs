//! The stand-in LLM server as a test sees it: started, killed and read by its log.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use crate::{Launch, Port, Process, SOON, program, wait_until};

/// A backend that may or may not be running. Its address and log stay the same over its runs. Clones are the same
/// backend.
///
/// It runs either because the test starts it, or because an agent does with [`Backend::command`].
#[derive(Debug, Clone)]
pub struct Backend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    port: Port,
    args: Vec<String>,
    log: PathBuf,
    output: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Backend {
    /// A backend that doesn't run yet; `args` are more arguments of `stand-in-llm`. Its log goes into `folder`.
    pub fn new(folder: &Path, args: &[&str]) -> Self {
        let port = Port::claim();
        let name = format!("backend-{}", port.number());
        Self(Arc::new(Inner {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            log: folder.join(format!("{name}.jsonl")),
            output: folder.join(format!("{name}.log")),
            process: Mutex::new(None),
            port,
        }))
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        self.0.port.http_url()
    }

    /// The program and arguments that start it, for a `command` recipe.
    pub fn command(&self) -> (PathBuf, Vec<String>) {
        let mut args = vec!["--listen".to_owned(), self.0.port.address().to_string()];
        args.extend(["--log".to_owned(), self.0.log.display().to_string()]);
        args.extend(self.0.args.iter().cloned());
        (program("stand-in-llm"), args)
    }

    /// Starts it, unless the test's own one runs already, and doesn't wait until it listens.
    pub fn start(&self) {
        let mut process = self.process();
        if process.as_ref().is_none_or(|process| !process.is_running()) {
            let (program, args) = self.command();
            *process = Some(Launch::new(program, &self.0.output).args(args).start());
        }
    }

    /// Starts it and waits until it listens.
    pub async fn start_and_wait(&self) {
        self.start();
        self.wait_until_listening(SOON).await;
    }

    /// Waits until something listens on its port, whoever started it.
    pub async fn wait_until_listening(&self, within: Duration) {
        let address = self.0.port.address();
        wait_until("the backend listened", within, async || {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
    }

    /// Kills the one that the test started, by SIGKILL, with what descends from it.
    pub fn kill9(&self) {
        *self.process() = None;
    }

    /// The id of the process that the test started, for signals to it.
    pub fn with_process<T>(&self, look: impl FnOnce(&Process) -> T) -> T {
        look(
            self.process()
                .as_ref()
                .expect("the test has started this backend"),
        )
    }

    /// What it has written down up to now, over all its runs.
    pub fn log(&self) -> BackendLog {
        let text = std::fs::read_to_string(&self.0.log).unwrap_or_default();
        // The last line may be half written.
        BackendLog(
            text.split_inclusive('\n')
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect(),
        )
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.0.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines of a stand-in's log, oldest first.
#[derive(Debug, Clone)]
pub struct BackendLog(pub Vec<Value>);

/// A request that a stand-in received whole.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BackendRequest {
    /// `POST`.
    pub method: String,
    /// Without a query.
    pub path: String,
    /// The `x-request-id` header, if there was one.
    pub request_id: Option<String>,
    /// The `authorization` header, if there was one.
    pub authorization: Option<String>,
    /// The body's `model`.
    pub model: Option<String>,
    /// SHA-256 of the body in lower-case hex.
    pub body_sha256: String,
    /// Size of the body.
    pub body_bytes: u64,
    /// When it had arrived, in Unix milliseconds.
    pub at_ms: u64,
    /// The run of the backend that received it.
    pub pid: u32,
}

impl BackendLog {
    /// The most requests that it worked on at once.
    pub fn peak(&self) -> usize {
        let mut at_work = 0_usize;
        let counts = self.0.iter().map(|line| {
            match line["event"].as_str() {
                Some("request") => at_work += 1,
                Some("answered" | "aborted") => at_work = at_work.saturating_sub(1),
                _ => {}
            }
            at_work
        });
        counts.max().unwrap_or(0)
    }

    /// How often the backend was started.
    pub fn starts(&self) -> usize {
        self.of("start").count()
    }

    /// The process ids of the starts.
    pub fn pids(&self) -> Vec<u32> {
        self.numbers("start", "pid")
    }

    /// The process ids of the children that `--fork-grandchild` started.
    pub fn grandchildren(&self) -> Vec<u32> {
        self.numbers("grandchild", "pid")
    }

    /// The inference requests.
    pub fn requests(&self) -> Vec<BackendRequest> {
        let requests = self
            .of("request")
            .map(|line| serde_json::from_value(line.clone()));
        requests
            .collect::<Result<_, _>>()
            .expect("the stand-in writes requests in this form")
    }

    /// How many answers were sent whole.
    pub fn answered(&self) -> usize {
        self.of("answered").count()
    }

    /// How many requests the client left before their answer was complete.
    pub fn aborted(&self) -> usize {
        self.of("aborted").count()
    }

    /// How many `POST /wake_up` there were.
    pub fn wake_ups(&self) -> usize {
        self.of("wake_up").count()
    }

    /// The lines of one kind: `start`, `out_of_memory`, `listening`, `grandchild`, `request`, `answered`, `aborted`, `sleep`, `wake_up`.
    pub fn of(&self, event: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |line| line["event"] == event)
    }

    fn numbers(&self, event: &str, field: &str) -> Vec<u32> {
        let numbers = self.of(event).filter_map(|line| line[field].as_u64());
        numbers.filter_map(|number| u32::try_from(number).ok()).collect()
    }
}
