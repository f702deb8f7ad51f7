//! Requests that wait for slots: real replicas, agents and backends.

use futures::future::join_all;
use reveille_tests::{AgentConfig, World};

use crate::scene::SOON;

#[tokio::test]
async fn two_replicas_never_give_a_backend_more_than_its_max_concurrency_and_answer_all() {
    let world = World::new().await;
    let backend = world.backend(&["--first-token-delay-ms", "60", "--tokens", "2"]);
    backend.start_and_wait().await;
    let replicas = [world.api().await, world.api().await];
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("max_concurrency = 3\n");
    let _agent = world.agent(&config);
    for api in &replicas {
        api.wait_for_status("gpu-box/qwen", "active", SOON).await;
    }
    let answers = join_all((0..40).map(|i| replicas[i % 2].chat("qwen"))).await;
    for answer in answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let log = backend.log();
    assert_eq!((log.answered(), log.peak()), (40, 3));
}
