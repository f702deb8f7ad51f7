//! A hub and an agent that share nothing but a network: two network namespaces, joined by a cable, and the commands and
//! the config of docs/operations.md, word by word.
//!
//! The namespaces have no name and live as long as a process that only sleeps in each, so that they end with the test,
//! however it ends. No traffic leaves them.

use reveille_tests::{Exit, Folder, Launch, Process, nats_server, program, wait_until};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
};

use crate::scene::SOON;

/// The chapter that is followed.
const CHAPTER: &str = "\n## Two machines\n";
const HUB: &str = "192.0.2.1/24";
const GPU_BOX: &str = "192.0.2.2/24";
const MODEL: &str = "qwen2.5:7b";

/// A machine, as far as its network goes, and a folder to work in.
struct Machine {
    sleeper: Process,
    folder: Folder,
}

impl Machine {
    /// A machine with nothing but loopback.
    async fn new() -> Self {
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

    fn set_up(&self, line: &str) {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
    }

    /// Runs a line to its end.
    fn run(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.args(self.entered()).args(["sh", "-c", line]);
        command
            .env("PATH", path(self.folder.path()))
            .current_dir(self.folder.path());
        command.output().expect("nsenter runs")
    }

    /// Starts a line that goes on.
    fn start(&self, name: &str, line: &str) -> Process {
        Launch::new("nsenter", self.folder.path().join(format!("{name}.log")))
            .args(self.entered())
            .args(["sh", "-c", &format!("exec env {line}")])
            .env("PATH", path(self.folder.path()))
            .env("HOME", self.folder.path().display().to_string())
            .env("NO_COLOR", "1")
            .folder(self.folder.path())
            .start()
    }

    async fn prints(&self, line: &str, expected: &str) -> String {
        wait_until(&format!("`{line}` printed {expected}"), SOON, async || {
            let printed = String::from_utf8_lossy(&self.run(line).stdout).into_owned();
            printed.contains(expected).then_some(printed)
        })
        .await
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

/// The blocks of the chapter that are marked with `language`.
fn blocks(language: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/operations.md")).expect("the page");
    let (_, chapter) = page.split_once(CHAPTER).expect("the chapter");
    let chapter = chapter.split("\n## ").next().unwrap_or_default();
    let fence = format!("\n```{language}\n");
    let begun = chapter.split(fence.as_str()).skip(1);
    begun
        .map(|block| block.split("\n```").next().unwrap_or_default().to_owned())
        .collect()
}

fn lines(block: &str) -> [&str; 2] {
    let lines: Vec<_> = block.lines().collect();
    lines.try_into().expect("two commands")
}

/// What keeps this machine from playing two.
fn obstacle() -> Option<String> {
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

/// Puts a cable between two machines.
fn join(hub: &Machine, gpu_box: &Machine) {
    let other = gpu_box.sleeper.pid();
    hub.set_up(&format!(
        "ip link add cable type veth peer name cable netns {other}"
    ));
    for (machine, address) in [(hub, HUB), (gpu_box, GPU_BOX)] {
        machine.set_up(&format!(
            "ip addr add {address} dev cable && ip link set cable up"
        ));
    }
}

/// A program called `ollama` that is the stand-in, where Ollama would listen.
fn install_ollama(machine: &Machine) {
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

#[tokio::test]
async fn a_hub_wakes_a_backend_on_another_machine_by_the_documented_commands() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let [on_hub, on_gpu_box, anywhere]: [String; 3] = blocks("sh").try_into().expect("three blocks");
    let [config]: [String; 1] = blocks("toml").try_into().expect("one config");
    let (hub, gpu_box) = (Machine::new().await, Machine::new().await);
    join(&hub, &gpu_box);
    let nats_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nats");
    symlink(nats_folder, hub.folder.path().join("nats")).expect("a link");
    install_ollama(&gpu_box);
    fs::write(gpu_box.folder.path().join("agent.toml"), &config).expect("a config");

    let [nats, up] = lines(&on_hub);
    let _nats = hub.start("nats", nats);
    let up = hub.start("up", up);
    let agent = gpu_box.start("agent", &on_gpu_box);
    let [llms, curl] = lines(&anywhere);
    let printed = gpu_box.prints(llms, "hibernating").await;
    assert!(printed.contains(&format!("gpu-box/{MODEL}")), "{printed}");

    let answer = gpu_box.run(&format!("{curl} --silent --show-error --max-time 30"));
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(said.contains("token-0"), "{said}\n{}\n{}", up.log(), agent.log());
    hub.prints(llms, "active").await;
    let events = hub.run("reveille events --api http://192.0.2.1:8420 -o jsonl");
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(
        events.contains("WakeRequested") && events.contains("WakeSucceeded"),
        "{events}"
    );

    assert_eq!(agent.stop(SOON).await, Exit::Code(0), "{}", agent.log());
    assert_eq!(up.stop(SOON).await, Exit::Code(0), "{}", up.log());
}

#[tokio::test]
async fn an_agent_refuses_plaintext_to_another_machine_unless_its_config_allows_it() {
    let [config]: [String; 1] = blocks("toml").try_into().expect("one config");
    let folder = Folder::new();
    let file = folder.path().join("agent.toml");
    fs::write(&file, config.replace("allow_plaintext = true\n", "")).expect("a config");
    let agent = Launch::new(program("reveille"), folder.path().join("agent.log"));
    let agent = agent.args(["agent", "--config"]).arg(&file).start();
    assert_eq!(agent.wait_for_exit(SOON).await, Exit::Code(2), "{}", agent.log());
    assert!(agent.log().contains("allow_plaintext"), "{}", agent.log());
}
