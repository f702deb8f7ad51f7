//! The barest path that could work, as a floor to compare with: axum, one NATS message, a hyper client, and back. It
//! wakes nothing, loses what it loses and stops for nobody.

use anyhow::{Context, Result};
use async_nats::{Client, HeaderMap, Message};
use axum::{
    Router, body::Body, extract::State, http::StatusCode, response::Response, routing::post,
    serve::ListenerExt,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use serde::{Deserialize, de::IgnoredAny};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{net::TcpListener, sync::mpsc};

const REQUESTS: &str = "bare.requests";
const REPLIES: &str = "bare.replies";
/// On the frame that begins an answer: its content type.
const BEGINS: &str = "B";
/// On the frame that ends it.
const ENDS: &str = "E";

#[derive(Deserialize)]
struct Peeked {
    #[serde(rename = "model")]
    _model: IgnoredAny,
}

struct Api {
    client: Client,
    next: AtomicU64,
    pending: Mutex<HashMap<u64, mpsc::UnboundedSender<Message>>>,
}

impl Api {
    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<u64, mpsc::UnboundedSender<Message>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has(message: &Message, name: &str) -> bool {
    message
        .headers
        .as_ref()
        .is_some_and(|headers| headers.get(name).is_some())
}

pub async fn api(listen: &str, nats: &str) -> Result<()> {
    let client = async_nats::connect(nats).await?;
    let mut replies = client.subscribe(format!("{REPLIES}.*")).await?;
    client.flush().await?;
    let api = Arc::new(Api {
        client,
        next: AtomicU64::new(0),
        pending: Mutex::default(),
    });
    let desk = api.clone();
    tokio::spawn(async move {
        while let Some(message) = replies.next().await {
            let id = message
                .subject
                .rsplit('.')
                .next()
                .and_then(|id| id.parse().ok())
                .unwrap_or(0);
            let waiting = if has(&message, ENDS) {
                desk.pending().remove(&id)
            } else {
                desk.pending().get(&id).cloned()
            };
            if let Some(waiting) = waiting {
                let _ = waiting.send(message);
            }
        }
    });
    let router = Router::new()
        .route("/v1/chat/completions", post(chat))
        .with_state(api);
    let listener = TcpListener::bind(listen).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

async fn chat(State(api): State<Arc<Api>>, body: Bytes) -> Result<Response, StatusCode> {
    serde_json::from_slice::<Peeked>(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let id = api.next.fetch_add(1, Ordering::Relaxed);
    let (sender, mut receiver) = mpsc::unbounded_channel();
    api.pending().insert(id, sender);
    let sent = api
        .client
        .publish_with_reply(REQUESTS, format!("{REPLIES}.{id}"), body)
        .await;
    sent.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let first = receiver.recv().await.ok_or(StatusCode::BAD_GATEWAY)?;
    let kind = first
        .headers
        .as_ref()
        .and_then(|headers| headers.get(BEGINS))
        .map_or("", |kind| kind.as_str());
    let response = Response::builder().header("content-type", kind);
    let body = if has(&first, ENDS) {
        Body::from(first.payload)
    } else {
        let rest = stream::unfold((receiver, false), |(mut receiver, ended)| async move {
            if ended {
                return None;
            }
            let message = receiver.recv().await?;
            let ends = has(&message, ENDS);
            Some((message.payload, (receiver, ends)))
        });
        Body::from_stream(
            stream::once(async { first.payload })
                .chain(rest)
                .map(Ok::<_, std::convert::Infallible>),
        )
    };
    response.body(body).map_err(|_| StatusCode::BAD_GATEWAY)
}

pub async fn agent(backend: &str, nats: &str) -> Result<()> {
    let client = async_nats::connect(nats).await?;
    let mut requests = client.subscribe(REQUESTS).await?;
    client.flush().await?;
    let http = reveille_tests::http_client();
    let url = format!("{backend}/v1/chat/completions");
    while let Some(message) = requests.next().await {
        let (http, client, url) = (http.clone(), client.clone(), url.clone());
        tokio::spawn(async move {
            if let Err(error) = carry(&http, &client, &url, message).await {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

async fn carry(http: &reqwest::Client, client: &Client, url: &str, message: Message) -> Result<()> {
    let reply = message.reply.context("no reply subject")?;
    let request = http
        .post(url)
        .header("content-type", "application/json")
        .body(message.payload);
    let response = request.send().await?;
    let kind = response.headers().get("content-type").cloned();
    let mut body = response.bytes_stream();
    let mut held = body.next().await.transpose()?.unwrap_or_default();
    let mut begins = true;
    loop {
        // What has already arrived tells whether this frame is the last one.
        let next = body.next().now_or_never();
        let ended = matches!(next, Some(None));
        let mut headers = HeaderMap::new();
        if std::mem::take(&mut begins) {
            let kind = kind
                .as_ref()
                .and_then(|kind| kind.to_str().ok())
                .unwrap_or_default();
            headers.insert(BEGINS, kind);
        }
        if ended {
            headers.insert(ENDS, "1");
        }
        let part = std::mem::take(&mut held);
        if headers.is_empty() {
            client.publish(reply.clone(), part).await?;
        } else {
            client.publish_with_headers(reply.clone(), headers, part).await?;
        }
        if ended {
            return Ok(());
        }
        match next {
            Some(Some(more)) => held = more?,
            Some(None) => return Ok(()),
            None => match body.next().await {
                Some(more) => held = more?,
                None => held = Bytes::new(),
            },
        }
    }
}
