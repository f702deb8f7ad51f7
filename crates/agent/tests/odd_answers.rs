//! Backends whose answers are odd, but reach their callers: the agent's own requests can read them, too.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;

use async_compression::tokio::write::GzipEncoder;
use backend::{client, outcome, provider, runner, wake};
use reveille_agent::{config::ProviderConfig, models::discover, probe::Probe};
use std::sync::Arc;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

const LIST: &str = r#"{"object":"list","data":[{"id":"m"}]}"#;
const COMPLETION: &str = r#"{"choices":[{"message":{"role":"assistant","content":""}}]}"#;
const EVENTS: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\ndata: [DONE]\n\n";

/// An answer with other headers and another body than usual.
struct Odd {
    name: &'static str,
    headers: String,
    body: Vec<u8>,
}

impl Odd {
    fn new(name: &'static str, headers: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            headers: headers.into(),
            body: body.into(),
        }
    }

    /// What comes over the connection.
    fn raw(&self) -> Vec<u8> {
        let length = self.body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\n{}content-length: {length}\r\n\r\n",
            self.headers
        );
        [head.as_bytes(), &self.body].concat()
    }
}

/// A JSON text in each way that some server answers it.
async fn odd(json: &str) -> Vec<Odd> {
    let mut gzip = GzipEncoder::new(Vec::new());
    gzip.write_all(json.as_bytes()).await.expect("compressible");
    gzip.shutdown().await.expect("compressible");
    let many: String = (0..150).map(|n| format!("x-{n}: 1\r\n")).collect();
    let nan = json.replacen('{', "{\"x\":NaN,\"y\":[-Infinity,1e400],", 1);
    vec![
        Odd::new("many headers", many, json),
        Odd::new("a line without a colon", "no colon\r\n", json),
        Odd::new("a folded line", "x-a: b\r\n  c\r\n", json),
        Odd::new("gzip", "content-encoding: gzip\r\n", gzip.into_inner()),
        Odd::new("a byte order mark", "", format!("\u{feff}{json}")),
        Odd::new("NaN", "", nan),
    ]
}

/// A backend that answers `list` to GET and `answer` to everything else; its URL.
async fn answering(list: Vec<u8>, answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let answers = Arc::new((list, answer));
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(BufReader::new(connection), answers.clone()));
        }
    });
    url
}

async fn serve(mut connection: BufReader<TcpStream>, answers: Arc<(Vec<u8>, Vec<u8>)>) -> Option<()> {
    let mut first = String::new();
    connection.read_line(&mut first).await.ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.ok()?;
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    connection.read_exact(&mut vec![0; length]).await.ok()?;
    let answer = if first.starts_with("GET ") {
        &answers.0
    } else {
        &answers.1
    };
    connection.write_all(answer).await.ok()
}

fn usual(json: &str) -> Vec<u8> {
    Odd::new("usual", "", json).raw()
}

fn verified(url: &str) -> ProviderConfig {
    provider(&format!(
        "base_url = \"{url}\"\nmodels = [\"m\"]\n[provider.wake]\ntype = \"http\"\nurl = \"{url}/wake\"\nverify = {{}}"
    ))
}

#[tokio::test]
async fn whatever_completion_a_caller_can_read_verifies_its_backend() {
    let mut answers = odd(COMPLETION).await;
    answers.push(Odd::new("events", "content-type: text/event-stream\r\n", EVENTS));
    for answer in answers {
        let url = answering(usual(LIST), answer.raw()).await;
        let probe = Probe::new(client(), &verified(&url));
        assert_eq!(probe.check_and_verify().await, Ok(()), "{}", answer.name);
    }
}

#[tokio::test]
async fn a_list_in_any_such_form_shows_whose_backend_it_is_and_its_models() {
    for list in odd(LIST).await {
        let url = answering(list.raw(), usual(COMPLETION)).await;
        let config = verified(&url);
        let probe = Probe::new(client(), &config);
        assert_eq!(probe.check().await, Ok(()), "{}", list.name);
        let discovered = ProviderConfig {
            models: None,
            ..config
        };
        let listed = discover(client(), discovered, None).await;
        let listed = listed.unwrap_or_else(|| panic!("no list: {}", list.name));
        assert_eq!(listed.models.len(), 1, "{}", list.name);
    }
}

#[tokio::test]
async fn a_step_succeeds_whatever_is_odd_about_its_answer() {
    for answer in odd("{}").await {
        let url = answering(usual(LIST), answer.raw()).await;
        let config = format!("base_url = \"{url}\"\n[provider.wake]\ntype = \"http\"\nurl = \"{url}/wake\"");
        let mut run = wake(&config, runner());
        assert_eq!(outcome(&mut run).await.failure, None, "{}", answer.name);
    }
}
