//! A machine of the test's own, as far as its network goes: the documented ports are free there, whatever runs outside.
//!
//! The namespaces have no name and live as long as a process that only sleeps in each, so that they end with the test,
//! however it ends. No traffic leaves them.

use reveille_tests::{Folder, Launch, Process, nats_server, program, python_path, wait_until};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::{
    fs,
    io::Read,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use crate::scene::SOON;

/// The model that the documentation's Ollama has.
pub const MODEL: &str = "qwen2.5:7b";

/// A machine, as far as its network goes, and a folder to work in.
pub struct Machine {
    pub sleeper: Process,
    pub folder: Folder,
}

impl Machine {
    /// A machine with nothing but loopback.
    pub async fn new() -> Self {
        let folder = Folder::new();
        let log = folder.path().join("sleeper.log");
        let sleeper = Launch::new("unshare", log)
            .args(["--net", "sleep", "infinity"])
            .start();
        let machine = Self { sleeper, folder };
        let outside = network_of("self".as_ref());
        wait_until("the machine had a network of its own", SOON, async || {
            assert!(machine.sleeper.is_running(), "{}", machine.sleeper.log());
            let pid = machine.sleeper.pid().to_string();
            (network_of(pid.as_ref()) != outside).then_some(())
        })
        .await;
        machine.set_up("ip link set lo up");
        machine
    }

    /// What it takes to run a program on this machine.
    fn entered(&self) -> [String; 4] {
        let pid = self.sleeper.pid();
        ["--target", &pid.to_string(), "--net", "--"].map(str::to_owned)
    }

    pub fn set_up(&self, line: &str) {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
    }

    /// Runs a line to its end.
    pub fn run(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(self.entered()).args(["sh", "-c", line]);
        command
            .env("PATH", path(self.folder.path()))
            .env("HOME", self.folder.path())
            .env("PYTHONPATH", python_path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(self.folder.path());
        command.output().expect("nsenter runs")
    }

    /// Runs a line that must succeed, and returns what it printed.
    pub fn does(&self, line: &str) -> String {
        let output = self.run(line);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}\n{printed}");
        printed
    }

    /// Waits until the API answers at its usual port.
    pub async fn api_is_ready(&self, api: &Process) {
        wait_until("the API was ready", SOON, async || {
            assert!(api.is_running(), "{}", api.log());
            let answer = self.run("curl --silent --fail http://127.0.0.1:8420/readyz");
            answer.status.success().then_some(())
        })
        .await;
    }

    /// Starts a line that goes on.
    pub fn start(&self, name: &str, line: &str) -> Process {
        Launch::new("nsenter", self.folder.path().join(format!("{name}.log")))
            .args(self.entered())
            .args(["sh", "-c", &started(line)])
            .env("PATH", path(self.folder.path()))
            .env("HOME", self.folder.path().display().to_string())
            .env("NO_COLOR", "1")
            .env("PYTHONPATH", python_path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .folder(self.folder.path())
            .start()
    }

    pub async fn prints(&self, line: &str, expected: &str) -> String {
        wait_until(&format!("`{line}` printed {expected}"), SOON, async || {
            let printed = String::from_utf8_lossy(&self.run(line).stdout).into_owned();
            printed.contains(expected).then_some(printed)
        })
        .await
    }
}

/// A terminal that nobody watches, for a program's standard error.
pub struct Terminal {
    /// Where a program opens it.
    pub path: String,
    printed: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master)
            .and_then(|()| unlockpt(&master))
            .expect("a terminal");
        let path = ptsname(&master, vec![]).expect("a terminal has a name");
        let printed = Arc::new(Mutex::new(vec![]));
        let copy = printed.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            let mut master = fs::File::from(master);
            // It fails once the program has ended.
            while let Ok(length @ 1..) = master.read(&mut bytes) {
                copy.lock().expect("a lock").extend(&bytes[..length]);
            }
        });
        Self {
            path: path.into_string().expect("a path"),
            printed,
        }
    }

    /// What was printed so far.
    pub fn text(&self) -> String {
        let printed = self.printed.lock().expect("a lock");
        String::from_utf8_lossy(&printed).replace("\r\n", "\n")
    }
}

/// A line, perhaps after lines that export variables, in the place of the shell.
fn started(line: &str) -> String {
    match line.rsplit_once('\n') {
        None => format!("exec env {line}"),
        Some((before, last)) => format!("{before}\nexec env {last}"),
    }
}

fn network_of(process: &Path) -> Option<std::path::PathBuf> {
    fs::read_link(Path::new("/proc").join(process).join("ns/net")).ok()
}

/// Our programs, the server, what the test puts into `bin`, and the system's.
fn path(folder: &Path) -> String {
    let [reveille, nats] = [program("reveille"), nats_server()];
    let [reveille, nats] = [&reveille, &nats].map(|file| file.parent().unwrap_or(Path::new("/")).display());
    let theirs = std::env::var("PATH").unwrap_or_default();
    format!("{}:{reveille}:{nats}:{theirs}", folder.join("bin").display())
}

/// What keeps this machine from playing another one.
pub fn obstacle() -> Option<String> {
    for probe in [
        ["unshare", "--net", "true"].as_slice(),
        &["nsenter", "--version"],
        &["ip", "-Version"],
        &["curl", "--version"],
    ] {
        match Command::new(probe[0]).args(&probe[1..]).output() {
            Ok(output) if output.status.success() => {}
            _ => return Some(format!("`{}` doesn't work here", probe.join(" "))),
        }
    }
    None
}

/// A program called `ollama` that is the stand-in, where Ollama would listen.
pub fn install_ollama(machine: &Machine) {
    let bin = machine.folder.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    let file = bin.join("ollama");
    let stand_in = program("stand-in-llm");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = serve ] && exec '{}' --listen 127.0.0.1:11434 --model '{MODEL}' --boot-delay-ms 300\n",
        stand_in.display()
    );
    fs::write(&file, text).expect("a script");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a script");
}

/// The project's folder `name`, where the documented commands expect it.
pub fn link(machine: &Machine, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    symlink(folder, machine.folder.path().join(name)).expect("a link");
}
