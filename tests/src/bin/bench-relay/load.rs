//! The load: one HTTP/1.1 connection a worker, no more client than that takes.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How a stream of the stand-in ends.
const ENDING: &[u8] = b"data: [DONE]\n\n";

/// Where the requests go.
#[derive(Clone)]
pub struct Target {
    address: String,
    request: Bytes,
    stream: Bytes,
    /// What every request says of who sends it.
    authorization: Option<String>,
}

/// Percentiles of one round.
#[derive(Clone, Copy)]
pub struct Latencies {
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Target {
    /// The chat completions of the server at `url`.
    pub fn of(url: &str, model: &str) -> Result<Self> {
        let address = url.strip_prefix("http://").context("plain HTTP only")?.to_owned();
        let body = |stream: bool| {
            let messages =
                serde_json::json!([{ "role": "user", "content": "Say something in sixty-four tokens." }]);
            Bytes::from(
                serde_json::json!({ "model": model, "messages": messages, "stream": stream }).to_string(),
            )
        };
        Ok(Self {
            address,
            request: body(false),
            stream: body(true),
            authorization: None,
        })
    }

    /// The same, asked with a key.
    pub fn with_key(self, key: &str) -> Self {
        Self {
            authorization: Some(format!("Bearer {key}")),
            ..self
        }
    }
}

type Connection = SendRequest<Full<Bytes>>;

async fn connect(target: &Target) -> Result<Connection> {
    let stream = TcpStream::connect(&target.address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request to its end; the time to its first byte for a stream, to its last one otherwise.
async fn request(connection: &mut Connection, target: &Target, stream: bool) -> Result<Duration> {
    let body = if stream { &target.stream } else { &target.request };
    let mut request = Request::post("/v1/chat/completions")
        .header("host", &target.address)
        .header("content-type", "application/json");
    if let Some(authorization) = &target.authorization {
        request = request.header("authorization", authorization);
    }
    let request = request.body(Full::new(body.clone()))?;
    connection.ready().await?;
    let begun = Instant::now();
    let mut response = connection.send_request(request).await?;
    ensure!(response.status() == 200, "answered {}", response.status());
    let mut first = None;
    // Where the answer is cut into frames is nobody's promise, so its end may lie in two of them.
    let mut tail = Vec::new();
    while let Some(frame) = response.frame().await {
        if let Ok(data) = frame?.into_data() {
            first.get_or_insert_with(|| begun.elapsed());
            tail.extend_from_slice(&data[data.len().saturating_sub(ENDING.len())..]);
            tail.drain(..tail.len().saturating_sub(ENDING.len()));
        }
    }
    let taken = begun.elapsed();
    if !stream {
        return Ok(taken);
    }
    if tail != ENDING {
        bail!("a stream ended without [DONE]");
    }
    first.context("an empty stream")
}

/// `count` requests, one after the other.
pub async fn one_by_one(target: &Target, count: usize, stream: bool) -> Result<Latencies> {
    let mut connection = connect(target).await?;
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        taken.push(request(&mut connection, target, stream).await?.as_secs_f64() * 1e6);
    }
    taken.sort_by(f64::total_cmp);
    Ok(Latencies {
        p50_us: taken[count / 2],
        p99_us: taken[count * 99 / 100],
    })
}

/// Requests per second of `workers` at once.
pub async fn at_once(target: &Target, workers: usize, time: Duration, stream: bool) -> Result<f64> {
    let connections = try_join_all((0..workers).map(|_| connect(target))).await?;
    let begun = Instant::now();
    let workers = connections.into_iter().map(|mut connection| {
        let target = target.clone();
        async move {
            tokio::spawn(async move {
                let mut done = 0u32;
                while begun.elapsed() < time {
                    request(&mut connection, &target, stream).await?;
                    done += 1;
                }
                anyhow::Ok(done)
            })
            .await?
        }
    });
    let done: u32 = try_join_all(workers).await?.into_iter().sum();
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}
