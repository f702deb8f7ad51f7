//! Every path of the table in docs/clients.md, at two replicas: to a backend that sleeps and to one that is awake, with a stream and
//! without.

use std::{convert::Infallible, fs, path::Path};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Method, header},
    response::Response,
    routing::get,
};
use futures::{future::join_all, stream};
use reqwest::RequestBuilder;
use reveille_tests::{AgentConfig, Answer, Api, Port, World};
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

use crate::{
    echo::{EVENTS, Echo, FORM, LINES, first_object},
    scene::{LLM, SOON},
};

/// A path of the table.
#[derive(Debug, Clone)]
struct Row {
    method: Method,
    path: String,
    model_in: String,
    required: String,
    wakes: bool,
    streams: bool,
}

/// The rows, one for each path.
fn rows() -> Vec<Row> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/clients.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let (_, table) = page.split_once("<!-- generated: paths -->").expect("the table");
    let (table, _) = table.split_once("<!-- end of generated -->").expect("its end");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let rows = rows.flat_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (method, paths) = cells[1].split_once(' ').expect("a method and paths");
        let row = |path: &str| Row {
            method: method.parse().expect("a method"),
            path: path.trim_matches('`').to_owned(),
            model_in: cells[3].to_owned(),
            required: cells[4].trim_matches('`').to_owned(),
            wakes: cells[5] == "yes",
            streams: !cells[6].is_empty(),
        };
        paths.split(", ").map(row).collect::<Vec<_>>()
    });
    rows.collect()
}

impl Row {
    fn request(&self, api: &Api, stream: bool) -> RequestBuilder {
        let url = format!("{}{}", api.url(), self.path);
        if self.model_in == "query" {
            return api.client().get(format!("{url}?model=qwen&x=1"));
        }
        let post = api.client().post(url);
        if self.model_in == "form" {
            let field = |name: &str, value: &str| {
                format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
            };
            let fields = [
                ("model", "qwen"),
                ("stream", if stream { "true" } else { "false" }),
            ];
            let fields = fields.map(|(name, value)| field(name, value)).concat();
            let body = format!("{fields}{}--b--\r\n", field(&self.required, "x"));
            return post.header(header::CONTENT_TYPE, FORM).body(body);
        }
        let mut body = json!({ "model": "qwen" });
        match self.required.as_str() {
            "" => {}
            "messages" => body["messages"] = json!([{ "role": "user", "content": "hello" }]),
            field => body[field] = "hello".into(),
        }
        if self.streams {
            body["stream"] = stream.into();
        }
        post.json(&body)
    }

    /// Sends a request and checks that the backend got it as it should have.
    async fn check(&self, api: &Api, stream: bool) {
        let answer = Answer::of(self.request(api, stream)).await;
        let (text, what) = (answer.text(), format!("{self:?} stream: {stream}"));
        assert_eq!(answer.status, 200, "{what}: {text}");
        let echoed = first_object(&text);
        let target = if self.model_in == "query" {
            format!("{}?model=own&x=1", self.path)
        } else {
            self.path.clone()
        };
        assert_eq!(
            echoed["echo"],
            json!({ "method": self.method.as_str(), "target": target, "model": "own" }),
            "{what}"
        );
        assert_eq!(
            echoed["model"], "qwen",
            "{what}: its answer names what the caller asked for"
        );
        let kind = answer.header("content-type").unwrap_or_default();
        let expected = match (stream, self.path.starts_with("/api/")) {
            (false, _) => "application/json",
            (true, true) => LINES,
            (true, false) => EVENTS,
        };
        assert_eq!(kind, expected, "{what}");
        assert!(!text.contains("\"error\""), "{what}: {text}");
    }

    /// Whether it is about a response that a backend keeps.
    fn is_stored(&self) -> bool {
        self.path.contains("{id}")
    }
}

#[tokio::test]
async fn each_path_of_the_table_reaches_its_backend_through_one_wake_at_either_replica() {
    let (world, rows) = (World::new().await, rows());
    assert!(rows.len() > 35, "the table is read: {}", rows.len());
    let port = Port::claim();
    let base_url = format!("http://{}", port.address());
    let (controller, mut posts) = Echo::default().asleep(port).await;
    let apis = [world.api().await, world.api().await];
    let provider = format!(
        "\n[[provider]]\nname = \"echo\"\nbase_url = \"{base_url}\"\nmodels = [{{ id = \"own\", as = \"qwen\" }}]\n"
    );
    let config = AgentConfig::new("gpu-box")
        .lines(&provider)
        .woken_by_http(&controller);
    let _agent = world.agent(&config);
    for api in &apis {
        api.wait_for_status(LLM, "hibernating", SOON).await;
    }

    let plain: Vec<_> = rows.iter().filter(|row| !row.is_stored()).collect();
    let asking: Vec<_> = plain.iter().filter(|row| !row.wakes).collect();
    for (row, api) in asking
        .iter()
        .flat_map(|row| apis.iter().map(move |api| (row, api)))
    {
        let answer = Answer::of(row.request(api, false)).await;
        if row.path == "/api/show" {
            assert_eq!((answer.status, &answer.json()["model"]), (200, &json!("qwen")));
        } else {
            assert_eq!(
                (answer.status, answer.error_code().as_str()),
                (503, "model_asleep"),
                "{row:?}"
            );
        }
    }
    assert!(posts.is_empty(), "what only asks wakes nothing");

    let each = |wakes_only: bool| {
        let rows = plain.iter().filter(move |row| row.wakes || !wakes_only);
        let both = rows.flat_map(|row| {
            let streams = [false, true].into_iter().filter(|stream| row.streams || !stream);
            streams.map(move |stream| (*row, stream))
        });
        let checks = both.flat_map(|(row, stream)| apis.iter().map(move |api| row.check(api, stream)));
        join_all(checks.collect::<Vec<_>>())
    };
    let cold = each(true).await;
    assert_eq!(posts.len(), 1, "all shared one wake");
    let warm = each(false).await;
    let streaming = plain.iter().filter(|row| row.streams).count();
    assert_eq!(
        warm.len(),
        2 * (plain.len() + streaming),
        "each at either replica"
    );
    assert_eq!(cold.len(), warm.len() - 2 * asking.len());

    let made = apis[0]
        .post("/v1/responses", &json!({ "model": "qwen", "input": "hello" }))
        .await;
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    for row in rows.iter().filter(|row| row.is_stored()) {
        let path = row.path.replace("{id}", &id);
        let ask = |api: &Api| {
            let request = api
                .client()
                .request(row.method.clone(), format!("{}{path}", api.url()));
            Answer::of(request)
        };
        let answer = ask(&apis[0]).await;
        assert_eq!(answer.status, 200, "{row:?} {}", answer.text());
        assert_eq!(answer.json()["echo"]["target"], path.as_str(), "{row:?}");
        let answer = ask(&apis[1]).await;
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (404, "response_not_found"),
            "{row:?}"
        );
    }
    assert_eq!(posts.recv().await, Some(()));
    assert!(posts.is_empty());
}

#[tokio::test]
async fn a_stored_response_of_a_backend_that_sleeps_is_there_again_once_its_model_is_loaded() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_serving(&backend);
    let api = world.api().await;
    let _agent = world.agent(&config);
    api.wait_for_status(LLM, "hibernating", SOON).await;
    let asking = json!({ "model": "qwen", "input": "hello" });
    let made = api.post("/v1/responses", &asking).await;
    let stored = format!("/v1/responses/{}", made.json()["id"].as_str().expect("an id"));
    let slept = api
        .post("/reveille/v1/providers/gpu-box/vllm/sleep", &json!({}))
        .await;
    assert_eq!(slept.status, 202, "{}", slept.text());
    api.wait_for_status(LLM, "hibernating", SOON).await;

    let asleep = api.get(&stored).await;
    assert_eq!(
        (asleep.status, asleep.error_code().as_str()),
        (503, "model_asleep")
    );
    assert!(asleep.text().contains("POST /models/load"), "{}", asleep.text());
    assert_eq!(backend.log().starts(), 1, "it wakes nothing");
    api.post("/models/load", &json!({ "model": "qwen" })).await;
    api.wait_for_status(LLM, "active", SOON).await;
    // The stand-in keeps nothing; what matters is that it was asked.
    let asked = api.get(&stored).await;
    assert!(
        asked.text().contains("the stand-in LLM has no such path"),
        "{}",
        asked.text()
    );
}

#[tokio::test]
async fn a_backend_gets_a_large_form_and_may_answer_it_while_its_client_still_sends_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let base_url = format!("http://{}", listener.local_addr().expect("an address"));
    let backend = Router::new()
        .route(
            "/v1/models",
            get(async || axum::Json(json!({ "data": [{ "id": "own" }] }))),
        )
        .fallback(async |body: Body| Response::new(body));
    tokio::spawn(async move { axum::serve(listener, backend).await });
    let world = World::new().await;
    let api = world.api().await;
    let provider = format!(
        "\n[[provider]]\nname = \"echo\"\nbase_url = \"{base_url}\"\nmodels = [{{ id = \"own\", as = \"qwen\" }}]\n"
    );
    let _agent = world.agent(&AgentConfig::new("gpu-box").lines(&provider));
    api.wait_for_status(LLM, "active", SOON).await;

    let part = |head: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
    };
    let file = part("name=\"file\"; filename=\"a.wav\"", &"x".repeat(4 * 1024 * 1024));
    let form = format!("{}{file}--b--\r\n", part("name=\"model\"", "qwen"));
    let (client, body) = mpsc::unbounded_channel();
    let send = |piece: &str| {
        let piece = Bytes::copy_from_slice(piece.as_bytes());
        client.send(Ok::<_, Infallible>(piece)).expect("it is read");
    };
    let body = stream::unfold(body, async |mut body| Some((body.recv().await?, body)));
    let request = api
        .client()
        .post(format!("{}/v1/audio/transcriptions", api.url()))
        .header(header::CONTENT_TYPE, FORM)
        .header(header::CONTENT_LENGTH, form.len())
        .body(reqwest::Body::wrap_stream(body));
    let (half, mut got) = (form.len() / 2, Vec::new());
    send(&form[..half]);
    let sent = timeout(SOON, request.send())
        .await
        .expect("an answer to the first half");
    let mut answer = sent.expect("an answer");
    assert_eq!(answer.status(), 200);
    // The backend's name of the model is one byte shorter.
    while got.len() < half - 1 {
        let piece = timeout(SOON, answer.chunk())
            .await
            .expect("more of the first half");
        got.extend_from_slice(&piece.expect("no break").expect("not the end"));
    }
    send(&form[half..]);
    while let Some(piece) = answer.chunk().await.expect("the answer doesn't break off") {
        got.extend_from_slice(&piece);
    }
    assert!(got == form.replacen("qwen", "own", 1).as_bytes(), "{}", got.len());
}
