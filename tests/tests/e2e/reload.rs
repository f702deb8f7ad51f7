//! A running agent takes up a changed config, and only what has changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use reveille_tests::{
    AgentConfig, Api, Backend, Process, World, assert_exclusive, hold_for, is_alive, program, wait_until,
};
use serde_json::{Value, json};

use crate::{
    archive::assert_sound,
    scene::{SOON, refused},
};

/// Answers of three seconds.
const LONG: [&str; 4] = ["--tokens", "60", "--token-delay-ms", "50"];

/// An agent with a config file that the test changes, and a replica.
struct Reloadable {
    agent: Process,
    api: Api,
    file: PathBuf,
    world: World,
}

/// What `reveille agent reload` printed.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs it for a data directory, without holding up the test's own requests.
async fn reload(data_dir: &Path) -> Said {
    let mut command = Command::new(program("reveille"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REVEILLE_") {
            command.env_remove(name);
        }
    }
    command.args(["agent", "reload", "--data-dir"]).arg(data_dir);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("no panic").expect("the program runs");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A provider that serves its backend, with the model of its own name.
fn serves(config: AgentConfig, name: &str, backend: &Backend) -> AgentConfig {
    config.provider(name, name, backend).woken_by_serving(backend)
}

fn row(model: &str) -> String {
    format!("gpu-box/{model}")
}

/// Waits until the latest run of a backend has that many requests.
async fn until_busy(backend: &Backend, requests: usize) {
    wait_until("a request inside", SOON, async || {
        (backend.log().requests().len() >= requests).then_some(())
    })
    .await;
}

impl Reloadable {
    async fn start(world: World, config: &AgentConfig) -> Self {
        let file = world.folder().join("agent.toml");
        fs::write(&file, config.to_toml()).expect("written");
        let agent = world.reveille("agent").args(["--nats", &world.nats_url()]);
        let (agent, api) = (agent.arg("--config").arg(&file).start(), world.api().await);
        Self {
            agent,
            api,
            file,
            world,
        }
    }

    fn write(&self, config: &str) {
        fs::write(&self.file, config).expect("written");
    }

    fn data_dir(&self) -> PathBuf {
        self.world.data_home().join("reveille")
    }

    async fn reload(&self, config: &AgentConfig) -> Said {
        self.write(&config.to_toml());
        reload(&self.data_dir()).await
    }

    async fn is(&self, model: &str, status: &str) {
        self.api.wait_for_status(&row(model), status, SOON).await;
    }

    /// The events of a provider since the start, by type.
    async fn events(&self, provider: &str) -> Vec<(String, Value)> {
        let subject = format!("reveille.events.provider.gpu-box.{provider}");
        let journal = self.world.journal().await;
        let commits = journal.iter().filter(|commit| commit.subject == subject);
        let named = |event: &Value| {
            let name = event["type"].as_str().unwrap_or_default();
            (name.to_owned(), event["data"].clone())
        };
        commits
            .flat_map(|commit| commit.events().map(named).collect::<Vec<_>>())
            .collect()
    }

    async fn count(&self, provider: &str, event: &str) -> usize {
        let events = self.events(provider).await;
        events.iter().filter(|(name, _)| name == event).count()
    }
}

#[tokio::test]
async fn a_third_provider_is_taken_up_at_a_hangup_and_the_children_and_streams_of_the_others_go_on() {
    let world = World::new().await;
    let backends = [LONG, LONG, LONG].map(|args| world.backend(&args));
    let two = serves(AgentConfig::new("gpu-box"), "a", &backends[0]);
    let two = serves(two, "b", &backends[1]);
    let agent = Reloadable::start(world, &two).await;
    for model in ["a", "b"] {
        agent.is(model, "hibernating").await;
    }
    let (api, file) = (&agent.api, &agent.file);
    let reloads = async {
        until_busy(&backends[0], 1).await;
        until_busy(&backends[1], 1).await;
        fs::write(file, serves(two.clone(), "c", &backends[2]).to_toml()).expect("written");
        agent.agent.sighup();
        agent.is("c", "hibernating").await;
    };
    let (a, b, ()) = tokio::join!(api.stream("a"), api.stream("b"), reloads);
    for stream in [a, b] {
        assert!(
            stream.is_done() && stream.said().ends_with("token-59"),
            "{stream:?}"
        );
    }
    assert_eq!(api.chat("c").await.status, 200);
    for backend in &backends {
        assert_eq!(backend.log().starts(), 1);
    }
    let log = agent.agent.log();
    assert!(
        log.contains("reloaded the config: 1 provider to change, 2 unchanged"),
        "{log}"
    );
    assert_eq!(agent.count("a", "ProviderRegistered").await, 1);
}

#[tokio::test]
async fn a_changed_provider_finishes_its_stream_starts_again_and_keeps_those_who_come_meanwhile() {
    let world = World::new().await;
    let (changing, other) = (world.backend(&LONG), world.backend(&LONG));
    let config = serves(AgentConfig::new("gpu-box"), "other", &other);
    let config = serves(config, "p", &changing);
    let agent = Reloadable::start(world, &config).await;
    for model in ["p", "other"] {
        agent.is(model, "hibernating").await;
    }
    let api = &agent.api;
    // The other provider comes first in the file.
    let text = config.to_toml();
    let (head, tail) = text.rsplit_once("\"60\"").expect("the arguments");
    let changed = format!("{head}\"3\"{tail}");
    let reloads = async {
        until_busy(&changing, 1).await;
        until_busy(&other, 1).await;
        agent.write(&changed);
        let data_dir = agent.data_dir();
        let (said, late) = tokio::join!(reload(&data_dir), async {
            wait_until("p leaves", SOON, async || {
                agent.agent.log().contains("INFO p leaves").then_some(())
            })
            .await;
            api.stream("p").await
        });
        (said, late)
    };
    let (old, undisturbed, (said, late)) = tokio::join!(api.stream("p"), api.stream("other"), reloads);
    for stream in [&old, &undisturbed] {
        assert!(
            stream.is_done() && stream.said().ends_with("token-59"),
            "{stream:?}"
        );
    }
    assert!(late.is_done() && late.said().ends_with("token-2"), "{late:?}");
    assert_eq!(said.code, Some(0), "{said:?}");
    for line in [
        "gpu-box: 1 provider unchanged",
        "gpu-box/p: restarts (wake), once its request has finished",
        "gpu-box/p: has stopped",
        "gpu-box: done",
    ] {
        assert!(said.out.contains(line), "{line}: {said:?}");
    }
    assert_eq!((changing.log().starts(), other.log().starts()), (2, 1));
    let events = agent.events("p").await;
    let slept: Vec<_> = events.iter().filter(|(name, _)| name == "BackendSlept").collect();
    assert_eq!(slept.len(), 1, "{events:?}");
    assert_eq!(
        (&slept[0].1["reason"], &slept[0].1["failures"]["count"]),
        (&json!("operator"), &json!(0))
    );
    assert!(
        !events
            .iter()
            .any(|(name, _)| name == "WakeFailed" || name == "ProviderBecameInactive")
    );
}

#[tokio::test]
async fn a_removed_provider_is_withdrawn_at_once_finishes_its_stream_and_leaves_no_child() {
    let world = World::new().await;
    let (going, staying) = (world.backend(&LONG), world.backend(&[]));
    let one = serves(AgentConfig::new("gpu-box"), "staying", &staying);
    let agent = Reloadable::start(world, &serves(one.clone(), "going", &going)).await;
    agent.is("going", "hibernating").await;
    agent.is("staying", "hibernating").await;
    let api = &agent.api;
    let reloads = async {
        until_busy(&going, 1).await;
        agent.write(&one.to_toml());
        let data_dir = agent.data_dir();
        tokio::join!(reload(&data_dir), async {
            wait_until("it was withdrawn", SOON, async || {
                api.llm(&row("going")).await.is_none().then_some(())
            })
            .await;
            assert!(is_alive(going.log().pids()[0]), "it still has its request");
            refused(&api.chat("going").await)
        })
    };
    let (stream, (said, late)) = tokio::join!(api.stream("going"), reloads);
    assert!(
        stream.is_done() && stream.said().ends_with("token-59"),
        "{stream:?}"
    );
    assert_eq!(late, (404, "model_not_found".to_owned()));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out
            .contains("gpu-box/going: removed, once its request has finished"),
        "{said:?}"
    );
    assert!(!is_alive(going.log().pids()[0]));
    assert_eq!(agent.count("going", "ProviderDeregistered").await, 1);
    assert_eq!(api.chat("staying").await.status, 200);

    // And back again, in the same session.
    let said = agent.reload(&serves(one, "going", &going)).await;
    assert!(said.out.contains("gpu-box/going: added"), "{said:?}");
    agent.is("going", "hibernating").await;
    assert_eq!(api.chat("going").await.status, 200);
    assert_eq!(going.log().starts(), 2);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_changes_nothing_and_says_why() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let config = serves(AgentConfig::new("gpu-box"), "p", &backend);
    let agent = Reloadable::start(world, &config).await;
    agent.is("p", "hibernating").await;
    assert_eq!(agent.api.chat("p").await.status, 200);
    let text = config.to_toml();
    for (file, reason) in [
        ("[agent\n".to_owned(), "agent.toml:1"),
        (
            text.replace("base_url", "base_uri"),
            "base_uri: unknown key, did you mean `base_url`?",
        ),
        (
            text.replace("name = \"p\"", "name = \"q\"") + "persistent = 7\n",
            "persistent",
        ),
        (
            text.replace("gpu-box", "other-box"),
            "the agent must be restarted for another agent.name: `kill ",
        ),
        (
            text.replace(
                "[agent]",
                "[agent]\nnats = \"nats://127.0.0.1:4\"\nca = \"/ca.pem\"",
            ),
            "the agent must be restarted for another agent.nats, agent.ca",
        ),
    ] {
        agent.write(&file);
        let said = reload(&agent.data_dir()).await;
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(
            said.err.contains(reason) && said.err.contains("nothing has changed"),
            "{said:?}"
        );
        assert!(said.out.is_empty(), "{said:?}");
    }
    fs::remove_file(&agent.file).expect("removed");
    let before = agent.agent.log().matches("the config was not reloaded").count();
    assert_eq!(before, 5);
    agent.agent.sighup();
    wait_until("the log says so", SOON, async || {
        let log = agent.agent.log();
        (log.matches("the config was not reloaded").count() == before + 1).then_some(())
    })
    .await;
    assert!(
        agent.agent.log().contains("cannot be read"),
        "{}",
        agent.agent.log()
    );
    assert_eq!(agent.api.chat("p").await.status, 200);
    assert_eq!((backend.log().starts(), agent.agent.is_running()), (1, true));
    assert_eq!(agent.count("p", "ProviderRegistered").await, 1);
}

#[tokio::test]
async fn keys_that_leave_the_backend_as_it_is_are_taken_up_under_its_stream() {
    let world = World::new().await;
    let backend = world.backend(&LONG);
    let config = serves(AgentConfig::new("gpu-box"), "p", &backend);
    let agent = Reloadable::start(world, &config).await;
    agent.is("p", "hibernating").await;
    let api = &agent.api;
    let adjusted = config.to_toml().replace(
        "models = [{ id = \"stand-in\", as = \"p\" }]",
        "models = [{ id = \"stand-in\", as = \"p\" }, { id = \"stand-in\", as = \"alias\" }]\nanswer_timeout = \"1m\"",
    ) + "[provider.sleep]\nidle_after = \"300ms\"\n";
    let adjusted = adjusted.replace("name = \"gpu-box\"", "name = \"gpu-box\"\nheartbeat = \"500ms\"");
    let reloads = async {
        until_busy(&backend, 1).await;
        agent.write(&adjusted);
        let said = reload(&agent.data_dir()).await;
        agent.is("alias", "active").await;
        let alias = api.chat("alias").await;
        (said, alias)
    };
    let (stream, (said, alias)) = tokio::join!(api.stream("p"), reloads);
    assert!(
        stream.is_done() && stream.said().ends_with("token-59"),
        "{stream:?}"
    );
    assert_eq!((alias.status, said.code), (200, Some(0)), "{said:?}");
    for line in [
        "gpu-box: agent.heartbeat changed",
        "gpu-box/p: changed without a restart (models, answer_timeout, sleep)",
    ] {
        assert!(said.out.contains(line), "{said:?}");
    }
    assert_eq!(backend.log().starts(), 1);
    agent.is("p", "hibernating").await;
    let slept = agent.events("p").await;
    assert_eq!(
        slept.last().map(|(_, data)| data["reason"].clone()),
        Some(json!("idle"))
    );
}

#[tokio::test]
async fn a_provider_that_only_gets_another_name_is_there_again_with_the_same_backend_and_models() {
    let world = World::new().await;
    let backend = world.backend(&LONG);
    let named = |name: &str| {
        AgentConfig::new("gpu-box")
            .provider(name, "m", &backend)
            .woken_by_serving(&backend)
    };
    let agent = Reloadable::start(world, &named("old")).await;
    agent.is("m", "hibernating").await;
    let reloads = async {
        until_busy(&backend, 1).await;
        agent.reload(&named("new")).await
    };
    let (stream, said) = tokio::join!(agent.api.stream("m"), reloads);
    assert!(
        stream.is_done() && stream.said().ends_with("token-59"),
        "{stream:?}"
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    agent.is("m", "hibernating").await;
    let answer = agent.api.chat("m").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-reveille-provider"), Some("gpu-box/new"));
    assert_eq!(backend.log().starts(), 2);
}

#[tokio::test]
async fn a_provider_that_changes_again_while_it_leaves_ends_up_as_the_last_file_has_it() {
    let world = World::new().await;
    let backend = world.backend(&LONG);
    let config = serves(AgentConfig::new("gpu-box"), "p", &backend);
    let agent = Reloadable::start(world, &config).await;
    agent.is("p", "hibernating").await;
    let with = |tokens: &str| config.to_toml().replace("\"60\"", &format!("{tokens:?}"));
    let reloads = async {
        until_busy(&backend, 1).await;
        let data_dir = agent.data_dir();
        let mut all = vec![];
        for file in [
            with("5"),
            with("4"),
            AgentConfig::new("gpu-box").to_toml(),
            with("3"),
        ] {
            agent.write(&file);
            let before = agent.agent.log().matches("reloaded the config").count();
            let data_dir = data_dir.clone();
            all.push(tokio::spawn(async move { reload(&data_dir).await }));
            wait_until("it is read", SOON, async || {
                (agent.agent.log().matches("reloaded the config").count() > before).then_some(())
            })
            .await;
        }
        for said in all {
            let said = said.await.expect("no panic");
            assert_eq!(said.code, Some(0), "{said:?}");
        }
    };
    let (stream, ()) = tokio::join!(agent.api.stream("p"), reloads);
    assert!(
        stream.is_done() && stream.said().ends_with("token-59"),
        "{stream:?}"
    );
    agent.is("p", "hibernating").await;
    let answer = agent.api.chat("p").await;
    assert!(answer.said().ends_with("token-2"), "{}", answer.text());
    assert_eq!(backend.log().starts(), 2);

    // The last one again, and then none.
    let said = agent.reload(&AgentConfig::new("gpu-box")).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    wait_until("it is gone", SOON, async || {
        agent.api.llms().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_wake_that_its_recipe_can_not_end_is_ended_by_the_one_that_replaces_it() {
    let world = World::new().await;
    let backend = world.backend(&["--boot-delay-ms", "600000"]);
    let config = serves(AgentConfig::new("gpu-box"), "p", &backend);
    let agent = Reloadable::start(world, &config).await;
    agent.is("p", "hibernating").await;
    let api = &agent.api;
    let reloads = async {
        wait_until("the start", SOON, async || {
            (backend.log().starts() == 1).then_some(())
        })
        .await;
        agent.write(&config.to_toml().replace("600000", "10"));
        reload(&agent.data_dir()).await
    };
    let (answer, said) = tokio::join!(api.chat("p"), reloads);
    assert_eq!(
        (answer.status, said.code),
        (200, Some(0)),
        "{} {said:?}",
        answer.text()
    );
    assert_eq!(agent.count("p", "WakeRequested").await, 1, "the same wake");
    assert_eq!(
        (agent.count("p", "WakeFailed").await, backend.log().starts()),
        (0, 2)
    );
}

#[tokio::test]
async fn a_member_that_changes_its_group_sleeps_first_and_the_journal_proves_it() {
    let world = World::new().await;
    let gpus = ["gpu0", "gpu1"].map(|gpu| world.folder().join(gpu).display().to_string());
    let args = |gpu: &'static str| -> Vec<String> {
        let gpu = if gpu == "gpu0" { &gpus[0] } else { &gpus[1] };
        let all = LONG.iter().map(|arg| (*arg).to_owned());
        all.chain(["--gpu".to_owned(), gpu.clone()]).collect()
    };
    let backend = |gpu| {
        let args = args(gpu);
        world.backend(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let backends = [backend("gpu0"), backend("gpu0"), backend("gpu1")];
    let mut config = AgentConfig::new("gpu-box");
    for (name, backend) in ["a", "b", "c"].into_iter().zip(&backends) {
        let gpu = if name == "c" { "gpu1" } else { "gpu0" };
        config = config
            .provider(name, name, backend)
            .lines(&format!("exclusive = {gpu:?}\n"))
            .woken_by_serving(backend)
            .lines("[provider.sleep]\nmin_awake = \"1ms\"\n");
    }
    let agent = Reloadable::start(world, &config).await;
    for model in ["a", "b", "c"] {
        agent.is(model, "hibernating").await;
    }
    let api = &agent.api;
    let moved = config.to_toml().replace("gpu1", "gpu0");
    let reloads = async {
        until_busy(&backends[0], 1).await;
        until_busy(&backends[2], 1).await;
        agent.write(&moved);
        reload(&agent.data_dir()).await
    };
    let (a, c, said) = tokio::join!(api.stream("a"), api.stream("c"), reloads);
    for stream in [&a, &c] {
        assert!(
            stream.is_done() && stream.said().ends_with("token-59"),
            "{stream:?}"
        );
    }
    assert!(
        said.out.contains("gpu-box/c: restarts (wake, exclusive)"),
        "{said:?}"
    );
    for model in ["c", "b", "a", "c"] {
        let answer = api.chat(model).await;
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
    }
    let collisions: usize = backends
        .iter()
        .map(|backend| backend.log().of("out_of_memory").count())
        .sum();
    assert_eq!(collisions, 0);
    assert_exclusive(&agent.world.journal().await);
    assert_sound(&agent.world).await;
}

#[tokio::test]
async fn no_service_is_ended_by_a_hangup_whatever_it_serves() {
    let world = World::with_postgres().await;
    let api = world.api().await;
    let projector = world.projector();
    let agent = world.agent(&AgentConfig::new("gpu-box"));
    let up = world.up(&world.folder().join("up"), "[agent]\nname = \"up-box\"\n", &[]);
    up.wait_until_ready().await;
    wait_until("the agent is connected", SOON, async || {
        agent.log().contains("is connected").then_some(())
    })
    .await;
    let services = [api.process(), &projector, &agent, up.process()];
    for _ in 0..3 {
        services.iter().for_each(|service| service.sighup());
    }
    hold_for("all run", Duration::from_secs(1), async || {
        services.iter().all(|service| service.is_running())
    })
    .await;
    assert_eq!(
        (api.get("/readyz").await.status, up.get("/readyz").await.status),
        (200, 200)
    );
}

#[tokio::test]
async fn up_takes_up_the_first_provider_of_its_config_and_the_command_names_what_it_cannot_reach() {
    let world = World::new().await;
    let data = world.folder().join("data");
    let said = reload(&data).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("--data-dir"), "{said:?}");

    let backend = world.backend(&[]);
    let none = AgentConfig::new("gpu-box");
    let up = world.up(&data, &none.to_toml(), &[]);
    up.wait_until_ready().await;
    // The config is the last file that the world has written.
    let file = fs::read_dir(world.folder())
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path());
    let file = file
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .max()
        .expect("a config");
    fs::write(&file, serves(none, "p", &backend).to_toml()).expect("written");
    let said = wait_until("its agent takes requests", SOON, async || {
        let said = reload(&data).await;
        (said.code == Some(0)).then_some(said)
    })
    .await;
    assert!(said.out.contains("gpu-box/p: added"), "{said:?}");
    up.wait_for_status(&row("p"), "hibernating", SOON).await;
    assert_eq!(up.chat("p").await.status, 200);
    assert_eq!(up.process().stop(SOON).await, reveille_tests::Exit::Code(0));
    assert_eq!(reload(&data).await.code, Some(1), "nobody listens there any more");
}

#[tokio::test]
async fn quiet_hours_hold_and_end_as_soon_as_they_are_taken_up() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let config = serves(AgentConfig::new("gpu-box"), "p", &backend);
    let agent = Reloadable::start(world, &config).await;
    agent.is("p", "hibernating").await;
    agent.write(
        &config
            .to_toml()
            .replace("[agent]", "[agent]\nquiet_hours = [\"00:00-24:00\"]"),
    );
    let said = reload(&agent.data_dir()).await;
    assert!(said.out.contains("agent.quiet_hours changed"), "{said:?}");
    let declined = agent.api.chat("p").await;
    assert_eq!(refused(&declined), (503, "provider_declined".to_owned()));
    let said = agent.reload(&config).await;
    assert!(said.out.contains("agent.quiet_hours changed"), "{said:?}");
    wait_until("it is woken", SOON, async || {
        (agent.api.chat("p").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(backend.log().starts(), 1);
}
