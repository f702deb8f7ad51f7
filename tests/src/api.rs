//! An API replica under test, and what a client sees of it.

use std::{
    sync::{Once, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::{Port, Process, SOON, wait_until};

/// Longer than any test waits, shorter than for ever.
const CLIENT_GIVES_UP_AFTER: Duration = Duration::from_secs(120);

/// A client that opens a connection for each request, so that none is left over from a server that was killed.
pub fn http_client() -> reqwest::Client {
    static CRYPTO: Once = Once::new();
    CRYPTO.call_once(|| {
        // Another part of the process may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let client = reqwest::Client::builder()
        .timeout(CLIENT_GIVES_UP_AFTER)
        .tcp_nodelay(true);
    client
        .pool_max_idle_per_host(0)
        .no_proxy()
        .build()
        .expect("an HTTP client")
}

/// One running API replica; dropping it kills it.
#[derive(Debug)]
pub struct Api {
    process: Process,
    port: Port,
    client: OnceLock<reqwest::Client>,
}

impl Api {
    pub(crate) fn new(process: Process, port: Port) -> Self {
        Self {
            process,
            port,
            client: OnceLock::new(),
        }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        self.port.http_url()
    }

    /// The process: to kill it, stop it, or read its log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The client with which everything here asks.
    pub fn client(&self) -> &reqwest::Client {
        self.client.get_or_init(http_client)
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_until_ready(&self) {
        wait_until("the API was ready", SOON, async || {
            assert!(
                self.process.is_running(),
                "the API ended at its start:\n{}",
                self.process.log()
            );
            let answer = self
                .client()
                .get(format!("{}/readyz", self.url()))
                .send()
                .await
                .ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// `GET` of a path.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.client().get(format!("{}{path}", self.url()))).await
    }

    /// `POST` of a JSON body to a path.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.client().post(format!("{}{path}", self.url())).json(body)).await
    }

    /// A short chat completion.
    pub async fn chat(&self, model: &str) -> Answer {
        self.post("/v1/chat/completions", &chat_body(model, false)).await
    }

    /// The same with one more header.
    pub async fn chat_with(&self, model: &str, header: &str, value: &str) -> Answer {
        let request = self.client().post(format!("{}/v1/chat/completions", self.url()));
        Answer::of(request.header(header, value).json(&chat_body(model, false))).await
    }

    /// A streamed chat completion, read to its end.
    pub async fn stream(&self, model: &str) -> StreamedAnswer {
        self.stream_body(&chat_body(model, true)).await
    }

    /// The same with a body of one's own.
    pub async fn stream_body(&self, body: &Value) -> StreamedAnswer {
        StreamedAnswer::of(
            self.client()
                .post(format!("{}/v1/chat/completions", self.url()))
                .json(body),
        )
        .await
    }

    /// Sends a streamed chat completion and returns as soon as there are headers: to leave in the middle.
    pub async fn open_stream(&self, model: &str) -> reqwest::Response {
        let request = self.client().post(format!("{}/v1/chat/completions", self.url()));
        request
            .json(&chat_body(model, true))
            .send()
            .await
            .expect("the API answers")
    }

    /// The row of an LLM, by its full name `agent/model`, if there is one.
    pub async fn llm(&self, name: &str) -> Option<Value> {
        self.llms().await.into_iter().find(|row| row["name"] == name)
    }

    /// All rows.
    pub async fn llms(&self) -> Vec<Value> {
        let answer = self.get("/reveille/v1/llms").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        let rows = body["data"].as_array();
        rows.unwrap_or_else(|| panic!("not a list of LLMs: {body}"))
            .clone()
    }

    /// Waits until the row of an LLM has this status, and returns the row.
    pub async fn wait_for_status(&self, name: &str, status: &str, within: Duration) -> Value {
        let what = format!("{name} was {status} at {}", self.url());
        wait_until(&what, within, async || {
            // Rows from Postgres are there once the projector has made its tables.
            let answer = self.get("/reveille/v1/llms").await;
            let rows = answer.json()["data"].as_array().cloned().unwrap_or_default();
            rows.into_iter()
                .find(|row| row["name"] == name && row["status"] == status)
        })
        .await
    }
}

/// The smallest chat completion request.
fn chat_body(model: &str, stream: bool) -> Value {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "hello" }] })
}

/// A response, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// From sending to the last byte.
    pub took: Duration,
}

impl Answer {
    /// Sends a request and reads the whole response.
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let started = Instant::now();
        let response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("the answer arrives whole");
        Self {
            status,
            headers,
            body,
            took: started.elapsed(),
        }
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `code` of an OpenAI error object.
    pub fn error_code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// A header, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The text that the model said, in a chat completion.
    pub fn said(&self) -> String {
        self.json()["choices"][0]["message"]["content"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// A response that was read piece by piece.
#[derive(Debug, Clone)]
pub struct StreamedAnswer {
    /// HTTP status.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// Everything that arrived.
    pub body: Bytes,
    /// From sending to the headers.
    pub headers_after: Duration,
    /// From sending to the first piece of the body.
    pub first_piece_after: Option<Duration>,
    /// Whether the body ended as HTTP wants it, and was not cut.
    pub ended_well: bool,
}

impl StreamedAnswer {
    /// Sends a request and reads the response for as long as it goes.
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let started = Instant::now();
        let mut response = request.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let headers_after = started.elapsed();
        let (mut body, mut first_piece_after) = (Vec::new(), None);
        let ended_well = loop {
            match response.chunk().await {
                Ok(Some(piece)) => {
                    first_piece_after.get_or_insert_with(|| started.elapsed());
                    body.extend_from_slice(&piece);
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        Self {
            status,
            headers,
            body: body.into(),
            headers_after,
            first_piece_after,
            ended_well,
        }
    }

    /// What follows `data: ` in each event, `[DONE]` included.
    pub fn data(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.body);
        text.lines()
            .filter_map(|line| line.strip_prefix("data: ").map(str::to_owned))
            .collect()
    }

    /// Comment lines, which tell of waiting.
    pub fn comments(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.body);
        text.lines()
            .filter(|line| line.starts_with(':'))
            .map(str::to_owned)
            .collect()
    }

    /// Whether the stream says that it is complete.
    pub fn is_done(&self) -> bool {
        self.data().last().is_some_and(|last| last == "[DONE]")
    }

    /// The `code` of the first error event, if there is one.
    pub fn error_code(&self) -> Option<String> {
        let events = self
            .data()
            .into_iter()
            .filter_map(|data| serde_json::from_str::<Value>(&data).ok());
        let mut codes = events.filter_map(|event| event["error"]["code"].as_str().map(str::to_owned));
        codes.next()
    }

    /// The text that the model said.
    pub fn said(&self) -> String {
        let events = self
            .data()
            .into_iter()
            .filter_map(|data| serde_json::from_str::<Value>(&data).ok());
        events
            .filter_map(|event| {
                event["choices"][0]["delta"]["content"]
                    .as_str()
                    .map(str::to_owned)
            })
            .collect()
    }
}
