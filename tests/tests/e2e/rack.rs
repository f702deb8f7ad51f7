//! docs/rack.md, word by word: three nodes with a hub, and a GPU server, each with a network and system folders of its own.

use reveille_tests::{Database, Process, wait_until};
use std::fs;

use crate::{
    docs::{assert_says, blocks_of, commands, root},
    locked::copy_configs,
    machine::{Machine, connect, obstacle},
    scene::SOON,
};

const PAGE: &str = "docs/rack.md";
const DATABASE: &str = "postgres://reveille@10.0.0.3/reveille";
const FIRST: &str = "https://10.0.0.1:8420";
const SECOND: &str = "https://10.0.0.2:8420";

/// A machine of the rack, from which the others are reached by `ssh`.
async fn machine() -> Machine {
    let machine = Machine::with_system().await;
    machine.install_systemctl();
    machine
}

/// An `ssh` that leads to these machines by their addresses, whatever user is named.
fn install_ssh(machine: &Machine, others: &[(&str, &Machine)]) {
    let leads = others.iter().map(|(address, other)| {
        format!(
            "*@{address}) shift; exec nsenter --target {} --net --mount -- \"$@\" ;;\n",
            other.sleeper.pid()
        )
    });
    machine.script(
        "ssh",
        &format!("case \"$1\" in\n{}esac\nexit 255", leads.collect::<String>()),
    );
}

fn unit(name: &str) -> String {
    let file = root().join(format!("packaging/systemd/{name}.service"));
    fs::read_to_string(file).expect("a unit")
}

/// Runs a documented block, with the machine's own name and address in the place of the first one's, and starts the service
/// that it enables.
fn starts(machine: &Machine, block: &str, own: &[(&str, &str)], name: &str) -> Process {
    let block = own.iter().fold(block.to_owned(), |block, (from, to)| {
        assert!(block.contains(from), "{from}: {block}");
        block.replacen(from, to, 1)
    });
    machine.does(&block);
    assert_eq!(machine.asked_service(), name);
    machine.start_asked_service(Some(&unit(name)))
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_rack_answers_by_the_documented_commands_and_shows_a_server_out() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let [make_keys, nats, hub, token, vllm, join, ask, metrics, revoke] =
        blocks_of("a_rack_answers_by_the_documented_commands_and_shows_a_server_out");
    let (first, second, third, gpu) = tokio::join!(machine(), machine(), machine(), machine());
    connect(&[
        (&first, "10.0.0.1/24"),
        (&second, "10.0.0.2/24"),
        (&third, "10.0.0.3/24"),
        (&gpu, "10.0.0.11/24"),
    ]);
    install_ssh(&first, &[("10.0.0.2", &second), ("10.0.0.3", &third)]);
    install_ssh(&gpu, &[("10.0.0.1", &first)]);
    copy_configs(&first.folder.path().join("nats"));

    first.does(&make_keys);
    let a = ("NODE=a ADDRESS=10.0.0.1", "NODE=a ADDRESS=10.0.0.1");
    let [b, c] = [("b", "2"), ("c", "3")].map(|(node, end)| format!("NODE={node} ADDRESS=10.0.0.{end}"));
    let nodes = [(&first, a), (&second, (a.0, &*b)), (&third, (a.0, &*c))];
    let _nats: Vec<_> = nodes
        .iter()
        .map(|(node, own)| starts(node, &nats, &[*own], "reveille-nats"))
        .collect();
    let database = Database::create().await;
    let address = "ADDRESS=10.0.0.1";
    let mut hubs = vec![];
    for (node, own, api) in [(&first, address, FIRST), (&second, "ADDRESS=10.0.0.2", SECOND)] {
        let own = [(address, own), (DATABASE, database.socket_url())];
        let up = starts(node, &hub, &own, "reveille");
        node.api_is_ready_at(api, &up).await;
        hubs.push(up);
    }

    let printed = first.does(&token);
    assert!(printed.contains(" ready"), "{printed}");
    let word = |prefix: &str| {
        let mut words = printed.split_whitespace();
        let found = words.find(|word| word.starts_with(prefix));
        found
            .unwrap_or_else(|| panic!("no {prefix}: {printed}"))
            .to_owned()
    };
    let (key, join_token) = (word("rv_"), word("rvt_"));

    gpu.script(
        "vllm",
        &format!(
            "exec '{}' --imitates vllm --model \"$2\" --listen 127.0.0.1:8000",
            reveille_tests::program("stand-in-llm").display()
        ),
    );
    let _vllm = gpu.start("vllm", &vllm);
    wait_until("vLLM answered", SOON, async || {
        let found = gpu.run("curl --silent --fail http://127.0.0.1:8000/health");
        found.status.success().then_some(())
    })
    .await;
    gpu.does(&join.replace("rvt_…", &join_token));
    assert_eq!(gpu.asked_service(), "reveille-agent");
    let agent = gpu.start_asked_service(None);

    let operator =
        "export REVEILLE_DATA_DIR=/var/lib/reveille REVEILLE_CA_FILE=/etc/reveille/nats/hub/ca.pem";
    first
        .prints(&format!("{operator}\nreveille llms"), "active")
        .await;
    let with_key = |block: &str| format!("{operator} REVEILLE_API_KEY={key}\n{block}");
    let (sleep, ask) = ask.split_once('\n').expect("two commands");
    first.does(&format!("{operator}\n{sleep}"));
    let answer = first.does(&with_key(ask));
    assert!(answer.contains("token-0"), "{answer}\n{}", agent.log());
    let on_nodes = [
        &[&*make_keys, &nats, &hub, &token, sleep, ask][..],
        &[&nats, &hub],
        &[&nats],
    ];
    let [on_first, on_second, on_third] = on_nodes.map(commands);
    let on_gpu = commands(&[&join]);
    assert_says(
        PAGE,
        &format!(
            " {on_first} commands on the first node, {on_second} on the second, {on_third} on the third and {on_gpu} on each \
             GPU server lead to the first answer."
        ),
    );

    // Both replicas tell the same, and the lists are in the database.
    for api in [FIRST, SECOND] {
        let wakes = format!("{operator} REVEILLE_API_KEY={key}\nreveille wakes --api {api}");
        first.prints(&wakes, "succeeded").await;
    }
    let status = first.does(&format!("{operator}\nreveille status"));
    assert!(
        status.contains("up to date") && status.contains("gpu-1/vllm"),
        "{status}"
    );
    let metrics = first.does(&with_key(&metrics));
    assert!(metrics.contains("reveille_connected_agents 1"), "{metrics}");

    // A stranger with the authority's certificate gets nowhere.
    let stranger = gpu.run("reveille journal verify --nats tls://10.0.0.1:4222 --nats-ca ca.pem");
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(
        !stranger.status.success() && said.contains("refuses this key"),
        "{said}"
    );

    first.does(&format!("{operator}\n{revoke}"));
    first
        .prints(&format!("{operator}\nreveille llms"), "inactive")
        .await;
    let refused = first.does(&with_key(ask));
    assert!(refused.contains("provider_inactive"), "{refused}");
}
