//! The HTTP surface.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use crate::{
    answers::{self, Answer},
    imitated::{self, Completion},
    options::Hang,
    server::Server,
    ticket::Ticket,
};

/// Larger than anything that Reveille lets through.
const BODY_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// All routes.
pub fn router(server: Arc<Server>) -> Router {
    let own = imitated::routes(&server).unwrap_or_else(|| {
        Router::new()
            .route("/v1/models", get(models))
            .route("/health", get(health))
            .route("/is_sleeping", get(is_sleeping))
            .route("/sleep", post(sleep))
            .route("/wake_up", post(wake_up))
    });
    own.route("/v1/chat/completions", post(infer))
        .route("/v1/completions", post(infer))
        .route("/v1/embeddings", post(infer))
        .route("/v1/responses", post(infer))
        .route("/v1/messages", post(infer))
        .route("/v1/messages/count_tokens", post(infer))
        .route("/api/chat", post(infer))
        .route("/api/embed", post(infer))
        .fallback(async || {
            refusal(
                StatusCode::NOT_FOUND,
                "not_found",
                "the stand-in LLM has no such path",
            )
        })
        .layer(middleware::from_fn_with_state(server.clone(), hang))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(server)
}

async fn hang(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    if server.options.hang == Some(Hang::All) {
        std::future::pending::<()>().await;
    }
    next.run(request).await
}

async fn health() -> StatusCode {
    StatusCode::OK
}

/// Every model that it has, loaded or not.
pub async fn models(State(server): State<Arc<Server>>) -> Json<Value> {
    let models = server.options.models.iter();
    let models: Vec<_> = models
        .map(|id| json!({ "id": id, "object": "model", "owned_by": "stand-in" }))
        .collect();
    Json(json!({ "object": "list", "data": models }))
}

async fn is_sleeping(State(server): State<Arc<Server>>) -> Json<Value> {
    Json(json!({ "is_sleeping": server.is_asleep() }))
}

async fn sleep(State(server): State<Arc<Server>>) -> StatusCode {
    server.set_asleep(true);
    server.log.write(&json!({ "event": "sleep" }));
    StatusCode::OK
}

async fn wake_up(State(server): State<Arc<Server>>) -> StatusCode {
    server.log.write(&json!({ "event": "wake_up" }));
    tokio::time::sleep(Duration::from_millis(server.options.wake_delay_ms)).await;
    server.set_asleep(false);
    StatusCode::OK
}

async fn infer(
    State(server): State<Arc<Server>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let ticket = Ticket::open(&server, &method, uri.path(), &headers, &body);
    if server.options.hang.is_some() {
        std::future::pending::<()>().await;
    }
    let answer = match checked(&server, &body) {
        Ok(request) => answers::answer(&server.options, uri.path(), &request, &ticket),
        Err(refusal) => {
            ticket.answered(refusal.status.as_u16());
            return refusal.into_response();
        }
    };
    send(answer, ticket).await
}

fn checked(server: &Server, body: &[u8]) -> Result<Value, Refusal> {
    if server.is_asleep() {
        return Err(refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "asleep",
            "the stand-in LLM sleeps",
        ));
    }
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return Err(refusal(
            StatusCode::BAD_REQUEST,
            "invalid_json",
            "the body is not JSON",
        ));
    };
    let model = request["model"].as_str().unwrap_or_default();
    if !server.options.models.iter().any(|known| known == model) {
        return Err(refusal(
            StatusCode::NOT_FOUND,
            "model_not_found",
            "the stand-in LLM has no such model",
        ));
    }
    match server.imitated.completion(server, model) {
        Completion::Answered => Ok(request),
        Completion::Nonsense => {
            server.log.write(&json!({ "event": "nonsense" }));
            Ok(json!({ "model": model, "nonsense": true }))
        }
        Completion::Refused(status, message) => Err(refusal(status, "not_loaded", message)),
        Completion::Crash(why) => {
            server.log.write(&json!({ "event": "crash", "why": why }));
            answers::die()
        }
    }
}

async fn send(answer: Answer, ticket: Ticket) -> Response {
    match answer {
        Answer::Stream(kind, pieces) => {
            let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
            (headers, Body::from_stream(pieces.stream(ticket))).into_response()
        }
        Answer::Whole { after, body, dies } => {
            answers::pause(after).await;
            if dies {
                answers::die();
            }
            let text = body.to_string();
            let mut ticket = ticket;
            ticket.sent(text.as_bytes());
            ticket.answered(StatusCode::OK.as_u16());
            ([(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
    }
}

struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
}

fn refusal(status: StatusCode, code: &'static str, message: &'static str) -> Refusal {
    Refusal {
        status,
        code,
        message,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self {
            status,
            code,
            message,
        } = self;
        let error = json!({ "message": message, "type": "stand_in_error", "param": null, "code": code });
        (status, Json(json!({ "error": error }))).into_response()
    }
}
