//! A machine joins by a token, serves, and is shown out: by the commands that people type, on the hub that `reveille up`
//! runs by itself.

use reveille_tests::{AgentConfig, Exit, Process, World, wait_until};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Instant};

use crate::{hub::Hub, scene::SOON};

impl Hub {
    /// Joins on a machine of which only a folder is seen.
    async fn join(&self, machine: &Path, token: &str, more: &[&str]) -> Process {
        let config = machine.join("agent.toml").display().to_string();
        let data = machine.join("data").display().to_string();
        self.join_at(token, &["--config", &config, "--data-dir", &data], more)
            .await
    }

    fn agent(&self, machine: &Path) -> Process {
        let command = self
            .world
            .reveille("agent")
            .arg("--config")
            .arg(machine.join("agent.toml"));
        command.arg("--data-dir").arg(machine.join("data")).start()
    }
}

#[tokio::test]
async fn a_machine_joins_by_a_token_serves_and_is_shown_out_when_it_is_revoked() {
    let hub = Hub::new().await;
    let backend = hub.world.backend(&[]);
    backend.start_and_wait().await;
    let (token, _) = hub.token("gpu-box", "15m").await;
    let machine = hub.machine("machine");
    let joined = hub.join(&machine, &token, &[]).await;
    assert_eq!(joined.exit(), Some(Exit::Code(0)), "{}", joined.log());
    let mode = |name: &str| {
        fs::metadata(machine.join(name))
            .expect("a file")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode("gpu-box.nk"), mode("agent.toml")), (0o600, 0o600));

    let config = machine.join("agent.toml");
    let provider = format!(
        "\n[[provider]]\nname = \"vllm\"\nbase_url = \"{}\"\nmodels = [{{ id = \"stand-in\", as = \"qwen\" }}]\n",
        backend.url()
    );
    fs::write(
        &config,
        fs::read_to_string(&config).expect("a config") + &provider,
    )
    .expect("written");
    let agent = hub.agent(&machine);
    hub.api.wait_for_status("gpu-box/qwen", "active", SOON).await;
    let answer = hub.api.chat("qwen").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let agents = hub.run(&["agents"]).await.log();
    assert!(agents.contains("gpu-box"), "{agents}");

    let doctor = hub.world.reveille("doctor").arg("--config").arg(&config);
    let doctor = doctor
        .args(["-o", "jsonl"])
        .arg("--data-dir")
        .arg(machine.join("data"));
    let doctor = doctor.start();
    doctor.wait_for_exit(SOON).await;
    let found = |line: &str| {
        let finding: Value = serde_json::from_str(line).unwrap_or_default();
        (finding["check"] == "NATS").then(|| finding["level"].clone())
    };
    let nats: Vec<_> = doctor.log().lines().filter_map(found).collect();
    assert_eq!(nats, ["ok"], "{}", doctor.log());
    assert_eq!(doctor.exit(), Some(Exit::Code(0)), "{}", doctor.log());

    let revoked = hub.run(&["agent", "revoke", "gpu-box"]).await;
    let since = Instant::now();
    assert_eq!(revoked.exit(), Some(Exit::Code(0)), "{}", revoked.log());
    // Its connections are ended, or it is told before that its session is over.
    ended_as_revoked(&agent).await;
    println!("ended {:?} after the command", since.elapsed());
    hub.api.wait_for_status("gpu-box/qwen", "inactive", SOON).await;
    assert_eq!(hub.api.chat("qwen").await.error_code(), "provider_inactive");

    // One that starts with the old key is told so, and is not let in.
    ended_as_revoked(&hub.agent(&machine)).await;
    assert_eq!(hub.api.chat("qwen").await.error_code(), "provider_inactive");
    let doctor = hub.world.reveille("doctor").arg("--config").arg(&config);
    let doctor = doctor.arg("--data-dir").arg(machine.join("data")).start();
    doctor.wait_for_exit(SOON).await;
    let said = doctor.log();
    assert!(
        said.contains("this agent's key no longer works") && said.contains("reveille agent token"),
        "{said}"
    );

    // The machine's old key is good again once a new token lets it in.
    let (token, _) = hub.token("gpu-box", "15m").await;
    let kept = fs::read_to_string(&config).expect("a config");
    let joined = hub.join(&machine, &token, &["--force"]).await;
    assert_eq!(joined.exit(), Some(Exit::Code(0)), "{}", joined.log());
    fs::write(&config, kept).expect("written");
    let _agent = hub.agent(&machine);
    hub.api.wait_for_status("gpu-box/qwen", "active", SOON).await;
}

#[tokio::test]
async fn an_agent_is_forgotten_with_its_models_unless_it_is_connected_and_comes_back_with_its_key() {
    let hub = Hub::new().await;
    let backend = hub.world.backend(&[]);
    backend.start_and_wait().await;
    let made = hub.run(&["agent", "token", "old-box"]).await.log();
    let token = made.split_whitespace().find(|word| word.starts_with("rvt_"));
    let machine = hub.machine("machine");
    let joined = hub.join(&machine, token.expect("a token"), &[]).await;
    assert_eq!(joined.exit(), Some(Exit::Code(0)), "{}", joined.log());
    let agents = async || hub.run(&["agent", "list"]).await.log();
    let listed = agents().await;
    assert!(
        listed.contains("old-box") && listed.contains("invited"),
        "{listed}"
    );
    let config = machine.join("agent.toml");
    let provider = format!(
        "\n[[provider]]\nname = \"vllm\"\nbase_url = \"{}\"\nmodels = [{{ id = \"stand-in\", as = \"qwen\" }}]\n",
        backend.url()
    );
    fs::write(
        &config,
        fs::read_to_string(&config).expect("a config") + &provider,
    )
    .expect("written");
    let agent = hub.agent(&machine);
    hub.api.wait_for_status("old-box/qwen", "active", SOON).await;
    let listed = agents().await;
    assert!(listed.contains("connected"), "{listed}");

    let refused = hub.run(&["agent", "forget", "old-box"]).await;
    assert_eq!(refused.exit(), Some(Exit::Code(1)), "{}", refused.log());
    assert!(
        refused.log().contains("old-box is connected") && refused.log().contains("stop the agent first"),
        "{}",
        refused.log()
    );
    agent.stop(SOON).await;
    hub.api.wait_for_status("old-box/qwen", "inactive", SOON).await;
    let listed = agents().await;
    assert!(listed.contains("away "), "{listed}");
    let forgotten = hub.run(&["agent", "forget", "old-box"]).await;
    assert_eq!(forgotten.exit(), Some(Exit::Code(0)), "{}", forgotten.log());
    assert_eq!(
        forgotten.log(),
        "forgot old-box and its provider; its key still works, and it is listed again if it comes back (`reveille agent revoke \
         old-box` ends that)\n"
    );
    for list in ["/reveille/v1/llms", "/reveille/v1/providers", "/v1/models"] {
        let listed = hub.api.get(list).await.text();
        assert!(!listed.contains("qwen"), "{list}: {listed}");
    }
    assert_eq!(hub.api.chat("qwen").await.error_code(), "model_not_found");
    let listed = agents().await;
    assert!(!listed.contains("old-box"), "{listed}");
    let nobody = hub.run(&["agent", "forget", "nobody"]).await;
    assert_eq!(nobody.exit(), Some(Exit::Code(1)), "{}", nobody.log());

    let _agent = hub.agent(&machine);
    hub.api.wait_for_status("old-box/qwen", "active", SOON).await;
    hub.run(&["agent", "revoke", "old-box"]).await;
    let listed = agents().await;
    assert!(listed.contains("revoked "), "{listed}");
    let by_the_other_name = hub.run(&["agents"]).await.log();
    assert!(by_the_other_name.contains("revoked "), "{by_the_other_name}");
}

async fn ended_as_revoked(agent: &Process) {
    agent.wait_for_exit(SOON).await;
    let log = agent.log();
    assert_eq!(agent.exit(), Some(Exit::Code(4)), "{log}");
    assert!(
        log.contains("error: this agent's key no longer works: it was revoked")
            && log.contains("`reveille agent token NAME`"),
        "{log}"
    );
}

#[tokio::test]
async fn an_agent_whose_name_was_given_to_another_machine_ends_and_the_other_one_serves() {
    let hub = Hub::new().await;
    let [first, second] = ["first", "second"].map(|name| hub.machine(name));
    let mut agents = vec![];
    for machine in [&first, &second] {
        let (token, _) = hub.token("gpu-box", "15m").await;
        let joined = hub.join(machine, &token, &[]).await;
        assert_eq!(joined.exit(), Some(Exit::Code(0)), "{}", joined.log());
        let agent = hub.agent(machine);
        wait_until("the agent was connected", SOON, async || {
            agent.log().contains("gpu-box is connected").then_some(())
        })
        .await;
        agents.push(agent);
    }
    ended_as_revoked(&agents[0]).await;
    ended_as_revoked(&hub.agent(&first)).await;
    assert!(agents[1].is_running(), "{}", agents[1].log());
}

#[tokio::test]
async fn an_agent_waits_for_a_hub_that_admits_nobody_yet_and_does_not_take_that_for_a_revocation() {
    let hub = Hub::new().await;
    let (token, _) = hub.token("gpu-box", "15m").await;
    let machine = hub.machine("machine");
    let joined = hub.join(&machine, &token, &[]).await;
    assert_eq!(joined.exit(), Some(Exit::Code(0)), "{}", joined.log());
    // A hub with another journal, which knows neither the key nor its revocation.
    let other = hub.world.up(&hub.world.folder().join("other"), "", &[]);
    other.wait_until_ready().await;
    let port = fs::read_to_string(hub.world.folder().join("other/nats-port")).expect("a port");
    let agent = hub
        .world
        .reveille("agent")
        .arg("--config")
        .arg(machine.join("agent.toml"))
        .args(["--nats", &format!("nats://127.0.0.1:{}", port.trim())])
        .arg("--data-dir")
        .arg(machine.join("data"));
    let agent = agent.start();
    wait_until("the agent said why it isn't let in", SOON, async || {
        agent.log().contains("refuses this key").then_some(())
    })
    .await;
    wait_until("it has tried again", SOON, async || {
        (agent.log().matches("authorization violation error").count() >= 4).then_some(())
    })
    .await;
    assert!(agent.is_running(), "{}", agent.log());
}

#[tokio::test]
async fn a_hub_goes_on_when_the_agent_of_its_own_machine_is_revoked_and_admits_it_again_at_its_next_start() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let config = AgentConfig::new("gpu-box").provider("vllm", "qwen", &backend);
    let data_dir = world.folder().join("hub");
    let up = world.up(&data_dir, &config.to_toml(), &[]);
    up.wait_for_status("gpu-box/qwen", "active", SOON).await;
    let revoke = world.reveille("agent").args(["revoke", "gpu-box"]);
    let revoke = revoke
        .env("REVEILLE_API_URL", up.url())
        .env("REVEILLE_DATA_DIR", &data_dir)
        .start();
    revoke.wait_for_exit(SOON).await;
    assert_eq!(revoke.exit(), Some(Exit::Code(0)), "{}", revoke.log());
    assert!(
        revoke
            .log()
            .contains("the next start of `reveille up` admits it again"),
        "{}",
        revoke.log()
    );
    const SAID: &str = "this machine's agent was revoked";
    wait_until("the hub said so", SOON, async || {
        up.process().log().contains(SAID).then_some(())
    })
    .await;
    up.wait_for_status("gpu-box/qwen", "inactive", SOON).await;
    assert_eq!(up.get("/readyz").await.status, 200);
    let told = up.chat("qwen").await.text();
    assert!(
        told.contains("its agent was revoked") && told.contains("`reveille up` on the hub's machine"),
        "{told}"
    );
    for command in ["status", "doctor"] {
        let shown = world.reveille(command).env("REVEILLE_API_URL", up.url());
        let shown = shown.env("REVEILLE_DATA_DIR", &data_dir).start();
        shown.wait_for_exit(SOON).await;
        let shown = shown.log();
        assert!(
            shown.contains("agent gpu-box") && shown.contains("admit it again"),
            "{command}: {shown}"
        );
    }
    let log = up.process().log();
    let (_, after) = log.split_once(SAID).expect("it was said");
    assert!(
        !after.contains("NATS doesn't admit"),
        "it goes on trying: {after}"
    );
    assert_eq!(log.matches(SAID).count(), 1, "{log}");
    up.process().stop(SOON).await;
    let up = world.up(&data_dir, &config.to_toml(), &[]);
    up.wait_for_status("gpu-box/qwen", "active", SOON).await;
}

#[tokio::test]
async fn a_token_that_is_used_expired_or_for_somebody_else_lets_nobody_in_and_says_why() {
    let hub = Hub::new().await;
    let (used, _) = hub.token("gpu-box", "15m").await;
    let first = hub.machine("first");
    assert_eq!(hub.join(&first, &used, &[]).await.exit(), Some(Exit::Code(0)));
    // The same machine again is the retry of one whose answer was lost.
    let retried = hub.join(&first, &used, &["--force"]).await;
    assert_eq!(retried.exit(), Some(Exit::Code(0)), "{}", retried.log());

    let refused = async |name: &str, token: &str, more: &[&str], code: i32, says: &str| {
        let joined = hub.join(&hub.machine(name), token, more).await;
        let log = joined.log();
        assert_eq!(joined.exit(), Some(Exit::Code(code)), "{log}");
        assert!(log.contains(says), "{log}");
        assert!(
            !hub.machine(name).join("agent.toml").exists(),
            "{name} has a config"
        );
    };
    refused("thief", &used, &[], 1, "the token was used").await;
    let (other, _) = hub.token("other-box", "15m").await;
    refused(
        "misnamed",
        &other,
        &["--name", "gpu-box"],
        2,
        "the token is for other-box",
    )
    .await;
    refused(
        "mangled",
        &other[..other.len() - 4],
        &[],
        2,
        "the token is incomplete",
    )
    .await;
    let (late, expires_at_ms) = hub.token("late-box", "1s").await;
    hub.expired(expires_at_ms).await;
    refused("late", &late, &[], 1, "the token has expired").await;

    // What no token is for answers alike, whether the agent is known or not, and tells no more.
    for agent in ["gpu-box", "unknown-box"] {
        let guess = json!({
            "agent": agent,
            "token_id": "01990000-0000-7000-8000-000000000001",
            "secret": "AAAA",
            "key": "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
        });
        let answer = hub.api.post("/reveille/v1/enroll", &guess).await;
        assert_eq!(
            (answer.status, answer.error_code()),
            (403, "token_refused".to_owned()),
            "{}",
            answer.text()
        );
    }
    let journal = hub.api.get("/reveille/v1/events?limit=1000").await.text();
    assert!(
        journal.contains("AgentTokenIssued") && !journal.contains("\"secret\""),
        "{journal}"
    );
}
