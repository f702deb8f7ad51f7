//! What an agent that has reached its limit of open files makes of its backends: nothing. In a process of its own, because the limit
//! is the process's.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod control;
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod whole_agent;

use backend::Backend;
use reveille_bus::{
    open_files,
    relay::{FaultCode, RelayError},
};
use reveille_domain::provider::StatusName::Active;
use rustix::process::{Resource, getrlimit};
use whole_agent::World;

const EMBEDDINGS: &str = "/v1/embeddings";
const BODY: &str = r#"{"model":"m","input":"hello"}"#;

#[tokio::test]
async fn a_healthy_backend_stays_active_while_its_agent_has_no_file_left_and_requests_are_told_why() {
    let backend = Backend::start().await;
    backend.wake_up();
    let world = World::start(&format!(
        r#"
        base_url = "{0}"
        models = ["m"]
        probe = {{ path = "/is_sleeping", expect = {{ is_sleeping = false }}, interval = "50ms" }}
        [provider.wake]
        type = "http"
        url = "{0}/wake"
        "#,
        backend.url
    ))
    .await;
    world.until(Active).await;
    let limit = getrlimit(Resource::Nofile);
    assert_eq!(limit.current, limit.maximum, "the agent has raised it");

    open_files::lower_to(3);
    let error = world.send(EMBEDDINGS, BODY).await.expect_err("no connection");
    open_files::raise_limit();
    let RelayError::Fault(fault) = error else {
        panic!("{error}")
    };
    assert_eq!(fault.code, FaultCode::Overloaded);
    assert!(fault.message.contains("limit of 3 open files"), "{fault}");

    let (answer, _) = world.send(EMBEDDINGS, BODY).await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(world.control.status(), Some(Active));
    assert!(world.control.sleeps().is_empty());
    assert_eq!(backend.wakes().len(), 0);
}
