//! docs/one-pc.md, word by word: from a PC with an installed Ollama to a service that wakes it.

use super::{
    blocks::{assert_says, commands},
    blocks_of,
};
use crate::{
    machine::{Machine, install_ollama, obstacle},
    scene::SOON,
    systemd::verify,
};
use reveille_tests::Exit;

#[tokio::test]
async fn one_pc_wakes_a_model_and_becomes_a_service_by_the_documented_commands() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let [start, ask, watch, fails, service] =
        blocks_of("one_pc_wakes_a_model_and_becomes_a_service_by_the_documented_commands");
    let [_, install] = blocks_of("the_wheel_brings_everything_into_an_empty_environment");
    let machine = Machine::new().await;
    install_ollama(&machine);
    machine.install_systemctl();

    let (init, up) = start.split_once('\n').expect("two commands");
    machine.does(init);
    let up = machine.start("up", up);
    machine.api_is_ready(&up).await;
    assert!(machine.does(&ask).contains("token-0"), "{}", up.log());
    assert!(machine.does("reveille wakes").contains("succeeded"));
    let count = commands(&[&install, &start, &ask]);
    assert_says(
        "docs/one-pc.md",
        &format!(". {count} commands lead to the first answer."),
    );

    let status = machine.does(&watch);
    assert!(status.contains("hibernating"), "{status}");
    assert!(machine.does(&ask).contains("token-0"));
    let status = machine.does("reveille status");
    assert!(
        status.contains(" active ") && status.contains("succeeded"),
        "{status}"
    );

    machine.does("reveille sleep ollama --wait");
    machine.script("ollama", "echo 'no GPU is here' >&2; exit 3");
    let refused = machine.does(&ask);
    assert!(refused.contains("wake_failed"), "{refused}");
    let found = machine.run(&fails);
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    for part in ["no GPU is here", "exited with code 3", "provider ollama"] {
        assert!(found.contains(part), "{part}: {found}");
    }
    install_ollama(&machine);

    machine.does(&service);
    assert_eq!(up.wait_for_exit(SOON).await, Exit::Code(0), "{}", up.log());
    let unit = machine
        .folder
        .path()
        .join(".config/systemd/user/reveille.service");
    verify("--user", &[unit]);
    let service = machine.start_asked_service(None);
    machine.api_is_ready(&service).await;
    assert!(machine.does(&ask).contains("token-0"), "{}", service.log());
    machine.does("reveille agent reload");
    machine.does("reveille down");
    assert_eq!(
        service.wait_for_exit(SOON).await,
        Exit::Code(0),
        "{}",
        service.log()
    );
}
