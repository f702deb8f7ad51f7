//! What the owner of a machine decides, whoever asks: pauses, quiet hours, wakes a day.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use reveille_tests::{AgentConfig, Answer, Backend, Exit, WakeController, World, program, wait_until};
use serde_json::Value;

use crate::{
    docs::blocks_of,
    scene::{LLM, SOON, Scene, refused},
};

/// Says something to the agent of the world's machine.
fn say(world: &World, line: &str) -> Output {
    let reveille = program("reveille");
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("reveille"), "{line}");
    let mut command = Command::new(reveille);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REVEILLE_") {
            command.env_remove(name);
        }
    }
    let command = command.args(words).env("XDG_DATA_HOME", world.data_home());
    command.output().expect("the program can be run")
}

fn told(world: &World, line: &str) -> String {
    let output = say(world, line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A refusal by the owner, whose reason has all of `parts`.
fn declined(answer: &Answer, parts: &[&str]) {
    assert_eq!(
        refused(answer),
        (503, "provider_declined".to_owned()),
        "{}",
        answer.text()
    );
    assert!(answer.header("retry-after").is_some());
    for part in ["gpu-box"].iter().chain(parts) {
        assert!(answer.text().contains(part), "{part}: {}", answer.text());
    }
}

impl Scene {
    /// The stages of the wakes that were not allowed, as the journal has them.
    async fn not_allowed(&self) -> Vec<Value> {
        let failed = self.commits_with("WakeFailed").await;
        let failure = |commit: &reveille_tests::Commit| {
            let failure = &commit.data("WakeFailed").expect("it has one")["failure"];
            assert_eq!(failure["kind"], "not_allowed");
            assert!(
                failure["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty())
            );
            failure["stage"].clone()
        };
        failed.iter().map(failure).collect()
    }

    /// Waits until the agent and its provider are listed with this rule of the owner's.
    async fn lists_rule(&self, rule: Value) {
        for list in ["agents", "providers"] {
            let path = format!("/reveille/v1/{list}");
            wait_until("the rule in lists", SOON, async || {
                let listed = self.api.get(&path).await.json();
                (listed["data"][0]["wakes_refused"]["stage"] == rule).then_some(())
            })
            .await;
        }
    }

    /// Ends the agent and starts it again.
    async fn restart_agent(&mut self) {
        assert_eq!(self.agent.stop(SOON).await, Exit::Code(0));
        self.is("inactive").await;
        self.agent = self.world.agent(&self.config);
    }
}

/// A backend that runs and is put to sleep and woken as vLLM is.
async fn sleeps_like_vllm() -> Scene {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let url = backend.url();
    let config = AgentConfig::new("gpu-box").provider("vllm", "qwen", &backend).lines(&format!(
        "probe = {{ path = \"/is_sleeping\", expect = {{ is_sleeping = false }}, interval = \"300ms\" }}\n\
         [provider.wake]\ntype = \"http\"\nurl = \"{url}/wake_up\"\n\
         [provider.sleep]\ntype = \"http\"\nurl = \"{url}/sleep?level=1\"\n"
    ));
    let (api, agent) = (world.api().await, world.agent(&config));
    let scene = Scene {
        agent,
        api,
        controller: WakeController::answering(500).await,
        backend,
        config,
        world,
    };
    scene.is("active").await;
    scene
}

#[tokio::test]
async fn the_owner_of_a_machine_pauses_and_resumes_its_agent_by_the_documented_commands() {
    let [commands] =
        blocks_of("the_owner_of_a_machine_pauses_and_resumes_its_agent_by_the_documented_commands");
    let [pause, with_sleep, resume]: [&str; 3] = commands
        .lines()
        .collect::<Vec<_>>()
        .try_into()
        .expect("three commands");
    let mut scene = sleeps_like_vllm().await;

    let said = told(&scene.world, with_sleep);
    assert!(
        said.starts_with("paused until 20") && said.contains("are put to sleep"),
        "{said}"
    );
    scene.is("hibernating").await;
    declined(
        &scene.chat().await,
        &[
            "its owner has paused this agent until 20",
            "`reveille agent resume` on the machine of gpu-box ends the pause",
        ],
    );
    assert_eq!(scene.not_allowed().await, ["paused"]);
    scene.lists_rule("paused".into()).await;
    let status = told(
        &scene.world,
        &format!("reveille status --api {}", scene.api.url()),
    );
    for part in [
        "held back",
        "agent gpu-box: nothing is woken",
        "run `reveille agent resume` on the machine of gpu-box",
    ] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let slept = scene.commits_with("BackendSlept").await;
    assert_eq!(
        slept
            .last()
            .and_then(|commit| commit.data("BackendSlept"))
            .expect("one")["reason"],
        "operator"
    );
    assert_eq!(scene.backend.log().wake_ups(), 0, "nothing was run");

    let said = told(&scene.world, resume);
    assert_eq!(said, "resumed: backends are woken again\n");
    scene.lists_rule(Value::Null).await;
    // The agent has said so, which ends the moment in which nobody is asked after a refusal.
    let answered = scene.chat().await;
    assert_eq!(answered.status, 200, "{}", answered.text());
    assert!(answered.said().starts_with("token-0"));
    assert_eq!(scene.backend.log().wake_ups(), 1);

    let said = told(&scene.world, pause);
    assert!(
        said.contains("until `reveille agent resume`") && said.contains("stay awake"),
        "{said}"
    );
    assert_eq!(scene.chat().await.status, 200, "what is awake goes on");
    let sleep = format!("reveille sleep gpu-box/vllm --api {}", scene.api.url());
    told(&scene.world, &sleep);
    scene.is("hibernating").await;
    scene.restart_agent().await;
    scene.is("hibernating").await;
    declined(&scene.chat().await, &["until `reveille agent resume`"]);
    assert_eq!(scene.backend.log().wake_ups(), 1);
    // Another pause is told without asking the agent again.
    told(&scene.world, with_sleep);
    let declined_now = wait_until("the reason of the other pause", SOON, async || {
        let answer = scene.chat().await;
        answer.text().contains("this agent until 20").then_some(answer)
    });
    declined(&declined_now.await, &["`reveille agent resume` on the machine"]);
    assert_eq!(scene.not_allowed().await, ["paused", "paused"]);
}

#[tokio::test]
async fn pausing_and_resuming_say_whom_they_reach() {
    let world = World::new().await;
    for command in ["pause", "resume"] {
        let output = say(
            &world,
            &format!("reveille agent {command} --data-dir /nowhere/at/all"),
        );
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("no agent has ever used the data directory /nowhere/at/all"),
            "{said}"
        );
    }
    let output = say(&world, "reveille agent pause --for soon");
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    let (api, backend) = (world.api().await, world.backend(&[]));
    let agent = world.agent(&AgentConfig::new("gpu-box").provider("vllm", "qwen", &backend));
    api.wait_for_status(LLM, "down", SOON).await;
    let said = told(&world, "reveille agent resume");
    assert!(
        said.contains("wasn't paused") && !said.contains("no agent is"),
        "{said}"
    );
    let said = told(&world, "reveille agent pause");
    assert!(!said.contains("no agent is"), "{said}");
    assert_eq!(agent.stop(SOON).await, Exit::Code(0));
    let said = told(&world, "reveille agent pause --for 90s");
    assert!(
        said.contains("no agent is using") && said.contains("the next one starts paused"),
        "{said}"
    );
    let said = told(&world, "reveille agent resume");
    assert!(
        said.contains("backends are woken again (no agent is running now)"),
        "{said}"
    );
}

#[tokio::test]
async fn in_quiet_hours_nothing_is_woken_and_what_comes_up_by_itself_is_used() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    // Twelve hours from the clock of UTC: from an hour ago until two hours from now.
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let hour = (since.as_secs() / 3_600 + 12) % 24;
    let hours = format!("{:02}:00-{:02}:00", (hour + 23) % 24, (hour + 2) % 24);
    let config = AgentConfig::new("gpu-box")
        .lines(&format!("quiet_hours = [{hours:?}]\n"))
        .provider("vllm", "qwen", &backend)
        .woken_by_http(&controller.url())
        .lines("[provider.probe]\ninterval = \"300ms\"\n");
    let api = world.api().await;
    let file = world.folder().join("agent.toml");
    fs::write(&file, config.to_toml()).expect("a config");
    let agent = world
        .reveille("agent")
        .env("TZ", "<+12>-12")
        .args([
            "--nats",
            &world.nats_url(),
            "--config",
            &file.display().to_string(),
        ])
        .start();
    let scene = Scene {
        agent,
        api,
        controller,
        backend,
        config,
        world,
    };
    scene.is("hibernating").await;
    let until = format!(" {:02}:00 +12:00", (hour + 2) % 24);
    declined(&scene.chat().await, &["until 20", &until, "agent.quiet_hours"]);
    assert_eq!(
        (scene.posts(), scene.not_allowed().await),
        (0, vec!["quiet_hours".into()])
    );

    scene.backend.start();
    scene.is("active").await;
    assert_eq!(scene.chat().await.status, 200);
}

#[tokio::test]
async fn a_wake_beyond_what_the_owner_allows_in_a_day_runs_nothing_after_a_restart_either() {
    let world = World::new().await;
    let backend: Backend = world.backend(&[]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let mut scene = Scene::set(world, backend, controller, "", "max_per_day = 1\n", "hibernating").await;
    assert_eq!(scene.chat().await.status, 200);
    scene.is("active").await;
    scene.backend.kill9();
    scene.restart_agent().await;
    scene.is("hibernating").await;

    let parts = [
        "no more than 1 wake in 24 hours",
        "the next one is possible in 2",
        "provider.wake.max_per_day",
    ];
    declined(&scene.chat().await, &parts);
    assert_eq!(
        (scene.posts(), scene.not_allowed().await),
        (1, vec!["max_per_day".into()])
    );
}

#[tokio::test]
async fn a_command_runs_in_a_folder_of_the_agents_data_that_it_can_write_to() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("[provider.wake]\ntype = \"command\"\ncommand = \"sh\"\nargs = [\"-c\", \"pwd > here; exit 3\"]\n");
    let file = world.folder().join("agent.toml");
    fs::write(&file, config.to_toml()).expect("written");
    let here = world.data_home().join("reveille/agent/work/here");
    let folder = here.parent().expect("a folder");

    let test = world
        .reveille("recipe")
        .args(["test", "vllm", "--config"])
        .arg(&file);
    let test = test.start();
    assert_eq!(test.wait_for_exit(SOON).await, Exit::Code(1), "{}", test.log());
    let runs_in = || fs::read_to_string(&here).map(|path| PathBuf::from(path.trim()));
    assert_eq!(runs_in().expect("written").as_path(), folder);
    fs::remove_file(&here).expect("removed");

    let (api, _agent) = (world.api().await, world.agent(&config));
    api.wait_for_status("gpu-box/qwen", "hibernating", SOON).await;
    let failed = api.chat("qwen").await;
    assert_eq!(failed.error_code(), "wake_failed", "{}", failed.text());
    assert_eq!(runs_in().expect("written").as_path(), folder);
}
