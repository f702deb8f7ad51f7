//! Joining a hub that listens for agents itself: what a token is good for, and what each mistake is told.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use reveille_tests::{Exit, Launch, Port, Process, World, program, wait_until};
use serde_json::{Value, json};
use std::{env, fs, os::unix::fs::symlink, process::Command};

use crate::{hub::Hub, init_tries::AT_A_TERMINAL, scene::SOON};

impl Hub {
    /// Joins on a machine of which only a data directory is seen.
    async fn join_in_data_dir(&self, machine: &str, token: &str, more: &[&str]) -> Process {
        let data = self.machine(machine).display().to_string();
        self.join_at(token, &["--data-dir", &data], more).await
    }
}

/// The token with some of it changed.
fn changed(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let json = BASE64.decode(&token["rvt_".len()..]).expect("base64");
    let mut token: Value = serde_json::from_slice(&json).expect("JSON");
    change(&mut token);
    format!("rvt_{}", BASE64.encode(token.to_string()))
}

#[tokio::test]
async fn a_machine_joins_once_and_again_with_the_same_command() {
    let (hub, agents) = Hub::with_agents().await;
    let (token, _) = hub.token("gpu-box", "15m").await;
    let joined = hub.join_in_data_dir("machine", &token, &[]).await;
    assert_eq!(joined.exit(), Some(Exit::Code(0)), "{}", joined.log());
    let config = hub.machine("machine").join("reveille.toml");
    let written = fs::read_to_string(&config).expect("a config");
    let address = format!("nats = \"tls://{}\"", agents.address());
    assert!(written.contains(&address), "{written}");

    let own = written + "# A line of its owner.\n";
    fs::write(&config, &own).expect("written");
    let again = hub.join_in_data_dir("machine", &token, &[]).await;
    assert_eq!(again.exit(), Some(Exit::Code(0)), "{}", again.log());
    assert!(again.log().contains("stays as it is"), "{}", again.log());
    assert_eq!(fs::read_to_string(&config).expect("a config"), own);

    let agent = hub.world.reveille("agent").arg("--data-dir");
    let agent = agent
        .arg(hub.machine("machine"))
        .folder(hub.world.folder())
        .start();
    wait_until("the agent was connected", SOON, async || {
        assert!(agent.is_running(), "{}", agent.log());
        agent.log().contains("gpu-box is connected").then_some(())
    })
    .await;
    let running = hub.join_in_data_dir("machine", &token, &[]).await;
    assert_eq!(running.exit(), Some(Exit::Code(0)), "{}", running.log());
    assert!(
        running.log().contains("is running on this machine already")
            && running.log().contains("gpu-box: done"),
        "{}",
        running.log()
    );
    assert!(agent.is_running(), "{}", agent.log());

    // The config that stays names its key, wherever that is, and the next token enrolls that one.
    agent.stop(SOON).await;
    let key = hub.machine("machine").join("mine.key");
    fs::rename(hub.machine("machine").join("gpu-box.nk"), &key).expect("moved");
    fs::write(&config, own.replace("gpu-box.nk", "mine.key")).expect("written");
    let (next, _) = hub.token("gpu-box", "15m").await;
    let rejoined = hub.join_in_data_dir("machine", &next, &[]).await;
    assert_eq!(rejoined.exit(), Some(Exit::Code(0)), "{}", rejoined.log());
    assert!(!hub.machine("machine").join("gpu-box.nk").exists(), "another key");
    let agent = hub.world.reveille("agent").arg("--data-dir");
    let agent = agent
        .arg(hub.machine("machine"))
        .folder(hub.world.folder())
        .start();
    wait_until("the agent was connected with its key", SOON, async || {
        assert!(agent.is_running(), "{}", agent.log());
        agent.log().contains("gpu-box is connected").then_some(())
    })
    .await;

    let (other, _) = hub.token("other-box", "15m").await;
    let refused = hub.join_in_data_dir("machine", &other, &[]).await;
    assert_eq!(refused.exit(), Some(Exit::Code(2)), "{}", refused.log());
    for part in ["is the config of gpu-box", "--config FILE", "--force"] {
        assert!(refused.log().contains(part), "{part}: {}", refused.log());
    }
}

#[tokio::test]
async fn a_new_token_corrects_the_address_of_a_hub_that_has_moved() {
    let (hub, agents) = Hub::with_agents().await;
    let join = async |more: &[&str]| {
        let (token, _) = hub.token("gpu-box", "15m").await;
        hub.join_in_data_dir("machine", &token, more).await
    };
    let joined = join(&[]).await;
    assert_eq!(joined.exit(), Some(Exit::Code(0)), "{}", joined.log());
    let config = hub.machine("machine").join("reveille.toml");
    let read = || fs::read_to_string(&config).expect("a config");
    let now = format!("nats = \"tls://{}\"", agents.address());
    let own = read().replace(&now, &format!("{now} # of its owner"));
    let gone = Port::claim();
    let moved = own.replace(&now, &format!("nats = \"tls://{}\"", gone.address()));
    assert_ne!(own, moved);
    fs::write(&config, &moved).expect("written");
    let again = join(&[]).await;
    assert_eq!(again.exit(), Some(Exit::Code(0)), "{}", again.log());
    assert!(
        again.log().contains("The hub has moved, so line "),
        "{}",
        again.log()
    );
    assert_eq!(read(), own);

    // What can't be corrected is refused before the token is used.
    fs::write(&config, own.replace(&now, "nats = \"tls://${HUB}\"")).expect("written");
    let (token, _) = hub.token("gpu-box", "15m").await;
    let data = hub.machine("machine").display().to_string();
    let join = async |address: String| {
        let launch = hub
            .world
            .reveille("join")
            .args([&*token, "--no-start", "--data-dir", &data]);
        let process = launch.env("HUB", &address).start();
        let exit = process.wait_for_exit(SOON).await;
        (exit, process.log())
    };
    let (exit, said) = join(gone.address().to_string()).await;
    assert_eq!(exit, Exit::Code(2), "{said}");
    assert!(
        said.contains("comes from the environment") && said.contains(&now),
        "{said}"
    );
    let (exit, said) = join(agents.address().to_string()).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
}

#[tokio::test]
async fn another_hub_at_the_hubs_address_is_told_with_what_to_do() {
    let (hub, agents) = Hub::with_agents().await;
    let (other, other_agents) = Hub::with_agents().await;
    let (token, _) = hub.token("gpu-box", "15m").await;
    let joined = hub.join_in_data_dir("machine", &token, &[]).await;
    assert_eq!(joined.exit(), Some(Exit::Code(0)), "{}", joined.log());
    let config = hub.machine("machine").join("reveille.toml");
    let text = fs::read_to_string(&config).expect("a config");
    let text = text.replace(&agents.address().to_string(), &other_agents.address().to_string());
    fs::write(&config, text).expect("written");
    let data = hub.machine("machine").display().to_string();
    for command in ["doctor", "agent"] {
        let launch = hub.world.reveille(command).args(["--data-dir", &data]);
        let process = launch.folder(hub.world.folder()).start();
        for part in [
            "isn't from the hub that",
            "or somebody is in between",
            "`reveille join TOKEN",
        ] {
            wait_until("it is told", SOON, async || {
                process.log().contains(part).then_some(())
            })
            .await;
        }
    }
    let (token, _) = other.token("gpu-box", "15m").await;
    let joined = hub.join_in_data_dir("machine", &token, &["--force"]).await;
    assert_eq!(joined.exit(), Some(Exit::Code(0)), "{}", joined.log());
}

#[tokio::test]
async fn a_backend_that_does_not_run_is_added_only_if_somebody_says_so() {
    let (hub, _agents) = Hub::with_agents().await;
    let bin = hub.world.folder().join("bin");
    let home = hub.world.folder().join("home");
    let models = home.join(".ollama/models/manifests/registry.ollama.ai/library/qwen2.5");
    for folder in [&bin, &models] {
        fs::create_dir_all(folder).expect("a folder");
    }
    symlink(program("stand-in-llm"), bin.join("ollama")).expect("a link");
    fs::write(models.join("7b"), "{}").expect("a manifest");
    let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap_or_default());
    let (port, (token, _)) = (Port::claim(), hub.token("gpu-box", "15m").await);
    let (address, number) = (port.address().to_string(), port.number().to_string());
    let join = async |answer: Option<&str>, more: &[&str]| {
        let launch = hub.world.reveille("join").args([&*token, "--ports", &number]);
        let launch = launch.args(["--no-start", "--force"]).args(more);
        let launch = launch.arg("--data-dir").arg(hub.machine("machine"));
        let launch = launch.env("PATH", &path).env("HOME", &home);
        let launch = launch.env("OLLAMA_HOST", &address);
        let process = match answer {
            None => launch.start(),
            Some(answer) => launch.under("python3", &["-c", AT_A_TERMINAL, answer]).start(),
        };
        let exit = process.wait_for_exit(SOON).await;
        assert_eq!(exit, Exit::Code(0), "{}", process.log());
        let config = fs::read_to_string(hub.machine("machine").join("reveille.toml"));
        let is_added = config.expect("a config").contains("\nname = \"ollama\"\n");
        (is_added, process.log())
    };
    let (is_added, said) = join(None, &[]).await;
    assert!(!is_added, "{said}");
    let left_out = "Not added, because nobody was asked and it doesn't run: `ollama`.";
    for part in [left_out, "--yes --force", "No backend was added"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (is_added, said) = join(None, &["--yes"]).await;
    assert!(is_added && !said.contains("Not added"), "{said}");
    for (answer, expected) in [("n", false), ("y", true)] {
        let (is_added, said) = join(Some(answer), &[]).await;
        assert!(said.contains("Add `ollama` (Ollama)? [Y/n]"), "{said}");
        assert_eq!(is_added, expected, "{said}");
    }
}

#[tokio::test]
async fn a_token_that_lets_nobody_in_is_told_why_and_what_to_do() {
    let (hub, _agents) = Hub::with_agents().await;
    let (used, _) = hub.token("gpu-box", "15m").await;
    let first = hub.join_in_data_dir("first", &used, &[]).await;
    assert_eq!(first.exit(), Some(Exit::Code(0)), "{}", first.log());
    let (good, _) = hub.token("other-box", "15m").await;
    let (late, expires_at_ms) = hub.token("late-box", "1s").await;
    hub.expired(expires_at_ms).await;
    let at = |address: String| changed(&good, |token| token["nats"] = json!([address]));
    let [closed, also_closed] = [Port::claim(), Port::claim()].map(|port| port.address().to_string());
    let unreachable = changed(&good, |token| token["nats"] = json!([closed, also_closed]));
    let new_token = "on the hub: `reveille agent token";
    let firewall = "no firewall blocks the port";
    for (name, token, code, says) in [
        (
            "used",
            used.clone(),
            1,
            &["was used already, and each works once", new_token][..],
        ),
        ("expired", late, 1, &["the token has expired", new_token]),
        (
            "guessed",
            changed(&good, |token| token["secret"] = json!("AAAA")),
            1,
            &["the hub doesn't know the token", new_token],
        ),
        (
            "of another authority",
            changed(&good, |token| token["ca"] = json!(BASE64.encode([7; 32]))),
            1,
            &["isn't from the token's hub", new_token],
        ),
        (
            "no TLS",
            at(hub.world.nats.url().replace("nats://", "")),
            1,
            &["has no TLS", new_token],
        ),
        (
            "unreachable",
            unreachable,
            1,
            &[&closed, &also_closed, "connection refused", firewall],
        ),
        (
            "truncated",
            good[..good.len() - 9].to_owned(),
            2,
            &["the token is incomplete", "copy the whole"],
        ),
        ("no token", "hello".to_owned(), 2, &["that isn't a join token"]),
    ] {
        let joined = hub.join_in_data_dir(name, &token, &[]).await;
        assert_eq!(joined.exit(), Some(Exit::Code(code)), "{name}: {}", joined.log());
        for part in says {
            assert!(
                joined.log().contains(part),
                "{name}: {part:?} is not in: {}",
                joined.log()
            );
        }
        assert!(
            !hub.machine(name).join("reveille.toml").exists(),
            "{name} has a config"
        );
    }

    let misnamed = hub
        .join_in_data_dir("misnamed", &good, &["--name", "third-box"])
        .await;
    assert_eq!(misnamed.exit(), Some(Exit::Code(2)), "{}", misnamed.log());
    assert!(
        misnamed.log().contains("agent token third-box"),
        "{}",
        misnamed.log()
    );

    // Nothing was done yet where no service can be installed.
    let command = hub
        .world
        .reveille("join")
        .args([&*good, "--ports", "1", "--service"]);
    let data = hub.machine("serviced");
    let joined = command
        .arg("--data-dir")
        .arg(&data)
        .env("PATH", "/nowhere")
        .start();
    assert_eq!(
        joined.wait_for_exit(SOON).await,
        Exit::Code(1),
        "{}",
        joined.log()
    );
    assert!(
        joined.log().contains("Join without --service"),
        "{}",
        joined.log()
    );
    assert!(!data.exists());

    // What was tried in between has not used it up; a revocation does.
    let revoked = hub.run(&["agent", "revoke", "other-box"]).await;
    assert_eq!(revoked.exit(), Some(Exit::Code(0)), "{}", revoked.log());
    let joined = hub.join_in_data_dir("revoked", &good, &[]).await;
    assert_eq!(joined.exit(), Some(Exit::Code(1)), "{}", joined.log());
    assert!(
        joined.log().contains("doesn't know the token"),
        "{}",
        joined.log()
    );
}

#[tokio::test]
async fn a_taken_port_and_a_server_of_ones_own_are_told_apart_from_agents() {
    let world = World::new().await;
    let taken = Port::claim();
    let _listener = tokio::net::TcpListener::bind(taken.address())
        .await
        .expect("a port");
    let up = |more: &[&str]| {
        let data = world.folder().join("data");
        let launch = world
            .reveille("up")
            .args(["--listen", &Port::claim().address().to_string()]);
        launch.arg("--data-dir").arg(data).args(more).start()
    };
    let at = taken.address().to_string();
    for (more, code, says) in [
        (&["--agents", &at][..], 1, "(--agents) is taken by "),
        (
            &["--agents", "hub.example"],
            2,
            "an IP address of this machine is needed",
        ),
        (
            &["--agents", &at, "--nats", "nats://127.0.0.1:1"],
            2,
            "cannot be used with",
        ),
    ] {
        let up = up(more);
        assert_eq!(up.wait_for_exit(SOON).await, Exit::Code(code), "{}", up.log());
        assert!(up.log().contains(says), "{}", up.log());
    }
}

/// What systemd does with the folder of a service with a user of its own when it starts it for the first time.
const FIRST_START: &str = "mkdir /var/lib/private && mv /var/lib/reveille-agent /var/lib/private/ && \
     ln -s private/reveille-agent /var/lib/reveille-agent && chown -R 61234:61234 /var/lib/private/reveille-agent";

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_service_of_the_machine_is_installed_again_and_keeps_what_its_admin_has_changed() {
    let probe = Command::new("unshare").args(["--mount", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        eprintln!("skipped: `unshare --mount` doesn't work here");
        return;
    }
    let (hub, _agents) = Hub::with_agents().await;
    let ((token, _), (next, _)) = (
        hub.token("gpu-box", "15m").await,
        hub.token("gpu-box", "15m").await,
    );
    let bin = hub.machine("bin");
    fs::create_dir(&bin).expect("a folder");
    for (name, text) in [
        (
            "systemctl",
            "#!/bin/sh\n[ \"$1\" != is-system-running ] || echo running\n",
        ),
        ("ollama", "#!/bin/sh\n"),
    ] {
        reveille_tests::write_script(&bin.join(name), text);
    }
    // Its usual port may be taken by this machine's own.
    let ollama = Port::claim();
    let unit = "/etc/systemd/system/reveille-agent.service";
    let script = format!(
        "set -e\n\
         mount -t tmpfs none /var/lib\n\
         mkdir -p /etc/systemd && mount -t tmpfs none /etc/systemd && mkdir /etc/systemd/system\n\
         mount -t tmpfs none /usr/local/bin && touch /usr/local/bin/reveille\n\
         mount --bind {program} /usr/local/bin/reveille\n\
         export PATH={bin}:/usr/local/bin:/usr/bin:/bin HOME={home} OLLAMA_HOST={ollama}\n\
         reveille join {token} --service --ports 1\n\
         cat /var/lib/reveille-agent/reveille.toml\n\
         {FIRST_START}\n\
         reveille join {token} --service --ports 1\n\
         reveille join {next} --service --ports 1 --force\n\
         echo owners: $(stat -c %u /var/lib/private/reveille-agent/* | sort -u)\n\
         grep REVEILLE_CONFIG {unit}\n\
         echo '# mine' >> {unit}\n\
         if reveille join {next} --service --ports 1; then exit 1; else echo refused: $?; fi\n\
         tail -1 {unit}\n",
        program = program("reveille").display(),
        bin = bin.display(),
        home = hub.machine("home").display(),
        ollama = ollama.address(),
    );
    let file = hub.machine("script");
    fs::write(&file, script).expect("written");
    let run = Launch::new("unshare", hub.machine("script.log"));
    let run = run.args(["--mount", "sh"]).arg(&file).start();
    let exit = run.wait_for_exit(SOON).await;
    let log = run.log();
    assert_eq!(exit, Exit::Code(0), "{log}");
    for part in [
        "was left out: the service runs as a user of its own",
        "Its config is /var/lib/reveille-agent/reveille.toml, which stays",
        "owners: 61234\n",
        "REVEILLE_CONFIG=/var/lib/reveille-agent/reveille.toml\n",
        "differs from what --service writes",
        "refused: 2\n# mine\n",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.lines().any(|line| line.starts_with("[[provider]]")), "{log}");
}

#[tokio::test]
async fn a_certificate_is_made_only_by_who_has_the_data_directory() {
    let world = World::new().await;
    let data = world.folder().join("data");
    fs::create_dir(&data).expect("a folder");
    // As the server of a killed run holds it until it has ended.
    let mut killed = Command::new("true").spawn().expect("a process");
    killed.wait().expect("it ended");
    fs::write(data.join("lock"), killed.id().to_string()).expect("written");
    let held = fs::File::open(data.join("lock")).expect("the lock");
    held.lock().expect("locked");
    let agents = Port::claim().address().to_string();
    let up = world.reveille("up").args([
        "--agents",
        &agents,
        "--listen",
        &Port::claim().address().to_string(),
    ]);
    let up = up.arg("--data-dir").arg(&data).start();
    wait_until("it waits", SOON, async || {
        assert!(up.is_running(), "{}", up.log());
        up.log()
            .contains("waiting for the last run's processes")
            .then_some(())
    })
    .await;
    assert!(!data.join("agents-tls").exists(), "{}", up.log());
    drop(held);
    wait_until("it was up", SOON, async || {
        assert!(up.is_running(), "{}", up.log());
        up.log().contains("reveille is up").then_some(())
    })
    .await;
    assert!(
        !up.log().contains("reveille join rvt_"),
        "a log keeps no token: {}",
        up.log()
    );
    assert_eq!(up.stop(SOON).await, Exit::Code(0), "{}", up.log());
}
