//! A machine of the test's own, as far as its network goes: the documented ports are free there, whatever runs outside.
//!
//! The namespaces have no name and live as long as a process that only sleeps in each, so that they end with the test,
//! however it ends. No traffic leaves them.

use reveille_tests::{Folder, Launch, Process, nats_server, program, python_path, wait_until};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::{
    fs,
    io::Read,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use crate::scene::SOON;

/// The model that the documentation's Ollama has.
pub const MODEL: &str = "qwen2.5:7b";

/// What a machine has of its own besides its network.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    /// A folder to work in.
    Folder,
    /// The system's folders for settings, programs and data too.
    System,
}

/// A machine, as far as its network goes, and a folder to work in.
pub struct Machine {
    pub sleeper: Process,
    pub folder: Folder,
    files: Files,
}

impl Machine {
    /// A machine with nothing but loopback.
    pub async fn new() -> Self {
        Self::with(Files::Folder, &["--net"], "exec sleep infinity").await
    }

    /// A machine that also has folders `/etc`, `/usr/local` and `/var/lib` of its own, with our programs installed.
    pub async fn with_system() -> Self {
        let [reveille, nats] = [program("reveille"), nats_server()];
        let script = format!(
            "set -e; mkdir own; mount -t tmpfs tmpfs own\n\
             for folder in etc usr/local var/lib; do\n\
             mkdir -p own/new/$folder own/work/$folder\n\
             mount -t overlay overlay -o lowerdir=/$folder,upperdir=own/new/$folder,workdir=own/work/$folder /$folder\n\
             done\n\
             install() {{ mkdir -p \"${{2%/*}}\"; : > \"$2\"; mount --bind \"$1\" \"$2\"; }}\n\
             install '{}' /usr/local/bin/reveille\n\
             install '{}' /usr/local/lib/reveille/nats-server\n\
             : > ready; exec sleep infinity",
            reveille.display(),
            nats.display()
        );
        let machine = Self::with(Files::System, &["--net", "--mount"], &script).await;
        wait_until("the machine had files of its own", SOON, async || {
            assert!(machine.sleeper.is_running(), "{}", machine.sleeper.log());
            machine.folder.path().join("ready").exists().then_some(())
        })
        .await;
        machine
    }

    async fn with(files: Files, own: &[&str], script: &str) -> Self {
        let folder = Folder::new();
        let log = folder.path().join("sleeper.log");
        let sleeper = Launch::new("unshare", log).args(own).args(["sh", "-c", script]);
        let sleeper = sleeper.folder(folder.path()).start();
        let machine = Self {
            sleeper,
            folder,
            files,
        };
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

    /// What it takes to run lines of a shell on this machine, in its folder.
    fn entered(&self, lines: &str) -> Vec<String> {
        let pid = self.sleeper.pid().to_string();
        let files = (self.files == Files::System).then_some("--mount");
        let lines = format!("set -e; cd '{}'\n{lines}", self.folder.path().display());
        let words = ["--target", &pid, "--net"].into_iter().chain(files);
        words
            .chain(["--", "sh", "-c", &lines])
            .map(str::to_owned)
            .collect()
    }

    /// Where its shell looks for programs: what the test puts into `bin`, ours, the server, and the system's.
    fn path(&self) -> String {
        let ours = match self.files {
            Files::System => "/usr/local/bin".to_owned(),
            Files::Folder => {
                let [reveille, nats] = [program("reveille"), nats_server()];
                let [reveille, nats] =
                    [&reveille, &nats].map(|file| file.parent().unwrap_or(Path::new("/")).display());
                format!("{reveille}:{nats}")
            }
        };
        let theirs = std::env::var("PATH").unwrap_or_default();
        format!("{}:{ours}:{theirs}", self.folder.path().join("bin").display())
    }

    /// A program in its `PATH` that is a script of a shell.
    pub fn script(&self, name: &str, text: &str) {
        let bin = self.folder.path().join("bin");
        fs::create_dir_all(&bin).expect("a folder");
        write_script(&bin.join(name), text);
    }

    pub fn set_up(&self, line: &str) {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
    }

    /// Runs a line to its end.
    pub fn run(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(self.entered(line));
        command
            .env("PATH", self.path())
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
        self.api_is_ready_at("http://127.0.0.1:8420", api).await;
    }

    /// Waits until the API answers at a URL, whatever its certificate is.
    pub async fn api_is_ready_at(&self, url: &str, api: &Process) {
        wait_until("the API was ready", SOON, async || {
            assert!(api.is_running(), "{}", api.log());
            let answer = self.run(&format!("curl --silent --fail --insecure {url}/readyz"));
            answer.status.success().then_some(())
        })
        .await;
    }

    /// Starts a line that goes on.
    pub fn start(&self, name: &str, line: &str) -> Process {
        Launch::new("nsenter", self.folder.path().join(format!("{name}.log")))
            .args(self.entered(&started(line)))
            .env("PATH", self.path())
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
    path: String,
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

    /// Starts a line that goes on, with its standard error in this terminal.
    pub fn start(&self, machine: &Machine, name: &str, line: &str) -> Process {
        machine.start(name, &format!("{} 2>{}", line.trim_end(), self.path))
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

/// Connects machines by a network. The first of them has the switch.
pub fn connect(machines: &[(&Machine, &str)]) {
    let [(first, address), others @ ..] = machines else {
        return;
    };
    first.set_up(&format!(
        "ip link add lan type bridge && ip addr add {address} dev lan && ip link set lan up"
    ));
    for (number, (machine, address)) in others.iter().enumerate() {
        let other = machine.sleeper.pid();
        first.set_up(&format!(
            "ip link add port{number} type veth peer name cable netns {other} && ip link set port{number} master lan up"
        ));
        machine.set_up(&format!(
            "ip addr add {address} dev cable && ip link set cable up"
        ));
    }
}

/// Makes a file a program that is a script of a shell.
pub fn write_script(file: &Path, text: &str) {
    reveille_tests::write_script(file, &format!("#!/bin/sh\n{text}\n"));
}

/// The script of an installed Ollama that is the stand-in, as it is when it has pulled these models, each `NAME:TAG`, in the
/// home of its user. `options` are of the stand-in.
pub fn ollama(home: &Path, models: &[&str], options: &str) -> String {
    let library = home.join(".ollama/models/manifests/registry.ollama.ai/library");
    for model in models {
        let (name, tag) = model.split_once(':').expect("a tag");
        fs::create_dir_all(library.join(name)).expect("a folder");
        fs::write(library.join(name).join(tag), "{}").expect("a manifest");
    }
    let listed: String = models.iter().map(|model| format!(" --model {model}")).collect();
    format!(
        "[ \"$1\" = serve ] && exec '{}' --imitates ollama --listen \"${{OLLAMA_HOST:-127.0.0.1:11434}}\"{listed} {options}",
        program("stand-in-llm").display()
    )
}

/// A program called `ollama` that is the stand-in, where Ollama would listen.
pub fn install_ollama(machine: &Machine) {
    machine.script(
        "ollama",
        &ollama(machine.folder.path(), &[MODEL], "--boot-delay-ms 300"),
    );
}

/// The project's folder `name`, where the documented commands expect it.
pub fn link(machine: &Machine, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    symlink(folder, machine.folder.path().join(name)).expect("a link");
}
