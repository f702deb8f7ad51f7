//! A llama.cpp server: how an agent starts it, and what `/proc` shows of it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use reveille_tests::{Port, llama_cpp_path, wait_until};

/// The name of its one model.
pub const MODEL: &str = "tiny";
/// It imports a lot of Python, on a machine that may be busy.
const MAX_WAIT: &str = "90s";
/// Within this nothing is left of a server that was told to end, TERM and its grace of 10 s included.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// A server that may or may not be running.
#[derive(Debug)]
pub struct Server {
    port: Port,
    model: PathBuf,
    program: Vec<String>,
}

/// The processes of a server.
#[derive(Debug, PartialEq, Eq)]
pub struct Processes {
    /// The server itself.
    pub servers: Vec<u32>,
    /// Those that stand between it and its agent.
    pub shims: Vec<u32>,
}

impl Server {
    /// The server that comes with llama-cpp-python: it listens once its model is loaded.
    pub fn new(model: PathBuf) -> Self {
        Self::started_by(vec!["-m".to_owned(), "llama_cpp.server".to_owned()], model)
    }

    /// The same, listening before its model is there.
    pub fn late(model: PathBuf) -> Self {
        Self::started_by(vec![script("late_server.py")], model)
    }

    fn started_by(program: Vec<String>, model: PathBuf) -> Self {
        let port = Port::claim();
        Self { port, model, program }
    }

    /// Where it answers, if it runs.
    pub fn url(&self) -> String {
        self.port.http_url()
    }

    /// The file that it loads.
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// The config of the provider `name`, which starts it; `sleep` are lines of its sleep table.
    pub fn provider(&self, name: &str, sleep: &str) -> String {
        let mut args = self.program.clone();
        let model = self.model.display().to_string();
        let port = self.port.number().to_string();
        args.extend(["--model", &model, "--model_alias", MODEL, "--port", &port].map(str::to_owned));
        let mut text = format!(
            "\n[[provider]]\nname = {name:?}\nbase_url = {:?}\nmodels = [{MODEL:?}]\n\n\
             [provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = \"python3\"\nargs = {args:?}\n\
             env = {{ PYTHONPATH = {:?} }}\nmax_wait = {MAX_WAIT:?}\n",
            self.url(),
            llama_cpp_path().display().to_string(),
        );
        if !sleep.is_empty() {
            let _ = write!(text, "\n[provider.sleep]\n{sleep}\n");
        }
        text
    }

    /// Every process whose command line has its port.
    pub fn processes(&self) -> Processes {
        let (mut servers, mut shims) = (Vec::new(), Vec::new());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<_> = line
                .split(|byte| *byte == 0)
                .map(String::from_utf8_lossy)
                .collect();
            let port = self.port.number().to_string();
            if !words
                .windows(2)
                .any(|pair| pair[0] == "--port" && pair[1] == port)
            {
                continue;
            }
            let kind = if words[1] == "shim" {
                &mut shims
            } else {
                &mut servers
            };
            kind.push(pid);
        }
        Processes { servers, shims }
    }

    /// The one process that is the server, below one shim.
    pub fn only_process(&self) -> Result<u32> {
        let found = self.processes();
        ensure!(
            found.servers.len() == 1 && found.shims.len() == 1,
            "not one server below one shim: {found:?}"
        );
        Ok(found.servers[0])
    }

    /// Waits until neither the server nor what started it is left.
    pub async fn is_gone(&self) {
        let nobody = Processes {
            servers: vec![],
            shims: vec![],
        };
        wait_until("nothing of the server was left", GONE_WITHIN, async || {
            (self.processes() == nobody).then_some(())
        })
        .await;
    }
}

/// Writes a model that the server can load.
pub fn write_model(path: &Path) -> Result<()> {
    // Put in place when it is whole: a server may be waiting for it.
    let partial = path.with_extension("partial");
    let written = Command::new("nice")
        .args(["python3", &script("tiny_model.py")])
        .arg(&partial)
        .env("PYTHONPATH", llama_cpp_path())
        .output()
        .context("cannot run python3")?;
    let said = String::from_utf8_lossy(&written.stderr);
    ensure!(written.status.success(), "tiny_model.py failed: {said}");
    fs::rename(&partial, path).context("cannot put the model in place")
}

/// A Python file beside this one.
fn script(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/backends");
    folder.join(name).display().to_string()
}
