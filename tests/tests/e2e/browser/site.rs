//! The server of a page, which is told by the page what it could do.

use axum::{
    Json, Router,
    http::{HeaderValue, header},
    middleware,
    response::{Html, Response},
    routing::{get, post},
};
use reveille_tests::Port;
use serde_json::Value;
use std::time::Duration;
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedReceiver},
    task::AbortHandle,
    time::timeout,
};

/// A page with one script.
pub struct Site {
    port: Port,
    reports: UnboundedReceiver<Value>,
    server: AbortHandle,
}

impl Site {
    /// Serves the page at `/`, and takes what it posts to `/report`.
    pub async fn serving(script: &str, port: Port) -> Self {
        let listener = TcpListener::bind(port.address()).await.expect("a free port");
        let (said, reports) = mpsc::unbounded_channel();
        let page = format!("<!doctype html><meta charset=utf-8><body><script>\n{script}\n</script>");
        let router = Router::new()
            .route("/", get(async move || Html(page)))
            .route(
                "/report",
                // Pages of other origins report too, which may not say that it is JSON.
                post(async move |body: String| {
                    let report = serde_json::from_str(&body).expect("a report in JSON");
                    let _ = said.send(report);
                    Json(Value::Null)
                }),
            )
            .layer(middleware::map_response(close));
        let server = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self {
            port,
            reports,
            server,
        }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What the page says next.
    pub async fn report(&mut self, within: Duration) -> Value {
        let report = timeout(within, self.reports.recv()).await;
        report
            .expect("the page reported in time")
            .expect("a page reports")
    }

    /// Ends the server, so that another one can have its port.
    pub fn leave(self) -> Port {
        self.server.abort();
        self.port
    }
}

/// No connection is kept, so that none is left when the server has ended.
async fn close(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}
