//! `reveille up` and the NATS server that it keeps: what becomes of one when the other dies.

use rustix::{
    fs::{CWD, Mode, mkfifoat},
    process::{Pid, Signal, kill_process},
};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// A backend that nobody asks: it is published without a recipe.
const CONFIG: &str = "\
[agent]
name = \"box\"

[[provider]]
name = \"idle\"
base_url = \"http://127.0.0.1:9\"
models = [\"m\"]
";

/// A running `reveille up` with a folder of its own.
struct Up {
    process: Child,
    folder: TempDir,
    port: u16,
}

impl Up {
    /// Starts it and waits until it says that it is up.
    fn start(folder: TempDir) -> Self {
        Self::start_with(CONFIG, folder)
    }

    fn start_with(config: &str, folder: TempDir) -> Self {
        let mut up = Self::begin(config, folder);
        wait_until("it said that it is up", || {
            assert!(
                up.process.try_wait().is_ok_and(|exit| exit.is_none()),
                "{}",
                up.log()
            );
            up.log().contains("reveille is up")
        });
        up
    }

    fn begin(config: &str, folder: TempDir) -> Self {
        fs::write(folder.path().join("reveille.toml"), config).expect("a config can be written");
        let log = File::create(folder.path().join("up.log")).expect("a log can be made");
        let port = free_port();
        let process = up(folder.path(), port)
            .stderr(log)
            .spawn()
            .expect("the program can be run");
        Self {
            process,
            folder,
            port,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("up.log")).unwrap_or_default()
    }

    fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
            connection.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"))
    }

    /// What a command about its API does.
    fn ask(&self, args: &[&str]) -> Output {
        let api = format!("http://127.0.0.1:{}", self.port);
        let done = reveille(args).args(["--api", &api]).output();
        done.expect("the program can be run")
    }

    fn events(&self) -> String {
        let listed = self.ask(&["events", "-o", "jsonl"]);
        assert!(
            listed.status.success(),
            "{}",
            String::from_utf8_lossy(&listed.stderr)
        );
        String::from_utf8_lossy(&listed.stdout).into_owned()
    }

    fn nats_server(&self) -> Option<i32> {
        descendants(self.pid()).into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "nats-server")
        })
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a process id")
    }

    /// Ends it by `signal`, waits, and gives its folder back.
    fn end(mut self, signal: Signal) -> (Option<i32>, TempDir) {
        kill(self.pid(), signal);
        let exit = self.process.wait().expect("it ends").code();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        (exit, folder)
    }
}

/// A test that fails must leave nothing; the server ends with its `up`.
impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process that ends with the test, cleanly, so that the next one finds the folder free.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        kill(i32::try_from(self.0.id()).expect("a process id"), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// A process that isn't our child, and is killed with the test.
struct Detached(i32);

impl Drop for Detached {
    fn drop(&mut self) {
        if is_alive(self.0) {
            kill(self.0, Signal::KILL);
        }
    }
}

/// The program without the variables of whoever runs the tests.
fn reveille(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REVEILLE_") {
            command.env_remove(name);
        }
    }
    command.args(args).env("REVEILLE_NATS_SERVER", nats_program());
    command
}

fn up(folder: &Path, port: u16) -> Command {
    let mut command = reveille(&["up", "--listen", &format!("127.0.0.1:{port}")]);
    command
        .arg("--config")
        .arg(folder.join("reveille.toml"))
        .arg("--data-dir")
        .arg(folder.join("data"))
        .stdin(Stdio::null());
    command
}

fn nats_program() -> PathBuf {
    let told = std::env::var_os("REVEILLE_TEST_NATS_SERVER").map(PathBuf::from);
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats/bin/nats-server");
    let program = told.unwrap_or(ours);
    assert!(
        program.exists(),
        "no nats-server: run `cargo xtask test`, which installs it"
    );
    program
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has one").port()
}

fn kill(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// Whether it runs: one that has ended and that nobody has reaped yet doesn't.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|fields| fields.split_whitespace().next());
    state.is_some_and(|state| state != "Z")
}

/// All processes below `pid`.
fn descendants(pid: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("Linux");
    let parents: Vec<(i32, i32)> = processes
        .filter_map(|entry| {
            let child = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
            Some((child, parent))
        })
        .collect();
    let mut family = vec![pid];
    let mut seen = 0;
    while let Some(parent) = family.get(seen).copied() {
        family.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(child, _)| *child),
        );
        seen += 1;
    }
    family.split_off(1)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < SOON, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_server_that_dies_is_started_again_on_its_port_with_its_journal() {
    let up = Up::start(tempfile::tempdir().expect("a folder"));
    let before = up.events();
    assert!(before.contains("ProviderRegistered"), "{before}");
    let first = up.nats_server().expect("a server");
    kill(first, Signal::KILL);
    wait_until("another server ran", || {
        up.nats_server().is_some_and(|pid| pid != first)
    });
    wait_until("the API was ready again", || up.is_ready());
    assert!(up.events().starts_with(&before), "the journal is another one");
    assert_eq!(up.end(Signal::INT).0, Some(0));
}

#[test]
fn a_second_run_on_the_same_data_is_refused_and_after_the_first_one_finds_its_journal() {
    let first = Up::start(tempfile::tempdir().expect("a folder"));
    let before = first.events();
    let second: Output = up(first.folder.path(), free_port())
        .output()
        .expect("it can be run");
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        said.contains(&format!("process {}", first.pid())) && said.contains("--data-dir"),
        "{said}"
    );
    // The port is taken as well, and only the data directory is worth a word.
    let same = up(first.folder.path(), first.port)
        .output()
        .expect("it can be run");
    let said = String::from_utf8_lossy(&same.stderr);
    let data = first.folder.path().join("data").display().to_string();
    for part in [
        format!("and serves http://127.0.0.1:{}: stop it with", first.port),
        format!("`reveille down --data-dir {data}`, or give this one both --data-dir and --listen"),
    ] {
        assert!(said.contains(&part), "{part} is not in: {said}");
    }
    assert!(first.is_ready(), "the first one was disturbed");
    let (exit, folder) = first.end(Signal::TERM);
    assert_eq!(exit, Some(0));
    let again = Up::start(folder);
    assert!(again.events().starts_with(&before), "the journal is another one");
}

#[test]
fn killed_by_minus_nine_it_leaves_no_process_and_the_next_run_goes_on() {
    let first = Up::start(tempfile::tempdir().expect("a folder"));
    let before = first.events();
    let below = descendants(first.pid());
    assert!(below.len() >= 2, "a shim and a server at least: {below:?}");
    let (exit, folder) = first.end(Signal::KILL);
    assert_eq!(exit, None);
    let again = Up::start(folder);
    let left: Vec<_> = below.into_iter().filter(|pid| is_alive(*pid)).collect();
    assert_eq!(
        left,
        [] as [i32; 0],
        "the next run started beside what the first one left"
    );
    assert!(again.events().starts_with(&before), "the journal is another one");
}

#[test]
fn what_a_killed_run_has_published_is_inactive_in_one_without_its_config() {
    let first = Up::start(tempfile::tempdir().expect("a folder"));
    let status = |up: &Up| {
        let listed = up.ask(&["providers", "-o", "jsonl"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        ["down", "inactive"]
            .into_iter()
            .find(|status| text.contains(&format!("\"status\":\"{status}\"")))
    };
    assert_eq!(status(&first), Some("down"));
    let (exit, folder) = first.end(Signal::KILL);
    assert_eq!(exit, None);
    // Its agent has another name, and nothing to publish.
    let again = Up::start_with("[agent]\nname = \"other\"\n", folder);
    assert_eq!(status(&again), Some("inactive"), "{}", again.log());
    assert!(
        again.log().contains("other, whose config has no providers"),
        "{}",
        again.log()
    );
    let (exit, folder) = again.end(Signal::TERM);
    assert_eq!(exit, Some(0));
    let back = Up::start(folder);
    assert_eq!(status(&back), Some("down"), "{}", back.log());
}

#[test]
fn a_token_that_leads_no_other_machine_here_is_not_made_and_this_run_joins_nobody() {
    let up = Up::start(tempfile::tempdir().expect("a folder"));
    let data_dir = up.folder.path().join("data");
    let run = |args: &[&str]| {
        let mut command = reveille(args);
        let done = command
            .arg("--data-dir")
            .arg(&data_dir)
            .stdin(Stdio::null())
            .output();
        let done = done.expect("the program can be run");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (
            done.status.code(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
            said,
        )
    };
    let (code, made, said) = run(&["agent", "token", "nas"]);
    assert_eq!((code, made.as_str()), (Some(1), ""), "{said}");
    assert!(said.contains("start it with `reveille up --agents`"), "{said}");
    let (_, agents, _) = run(&["agent", "list"]);
    assert!(!agents.contains("nas"), "it was invited all the same: {agents}");

    let url = format!("http://127.0.0.1:{}", up.port);
    let (code, made, said) = run(&["agent", "token", "nas", "--hub", &url, "-o", "json"]);
    assert_eq!(code, Some(0), "{said}");
    let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
    let token = made["token"].as_str().expect("a token");
    let (code, _, said) = run(&["join", token, "--ports", "1", "--no-start"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("a `reveille up` runs here with the data directory"),
        "{said}"
    );
    assert!(!data_dir.join("reveille.toml").exists() && !data_dir.join("nas.nk").exists());

    for list in ["llms", "providers", "wakes", "events"] {
        let (code, listed, said) = run(&[list, "--agent", "boxx"]);
        assert_eq!((code, listed.as_str()), (Some(1), ""), "{list}: {said}");
        assert!(
            said.contains("no agent is called `boxx`, did you mean box?"),
            "{list}: {said}"
        );
        let (code, _, said) = run(&[list, "--agent", "box"]);
        assert_eq!(code, Some(0), "{list}: {said}");
    }
    for command in ["forget", "revoke"] {
        let (code, _, said) = run(&["agent", command, "boxx"]);
        assert_eq!(code, Some(1), "{command}: {said}");
        assert!(
            said.contains("no agent is called `boxx`, did you mean box?"),
            "{command}: {said}"
        );
    }
    let (code, _, said) = run(&["agent", "token", "box", "--hub", &url]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("box is this hub's own agent"), "{said}");
    let said = up.folder.path().join("said");
    let mut follows = reveille(&["events", "--follow", "--agent", "boxx", "--data-dir"])
        .arg(&data_dir)
        .stderr(File::create(&said).expect("a file"))
        .spawn()
        .expect("the program can be run");
    let waits = "no agent is called `boxx`, did you mean box?\nwaiting until there is one\n";
    wait_until("it says that it waits", || {
        fs::read_to_string(&said).expect("a file") == waits
    });
    follows.kill().expect("it waits");
    follows.wait().expect("it was killed");
}

#[test]
fn a_detached_backend_has_no_file_of_ours_and_the_next_run_starts_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let written = folder.path().join("pid");
    let script = format!(
        "setsid sleep 1000 & echo $! > {0}.new && mv {0}.new {0}",
        written.display()
    );
    let wake = format!(
        "\n[provider.wake]\ntype = \"command\"\ncommand = \"sh\"\nargs = [\"-c\", \"{script}\"]\nrun = \"detach\"\n\
         max_wait = \"100ms\"\n"
    );
    let first = Up::start_with(&(CONFIG.to_owned() + &wake), folder);
    let api = format!("http://127.0.0.1:{}", first.port);
    // The wake fails, since this backend answers nobody. By then its command has ended: a stop would end what it starts before.
    let woken = reveille(&["wake", "box/idle", "--wait", "--api", &api]).output();
    woken.expect("the program can be run");
    wait_until("the backend was started", || written.exists());
    let pid = fs::read_to_string(&written).expect("a pid");
    let pid: i32 = pid.trim().parse().expect("a number");
    let backend = Detached(pid);
    // Whatever runs the tests may have left it others.
    let opened = fs::read_dir(format!("/proc/{pid}/fd")).expect("Linux");
    let ours: Vec<_> = opened
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|file| file.starts_with(first.folder.path()))
        .collect();
    let (exit, folder) = first.end(Signal::TERM);
    assert_eq!(exit, Some(0));
    let again = Up::start(folder);
    assert!(is_alive(backend.0), "it is gone, so this shows nothing");
    assert!(again.is_ready());
    assert_eq!(ours, [] as [PathBuf; 0]);
}

/// Runs a command in a terminal of its own, and passes on what it prints.
const IN_A_TERMINAL: &str = "import pty, sys; pty.spawn(sys.argv[1:])";

#[test]
fn in_a_terminal_the_banner_comes_first_and_the_log_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, printed) = (folder.path().join("data"), folder.path().join("printed"));
    let mut terminal = reveille(&[]);
    let program = terminal.get_program().to_owned();
    let variables: Vec<_> = terminal
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    terminal = Command::new("python3");
    for (name, value) in variables {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    terminal.args(["-c", IN_A_TERMINAL]).arg(program);
    terminal.args([
        "up",
        "--listen",
        &format!("127.0.0.1:{}", free_port()),
        "--data-dir",
    ]);
    terminal.arg(&data).stdin(Stdio::null());
    terminal.stdout(File::create(&printed).expect("a file"));
    let mut process = terminal.spawn().expect("python3 can be run");
    let said = || fs::read_to_string(&printed).unwrap_or_default();
    wait_until("it said that it is up", || {
        said().contains("Press Ctrl-C to stop")
    });
    let stopped = reveille(&["down", "--data-dir"]).arg(&data).output();
    assert!(stopped.expect("the program can be run").status.success());
    process.wait().expect("it ends");
    let said = said();
    assert!(said.trim_start().starts_with("reveille is up"), "{said}");
    assert!(said.contains("INFO"), "nothing is logged later:\n{said}");
}

#[test]
fn it_is_ready_once_its_own_agent_has_published_its_providers_at_a_restart_too() {
    let mut folder = tempfile::tempdir().expect("a folder");
    for _ in 0..2 {
        let up = Up::begin(CONFIG, folder);
        wait_until("it is ready", || up.is_ready());
        let api = format!("http://127.0.0.1:{}", up.port);
        let listed = reveille(&["providers", "-o", "jsonl", "--api", &api]).output();
        let listed = listed.expect("the program can be run").stdout;
        let listed = String::from_utf8_lossy(&listed);
        assert!(listed.contains("\"status\":\"down\""), "{listed}");
        (_, folder) = up.end(Signal::TERM);
    }
}

#[test]
fn the_config_in_the_working_directory_needs_no_flag() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("reveille.toml"), CONFIG).expect("a config");
    let log = folder.path().join("up.log");
    let data = folder.path().join("data").display().to_string();
    let listen = format!("127.0.0.1:{}", free_port());
    let mut up = reveille(&["up", "--listen", &listen, "--data-dir", &data]);
    up.current_dir(folder.path())
        .stderr(File::create(&log).expect("a log"));
    let _up = Running(up.spawn().expect("the program can be run"));
    wait_until("its provider is published", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("box/idle   down"))
    });
    // It is found without a name here too, and has nothing to test.
    let mut test = reveille(&["recipe", "test", "idle", "--data-dir", &data]);
    let test = test
        .current_dir(folder.path())
        .output()
        .expect("the program can be run");
    let said = String::from_utf8_lossy(&test.stderr);
    assert!(said.contains("no [provider.wake]"), "{said}");
}

#[test]
fn followed_events_end_with_it_and_hold_up_nothing() {
    let up = Up::start(tempfile::tempdir().expect("a folder"));
    let api = format!("http://127.0.0.1:{}", up.port);
    let mut follow = reveille(&["events", "--follow", "--after", "0", "--api", &api]);
    let mut follow = follow
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be run");
    let mut line = String::new();
    let mut events = BufReader::new(follow.stdout.take().expect("it is piped"));
    events.read_line(&mut line).expect("an event comes");
    let _follow = Running(follow);
    let log = up.folder.path().join("up.log");
    let (exit, _folder) = up.end(Signal::TERM);
    assert_eq!(exit, Some(0));
    let said = fs::read_to_string(log).expect("a log");
    assert!(
        !said.contains("cut off requests that did not end in time"),
        "{said}"
    );
}

#[test]
fn status_and_down_find_a_run_by_its_data_directory_and_say_when_there_is_none() {
    let mut up = Up::start(tempfile::tempdir().expect("a folder"));
    let data = up.folder.path().join("data");
    let ask = |command: &str| {
        let asked = reveille(&[command]).env("REVEILLE_DATA_DIR", &data).output();
        let asked = asked.expect("the program can be run");
        let said = String::from_utf8_lossy(&asked.stdout).into_owned();
        (asked.status.code(), said)
    };
    let (code, said) = ask("status");
    let ready = format!("hub      http://127.0.0.1:{}, ready\n", up.port);
    assert!(code == Some(0) && said.starts_with(&ready), "{said}");
    assert!(said.contains("box/idle"), "{said}");
    assert_eq!(ask("down"), (Some(0), "stopped\n".to_owned()));
    assert_eq!(up.process.wait().expect("it ends").code(), Some(0));
    let (code, said) = ask("down");
    assert!(
        code == Some(0) && said.starts_with("no `reveille up` is running"),
        "{said}"
    );
    // Somebody's own hub may be at the usual address.
    if TcpListener::bind("127.0.0.1:8420").is_err() {
        return;
    }
    let (code, said) = ask("status");
    assert!(
        code == Some(1) && said.contains("start it with `reveille up`"),
        "{said}"
    );
}

#[test]
fn a_store_that_is_gone_is_not_replaced_by_an_empty_one_unless_it_is_told_so() {
    let first = Up::start(tempfile::tempdir().expect("a folder"));
    let (exit, folder) = first.end(Signal::TERM);
    assert_eq!(exit, Some(0));
    fs::remove_dir_all(folder.path().join("data/nats")).expect("the journal is lost");
    let log = folder.path().join("again.log");
    let run = |told: &[&str]| {
        let mut command = up(folder.path(), free_port());
        command
            .args(told)
            .stderr(File::create(&log).expect("a log can be made"));
        let process = command.spawn().expect("the program can be run");
        Running(process)
    };
    let waiting = run(&[]);
    let said = |words: &str| fs::read_to_string(&log).is_ok_and(|text| text.contains(words));
    wait_until("it said that the journal is lost", || {
        said("is gone, although one was begun in")
    });
    drop(waiting);
    let _told = run(&["--new-journal"]);
    wait_until("it said that it is up", || said("reveille is up"));
}

/// Nothing in the files has been read by then, but the terminal may be gone already.
#[test]
fn sighup_ends_no_service_that_only_just_begins() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = folder.path().join("certificate.pem");
    let (data, listen) = (folder.path().join("data"), format!("127.0.0.1:{}", free_port()));
    let data = ["up", "--data-dir", data.to_str().expect("UTF-8")];
    for command in [&data[..], &["api"]] {
        let _ = fs::remove_file(&certificate);
        mkfifoat(CWD, &certificate, Mode::RUSR | Mode::WUSR).expect("a pipe");
        let mut begins = reveille(command);
        begins
            .args([
                "--nats",
                "nats://192.0.2.1:1",
                "--allow-plaintext",
                "--listen",
                &listen,
            ])
            .arg("--tls-cert")
            .arg(&certificate)
            .arg("--tls-key")
            .arg(&certificate);
        begins.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut begins = begins.spawn().expect("the program can be run");
        let mut said = BufReader::new(begins.stderr.take().expect("a pipe")).lines();
        // Next it waits for somebody to write the certificate.
        let warned = said.find(|line| line.as_ref().is_ok_and(|line| line.contains("has no TLS")));
        assert!(warned.is_some(), "{command:?} ended");
        kill(i32::try_from(begins.id()).expect("a process id"), Signal::HUP);
        // Opened for both, since nobody may be left who reads.
        let written = File::options().read(true).write(true).open(&certificate);
        let ended = begins.wait().expect("it ends");
        drop(written);
        assert_eq!(ended.code(), Some(2), "{command:?}: {ended}");
    }
}

#[test]
fn it_serves_and_stops_although_the_reader_of_its_log_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("reveille.toml"), CONFIG).expect("a config can be written");
    let (reader, log) = std::io::pipe().expect("a pipe");
    let port = free_port();
    let process = up(folder.path(), port).stderr(log).spawn();
    let mut up = Up {
        process: process.expect("the program can be run"),
        folder,
        port,
    };
    drop(reader);
    wait_until("the API was ready", || up.is_ready());
    kill(up.pid(), Signal::TERM);
    let mut exit = None;
    wait_until("it ended", || {
        exit = up.process.try_wait().expect("it is our child");
        exit.is_some()
    });
    assert_eq!(exit.and_then(|exit| exit.code()), Some(0));
}
