//! A backend that answers whatever it is asked with what it got, in the form of each API.

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use reveille_tests::Port;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

pub const EVENTS: &str = "text/event-stream";
pub const LINES: &str = "application/x-ndjson";
pub const FORM: &str = "multipart/form-data; boundary=b";
/// The only model that it lists.
pub const OWN: &str = "own";

/// What it got, in order: paths and bodies. A body with `hold` is never answered, and one with `fail` with an error that names the model.
#[derive(Debug, Clone, Default)]
pub struct Echo(Arc<Mutex<Vec<(String, String)>>>);

impl Echo {
    /// Listens at this port from now on.
    pub async fn listen(&self, port: &Port) {
        let listener = TcpListener::bind(port.address()).await.expect("the port is free");
        let echo = self.clone();
        let routes =
            Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
                let echo = echo.clone();
                async move { echo.answer(method, uri, headers, body).await }
            });
        tokio::spawn(async move { axum::serve(listener, routes).await });
    }

    /// Listens at this port once its controller is asked to. The controller's URL, and how often it was asked.
    pub async fn asleep(&self, port: Port) -> (String, mpsc::UnboundedReceiver<()>) {
        let (posted, posts) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (port, echo) = (Arc::new(port), self.clone());
        let controller = Router::new().fallback(move || {
            let (posted, port, echo) = (posted.clone(), port.clone(), echo.clone());
            async move {
                posted.send(()).expect("the test counts");
                echo.listen(&port).await;
            }
        });
        tokio::spawn(async move { axum::serve(listener, controller).await });
        (url, posts)
    }

    /// The bodies that came by this path.
    pub fn got(&self, path: &str) -> Vec<String> {
        let got = self.0.lock().expect("not poisoned");
        let of_path = got.iter().filter(|(by, _)| by == path);
        of_path.map(|(_, body)| body.clone()).collect()
    }

    async fn answer(&self, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let text = String::from_utf8_lossy(&body).into_owned();
        let got = (uri.path().to_owned(), text.clone());
        self.0.lock().expect("not poisoned").push(got);
        let fields = fields(&uri, &headers, &text);
        if fields.contains_key("hold") {
            return pending().await;
        }
        let model = fields.get("model").cloned().unwrap_or_default();
        let named = [("openai-model", model.clone())];
        if fields.contains_key("fail") {
            let error = json!({ "error": { "message": format!("the model `{model}` can't do that") } });
            return (StatusCode::BAD_REQUEST, named, axum::Json(error)).into_response();
        }
        let whole = json!({
            "echo": { "method": method.as_str(), "target": uri.to_string(), "model": model },
            "got": text,
            "id": format!("resp_{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
            "model": model,
            "object": "response",
            "type": "message",
            "choices": [{ "index": 0, "message": { "content": "hi" }, "text": "hi", "finish_reason": "stop" }],
            "data": [{ "id": OWN, "embedding": [0.5] }],
            "done": true,
            "stop": true,
        });
        if fields.get("stream").map(String::as_str) != Some("true") {
            return (named, axum::Json(whole)).into_response();
        }
        let (kind, text) = match uri.path() {
            path if path.starts_with("/api/") => (LINES, format!("{whole}\n")),
            "/v1/messages" => (EVENTS, format!("event: message_stop\ndata: {whole}\n\n")),
            "/v1/responses" => (EVENTS, format!("event: response.completed\ndata: {whole}\n\n")),
            "/v1/chat/completions" | "/v1/completions" => {
                (EVENTS, format!("data: {whole}\n\ndata: [DONE]\n\n"))
            }
            _ => (EVENTS, format!("data: {whole}\n\n")),
        };
        ([(header::CONTENT_TYPE, kind)], text).into_response()
    }
}

/// The fields of a form, of an object or of a query, as texts.
fn fields(uri: &Uri, headers: &HeaderMap, body: &str) -> HashMap<String, String> {
    let is_form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == FORM);
    if is_form {
        let parts = body.split("--b").filter_map(|part| part.split_once("name=\""));
        let named = parts.map(|(_, part)| {
            let (name, value) = part.split_once("\"\r\n\r\n").expect("a field");
            (name.to_owned(), value.trim_end().to_owned())
        });
        return named.collect();
    }
    if let Ok(Value::Object(json)) = serde_json::from_str(body) {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return json
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect();
    }
    let pairs = uri.query().unwrap_or_default().split('&');
    let pairs = pairs.filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The first object of an answer: the whole one, or the first of a stream.
pub fn first_object(answer: &str) -> Value {
    let object = answer.lines().find_map(|line| {
        let json = line.strip_prefix("data: ").unwrap_or(line);
        serde_json::from_str(json).ok()
    });
    object.unwrap_or_else(|| panic!("no object: {answer}"))
}
