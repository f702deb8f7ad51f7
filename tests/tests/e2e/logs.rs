//! Why did it die? What commands print is read on their machine: by `reveille logs`, in `recipe test`, and its end in the agent's log.

use reveille_tests::{AgentConfig, Exit, Process, World, wait_until};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use crate::{docs::blocks_of, scene::SOON};

const MISSING: &str = "no-such-server";
const WORDS: &str = "last-words-canary";

/// A program in a file of its own.
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    reveille_tests::write_script(&file, &format!("#!/bin/sh\n{text}\n"));
    file
}

fn config_file(world: &World, config: &AgentConfig) -> String {
    let file = world.folder().join("logs.toml");
    fs::write(&file, config.to_toml()).expect("written");
    file.display().to_string()
}

/// Runs a command to its end with the data of an agent.
async fn run(world: &World, data: &Path, command: &str, args: &[&str]) -> (Exit, String) {
    let launch = world.reveille(command).args(args).arg("--data-dir").arg(data);
    let process = launch.env("HF_TOKEN", "secret-canary").start();
    let exit = process.wait_for_exit(SOON).await;
    (exit, process.log())
}

/// What was printed, without times and process ids.
fn texts(printed: &str) -> Vec<String> {
    let texts = printed.lines().filter_map(|line| line.split_once("  "));
    let text = |(_, text): (&str, &str)| match text.split_once("as process ") {
        Some((begin, pid)) if pid.parse::<u32>().is_ok() => begin.to_owned(),
        _ => text.to_owned(),
    };
    texts.map(text).collect()
}

async fn says(process: &Process, words: &str) {
    wait_until(words, SOON, async || process.log().contains(words).then_some(())).await;
}

#[tokio::test]
async fn why_a_recipe_failed_is_said_in_its_test_in_the_agents_log_and_by_logs() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let program = script(
        world.folder(),
        "needs-token",
        &format!("echo {WORDS}; echo HF_TOKEN is needed: set it >&2; exit 7"),
    );
    let served_by = |program: &Path| {
        format!("[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = {program:?}\n")
    };
    let config = AgentConfig::new("gpu-box")
        .provider("ollama", "llama", &world.backend(&[]))
        .lines(&served_by(MISSING.as_ref()))
        .provider("vllm", "qwen", &backend)
        .lines(&served_by(&program));
    let file = config_file(&world, &config);
    let hint =
        "HF_TOKEN is set here, but the command doesn't get it: add env_pass = [\"HF_TOKEN\"] to its recipe";

    let tested = world.folder().join("tested");
    let (exit, said) = run(&world, &tested, "recipe", &["test", "vllm", "--config", &file]).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    for part in [WORDS, "HF_TOKEN is needed: set it", hint] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }

    let api = world.api().await;
    let data = world.folder().join("data");
    let agent = world.reveille("agent").args(["--nats", &world.nats_url()]);
    let agent = agent.args(["--config", &file]).arg("--data-dir").arg(&data);
    let agent = agent.env("HF_TOKEN", "secret-canary").start();
    for model in ["gpu-box/llama", "gpu-box/qwen"] {
        api.wait_for_status(model, "hibernating", SOON).await;
    }
    let answer = api.chat("gpu-box/llama").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let said = answer.text();
    for part in [
        "the program was not found in PATH",
        "run `reveille logs ollama` on the machine of gpu-box",
    ] {
        assert!(
            said.contains(part) && !said.contains(MISSING),
            "{part} is not in: {said}"
        );
    }
    let missing = format!("can't run `{MISSING}`: the program was not found in PATH; install `{MISSING}`, ");
    says(&agent, &format!("hint for ollama: {missing}")).await;
    let (_, said) = run(&world, &data, "logs", &["ollama"]).await;
    assert!(said.contains(&format!("wake * hint: {missing}")), "{said}");

    let answer = api.chat("gpu-box/qwen").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let reason = "the served command exited with code 7; it lacks a variable that the agent has (`env_pass`)";
    assert!(answer.text().contains(reason), "{}", answer.text());
    says(&agent, hint).await;
    for line in agent.log().lines().filter(|line| line.contains(WORDS)) {
        assert!(line.contains(" WARN vllm printed: "), "{line}");
    }
    says(&agent, WORDS).await;
    agent.kill9();

    // Neither a hub nor an agent is needed to read it.
    let (exit, said) = run(&world, &data, "logs", &["vllm"]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    let (words, others): (Vec<_>, Vec<_>) = texts(&said).into_iter().partition(|text| text.contains(WORDS));
    assert_eq!(words, [format!("wake step 1 serve | {WORDS}")]);
    let [documented] = blocks_of("why_a_recipe_failed_is_said_in_its_test_in_the_agents_log_and_by_logs");
    let (command, lines) = documented.split_once('\n').expect("an answer");
    assert_eq!(command, "$ reveille logs vllm");
    assert_eq!(others, texts(lines));
    let (_, said) = run(&world, &data, "logs", &["-n", "1"]).await;
    assert!(
        said.lines().count() == 1 && said.contains(&format!("  vllm  wake * hint: {hint}")),
        "{said}"
    );

    for commit in world.journal().await {
        let shown = format!(
            "{:?} {}",
            commit.headers,
            String::from_utf8_lossy(&commit.payload)
        );
        for secret in [WORDS, "HF_TOKEN", MISSING] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    assert!(!api.process().log().contains(WORDS));
}

#[tokio::test]
async fn the_agents_log_has_the_last_words_of_a_served_backend_that_dies() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let (program, args) = backend.command();
    let program = script(
        world.folder(),
        "dies",
        &format!("{} {}; echo {WORDS}; exit 5", program.display(), args.join(" ")),
    );
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines(&format!(
            "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = {program:?}\nmax_wait = \"30s\"\n"
        ));
    let api = world.api().await;
    let agent = world.agent(&config);
    api.wait_for_status("gpu-box/qwen", "hibernating", SOON).await;
    assert_eq!(api.chat("gpu-box/qwen").await.status, 200);
    assert!(!agent.log().contains(WORDS));
    let pid = i32::try_from(backend.log().pids()[0]).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    says(&agent, &format!("vllm printed: {WORDS}")).await;
    assert!(agent.log().contains("the backend of vllm exited with code 5"));
}

#[tokio::test]
async fn logs_are_followed_into_the_next_file_until_ctrl_c_and_move_no_cursor() {
    let world = World::new().await;
    let data = world.folder().join("data");
    let kept = data.join("agent/gpu-box.vllm.output");
    fs::create_dir_all(kept.parent().expect("a folder")).expect("made");
    let add = |text: &str| {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(&kept)
            .expect("a file");
        writeln!(file, "2026-11-27T10:00:00.000Z wake step 1 serve | {text}").expect("written");
    };
    add("one");
    add("two \u{202e}\u{1b}[2J");
    let follow = |args: &[&str]| {
        let launch = world.reveille("logs").args(args).arg("--data-dir").arg(&data);
        launch.env("TZ", "UTC").start()
    };
    let (one, all) = (follow(&["vllm", "-f", "-n", "1"]), follow(&["--follow"]));
    for process in [&one, &all] {
        says(process, r"two \u202e\u001b[2J").await;
    }
    assert!(!one.log().contains("one") && all.log().contains("one"));
    add("three");
    fs::rename(&kept, data.join("agent/gpu-box.vllm.output.old")).expect("replaced");
    add("four");
    // A provider that prints for the first time.
    let other = data.join("agent/gpu-box.ollama.output");
    fs::write(other, "2026-11-27T10:00:01.000Z wake step 1 serve | five\n").expect("written");
    says(&one, "| four").await;
    says(&all, "| five").await;
    for process in [&one, &all] {
        process.sigint();
        assert_eq!(process.wait_for_exit(SOON).await, Exit::Code(0));
    }
    assert_eq!(
        one.log(),
        "2026-11-27 10:00:00.000  wake step 1 serve | two \\u202e\\u001b[2J\n\
         2026-11-27 10:00:00.000  wake step 1 serve | three\n\
         2026-11-27 10:00:00.000  wake step 1 serve | four\n"
    );
    let log = all.log();
    assert!(log.contains("  vllm  wake step 1 serve | three"), "{log}");
    assert!(
        log.contains("10:00:01.000  ollama  wake step 1 serve | five"),
        "{log}"
    );
}

#[tokio::test]
async fn logs_say_so_when_there_is_nothing_and_which_provider_was_meant() {
    let world = World::new().await;
    let data = world.folder().join("data");
    let (exit, said) = run(&world, &data, "logs", &[]).await;
    assert_eq!(exit, Exit::Code(2), "{said}");
    assert!(
        said.contains("no agent has ever used the data directory"),
        "{said}"
    );

    let backend = world.backend(&[]);
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("[provider.wake]\ntype = \"command\"\ncommand = \"echo\"\nargs = [\"hello\"]\nmax_wait = \"1ms\"\n")
        .provider("ollama", "llama", &backend);
    let file = config_file(&world, &config);
    let (exit, said) = run(&world, &data, "recipe", &["test", "vllm", "--config", &file]).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    for (args, code, expected) in [
        (&["vllm"][..], 0, "wake step 1 command | hello"),
        (&["gpu-box/vllm"], 0, "wake step 1 command | hello"),
        (
            &["ollama", "--config", &file],
            0,
            "nothing was printed by the commands of ollama yet, and no recipe has failed",
        ),
        (
            &["olama", "--config", &file],
            2,
            "there is no provider `olama` here, did you mean `ollama`? There are: ollama, vllm",
        ),
        (&["x"], 2, "there is no provider `x` here; there are: vllm"),
    ] {
        let (exit, said) = run(&world, &data, "logs", args).await;
        assert_eq!(exit, Exit::Code(code), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }

    // The agent's config in its usual place tells the names too.
    fs::copy(&file, data.join("reveille.toml")).expect("copied");
    let (exit, said) = run(&world, &data, "logs", &["ollama"]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    assert!(
        said.contains("nothing was printed by the commands of ollama yet"),
        "{said}"
    );
    fs::write(data.join("reveille.toml"), "[agent").expect("written");
    let (exit, said) = run(&world, &data, "logs", &["vllm"]).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
}
