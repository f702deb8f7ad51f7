//! The API as pages in a real browser meet it: one that nobody has allowed, one whose name was rebound to this machine, and one that
//! is allowed. `cargo xtask test --all` installs the browser.

mod site;

use crate::scene::{LLM, SOON, Scene};
use reveille_tests::{
    AgentConfig, Folder, Launch, Port, Process, WakeController, World, chromium, wait_until,
};
use serde_json::{Value, json};
use site::Site;
use std::{fs, time::Duration};

/// What a page tries that wants to misuse the API, and what it can read of the answers.
const FOREIGN: &str = include_str!("foreign.js");
/// A page that uses the API as it is meant.
const ALLOWED: &str = include_str!("allowed.js");
/// Names that the browser resolves to this machine: what a page's owner can do with DNS.
const RESOLVED: &str = "MAP evil.example 127.0.0.1";
/// A page tries a hundred things, on a machine that is busy with other tests.
const REPORTED_WITHIN: Duration = Duration::from_secs(120);

/// Opens a page; the browser ends with the test.
fn open(url: &str) -> (Process, Folder) {
    let folder = Folder::new();
    let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
    let browser = Launch::new(chromium(), folder.path().join("chromium.log"))
        .env("HOME", folder.path())
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args([
            profile,
            format!("--host-resolver-rules={RESOLVED}"),
            url.to_owned(),
        ]);
    (browser.start(), folder)
}

/// What a page has read of the answers to what it tried: `what: text`.
fn read(report: &Value) -> Vec<String> {
    let tried = report.as_array().expect("a list");
    assert!(tried.len() > 30, "too little was tried: {report}");
    let read = tried.iter().filter(|one| !one["read"].is_null());
    read.map(|one| format!("{}: {}", one["what"], one["read"]))
        .collect()
}

/// How many answers of this status the metrics count.
async fn answered(scene: &Scene, status: u16) -> u64 {
    let page = scene.api.get("/metrics").await.text();
    let label = format!("status=\"{status}\"");
    let counts = page
        .lines()
        .filter(|line| line.starts_with("reveille_http_answers_total") && line.contains(&label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    counts.sum()
}

/// Nothing in the journal, no wake, no request at the backend.
async fn assert_untouched(scene: &Scene, commits: usize) {
    let journal = scene.world.journal().await;
    let new: Vec<_> = journal.iter().skip(commits).collect();
    assert!(new.is_empty(), "the journal has more: {new:?}");
    assert_eq!(scene.posts(), 0, "it was woken");
    assert!(scene.backend.log().requests().is_empty(), "it was asked");
    let keys = scene.api.get("/reveille/v1/keys").await.json();
    assert_eq!(keys["data"], json!([]));
    scene.is("hibernating").await;
}

#[tokio::test]
#[ignore = "browser: run by cargo xtask test --all"]
async fn a_page_of_another_origin_changes_wakes_costs_and_reads_nothing() {
    let scene = Scene::asleep(Duration::ZERO).await;
    let commits = scene.world.journal().await.len();
    let port = scene.api.url().rsplit(':').next().expect("a port").to_owned();
    let mut site = Site::serving(FOREIGN, Port::claim()).await;
    for host in ["127.0.0.1", "localhost", "evil.example"] {
        let page = format!("http://{host}:{}/#{port}", site.port());
        let browser = open(&page);
        let report = site.report(REPORTED_WITHIN).await;
        drop(browser);
        let read = read(&report);
        assert!(read.is_empty(), "from {host}: {read:#?}");
        assert_untouched(&scene, commits).await;
    }
    // What needs no preflight was sent all the same, and refused.
    assert!(answered(&scene, 403).await >= 10 && answered(&scene, 421).await >= 10);
    assert_eq!(scene.chat().await.status, 200, "and who is no page is answered");
}

/// The page comes from the port on which the API is then: what changing a name's address between two requests comes to.
#[tokio::test]
#[ignore = "browser: run by cargo xtask test --all"]
async fn a_page_whose_name_was_rebound_to_the_api_reads_refusals_alone() {
    let scene = Scene::asleep(Duration::ZERO).await;
    let commits = scene.world.journal().await.len();
    let mut reports = Site::serving("", Port::claim()).await;
    let lure = Site::serving(FOREIGN, Port::claim()).await;
    let page = format!("http://evil.example:{}/#rebound,{}", lure.port(), reports.port());
    let browser = open(&page);
    assert_eq!(reports.report(REPORTED_WITHIN).await, json!("loaded"));
    let port = lure.leave();
    let api = scene
        .world
        .reveille("api")
        .args(["--nats", &scene.world.nats_url()]);
    let api = api.args(["--listen", &port.address().to_string()]).start();
    let report = reports.report(REPORTED_WITHIN).await;
    assert!(api.is_running(), "{}", api.log());
    drop(browser);
    let read = read(&report);
    assert!(
        read.len() > 10,
        "the API was reached by the page's own name: {report}"
    );
    for text in &read {
        assert!(text.contains("unknown_host"), "{text}");
    }
    assert_untouched(&scene, commits).await;
}

#[tokio::test]
#[ignore = "browser: run by cargo xtask test --all"]
async fn a_page_of_a_listed_origin_streams_the_answer_of_a_woken_backend() {
    let world = World::new().await;
    let backend = world.backend(&["--tokens", "6", "--token-delay-ms", "100"]);
    let controller = WakeController::starting(&backend, Duration::ZERO).await;
    let mut site = Site::serving(ALLOWED, Port::claim()).await;
    let origin = format!("http://localhost:{}", site.port());
    let root = world.folder().join("root.key");
    let root_file = root.display().to_string();
    let words = [
        "--require-keys",
        "--root-key-file",
        &root_file,
        "--cors-origin",
        &origin,
    ];
    let api = world.api_with(&words);
    api.wait_until_ready().await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_http(&controller.url());
    let _agent = world.agent(&config);
    let key = fs::read_to_string(root).expect("a key").trim().to_owned();
    wait_until("the model was published", SOON, async || {
        let models = api.client().get(format!("{}/v1/models/qwen", api.url()));
        let models = models.bearer_auth(&key).send().await.ok()?;
        models.status().is_success().then_some(())
    })
    .await;

    let browser = open(&format!("{origin}/#{},{key}", api.url()));
    let report = site.report(REPORTED_WITHIN).await;
    drop(browser);
    assert_eq!(report["error"], Value::Null, "{report}");
    let stream = &report["stream"];
    assert_eq!(stream["status"], 200, "{report}");
    assert_eq!(
        stream["said"], "token-0 token-1 token-2 token-3 token-4 token-5",
        "{report}"
    );
    assert_eq!(stream["done"], true, "{report}");
    assert!(
        stream["chunks"].as_u64() >= Some(3),
        "it came piece by piece: {report}"
    );
    assert!(
        stream["wake_id"].as_str().is_some_and(|id| id.len() == 36),
        "{report}"
    );
    assert_eq!(stream["provider"], "gpu-box/vllm", "{report}");
    assert_eq!(controller.posts().len(), 1, "{LLM} was woken by the page");
    for (what, status, code) in [
        ("unknown_model", 404, "model_not_found"),
        ("no_key", 401, "missing_api_key"),
        ("no_path", 404, "not_found"),
    ] {
        let error = &report[what];
        assert_eq!(
            (&error["status"], &error["code"]),
            (&json!(status), &json!(code)),
            "{report}"
        );
        assert!(
            error["request_id"].as_str().is_some_and(|id| !id.is_empty()),
            "{report}"
        );
    }
    // From the same server by another name, the page is another origin's.
    let browser = open(&format!("http://127.0.0.1:{}/#{},{key}", site.port(), api.url()));
    let report = site.report(REPORTED_WITHIN).await;
    drop(browser);
    assert!(
        report["error"]
            .as_str()
            .is_some_and(|error| error.contains("TypeError")),
        "{report}"
    );
}
