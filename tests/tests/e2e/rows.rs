//! Rebuilding rows by the command line, while requests are answered.

use std::time::Duration;

use reveille_tests::{AgentConfig, Api, Cluster, Database, Exit, Process, World, wait_until};
use serde_json::Value;

use crate::{
    docs::blocks_of,
    scene::{LLM, SOON, Scene},
};

/// How many wakes there are in the test of a restart.
const WAKES: usize = 12;

fn rebuild(world: &World) -> Process {
    let database = world.database().url();
    world
        .reveille("rows")
        .args(["rebuild", "--nats", &world.nats_url(), "--database-url", database])
        .start()
}

/// What the lists answer from Postgres, but for when agents were heard.
async fn lists(scene: &Scene) -> Vec<Value> {
    let mut lists = vec![];
    for path in ["llms", "wakes", "events"] {
        let mut list = scene
            .api
            .get(&format!("/reveille/v1/{path}?min_seq=1"))
            .await
            .json();
        for row in list["data"].as_array_mut().expect("rows") {
            row["last_heartbeat_ms"] = Value::Null;
        }
        lists.push(list);
    }
    lists
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_rebuilt_by_a_command_while_the_api_and_the_projector_go_on() {
    let world = World::with_postgres().await;
    let _projector = world.projector();
    let scene = Scene::asleep_in(world, Duration::ZERO).await;
    let answer = scene.api.chat("qwen").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    scene.api.wait_for_status(LLM, "active", SOON).await;
    let last = scene.world.journal().await.len();
    let applied = || async {
        let page = scene.api.get("/reveille/v1/llms").await;
        (page.status == 200 && page.json()["applied"].as_u64() == Some(last as u64)).then_some(())
    };
    wait_until("the rows had taken everything in", SOON, applied).await;
    let before = lists(&scene).await;

    // A rebuild that is killed soon after it has begun.
    let mut connection = scene.world.database().connect().await;
    let killed = rebuild(&scene.world);
    wait_until("the rebuild had begun", SOON, async || {
        let schema = "SELECT to_regnamespace('reveille_rebuild') IS NOT NULL";
        let begun: bool = sqlx::query_scalar(schema)
            .fetch_one(&mut connection)
            .await
            .expect("an answer");
        begun.then_some(())
    })
    .await;
    killed.kill9();
    assert_eq!(lists(&scene).await, before);

    let process = rebuild(&scene.world);
    let exit = process.wait_for_exit(SOON).await;
    assert_eq!(exit, Exit::Code(0), "{}", process.log());
    assert!(
        process
            .log()
            .contains(&format!("rebuilt the rows up to commit {last}")),
        "{}",
        process.log()
    );
    assert_eq!(lists(&scene).await, before);

    // Nobody was told, and both go on.
    scene.backend.kill9();
    let newest = wait_until("the projector wrote the new tables", SOON, async || {
        let page = scene
            .api
            .get(&format!("/reveille/v1/events?after_seq={last}"))
            .await;
        page.json()["data"].get(0).cloned()
    })
    .await;
    assert_eq!(newest["event_type"], "BackendSlept", "{newest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wakes_keep_their_cause_and_stages_over_a_restart_without_postgres() {
    let world = World::new().await;
    let backend = world.backend(&["--asleep"]);
    backend.start_and_wait().await;
    let url = backend.url();
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .lines("probe = { path = \"/is_sleeping\", expect = { is_sleeping = false } }\n")
        .woken_by_http(&format!("{url}/wake_up"))
        .lines(&format!(
            "[provider.sleep]\ntype = \"http\"\nurl = \"{url}/sleep\"\nidle_after = \"20ms\"\nmin_awake = \"1ms\"\n"
        ));
    let mut api = world.api().await;
    let _agent = world.agent(&config);
    api.wait_for_status(LLM, "hibernating", SOON).await;
    // More than a provider's state remembers.
    for number in 0..WAKES {
        let answer = api
            .chat_with("qwen", "x-request-id", &format!("asked-{number}"))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        api.wait_for_status(LLM, "hibernating", SOON).await;
    }
    let listed = async |api: &Api| {
        let mut page = api.get("/reveille/v1/wakes").await.json();
        page["data"].take()
    };
    let before = listed(&api).await;
    assert_eq!(before.as_array().map(Vec::len), Some(WAKES), "{before}");
    api.process().kill9();
    api = world.api().await;
    wait_until("the wakes were recalled", SOON, async || {
        (listed(&api).await == before).then_some(())
    })
    .await;
    let oldest = &before[WAKES - 1];
    assert_eq!(oldest["cause"]["request_id"], "asked-0", "{oldest}");
    assert!(
        oldest["stages"]
            .as_array()
            .is_some_and(|stages| !stages.is_empty()),
        "{oldest}"
    );
    // The wake's own page and a later wake.
    let wake = api
        .get(&format!(
            "/reveille/v1/wakes/{}",
            oldest["wake_id"].as_str().expect("an id")
        ))
        .await;
    assert_eq!(wake.json()["cause"], oldest["cause"]);
    assert_eq!(api.chat("qwen").await.status, 200);
    wait_until("the next wake was listed before them", SOON, async || {
        let rows = listed(&api).await;
        let rows = rows.as_array().expect("rows");
        (rows.len() == WAKES + 1 && rows[1..] == before.as_array().expect("rows")[..]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_share_a_database_with_another_program_by_the_documented_statements() {
    let [statements] =
        blocks_of("the_rows_share_a_database_with_another_program_by_the_documented_statements");
    // Roles belong to a whole cluster.
    let cluster = Cluster::start().await;
    let theirs = cluster.database().await;
    let mut connection = theirs.connect().await;
    let table = "CREATE TABLE events (id int); INSERT INTO events VALUES (7)";
    sqlx::raw_sql(table)
        .execute(&mut connection)
        .await
        .expect("a table");
    let refused = World::with_database(theirs.clone()).await;
    let process = refused.projector();
    assert_eq!(
        process.wait_for_exit(SOON).await,
        Exit::Code(1),
        "{}",
        process.log()
    );
    let log = process.log();
    assert!(
        log.contains("another program has tables") && log.contains("(events)"),
        "{log}"
    );

    sqlx::raw_sql(&statements)
        .execute(&mut connection)
        .await
        .expect("the statements");
    let ours = Database::at(&theirs.url().replace("postgres@", "reveille@"));
    let world = World::with_database(ours).await;
    let _projector = world.projector();
    let scene = Scene::asleep_in(world, Duration::ZERO).await;
    assert_eq!(scene.api.chat("qwen").await.status, 200);
    wait_until("the rows were there", SOON, async || {
        let page = scene.api.get("/reveille/v1/wakes").await;
        (page.status == 200 && page.json()["data"].get(0).is_some()).then_some(())
    })
    .await;
    let rows: Vec<i32> = sqlx::query_scalar("SELECT id FROM public.events")
        .fetch_all(&mut connection)
        .await
        .expect("their rows");
    assert_eq!(rows, [7]);
}
