//! What docs/subscribers.md says: facts over NATS and over HTTP reach whoever follows them as documented.

use super::blocks_of;
use crate::{
    machine::{MODEL, Machine, install_ollama, link, obstacle},
    scene::SOON,
};
use reveille_tests::{Process, wait_until};
use std::fs;

/// An Ollama that wakes, and a backend that nothing can wake.
const CONFIG: &str = r#"
[agent]
name = "gpu-box"
[[provider]]
name = "ollama"
base_url = "http://127.0.0.1:11434"
models = ["qwen2.5:7b"]
wake = { type = "command", command = "ollama", args = ["serve"], run = "serve" }
[[provider]]
name = "broken"
base_url = "http://127.0.0.1:9"
models = ["broken"]
wake = { type = "command", command = "false" }
"#;

async fn tells(process: &Process, what: &[&str]) {
    wait_until(&format!("{what:?} was told"), SOON, async || {
        assert!(process.is_running(), "{}", process.log());
        what.iter().all(|what| process.log().contains(what)).then_some(())
    })
    .await;
}

fn chat(machine: &Machine, model: &str) -> String {
    machine.does(&format!(
        "curl --silent http://127.0.0.1:8420/v1/chat/completions -H 'content-type: application/json' \
         -d '{{\"model\": \"{model}\", \"messages\": []}}'"
    ))
}

/// The subject of a line such as `nats subscribe '…'`. That program isn't here: whoever subscribes to the same does.
fn subject(line: &str) -> &str {
    let line = line.strip_prefix("nats ").expect("a command of the nats program");
    let line = line
        .strip_prefix("--server nats://127.0.0.1:4222 ")
        .unwrap_or(line);
    let quoted = line
        .strip_prefix("subscribe '")
        .and_then(|rest| rest.strip_suffix('\''));
    quoted.unwrap_or_else(|| panic!("{line}"))
}

#[tokio::test]
async fn subscribers_are_told_by_the_documented_commands() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let [by_program, by_program_too, python, by_python, printed, over_http] =
        blocks_of("subscribers_are_told_by_the_documented_commands");
    let machine = Machine::new().await;
    link(&machine, "nats");
    install_ollama(&machine);
    fs::write(machine.folder.path().join("reveille.toml"), CONFIG).expect("a config");
    let hub = "REVEILLE_NATS_LISTEN=127.0.0.1:4222 REVEILLE_NATS_STORE=journal nats-server --config nats/single.conf";
    let _nats = machine.start("nats", hub);
    let up = machine.start(
        "up",
        "reveille up --nats nats://127.0.0.1:4222 --config reveille.toml",
    );
    machine.api_is_ready(&up).await;
    machine.prints("reveille llms", "hibernating").await;

    let mut followers = vec![];
    let subjects = by_program.lines().chain(by_program_too.lines()).map(subject);
    for (number, subject) in subjects.enumerate() {
        let script = format!("facts-{number}.py");
        assert!(python.contains("\"reveille.facts.>\""), "{python}");
        let python = saying_when_it_listens(&python.replace("reveille.facts.>", subject));
        fs::write(machine.folder.path().join(&script), python).expect("a script");
        followers.push(machine.start(&script, &format!("python3 {script} nats://127.0.0.1:4222")));
    }
    let mut failures = None;
    for line in over_http.lines() {
        match line.split_whitespace().next() {
            Some("curl") => failures = Some(machine.start("curl", line)),
            _ if line.contains("--follow") => followers.push(machine.start("events", line)),
            _ => drop(machine.does(line)),
        }
    }
    for follower in &followers[..3] {
        tells(follower, &["listening"]).await;
    }
    let failures = failures.expect("one asks for failures");

    // What follows from now on may begin a moment later: ask until it has told.
    wait_until("a failed wake was told over HTTP", SOON, async || {
        chat(&machine, "broken");
        failures.log().contains("event: WakeFailed").then_some(())
    })
    .await;
    assert!(chat(&machine, MODEL).contains("token-0"));
    let figures = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    for follower in &followers[..3] {
        wait_until("the documented lines were printed", SOON, async || {
            let log = figures(&follower.log());
            printed
                .lines()
                .all(|line| log.contains(&figures(line)))
                .then_some(())
        })
        .await;
    }
    tells(&followers[3], &["WakeRequested", "WakeSucceeded"]).await;

    assert!(machine.does("reveille journal verify").starts_with("sound: "));
    up.stop(SOON).await;
    drop(followers);
    the_server_of_up_is_found(&machine, &python, by_python.trim(), &printed).await;
}

/// It says when it listens, which nobody but a test needs to know.
fn saying_when_it_listens(python: &str) -> String {
    python.replace(
        "    async for",
        "    await connection.flush(); print('listening', flush=True)\n    async for",
    )
}

/// The server that `up` starts itself requires keys, and has a port of its own.
async fn the_server_of_up_is_found(machine: &Machine, python: &str, by_python: &str, printed: &str) {
    let stats = machine.run("reveille journal stats");
    let said = String::from_utf8_lossy(&stats.stderr).into_owned();
    assert_eq!(stats.status.code(), Some(2), "{said}");
    assert!(
        said.contains("no `reveille up` is running with the data directory")
            && said.contains("name a FILE, or use --nats"),
        "{said}"
    );
    let up = machine.start("up-alone", "reveille up --config reveille.toml");
    machine.api_is_ready(&up).await;
    machine.prints("reveille llms", "hibernating").await;
    let script = machine.folder.path().join("facts.py");
    fs::write(script, saying_when_it_listens(python)).expect("a script");
    let follower = machine.start("facts", by_python);
    tells(&follower, &["listening"]).await;
    assert!(chat(machine, MODEL).contains("token-0"));
    let events: Vec<_> = printed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(_, event)| event)
        .collect();
    tells(&follower, &events).await;

    let stats = machine.does("reveille journal stats");
    assert!(stats.contains("WakeSucceeded"), "{stats}");
    machine.does("reveille journal export found.jsonl");
    let verified = machine.does("reveille journal verify found.jsonl");
    assert!(verified.starts_with("sound: "), "{verified}");
    assert!(machine.does("reveille journal verify").starts_with("sound: "));
}
