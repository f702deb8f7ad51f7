//! docs/nas-and-gaming-pcs.md, word by word: a hub, agents and a client that share nothing but a network.

use reveille_tests::{Exit, Folder, Launch, Process, program, wait_until};
use std::{fs, os::unix::fs::symlink};

use crate::{
    docs::{assert_says, blocks_of, commands, root},
    machine::{MODEL, Machine, Terminal, connect, obstacle},
    scene::SOON,
};

const PAGE: &str = "docs/nas-and-gaming-pcs.md";
const NAS: &str = "192.168.1.10/24";
const GAMING_PC: &str = "192.168.1.30/24";

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
         ip route add 192.168.1.10/32 via 198.51.100.1",
    );
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

/// The NAS, the PC that has joined it, whose backend sleeps, and somebody with a key.
struct Household {
    nas: Machine,
    pc: Machine,
    caller: Machine,
    up: Process,
    /// Where `up` runs.
    terminal: Terminal,
    agent: Process,
    /// The commands of the page, and the line that the NAS has printed.
    on_nas: String,
    join: String,
    pause: String,
    /// What the caller runs, with the key.
    llms: String,
    curl: String,
}

impl Household {
    async fn new() -> Self {
        assert_eq!(
            obstacle(),
            None,
            "three machines are needed, as network namespaces"
        );
        let [on_nas, on_pc, make_key, curl, pause] =
            blocks_of("two_commands_join_two_machines_and_a_third_one_is_answered");
        let (nas, pc, caller) = tokio::join!(Machine::with_system(), Machine::new(), Machine::new());
        connect(&[(&nas, NAS), (&pc, GAMING_PC)]);
        join_another(&nas, &caller);
        install_llama_server(&pc);
        let server = pc.start("llama-server", LLAMA_SERVER);
        wait_until("the server answered", SOON, async || {
            let found = pc.run("curl --silent --fail http://127.0.0.1:8080/health");
            found.status.success().then_some(())
        })
        .await;

        // The first command, and the second one, as the first has printed it.
        let terminal = Terminal::new();
        let up = terminal.start(&nas, "up", &on_nas);
        let join = line_for_another_machine(&up, &terminal).await;
        assert!(on_pc.starts_with("reveille join rvt_…  "), "{on_pc}");
        let agent = pc.start("join", &join);
        let key = nas.prints(&make_key, "rv_").await;
        let with_key = |line: &str| format!("export REVEILLE_API_KEY={}; {line}", key.trim());
        let llms = with_key("reveille llms --api https://192.168.1.10:8420 --ca ca.pem");
        let ca = nas.folder.path().join(".local/share/reveille/agents-tls/ca.pem");
        fs::copy(ca, caller.folder.path().join("ca.pem")).expect("the authority");
        let printed = caller.prints(&llms, "active").await;
        assert!(printed.contains(&format!("gpu-box/{MODEL}")), "{printed}");
        let [first, second, third] = [&[&*on_nas, &make_key][..], &[&on_pc], &[&curl]].map(commands);
        assert_says(
            PAGE,
            &format!(
                ". {first} commands on the NAS, {second} on the PC and {third} on any other machine lead to the first answer."
            ),
        );
        // From now on the agent starts and stops it.
        server.stop(SOON).await;
        let curl = with_key(&format!("{curl} --silent --show-error --max-time 60"));
        Self {
            nas,
            pc,
            caller,
            up,
            terminal,
            agent,
            on_nas,
            join,
            pause,
            llms,
            curl,
        }
    }

    async fn is_answered(&self) {
        self.caller.prints(&self.curl, "token-0").await;
    }
}

#[tokio::test]
async fn two_commands_join_two_machines_and_a_third_one_is_answered() {
    let home = Household::new().await;
    let (caller, agent) = (&home.caller, &home.agent);
    let refused = caller.run("curl --insecure --fail https://192.168.1.10:8420/v1/models");
    assert!(!refused.status.success(), "nobody without a key");
    let answer = caller.does(&home.curl);
    assert!(
        answer.contains("token-0"),
        "{answer}\n{}{}",
        home.terminal.text(),
        agent.log()
    );
    let events = home.nas.does("reveille events -o jsonl");
    for event in ["AgentEnrolled", "WakeRequested", "WakeSucceeded"] {
        assert!(events.contains(event), "{event} is not in {events}");
    }

    let thief = caller.run(&home.join);
    let said = String::from_utf8_lossy(&thief.stderr).into_owned();
    assert_eq!(thief.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the token was used already, and each works once"),
        "{said}"
    );

    // A game on the PC, and its end.
    let (pause, resume) = home.pause.split_once('\n').expect("two commands");
    home.pc.does(pause);
    caller.prints(&home.llms, "hibernating").await;
    let refused = caller.does(&home.curl);
    assert!(refused.contains("provider_declined"), "{refused}");
    home.pc.does(resume);
    home.is_answered().await;
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_hub_and_its_machines_come_back_and_the_hub_becomes_a_service_by_the_documented_commands() {
    let [next_pc, revoke_key, service] = blocks_of(
        "a_hub_and_its_machines_come_back_and_the_hub_becomes_a_service_by_the_documented_commands",
    );
    let mut home = Household::new().await;
    let (nas, caller) = (&home.nas, &home.caller);

    // A new address of the hub is one more way to it, without a restart.
    nas.set_up("ip addr add 203.0.113.1/24 dev second");
    caller.set_up("ip route add 203.0.113.1/32 via 198.51.100.1");
    wait_until(
        "the hub had a certificate for its new address",
        SOON,
        async || {
            home.terminal
                .text()
                .contains("made a new certificate")
                .then_some(())
        },
    )
    .await;
    let next = nas.does(&next_pc);
    wait_until("the hub was reached at its new address", SOON, async || {
        let joined = caller.run(&format!("{} --no-start --force", next.trim()));
        let said = String::from_utf8_lossy(&joined.stderr);
        let log = nas.folder.path().join(".local/share/reveille/nats.log");
        let log = fs::read_to_string(log).unwrap_or_default();
        assert!(joined.status.success(), "{said}\n{}\n{log}", home.terminal.text());
        let config = caller.folder.path().join(".local/share/reveille/reveille.toml");
        let config = fs::read_to_string(config).expect("a config");
        config.contains("tls://203.0.113.1:8422").then_some(())
    })
    .await;

    // Each side comes back by itself after the other, and after its own end.
    home.up.kill9();
    home.up.wait_for_exit(SOON).await;
    home.terminal = Terminal::new();
    home.up = home.terminal.start(nas, "up-again", &home.on_nas);
    let next = line_for_another_machine(&home.up, &home.terminal).await;
    assert_ne!(next, home.join);
    let log = home.terminal.text();
    assert!(log.contains("gpu-box-2 is the name"), "{log}");
    home.is_answered().await;
    assert!(home.agent.is_running(), "{}", home.agent.log());
    home.agent.kill9();
    home.agent.wait_for_exit(SOON).await;
    let agent = home.pc.start("agent", "reveille agent");
    wait_until("the new agent was connected", SOON, async || {
        agent.log().contains("gpu-box is connected").then_some(())
    })
    .await;
    home.is_answered().await;

    // The hub becomes a service, with all that it had.
    nas.install_systemctl();
    nas.does(&service);
    assert_eq!(
        home.up.wait_for_exit(SOON).await,
        Exit::Code(0),
        "{}",
        home.terminal.text()
    );
    let unit = fs::read_to_string(root().join("packaging/systemd/reveille.service")).expect("a unit");
    let up = nas.start_asked_service(Some(&unit));
    home.is_answered().await;
    nas.does(&format!(
        "export REVEILLE_DATA_DIR=/var/lib/reveille\n{revoke_key}"
    ));
    caller.prints(&home.curl, "revoked").await;

    assert_eq!(agent.stop(SOON).await, Exit::Code(0), "{}", agent.log());
    assert_eq!(up.stop(SOON).await, Exit::Code(0), "{}", up.log());
}

/// A network card that wakes its machine by a magic packet: Ollama begins to listen.
const NETWORK_CARD: &str = r#"
import socket, subprocess, sys
packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
packets.bind(("", 9))
print("listening", flush=True)
ollama = None
while True:
    packet, _ = packets.recvfrom(1024)
    woken = packet == b"\xff" * 6 + bytes.fromhex("001122334455") * 16
    if woken and (ollama is None or ollama.poll() is not None):
        ollama = subprocess.Popen(["stand-in-llm", "--imitates", "ollama", "--model", "qwen2.5:32b", "--listen", "192.168.1.20:11434"])
        print("woken", ollama.pid, flush=True)
"#;

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_pc_that_is_off_is_woken_from_the_nas_by_the_documented_commands() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let [commands] = blocks_of("a_pc_that_is_off_is_woken_from_the_nas_by_the_documented_commands");
    let [try_it, down, up]: [&str; 3] = commands
        .lines()
        .collect::<Vec<_>>()
        .try_into()
        .expect("three commands");
    let (nas, pc) = (Machine::new().await, Machine::new().await);
    connect(&[(&nas, NAS), (&pc, "192.168.1.20/24")]);
    fs::write(pc.folder.path().join("card.py"), NETWORK_CARD).expect("a script");
    let card = pc.start("card", "python3 card.py");
    let woken = async |times: usize| {
        wait_until("the network card had done its part", SOON, async || {
            assert!(card.is_running(), "{}", card.log());
            (card.log().contains("listening") && card.log().matches("woken ").count() == times).then_some(())
        })
        .await;
    };
    woken(0).await;
    let recipe = root().join("docs/recipes/wake-on-lan.toml");
    fs::copy(recipe, nas.folder.path().join("reveille.toml")).expect("a config");
    let before = nas.start("before", up);
    nas.api_is_ready_at("https://127.0.0.1:8420", &before).await;
    nas.does(try_it);
    woken(1).await;
    nas.does(down);
    assert_eq!(
        before.wait_for_exit(SOON).await,
        Exit::Code(0),
        "{}",
        before.log()
    );

    // The PC is off again.
    let log = card.log();
    let pid = log.lines().find_map(|line| line.strip_prefix("woken "));
    let pid = pid.expect("a process");
    pc.does(&format!("kill {pid}"));
    let up = nas.start("up", up);
    nas.prints("reveille llms", "hibernating").await;
    let key = nas
        .prints("reveille key create --name me --scope 'infer:*'", "rv_")
        .await;
    let answer = nas.does(&format!(
        "curl --silent --show-error --max-time 60 --cacert .local/share/reveille/agents-tls/ca.pem \
         https://192.168.1.10:8420/v1/chat/completions -H 'authorization: Bearer {}' -H 'content-type: application/json' \
         -d '{{\"model\": \"qwen2.5:32b\", \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'",
        key.trim()
    ));
    assert!(answer.contains("token-0"), "{answer}\n{}", up.log());
    woken(2).await;
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
