//! A llama.cpp server: how an agent starts it, and what `/proc` shows of it.

use std::{
    cell::RefCell,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use reveille_tests::{Port, is_stopped, llama_cpp_path, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// The name of its one model.
pub const MODEL: &str = "tiny";
/// It imports a lot of Python, on a machine that may be busy.
const MAX_WAIT: &str = "90s";
/// From these the weights of models are drawn.
const SEED: &str = "8420";
const OTHER_SEED: &str = "8421";
/// Within this nothing is left of a server that was told to end, TERM and its grace of 10 s included.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// What its provider has if it is watched closely: a server that hangs is noticed and ended within seconds. A busy machine still
/// answers in these times.
const WATCHED: &str = "answer_timeout = \"5s\"\nprobe = { interval = \"500ms\", timeout = \"2s\" }\n";
const WATCHED_GRACE: &str = "stop_grace = \"2s\"\n";

/// A server that may or may not be running.
#[derive(Debug)]
pub struct Server {
    port: Port,
    model: PathBuf,
    program: Vec<String>,
    watched: bool,
    /// The processes that were seen between it and its agent.
    shims: RefCell<Vec<u32>>,
}

impl Server {
    /// The server that comes with llama-cpp-python: it listens once its model is loaded.
    pub fn new(model: PathBuf) -> Self {
        // Otherwise any other request, a probe too, ends a stream as if it were complete.
        let program = ["-m", "llama_cpp.server", "--interrupt_requests", "false"];
        Self::started_by(program.map(str::to_owned).to_vec(), model)
    }

    /// The same, listening before its model is there.
    pub fn late(model: PathBuf) -> Self {
        Self::started_by(vec![script("late_server.py")], model)
    }

    fn started_by(program: Vec<String>, model: PathBuf) -> Self {
        let port = Port::claim();
        Self {
            port,
            model,
            program,
            watched: false,
            shims: RefCell::default(),
        }
    }

    /// Its agent is to notice within seconds that it hangs.
    #[must_use]
    pub fn watched(mut self) -> Self {
        self.watched = true;
        self
    }

    /// Where it answers, if it runs.
    pub fn url(&self) -> String {
        self.port.http_url()
    }

    /// The port on which it listens.
    pub fn port(&self) -> &Port {
        &self.port
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
        let (watched, grace) = if self.watched {
            (WATCHED, WATCHED_GRACE)
        } else {
            ("", "")
        };
        let mut text = format!(
            "\n[[provider]]\nname = {name:?}\nbase_url = {:?}\nmodels = [{MODEL:?}]\n{watched}\n\
             [provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = \"python3\"\nargs = {args:?}\n\
             env = {{ PYTHONPATH = {:?} }}\nmax_wait = {MAX_WAIT:?}\n{grace}",
            self.url(),
            llama_cpp_path().display().to_string(),
        );
        if !sleep.is_empty() {
            let _ = write!(text, "\n[provider.sleep]\n{sleep}\n");
        }
        text
    }

    /// Every process that is this server: its command line has its port.
    pub fn processes(&self) -> Vec<u32> {
        let port = self.port.number().to_string();
        let is_ours = |pid: &u32| {
            let line = command_line(*pid);
            line.windows(2).any(|pair| pair[0] == "--port" && pair[1] == port)
        };
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).collect()
    }

    /// The one process that is the server, below a shim.
    pub fn only_process(&self) -> Result<u32> {
        let found = self.processes();
        let [server] = found[..] else {
            bail!("not one server: {found:?}");
        };
        let shim = parent(server)?;
        let line = command_line(shim);
        ensure!(
            line.get(1).is_some_and(|word| word == "shim"),
            "process {server} runs below {line:?}"
        );
        self.shims.borrow_mut().push(shim);
        Ok(server)
    }

    /// Waits until neither the server nor what started it is left.
    pub async fn is_gone(&self) {
        wait_until("nothing of the server was left", GONE_WITHIN, async || {
            let shims = self.shims.borrow();
            // What has ended has no command line any more.
            let nobody = self.processes().is_empty() && shims.iter().all(|pid| command_line(*pid).is_empty());
            nobody.then_some(())
        })
        .await;
    }
}

/// Kills the process `pid`, and nothing that descends from it.
pub fn kill9(pid: u32) -> Result<()> {
    signal(pid, Signal::KILL).context("cannot kill the server")
}

/// Stops the process `pid`: from then on the kernel still accepts connections for it, but nothing answers.
pub async fn sigstop(pid: u32) -> Result<()> {
    signal(pid, Signal::STOP).context("cannot stop the server")?;
    wait_until("the server was stopped", GONE_WITHIN, async || {
        is_stopped(pid).then_some(())
    })
    .await;
    Ok(())
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(kill_process(pid.context("not a process id")?, signal)?)
}

/// The words of a running process's command line.
fn command_line(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

fn parent(of: u32) -> Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{of}/stat"))?;
    let (_, after_name) = stat.rsplit_once(')').context("no stat line")?;
    let parent = after_name
        .split_whitespace()
        .nth(1)
        .context("a short stat line")?;
    Ok(parent.parse()?)
}

/// Writes a model that the server can load.
pub fn write_model(path: &Path) -> Result<()> {
    write_model_of(path, SEED)
}

/// Writes another model than [`write_model`] does, which says something else.
pub fn write_other_model(path: &Path) -> Result<()> {
    write_model_of(path, OTHER_SEED)
}

fn write_model_of(path: &Path, seed: &str) -> Result<()> {
    // Put in place when it is whole: a server may be waiting for it, or have the one before open.
    let partial = path.with_extension("partial");
    let written = Command::new("nice")
        .args(["python3", &script("tiny_model.py")])
        .arg(&partial)
        .arg(seed)
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
