//! `reveille init` beside imitations of the servers that people have: what it writes, tries and says for each.

use reveille_tests::{Backend, Exit, Port, Process, SOON, is_alive, program, wait_until};
use std::fs;

use crate::{
    docs::blocks_of,
    init::{Machine, pids},
    machine::{ollama, write_script},
};

/// What is said or written, and what is not.
type Parts<'a> = (&'a [&'a str], &'a [&'a str]);

impl Machine {
    /// A program in its `PATH` that is a script of a shell.
    fn script(&self, name: &str, script: &str) {
        write_script(&self.folder().join("programs").join(name), script);
    }

    /// An installed Ollama that has pulled these models, each `NAME:TAG`.
    fn install_ollama(&self, models: &[&str], before: &str) {
        let log = format!("--log {}", self.folder().join("ollama.jsonl").display());
        let serve = ollama(&self.home(), models, &log);
        self.script("ollama", &format!("{before}\n{serve}"));
    }

    /// What a run of `init` with these arguments says, which are for this port.
    async fn says(&self, port: u16, args: &[&str], code: i32) -> String {
        let port_text = port.to_string();
        let all = ["--config", &self.file, "--ports", &port_text];
        let launch = self.world.reveille("init").args(all).args(args);
        let launch = launch.env("PATH", &self.path).env("HOME", self.home());
        let process = launch.env("OLLAMA_HOST", format!("127.0.0.1:{port}")).start();
        let exit = process.wait_for_exit(SOON).await;
        assert_eq!(exit, Exit::Code(code), "{}", process.log());
        process.log()
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).expect("the file")
    }

    /// The processes that a stand-in's log names.
    fn pids_of(&self, log: &str) -> Vec<u32> {
        pids(&self.folder().join(log))
    }

    /// A program that listens on a port.
    async fn listening(&self, name: &str, args: &[&str], port: &Port) -> Process {
        let listen = port.address().to_string();
        let process = self.start(name, &[args, &["--listen", &listen]].concat());
        wait_until("it listened", SOON, async || {
            tokio::net::TcpStream::connect(port.address()).await.ok()
        })
        .await;
        process
    }
}

fn has(text: &str, (parts, others): Parts<'_>) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    for other in others {
        assert!(!text.contains(other), "{other:?} is in:\n{text}");
    }
}

/// A run as a page shows it: without times, and with the test's addresses, folders and columns in the page's form.
fn as_documented(said: &str, from: &[(&str, &str)]) -> Vec<String> {
    let said = from
        .iter()
        .fold(said.to_owned(), |said, (from, to)| said.replace(from, to));
    let lines = said.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_time = |word: &str| word.contains('.') && word.parse::<f64>().is_ok();
        let words = words.iter().map(|word| if is_time(word) { "TIME" } else { word });
        words.collect::<Vec<_>>().join(" ")
    });
    lines.filter(|line| !line.is_empty()).collect()
}

#[tokio::test]
async fn an_installed_ollama_is_started_tried_and_stopped_again() {
    let machine = Machine::with(&[]).await;
    machine.install_ollama(&["qwen2.5:7b"], "");
    let port = Port::claim();
    let number = port.number();
    let said = machine.says(number, &["--yes"], 0).await;
    let [documented] = blocks_of("an_installed_ollama_is_started_tried_and_stopped_again");
    let (command, shown) = documented.split_once('\n').expect("an answer");
    assert_eq!(command, "$ reveille init --yes");
    let address = format!("127.0.0.1:{number}:");
    let usual = "127.0.0.1:11434 (Ollama's usual port):";
    let from = [
        (machine.file.as_str(), "reveille.toml"),
        (address.as_str(), usual),
    ];
    let expected: Vec<_> = as_documented(shown, &[]);
    let others = ["127.0.0.1:8000", "127.0.0.1:8080", "127.0.0.1:1234"];
    let expected: Vec<_> = expected
        .into_iter()
        .filter(|line| !others.iter().any(|other| line.starts_with(other)))
        .collect();
    assert_eq!(as_documented(&said, &from), expected);
    let host = format!("env = {{ OLLAMA_HOST = \"127.0.0.1:{number}\" }}");
    let written = [
        "models = [\"qwen2.5:7b\"]",
        "run = \"serve\"",
        "args = [\"serve\"]",
        &host,
    ];
    has(&machine.text(), (&written, &[]));
    let tried = machine.pids_of("ollama.jsonl");
    assert!(tried.len() == 1 && !is_alive(tried[0]), "{tried:?}");

    let up = machine.up().await;
    up.wait_for_status(&machine.row("qwen2.5:7b"), "hibernating", SOON)
        .await;
    assert_eq!(up.chat("qwen2.5:7b").await.status, 200);
    assert_eq!(machine.pids_of("ollama.jsonl").len(), 2);
}

#[tokio::test]
async fn without_a_terminal_and_without_yes_nothing_is_tried() {
    let machine = Machine::with(&[]).await;
    machine.install_ollama(&["qwen2.5:7b"], "");
    let port = Port::claim();
    let said = machine.says(port.number(), &[], 0).await;
    let test = format!("run `reveille recipe test ollama --config {}`", machine.file);
    has(&said, (&["Next: reveille up", &test], &["Trying", "[Y/n]"]));
    assert!(machine.pids_of("ollama.jsonl").is_empty());
    let tested = machine
        .run("recipe", &["test", "ollama", "--config", &machine.file])
        .await;
    assert!(tested.contains("ok: ollama was awake"), "{tested}");
}

#[tokio::test]
async fn a_recipe_that_fails_is_written_and_its_last_words_are_shown() {
    let machine = Machine::with(&[]).await;
    machine.install_ollama(&["qwen2.5:7b"], "echo loading; echo no GPU here >&2; exit 3");
    let port = Port::claim();
    let said = machine.says(port.number(), &["--yes"], 1).await;
    let parts = [
        "| no GPU here",
        "`ollama` doesn't work yet: wake: probe: the served command exited with code 3",
        "was written, but doesn't work yet: ollama. Correct it, and run `reveille recipe test ollama",
    ];
    has(&said, (&parts, &["Next: reveille up"]));
    assert!(machine.text().contains("run = \"serve\""));
}

#[tokio::test]
async fn a_trial_that_is_stopped_leaves_nothing_running() {
    let machine = Machine::with(&[]).await;
    let pid = machine.folder().join("pid");
    let endless = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000",
        pid.display()
    );
    machine.install_ollama(&["qwen2.5:7b"], &endless);
    let port = Port::claim();
    let launch = machine
        .world
        .reveille("init")
        .args(["--yes", "--config", &machine.file]);
    let launch = launch.env("PATH", &machine.path).env("HOME", machine.home());
    let launch = launch.env("OLLAMA_HOST", port.address().to_string());
    let process = launch.args(["--ports", &port.number().to_string()]).start();
    let child = wait_until("it was started", SOON, async || {
        fs::read_to_string(&pid).ok()?.trim().parse::<u32>().ok()
    })
    .await;
    process.stop(SOON).await;
    assert!(!is_alive(child), "{}", process.log());
    has(
        &process.log(),
        (&["ended what the recipe had started"], &["Next:", "doesn't work"]),
    );
}

#[tokio::test]
async fn a_running_server_is_stopped_for_its_trial_only_when_told() {
    for (name, imitates, provider, notes) in [
        (
            "llama-server",
            "llama-cpp",
            "llama-cpp",
            "probe = { path = \"/health\" }",
        ),
        (
            "vllm",
            "vllm-without-sleep-mode",
            "vllm",
            "VLLM_SERVER_DEV_MODE=1",
        ),
    ] {
        let machine = Machine::with(&[name]).await;
        let port = Port::claim();
        fs::write(machine.folder().join("server.jsonl"), "").expect("a file");
        let args = [
            "--imitates",
            imitates,
            "--model",
            "/models/Qwen3-8B-Q4_K_M.gguf",
            "--log",
            "server.jsonl",
        ];
        let server = machine.listening(name, &args, &port).await;
        let said = machine.says(port.number(), &["--yes"], 0).await;
        let stop = format!("stop process {} (`kill", server.pid());
        has(&said, (&[&stop], &["Trying"]));
        let command = format!("command = \"{name}\"");
        let short = "{ id = \"/models/Qwen3-8B-Q4_K_M.gguf\", as = \"Qwen3-8B-Q4_K_M\" }";
        has(
            &machine.text(),
            (&[&command, notes, short, "--listen"], &["# [provider.wake]"]),
        );
        assert!(is_alive(server.pid()));

        let said = machine
            .says(port.number(), &["--yes", "--try", "--force"], 0)
            .await;
        let stopped = format!("stopped process {}", server.pid());
        let works = format!("`{provider}` works: it was awake after");
        has(
            &said,
            (
                &[&stopped, &works, "and was stopped again"],
                &["To try", "doesn't work"],
            ),
        );
        let pids = machine.pids_of("server.jsonl");
        assert!(
            pids.len() == 2 && !pids.iter().any(|pid| is_alive(*pid)),
            "{pids:?}"
        );
    }
}

/// The port of a backend.
fn port_of(backend: &Backend) -> u16 {
    let url = backend.url();
    url.rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port")
}

#[tokio::test]
async fn what_sleeps_over_http_is_put_to_sleep_for_its_trial_only_when_told() {
    for (imitates, model, provider, puts_to_sleep) in [
        ("vllm", "Qwen/Qwen3-8B", "vllm", "sleep"),
        ("ollama", "qwen2.5:7b", "ollama", "unload"),
    ] {
        let machine = Machine::with(&[]).await;
        let backend = machine.world.backend(&["--imitates", imitates, "--model", model]);
        backend.start_and_wait().await;
        let test = format!("run `reveille recipe test {provider}");
        let said = machine.says(port_of(&backend), &["--yes"], 0).await;
        has(&said, (&[&test], &["Trying"]));
        assert_eq!(backend.log().of(puts_to_sleep).count(), 0);
        let said = machine
            .says(port_of(&backend), &["--yes", "--try", "--force"], 0)
            .await;
        let works = format!("`{provider}` works: it slept, and was awake after");
        // An Ollama that has loaded nothing is asleep already.
        let works = if provider == "ollama" {
            "`ollama` works: it was awake after"
        } else {
            &works
        };
        has(&said, (&[works, "is left awake"], &["To try", "doesn't work"]));
        assert_eq!(backend.log().starts(), 1);
        assert_eq!(
            backend.log().of(puts_to_sleep).count(),
            usize::from(provider == "vllm")
        );
        has(
            &machine.text(),
            (&["type = \"http\""], &["# [provider.wake]\n# type = \"http\""]),
        );
    }
}

#[tokio::test]
async fn lm_studio_is_tried_by_its_own_command_whether_it_runs_or_not() {
    let machine = Machine::with(&["lm-studio"]).await;
    let port = Port::claim();
    let [log, pid] = ["lms.jsonl", "lms.pid"].map(|name| machine.folder().join(name).display().to_string());
    let server = format!(
        "{} --imitates lm-studio --model qwen3-8b --listen {} --log {log}",
        program("stand-in-llm").display(),
        port.address()
    );
    machine.script(
        "lms",
        &format!(
            "case \"$*\" in\n  \"server start --port {}\") setsid {server} & echo $! > {pid} ;;\n  \"server stop\") kill $(cat {pid}) ;;\n  \
             *) exit 5 ;;\nesac",
            port.number()
        ),
    );
    let said = machine.says(port.number(), &["--yes"], 0).await;
    has(
        &said,
        (
            &[
                "LM Studio is installed and doesn't run",
                "`lm-studio` works: it was awake after",
                "is left awake",
            ],
            &[],
        ),
    );
    has(
        &machine.text(),
        (&["run = \"detach\"", "\"server\", \"stop\""], &["models ="]),
    );

    // Nothing that a test's process has started outlives it, so this is another one.
    let args = ["--imitates", "lm-studio", "--model", "qwen3-8b"];
    let server = machine.listening("lm-studio", &args, &port).await;
    fs::write(&pid, server.pid().to_string()).expect("a file");
    let said = machine
        .says(port.number(), &["--yes", "--try", "--force"], 0)
        .await;
    has(
        &said,
        (
            &[
                "LM Studio; lists qwen3-8b",
                "`lm-studio` works: it slept, and was awake after",
            ],
            &[],
        ),
    );
    assert_eq!(machine.pids_of("lms.jsonl").len(), 2);
    assert!(!is_alive(server.pid()));
}

#[tokio::test]
async fn a_model_file_is_served_by_an_installed_llama_server_under_the_name_of_the_file() {
    let machine = Machine::with(&[]).await;
    let log = machine.folder().join("llama.jsonl").display().to_string();
    // --model FILE --alias NAME --host HOST --port PORT
    let script = format!(
        "[ \"$1 $3\" = \"--model --alias\" ] && exec {} --imitates llama-cpp --model \"$4\" --listen \"$6:$8\" --log {log}",
        program("stand-in-llm").display()
    );
    machine.script("llama-server", &script);
    let file = machine.folder().join("Qwen3-8B-Q4_K_M.gguf");
    let header = [b"GGUF".as_slice(), &3_u32.to_le_bytes(), &[0; 16]].concat();
    fs::write(&file, header).expect("a file");
    let port = Port::claim();
    let said = machine
        .says(
            port.number(),
            &["--yes", "Qwen3-8B-Q4_K_M.gguf", "./Qwen3-8B-Q4_K_M.gguf"],
            0,
        )
        .await;
    has(
        &said,
        (
            &["with Qwen3-8B-Q4_K_M", "`llama-cpp` works: it was awake after"],
            &[],
        ),
    );
    let path = format!("\"--model\", {:?}", file.display().to_string());
    has(
        &machine.text(),
        (&[&path, "models = [\"Qwen3-8B-Q4_K_M\"]"], &["as ="]),
    );
    let up = machine.up().await;
    up.wait_for_status(&machine.row("Qwen3-8B-Q4_K_M"), "hibernating", SOON)
        .await;
    assert_eq!(up.chat("Qwen3-8B-Q4_K_M").await.status, 200);

    let said = machine
        .says(port.number(), &["--force", "reveille.toml"], 2)
        .await;
    assert!(said.contains("reveille.toml isn't a GGUF file"), "{said}");
}

/// Runs a command at a terminal of its own and gives it the next line whenever it asks.
pub const AT_A_TERMINAL: &str = r"
import os, pty, sys
lines = sys.argv[1].split(',')
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
shown = b''
while True:
    try:
        part = os.read(terminal, 65536)
    except OSError:
        break
    if not part:
        break
    shown += part
    while shown.count(b'[Y/n] ') + shown.count(b'[y/N] ') > len(sys.argv[1].split(',')) - len(lines) and lines:
        os.write(terminal, lines.pop(0).encode() + b'\n')
sys.stdout.write(shown.decode())
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

#[tokio::test]
async fn at_a_terminal_each_step_is_asked_for() {
    let machine = Machine::with(&[]).await;
    machine.install_ollama(&["qwen2.5:7b"], "");
    let port = Port::claim();
    let number = port.number().to_string();
    let asked = async |answers: &str| {
        let launch = machine.world.reveille("init");
        let args = ["--config", &machine.file, "--force", "--ports", &number];
        let launch = launch
            .args(args)
            .env("PATH", &machine.path)
            .env("HOME", machine.home());
        let launch = launch.env("OLLAMA_HOST", port.address().to_string());
        let process = launch.under("python3", &["-c", AT_A_TERMINAL, answers]).start();
        assert_eq!(
            process.wait_for_exit(SOON).await,
            Exit::Code(0),
            "{}",
            process.log()
        );
        process.log()
    };
    let wrote = || fs::exists(&machine.file).expect("a folder");
    has(
        &asked("n").await,
        (
            &["Add `ollama` (Ollama)? [Y/n] n", "nothing was written"],
            &["Write"],
        ),
    );
    assert!(!wrote());
    has(
        &asked("y,n").await,
        (&["Nothing was written"], &["Start `ollama`"]),
    );
    assert!(!wrote());
    has(
        &asked("y,y,n").await,
        (
            &["Start `ollama` now", "Next: reveille up", "To try `ollama`"],
            &["Trying"],
        ),
    );
    assert!(wrote() && machine.pids_of("ollama.jsonl").is_empty());
    has(
        &asked(",,").await,
        (
            &["`ollama` works: it was awake after", "Next: reveille up"],
            &["To try"],
        ),
    );
    assert_eq!(machine.pids_of("ollama.jsonl").len(), 1);
}

#[tokio::test]
async fn a_machine_without_backends_is_told_how_to_add_one() {
    let machine = Machine::with(&[]).await;
    let port = Port::claim();
    let said = machine.says(port.number(), &["--yes"], 0).await;
    let parts = [
        "looked for servers on the ports",
        "`ollama`, `llama-server`, `vllm` and `lms` in PATH",
        "start it and run `reveille init --force",
        "MODEL.gguf`",
    ];
    has(&said, (&parts, &["reveille up"]));
    machine.run("config", &["check", &machine.file]).await;
}
