//! The README, word by word, on a machine of the test's own; and the pages that it hands on to.

use super::{
    blocks::{Block, blocks},
    blocks_of,
};
use crate::machine::{MODEL, Machine, install_ollama, obstacle};
use reveille_tests::{Exit, nats_server, program};
use std::{fs, process::Command};

#[test]
fn the_first_two_commands_are_ones_that_xtask_knows() {
    let [commands] = blocks_of("the_first_two_commands_are_ones_that_xtask_knows");
    let help = Command::new(program("xtask"))
        .arg("help")
        .output()
        .expect("it runs")
        .stdout;
    let help = String::from_utf8_lossy(&help);
    for line in commands.lines() {
        let command = line.strip_prefix("cargo xtask ").expect("a command of xtask");
        let command = command.split_whitespace().next().expect("its name");
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
}

/// A line without its figures, which differ from run to run.
fn without_figures(line: &str) -> String {
    let figure = |c: char| c.is_ascii_digit() || c == '.';
    let words = line.split_whitespace().map(|word| word.trim_matches(figure));
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_demo_prints_what_its_page_shows() {
    let [shown] = blocks_of("the_demo_prints_what_its_page_shows");
    let mut demo = Command::new(program("demo"));
    demo.arg("--once").env("REVEILLE_TEST_NATS_SERVER", nats_server());
    let demo = demo.output().expect("the demo runs");
    let printed = String::from_utf8_lossy(&demo.stdout);
    assert!(
        demo.status.success(),
        "{printed}\n{}",
        String::from_utf8_lossy(&demo.stderr)
    );
    let printed: Vec<_> = printed.lines().map(without_figures).collect();
    for line in shown.lines().map(without_figures) {
        assert!(printed.contains(&line), "{line:?} is not in {printed:#?}");
    }
}

/// The README's config.
fn config() -> String {
    let of_readme = |block: &Block| block.page == "README.md" && block.language == "toml";
    let configs = blocks().into_iter().filter(of_readme);
    configs.map(|block| block.text + "\n\n").collect()
}

/// The value of a header in what `curl --include` printed.
fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let value = answer
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.unwrap_or_else(|| panic!("no {name}: {answer}")).trim()
}

#[tokio::test]
async fn the_readme_leads_from_a_config_to_an_answer() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let [first, second, python, why] = blocks_of("the_readme_leads_from_a_config_to_an_answer");
    let machine = Machine::new().await;
    let folder = machine.folder.path().to_owned();
    install_ollama(&machine);
    fs::write(folder.join("reveille.toml"), config()).expect("a config");
    fs::write(folder.join("chat.py"), python).expect("a script");

    // What the second terminal runs comes after the first one's last command, which stays.
    let commands = [first, second].join("\n").replace("\\\n", " ");
    let mut up = None;
    let mut printed = String::new();
    for line in commands.lines().filter(|line| !line.is_empty()) {
        if line.starts_with("reveille up ") {
            let started = machine.start("up", line);
            machine.api_is_ready(&started).await;
            machine.prints("reveille llms", &format!("gpu-box/{MODEL}")).await;
            up = Some(started);
        } else {
            printed += &machine.does(line);
        }
    }
    let up = up.expect("the README starts it");
    assert!(printed.contains("token-0"), "{printed}");
    assert!(machine.does("python3 chat.py").contains("token-0"));

    // A request that waits, and why it did.
    machine.does("reveille sleep gpu-box/ollama");
    machine.prints("reveille providers", "hibernating").await;
    let chat = format!(
        "curl --silent --include http://127.0.0.1:8420/v1/chat/completions -H 'content-type: application/json' \
         -d '{{\"model\": \"{MODEL}\", \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'"
    );
    let answer = reveille_tests::wait_until("a request had waited", crate::scene::SOON, async || {
        let answer = machine.does(&chat);
        answer.contains("x-reveille-wake-id: ").then_some(answer)
    })
    .await;
    let ids = format!(
        "export REQUEST_ID={} WAKE_ID={}",
        header(&answer, "x-request-id"),
        header(&answer, "x-reveille-wake-id")
    );
    for line in why.lines() {
        let printed = machine.does(&format!("{ids}\n{line}"));
        assert!(printed.contains("gpu-box/ollama"), "{line}: {printed}");
    }
    assert_eq!(up.stop(crate::scene::SOON).await, Exit::Code(0), "{}", up.log());
}
