//! A hub, an agent and a client that share nothing but a network: network namespaces, joined by cables, and the commands of
//! docs/operations.md, word by word.

use reveille_tests::{Exit, Folder, Launch, Process, program, wait_until};
use std::{fs, os::unix::fs::symlink};

use crate::{
    docs::blocks_of,
    locked::copy_configs,
    machine::{MODEL, Machine, Terminal, install_ollama, obstacle},
    scene::SOON,
};

const HUB: &str = "192.0.2.1/24";
const GPU_BOX: &str = "192.0.2.2/24";

fn lines(block: &str) -> [&str; 2] {
    let lines: Vec<_> = block.lines().collect();
    lines.try_into().expect("two commands")
}

/// How the machine with the backend runs it, and Reveille from then on.
const LLAMA_SERVER: &str =
    "llama-server --imitates llama-cpp --model qwen2.5:7b --load-delay-ms 300 --listen 127.0.0.1:8080";

/// A program called `llama-server` that is the stand-in.
fn install_llama_server(machine: &Machine) {
    let bin = machine.folder.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    symlink(program("stand-in-llm"), bin.join("llama-server")).expect("a link");
}

/// Puts a second cable on the hub, into another network, from which its usual address is reached too.
fn join_another(hub: &Machine, caller: &Machine) {
    let other = caller.sleeper.pid();
    hub.set_up(&format!(
        "ip link add second type veth peer name cable netns {other} && ip addr add 198.51.100.1/24 dev second && \
         ip link set second up"
    ));
    caller.set_up(
        "ip addr add 198.51.100.2/24 dev cable && ip link set cable up && \
         ip route add 192.0.2.1/32 via 198.51.100.1",
    );
}

/// Puts a cable between two machines.
fn join(hub: &Machine, gpu_box: &Machine) {
    let other = gpu_box.sleeper.pid();
    hub.set_up(&format!(
        "ip link add cable type veth peer name cable netns {other}"
    ));
    for (machine, address) in [(hub, HUB), (gpu_box, GPU_BOX)] {
        machine.set_up(&format!(
            "ip addr add {address} dev cable && ip link set cable up"
        ));
    }
}

/// What a hub has printed for another machine, in its terminal.
async fn line_for_another_machine(up: &Process, terminal: &Terminal) -> String {
    wait_until("the hub printed a line for another machine", SOON, async || {
        let log = terminal.text();
        assert!(up.is_running(), "{log}");
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.starts_with("reveille join rvt_"))
            .collect();
        assert!(lines.len() <= 1, "{log}");
        Some(lines.first()?.to_string())
    })
    .await
}

#[tokio::test]
async fn two_commands_join_two_machines_and_a_third_one_is_answered() {
    assert_eq!(
        obstacle(),
        None,
        "three machines are needed, as network namespaces"
    );
    let [on_hub, on_gpu_box, make_key, anywhere] =
        blocks_of("two_commands_join_two_machines_and_a_third_one_is_answered");
    let (hub, gpu_box, caller) = (Machine::new().await, Machine::new().await, Machine::new().await);
    join(&hub, &gpu_box);
    join_another(&hub, &caller);
    install_llama_server(&gpu_box);
    let server = gpu_box.start("llama-server", LLAMA_SERVER);
    wait_until("the server answered", SOON, async || {
        let found = gpu_box.run("curl --silent --fail http://127.0.0.1:8080/health");
        found.status.success().then_some(())
    })
    .await;

    // The first command, and the second one, as the first has printed it.
    let terminal = Terminal::new();
    let up = hub.start("up", &format!("{on_hub} 2>{}", terminal.path));
    let line = line_for_another_machine(&up, &terminal).await;
    assert!(on_gpu_box.starts_with("reveille join rvt_…  "), "{on_gpu_box}");
    let agent = gpu_box.start("join", &line);

    let key = hub.prints(&make_key, "rv_").await;
    let with_key = |line: &str| format!("export REVEILLE_API_KEY={}; {line}", key.trim());
    let [llms, curl] = &lines(&anywhere).map(with_key);
    let curl = &format!("{curl} --silent --show-error --max-time 60");
    let refused = caller.run("curl --insecure --fail https://192.0.2.1:8420/v1/models");
    assert!(!refused.status.success(), "nobody without a key");
    let ca = hub.folder.path().join(".local/share/reveille/agents-tls/ca.pem");
    fs::copy(ca, caller.folder.path().join("ca.pem")).expect("the authority");
    let printed = caller.prints(llms, "active").await;
    assert!(printed.contains(&format!("gpu-box/{MODEL}")), "{printed}");

    // From now on the agent starts and stops it.
    server.stop(SOON).await;
    let answer = caller.does(curl);
    assert!(
        answer.contains("token-0"),
        "{answer}\n{}\n{}",
        terminal.text(),
        agent.log()
    );
    let events = hub.does("reveille events -o jsonl");
    for event in ["AgentEnrolled", "WakeRequested", "WakeSucceeded"] {
        assert!(events.contains(event), "{event} is not in {events}");
    }

    let thief = caller.run(&line);
    let said = String::from_utf8_lossy(&thief.stderr).into_owned();
    assert_eq!(thief.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the token was used already, by another machine"),
        "{said}"
    );

    // A new address of the hub is one more way to it, without a restart.
    hub.set_up("ip addr add 203.0.113.1/24 dev second");
    caller.set_up("ip route add 203.0.113.1/32 via 198.51.100.1");
    wait_until(
        "the hub had a certificate for its new address",
        SOON,
        async || terminal.text().contains("made a new certificate").then_some(()),
    )
    .await;
    let next = hub.does("reveille agent-token create spare-box");
    wait_until("the hub was reached at its new address", SOON, async || {
        let joined = caller.run(&format!("{} --no-start --force", next.trim()));
        let said = String::from_utf8_lossy(&joined.stderr);
        let nats = hub.folder.path().join(".local/share/reveille/nats.log");
        let nats = fs::read_to_string(nats).unwrap_or_default();
        assert!(joined.status.success(), "{said}\n{}\n{nats}", terminal.text());
        let config = caller.folder.path().join(".local/share/reveille/reveille.toml");
        let config = fs::read_to_string(config).expect("a config");
        config.contains("tls://203.0.113.1:8422").then_some(())
    })
    .await;

    // Each side comes back by itself after the other, and after its own end.
    up.kill9();
    up.wait_for_exit(SOON).await;
    let terminal = Terminal::new();
    let up = hub.start("up-again", &format!("{on_hub} 2>{}", terminal.path));
    let next = line_for_another_machine(&up, &terminal).await;
    assert_ne!(next, line);
    assert!(
        terminal.text().contains("gpu-box-2 is the name"),
        "{}",
        terminal.text()
    );
    wait_until("the agent's model was answered for again", SOON, async || {
        let answer = caller.run(curl);
        String::from_utf8_lossy(&answer.stdout)
            .contains("token-0")
            .then_some(())
    })
    .await;
    assert!(agent.is_running(), "{}", agent.log());
    agent.kill9();
    agent.wait_for_exit(SOON).await;
    let again = gpu_box.start("agent", "reveille agent");
    wait_until("the new agent was connected", SOON, async || {
        again.log().contains("gpu-box is connected").then_some(())
    })
    .await;
    caller.prints(curl, "token-0").await;

    assert_eq!(again.stop(SOON).await, Exit::Code(0), "{}", again.log());
    assert_eq!(up.stop(SOON).await, Exit::Code(0), "{}", terminal.text());
}

#[tokio::test]
async fn an_agent_refuses_plaintext_to_another_machine_unless_its_config_allows_it() {
    let folder = Folder::new();
    let file = folder.path().join("agent.toml");
    fs::write(&file, "[agent]\nnats = \"nats://192.0.2.1:4222\"\n").expect("a config");
    let agent = Launch::new(program("reveille"), folder.path().join("agent.log"));
    let agent = agent.args(["agent", "--config"]).arg(&file).start();
    assert_eq!(agent.wait_for_exit(SOON).await, Exit::Code(2), "{}", agent.log());
    assert!(agent.log().contains("allow_plaintext"), "{}", agent.log());
}

#[tokio::test]
async fn a_machine_joins_a_locked_hub_over_a_network_by_the_documented_commands() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let [on_hub, token, on_gpu_box, revoke] =
        blocks_of("a_machine_joins_a_locked_hub_over_a_network_by_the_documented_commands");
    let (hub, gpu_box) = (Machine::new().await, Machine::new().await);
    join(&hub, &gpu_box);
    copy_configs(&hub.folder.path().join("nats"));
    install_ollama(&gpu_box);
    let [init, nats, up]: [&str; 3] = on_hub
        .lines()
        .collect::<Vec<_>>()
        .try_into()
        .expect("three commands");
    hub.does(init);
    let _nats = hub.start("nats", nats);
    let up = hub.start("up", up);
    let printed = hub.prints(&token, "rvt_").await;
    let ca = hub.folder.path().join("nats/hub/ca.pem");
    fs::copy(ca, gpu_box.folder.path().join("ca.pem")).expect("the authority");

    // The network between sees no token, and a stranger on it gets nowhere.
    let stranger = gpu_box.run("reveille journal verify --nats tls://192.0.2.1:4222 --nats-ca ca.pem");
    assert!(!stranger.status.success());
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(said.contains("refuses this key"), "{said}");

    let [join_line, agent_line] = lines(&on_gpu_box);
    let printed = printed
        .lines()
        .find(|line| line.contains("rvt_"))
        .expect("a command")
        .trim();
    assert!(join_line.starts_with("reveille join rvt_… "), "{join_line}");
    gpu_box.does(&join_line.replace("reveille join rvt_…", printed));
    let config = gpu_box.folder.path().join("agent.toml");
    let provider = "\n[[provider]]\nname = \"ollama\"\nbase_url = \"http://127.0.0.1:11434\"\nmodels = [\"qwen2.5:7b\"]\n\
         [provider.wake]\ntype = \"command\"\ncommand = \"ollama\"\nargs = [\"serve\"]\nrun = \"serve\"\n";
    fs::write(&config, fs::read_to_string(&config).expect("a config") + provider).expect("written");
    let agent = gpu_box.start("agent", agent_line);

    let root = fs::read_to_string(hub.folder.path().join(".local/share/reveille/root.key")).expect("a key");
    let root = root.trim();
    let llms = format!("reveille llms --api https://192.0.2.1:8420 --ca ca.pem --key {root}");
    gpu_box.prints(&llms, "hibernating").await;
    let ask = format!(
        "curl --silent --show-error --max-time 30 --cacert ca.pem https://192.0.2.1:8420/v1/chat/completions \
         -H 'authorization: Bearer {root}' -H 'content-type: application/json' \
         -d '{{\"model\": \"{MODEL}\", \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'"
    );
    let answer = gpu_box.does(&ask);
    assert!(
        answer.contains("token-0"),
        "{answer}\n{}\n{}",
        up.log(),
        agent.log()
    );

    hub.does(&revoke);
    gpu_box.prints(&llms, "inactive").await;
    let refused = gpu_box.does(&ask);
    assert!(refused.contains("provider_inactive"), "{refused}");
    assert!(
        agent.log().contains("lost the connection to NATS"),
        "{}",
        agent.log()
    );
}
