//! Child processes that end with the test, whatever becomes of the test.
//!
//! Each runs under a process of its own, `guard`, which holds one end of a pipe from us. When the pipe closes, because
//! the [`Process`] was dropped or because we were killed, the guard kills the child and everything that descends from
//! it. See `bin/guard.rs`.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{SOON, program, wait_until};

/// What to start, and how.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    log: PathBuf,
    folder: Option<PathBuf>,
    end_with: Option<&'static str>,
    user: Option<(u32, u32)>,
}

impl Launch {
    /// A program whose output, both kinds, is appended to the file `log`. The `REVEILLE_*` variables of the tests are
    /// not handed on.
    pub fn new(program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            log: log.into(),
            folder: None,
            end_with: None,
            user: None,
        }
    }

    /// The command so far becomes the last arguments of another program, which runs it.
    #[must_use]
    pub fn under(mut self, program: impl Into<PathBuf>, args: &[&str]) -> Self {
        let inner = std::mem::replace(&mut self.program, program.into());
        let outer = args.iter().map(OsString::from).chain([inner.into_os_string()]);
        self.args = outer.chain(std::mem::take(&mut self.args)).collect();
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The folder in which it runs.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// The signal that asks it to end, a moment before everything is killed: for programs that leave something in the
    /// kernel when they are killed.
    #[must_use]
    pub(crate) fn end_with(mut self, signal: &'static str) -> Self {
        self.end_with = Some(signal);
        self
    }

    /// The user and group that it runs as.
    #[must_use]
    pub(crate) fn user(mut self, user: Option<(u32, u32)>) -> Self {
        self.user = user;
        self
    }

    /// Starts it.
    pub fn start(self) -> Process {
        let mut guard = Command::new(program("guard"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REVEILLE_") {
                guard.env_remove(name);
            }
        }
        guard.envs(self.env).arg("--log").arg(&self.log);
        if let Some(folder) = self.folder {
            guard.current_dir(folder);
        }
        if let Some(signal) = self.end_with {
            guard.args(["--end-with", signal]);
        }
        if let Some((user, group)) = self.user {
            guard
                .arg(format!("--user={user}"))
                .arg(format!("--group={group}"));
        }
        guard.arg("--").arg(&self.program).args(&self.args);
        Process::under(guard, self.log, &self.program)
    }
}

/// A temporary folder that is removed with everything in it, whatever becomes of the test.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    guard: Child,
    lifeline: Option<ChildStdin>,
}

impl Folder {
    /// An empty folder.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("reveille-test-")
            .tempdir()
            .expect("a temporary folder");
        let path = folder.keep();
        let mut guard = Command::new(program("guard"));
        guard
            .arg("--remove")
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0);
        let mut guard = guard.spawn().expect("the guard of a folder starts");
        let lifeline = guard.stdin.take();
        Self {
            path,
            guard,
            lifeline,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // The guard ends by itself, in bounded time, once its pipe is closed.
        let _ = self.guard.wait();
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A running or ended child; dropping it kills the child and all that descends from it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    exit: Arc<ExitCell>,
    guard: Child,
    lifeline: Option<ChildStdin>,
}

#[derive(Debug, Default)]
struct ExitCell {
    exit: Mutex<Option<Exit>>,
    changed: Condvar,
}

impl Process {
    fn under(mut guard: Command, log: PathBuf, program: &Path) -> Self {
        let name = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut guard = guard
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start the guard of {name}: {error}"));
        let lifeline = guard.stdin.take();
        let mut said = BufReader::new(guard.stdout.take().expect("the guard has an output"));
        let mut first = String::new();
        said.read_line(&mut first).expect("the guard says what it did");
        let pid = first
            .trim()
            .strip_prefix("started ")
            .and_then(|pid| pid.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("cannot start {}: {first}", program.display()));
        let exit = Arc::new(ExitCell::default());
        let cell = exit.clone();
        std::thread::spawn(move || cell.follow(said));
        Self {
            name,
            pid,
            log,
            exit,
            guard,
            lifeline,
        }
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that holds what it printed.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// What it has printed up to now.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = fs::File::open(&self.log) {
            file.read_to_end(&mut text).expect("a log can be read");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still runs (a stopped one counts as running).
    pub fn is_running(&self) -> bool {
        self.exit().is_none()
    }

    /// Waits for it to end by itself or by a signal that was sent.
    pub async fn wait_for_exit(&self, within: Duration) -> Exit {
        wait_until(&format!("{} ended", self.name), within, async || self.exit()).await
    }

    /// Kills it by SIGKILL, the process alone and not what descends from it, and waits until it is gone.
    pub fn kill9(&self) {
        self.signal(Signal::KILL);
        let gone = self.exit.wait(SOON);
        assert!(gone, "{} survived SIGKILL", self.name);
    }

    /// Stops it, as a machine that sleeps does to its processes.
    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
        // The signal only asks: each thread stops at its own next step.
        let asked = Instant::now();
        while !is_stopped(self.pid) {
            assert!(asked.elapsed() < SOON, "{} did not stop", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a stopped one go on.
    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to end.
    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// What asks a service to read its files again.
    pub fn sighup(&self) {
        self.signal(Signal::HUP);
    }

    /// What Ctrl-C sends.
    pub fn sigint(&self) {
        self.signal(Signal::INT);
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(&self, within: Duration) -> Exit {
        self.sigterm();
        self.wait_for_exit(within).await
    }

    fn signal(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_running(), as_pid(self.pid)) {
            // It may end between the look and the signal; the guard reaps it, and no pid is reused that fast.
            let _ = kill_process(pid, signal);
        }
    }
}

impl ExitCell {
    /// Reads the guard's second line. When the guard is gone without one, nothing can be said any more.
    fn follow(&self, mut said: impl BufRead) {
        let mut line = String::new();
        if said.read_line(&mut line).is_err() {
            return;
        }
        let exit = match line.trim().split_once(' ') {
            Some(("code", code)) => code.parse().ok().map(Exit::Code),
            Some(("signal", signal)) => signal.parse().ok().map(Exit::Signal),
            _ => None,
        };
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner) = exit;
        self.changed.notify_all();
    }

    fn wait(&self, within: Duration) -> bool {
        let exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        let (exit, _) = self
            .changed
            .wait_timeout_while(exit, within, |exit| exit.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        exit.is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // The guard ends by itself, in bounded time, once its pipe is closed.
        let _ = self.guard.wait();
    }
}

/// Whether all threads of a process are stopped.
pub fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state stands behind the name, which ends with the last parenthesis. A thread that has ended has none.
        stat.rsplit(')')
            .next()
            .is_none_or(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with('T'))
    })
}

/// Whether a process with this id exists, for looking after descendants whose ids a log told.
pub fn is_alive(pid: u32) -> bool {
    as_pid(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}
