//! A hub and an agent that share nothing but a network: two network namespaces, joined by a cable, and the commands and
//! the config of docs/operations.md, word by word.

use reveille_tests::{Exit, Folder, Launch, program};
use std::{fs, path::Path};

use crate::{
    docs::blocks_of,
    locked::copy_configs,
    machine::{MODEL, Machine, install_ollama, link, obstacle},
    scene::SOON,
};

/// The chapter that is followed.
const CHAPTER: &str = "\n## Two machines\n";
const HUB: &str = "192.0.2.1/24";
const GPU_BOX: &str = "192.0.2.2/24";

/// The chapter's config.
fn config() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/operations.md")).expect("the page");
    let (_, chapter) = page.split_once(CHAPTER).expect("the chapter");
    let (_, block) = chapter.split_once("\n```toml\n").expect("its config");
    block.split("\n```").next().unwrap_or_default().to_owned()
}

fn lines(block: &str) -> [&str; 2] {
    let lines: Vec<_> = block.lines().collect();
    lines.try_into().expect("two commands")
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

#[tokio::test]
async fn a_hub_wakes_a_backend_on_another_machine_by_the_documented_commands() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let [on_hub, make_key, on_gpu_box, anywhere] =
        blocks_of("a_hub_wakes_a_backend_on_another_machine_by_the_documented_commands");
    let config = config();
    let (hub, gpu_box) = (Machine::new().await, Machine::new().await);
    join(&hub, &gpu_box);
    link(&hub, "nats");
    install_ollama(&gpu_box);
    fs::write(gpu_box.folder.path().join("agent.toml"), &config).expect("a config");

    let [nats, up] = lines(&on_hub);
    let _nats = hub.start("nats", nats);
    let up = hub.start("up", up);
    let agent = gpu_box.start("agent", &on_gpu_box);
    let key = hub.prints(&make_key, "rv_").await;
    let with_key = |line: &str| format!("export REVEILLE_API_KEY={}; {line}", key.trim());
    let [llms, curl] = &lines(&anywhere).map(with_key);
    let refused = gpu_box.run("reveille llms --api http://192.0.2.1:8420");
    assert!(!refused.status.success(), "nobody without a key");
    let printed = gpu_box.prints(llms, "hibernating").await;
    assert!(printed.contains(&format!("gpu-box/{MODEL}")), "{printed}");

    let answer = gpu_box.run(&format!("{curl} --silent --show-error --max-time 30"));
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(said.contains("token-0"), "{said}\n{}\n{}", up.log(), agent.log());
    hub.prints(llms, "active").await;
    let events = hub.run(&with_key("reveille events --api http://192.0.2.1:8420 -o jsonl"));
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(
        events.contains("WakeRequested") && events.contains("WakeSucceeded"),
        "{events}"
    );

    assert_eq!(agent.stop(SOON).await, Exit::Code(0), "{}", agent.log());
    assert_eq!(up.stop(SOON).await, Exit::Code(0), "{}", up.log());
}

#[tokio::test]
async fn an_agent_refuses_plaintext_to_another_machine_unless_its_config_allows_it() {
    let config = config();
    let folder = Folder::new();
    let file = folder.path().join("agent.toml");
    fs::write(&file, config.replace("allow_plaintext = true\n", "")).expect("a config");
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
