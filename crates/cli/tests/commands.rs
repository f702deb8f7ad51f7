//! The program as a person or a supervisor sees it: what it prints and the code it ends with.

use reveille_bus::archive::{ArchiveWriter, ArchivedCommit};
use std::{
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output},
};
use tempfile::TempDir;

const GOOD: &str = "\
[agent]
name = \"gpu-box\"

[[provider]]
name = \"vllm\"
base_url = \"http://127.0.0.1:8000\"
models = [\"qwen3-8b\"]

[provider.wake]
type = \"http\"
url = \"http://127.0.0.1:8000/wake_up\"
max_wait = \"60s\"
";

/// Runs the program without the variables of whoever runs the tests.
fn reveille(args: &[&str]) -> Output {
    clean().args(args).output().expect("the program can be run")
}

fn clean() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REVEILLE_") {
            command.env_remove(name);
        }
    }
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn config(folder: &TempDir, text: &str) -> String {
    let path: PathBuf = folder.path().join("reveille.toml");
    std::fs::write(&path, text).expect("a config can be written");
    path.display().to_string()
}

/// A port on which nothing listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has one").port()
}

#[test]
fn help_names_every_command_and_the_exit_codes_but_not_what_nobody_types() {
    let help = reveille(&["--help"]);
    assert_eq!(code(&help), 0);
    let said = out(&help);
    for part in [
        "up",
        "api",
        "agent",
        "projector",
        "llms",
        "providers",
        "wakes",
        "wake",
        "sleep",
        "events",
        "init",
        "recipe",
        "doctor",
        "config",
        "Examples:",
        "REVEILLE_NATS_URL",
        "Exit codes:",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert!(!said.contains("shim"), "{said}");
}

#[test]
fn a_command_that_is_none_is_a_usage_error() {
    assert_eq!(code(&reveille(&["sing"])), 2);
    assert_eq!(code(&reveille(&[])), 2);
    assert_eq!(code(&reveille(&["api"])), 2, "without --nats");
}

#[test]
fn a_good_config_is_ok_and_says_what_it_publishes() {
    let folder = tempfile::tempdir().unwrap();
    let checked = reveille(&["config", "check", &config(&folder, GOOD)]);
    assert_eq!(code(&checked), 0, "{}", err(&checked));
    assert!(
        out(&checked).starts_with("ok: agent gpu-box with 1 provider\n"),
        "{}",
        out(&checked)
    );
}

/// A file with one commit, of an event that is named like this.
fn archive(folder: &TempDir, event: &str) -> String {
    let commit = serde_json::json!({
        "v": 1, "aggregate_version": 1, "first_event_seq": 1, "command_id": "00000000-0000-7000-8000-000000000000",
        "at_ms": 1, "cause": "test", "events": [{"type": event, "version": "1", "data": {}}], "state_version": 1, "state": {},
    });
    let file = folder.path().join("journal.jsonl");
    let created = std::fs::File::create(&file).expect("a file");
    let mut archive = ArchiveWriter::new(created, 1).expect("written");
    let subject = "reveille.events.agent.box".to_owned();
    let commit = ArchivedCommit::new(1, subject, vec![], commit.to_string().into(), None);
    archive.write(&commit).expect("written");
    archive.finish().expect("written");
    file.display().to_string()
}

#[test]
fn an_event_of_a_newer_version_may_have_any_name_and_moves_no_cursor() {
    let folder = tempfile::tempdir().unwrap();
    let stats = reveille(&["journal", "stats", &archive(&folder, "\u{1b}[2J\u{202e}x")]);
    assert_eq!(code(&stats), 0, "{}", err(&stats));
    let said = out(&stats);
    assert!(said.contains(r"\u001b[2J\u202ex"), "{said}");
    assert!(!said.contains(['\u{202e}', '\u{1b}']), "{said:?}");
}

#[test]
fn what_a_terminal_would_obey_is_escaped_in_errors_and_checks() {
    let folder = tempfile::tempdir().unwrap();
    let turned = GOOD.replace("http://127.0.0.1:8000\"", "unix:///run/\u{202e}x.sock\"");
    let check = reveille(&["config", "check", &config(&folder, &turned)]);
    assert_eq!(code(&check), 0, "{}", err(&check));
    assert!(
        out(&check).contains(r"unix:///run/\u202ex.sock"),
        "{}",
        out(&check)
    );
    for args in [
        &["wakes", "--sort", "\u{202e}x"][..],
        &["\u{1b}[31m\u{202e}x"],
        &["up", "--listen", "\u{202e}x"],
    ] {
        let refused = reveille(args);
        assert_eq!(code(&refused), 2);
        let said = err(&refused);
        assert!(said.contains(r"\u202ex") && said.contains("error: "), "{said}");
        assert!(!said.contains(['\u{202e}', '\u{1b}']), "{said:?}");
    }
    let mut help = clean();
    let help = help
        .args(["config", "check", "--help"])
        .env("REVEILLE_CONFIG", "\u{202e}x");
    let help = help.output().expect("the program can be run");
    assert_eq!(code(&help), 0);
    assert!(out(&help).contains(r"REVEILLE_CONFIG=\u202ex"), "{}", out(&help));
}

#[test]
fn a_bad_config_is_answered_with_file_line_key_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, &GOOD.replace("max_wait = \"60s\"", "max_wait = \"-1s\""));
    for args in [&["config", "check", &file][..], &["up", "--config", &file]] {
        let checked = reveille(args);
        assert_eq!(code(&checked), 2, "{args:?}");
        let said = err(&checked);
        assert!(
            said.contains(&format!("{file}:12: provider[0].wake.max_wait: ")),
            "{said}"
        );
    }
}

#[test]
fn an_api_that_is_not_there_is_named_with_the_flag_for_another() {
    let url = format!("http://127.0.0.1:{}", closed_port());
    for args in [
        &["llms"][..],
        &["providers"],
        &["wakes"],
        &["events"],
        &["events", "--follow"],
        &["wake", "a/b"],
        &["sleep", "a/b"],
    ] {
        let asked = reveille(&[args, &["--api", &url]].concat());
        assert_eq!(code(&asked), 1, "{args:?}");
        let said = err(&asked);
        assert!(said.contains(&url) && said.contains("--api"), "{args:?}: {said}");
        assert_eq!(out(&asked), "");
    }
}

/// A server on loopback that answers each connection with these bytes, by the first byte of what it gets.
fn server(answer: fn(u8) -> &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it has one").port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            let mut first = [0; 2048];
            if connection.read(&mut first).is_ok_and(|read| read > 0) {
                let _ = connection.write_all(answer(first[0]));
            }
        }
    });
    port
}

/// How the greeting of TLS begins.
const GREETING: u8 = 0x16;
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\nconnection: close\r\n\r\nnot found";

#[test]
fn an_api_that_speaks_otherwise_or_is_none_is_told_with_what_to_use() {
    let http = server(|_| NOT_FOUND);
    // An alert, `handshake failure`.
    let tls = server(|first| {
        if first == GREETING {
            &[0x15, 3, 1, 0, 2, 2, 40]
        } else {
            b""
        }
    });
    let (http, https) = (format!("127.0.0.1:{http}"), format!("127.0.0.1:{tls}"));
    for command in ["status", "llms", "health", "doctor"] {
        for (api, said) in [
            (format!("https://{http}"), format!("--api http://{http}")),
            (format!("http://{https}"), format!("--api https://{https}")),
            (
                format!("http://{http}"),
                "is not Reveille's API: it answered 404".to_owned(),
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let data = folder.path().display().to_string();
            let asked = reveille(&[command, "--api", &api, "--data-dir", &data]);
            assert_eq!(code(&asked), 1, "{command} {api}");
            let all = out(&asked) + &err(&asked);
            assert!(all.contains(&said), "{command} {api}: {all}");
        }
    }
}

#[test]
fn whatever_tells_something_tells_it_as_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, GOOD);
    let data = folder.path().join("data").display().to_string();
    std::fs::create_dir_all(folder.path().join("data/agent")).unwrap();
    let in_use = folder.path().join("data/agent/in-use");
    std::fs::write(in_use, "").unwrap();
    let json = |args: &[&str], expected: i32| -> serde_json::Value {
        let told = reveille(&[args, &["-o", "json"]].concat());
        assert_eq!(code(&told), expected, "{args:?}: {}", err(&told));
        serde_json::from_str(&out(&told)).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", out(&told)))
    };
    let checked = json(&["config", "check", &file], 0);
    assert_eq!(checked["providers"][0]["wake_budget_s"], 90, "{checked}");
    let shown = json(&["config", "show", &file], 0);
    let models = shown
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["key"] == "provider[0].models");
    assert_eq!(models.expect("they are shown")["value"][0], "qwen3-8b");
    let bad = config(
        &folder,
        &GOOD.replace("base_url", "baseurl").replace("60s", "soon"),
    );
    let wrong = json(&["config", "check", &bad], 2);
    assert_eq!(
        wrong["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| &error["line"])
            .collect::<Vec<_>>(),
        [6, 12],
        "{wrong}"
    );
    let paused = json(&["agent", "pause", "--for", "2h", "--data-dir", &data], 0);
    assert!(
        paused["until_ms"].is_u64() && paused["agent_running"] == false,
        "{paused}"
    );
    let resumed = json(&["agent", "resume", "--data-dir", &data], 0);
    assert_eq!(resumed["was_paused"], true, "{resumed}");
    assert_eq!(json(&["down", "--data-dir", &data], 0)["stopped"], false);
    assert_eq!(json(&["logs", "--data-dir", &data], 0), serde_json::json!([]));
    let good = config(
        &folder,
        &GOOD
            .replace("8000", &closed_port().to_string())
            .replace("60s", "1s"),
    );
    let tried = json(
        &["recipe", "test", "vllm", "--config", &good, "--data-dir", &data],
        1,
    );
    assert_eq!(tried["outcome"], "failed", "{tried}");
    assert_eq!(tried["stages"][0]["phase"], "before", "{tried}");
}

#[test]
fn a_taken_port_is_named_before_anything_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = reveille(&[
        "up",
        "--listen",
        &address.to_string(),
        "--data-dir",
        &data.display().to_string(),
    ]);
    assert_eq!(code(&up), 1);
    let said = err(&up);
    let own = format!("(process {}): stop it, or use --listen", std::process::id());
    assert!(
        said.contains(&format!("port {} (--listen) is taken by `", address.port())) && said.contains(&own),
        "{said}"
    );
    assert!(!data.exists(), "something was started before");
}

#[test]
fn other_machines_are_served_over_tls_or_by_a_flag_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.display().to_string();
    let services: [&[&str]; 2] = [
        &["api", "--nats", "nats://127.0.0.1:1"],
        &["up", "--data-dir", &data],
    ];
    for service in services {
        let refused = reveille(&[service, &["--listen", "0.0.0.0:0"]].concat());
        assert_eq!(code(&refused), 2, "{service:?}");
        for flag in [
            "--listen 0.0.0.0:0",
            "--tls-cert",
            "--tls-key",
            "--allow-plaintext",
        ] {
            assert!(err(&refused).contains(flag), "{service:?}: {}", err(&refused));
        }
        let half = reveille(&[service, &["--tls-cert", "cert.pem"]].concat());
        assert_eq!(code(&half), 2);
        assert!(err(&half).contains("--tls-key"), "{}", err(&half));
        let missing = reveille(
            &[
                service,
                &["--tls-cert", "/no/cert.pem", "--tls-key", "/no/key.pem"],
            ]
            .concat(),
        );
        assert_eq!(code(&missing), 2);
        assert!(
            err(&missing).contains("--tls-cert, --tls-key: /no/cert.pem: No such file"),
            "{}",
            err(&missing)
        );
    }
    assert!(
        !folder.path().join("data").exists(),
        "something was started before"
    );
}

#[test]
fn plaintext_nats_on_another_machine_is_refused_for_every_process_of_a_hub() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let database = "postgres://127.0.0.1:1/reveille";
    let archive = folder.path().join("journal.jsonl").display().to_string();
    let commands: [&[&str]; 9] = [
        &["api"],
        &["up", "--data-dir", &data],
        &["projector", "--database-url", database],
        &["rows", "rebuild", "--database-url", database],
        &["journal", "export"],
        &["journal", "import", &archive],
        &["journal", "verify"],
        &["journal", "stats"],
        &["doctor", "--data-dir", &data],
    ];
    for command in commands {
        // The name of a container's neighbour is no more loopback than any other.
        for url in ["nats://user:secret@nats:4222", "nats://127.0.0.1:1,nats:4222"] {
            let refused = reveille(&[command, &["--nats", url]].concat());
            assert_eq!(code(&refused), 2, "{command:?}: {}", err(&refused));
            let said = err(&refused);
            for word in [
                "--nats: nats:4222",
                "tls://nats:4222",
                "--allow-plaintext",
                "read prompts",
            ] {
                assert!(said.contains(word), "{command:?}: {said}");
            }
            assert!(!said.contains("secret"), "{said}");
        }
    }
    assert!(
        !folder.path().join("data").exists(),
        "something was started before"
    );

    // The flag or its variable gives that up; what is refused next is the folder of keys.
    for given in [&["--allow-plaintext"][..], &[]] {
        let url = [
            "projector",
            "--nats",
            "nats://192.0.2.1:1",
            "--nats-keys",
            "/no/keys",
        ];
        let mut projector = clean();
        projector.args(url).args(["--database-url", database]).args(given);
        if given.is_empty() {
            projector.env("REVEILLE_ALLOW_PLAINTEXT", "true");
        }
        let refused = projector.output().expect("the program can be run");
        assert_eq!(code(&refused), 2);
        let said = err(&refused);
        assert!(said.contains("--nats-keys: /no/keys"), "{said}");
        assert!(said.contains("NATS at 192.0.2.1:1 has no TLS"), "{said}");
    }
}

#[test]
fn plaintext_nats_on_another_machine_is_refused_for_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    let file = config(&folder, GOOD);
    let agent = reveille(&["agent", "--config", &file, "--nats", "nats://hub.example:4222"]);
    assert_eq!(code(&agent), 2);
    assert!(
        err(&agent).contains("--nats: would send everything in plaintext"),
        "{}",
        err(&agent)
    );
    let agent = reveille(&["agent", "--config", &file]);
    assert_eq!(code(&agent), 2);
    assert!(err(&agent).contains("agent.nats"), "{}", err(&agent));
}

#[test]
fn hub_init_run_again_without_a_host_keeps_the_tls_that_it_has_set_up() {
    let folder = tempfile::tempdir().unwrap();
    let hub = folder.path().join("hub");
    let path = hub.display().to_string();
    let read = |name: &str| std::fs::read_to_string(hub.join(name)).unwrap();
    let plain = reveille(&["hub", "init", &path]);
    assert!(plain.status.success(), "{}", err(&plain));
    assert!(!read("nats-hub.conf").contains("tls"));
    let secured = reveille(&["hub", "init", &path, "--host", "hub.example"]);
    assert!(secured.status.success(), "{}", err(&secured));
    let files = ["nats-hub.conf", "nats-routes.conf", "server.pem", "server.key"];
    let before = files.map(read);
    assert!(before[0].contains("tls {") && before[1].contains("tls {"));
    let again = reveille(&["hub", "init", &path]);
    assert!(again.status.success(), "{}", err(&again));
    assert!(out(&again).contains("server.pem"), "{}", out(&again));
    assert_eq!(files.map(read), before);
}
