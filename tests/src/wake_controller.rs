//! An HTTP wake controller in the test's own process: what an `http` recipe posts to.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::Backend;

/// A request that the controller received.
#[derive(Debug, Clone)]
pub struct Post {
    /// Usually `POST`.
    pub method: Method,
    /// Path and query.
    pub uri: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// When it arrived.
    pub at: SystemTime,
}

/// Counts posts and starts a backend at each.
#[derive(Debug)]
pub struct WakeController {
    url: String,
    state: Arc<Controls>,
    server: AbortHandle,
}

#[derive(Debug)]
struct Controls {
    posts: Mutex<Vec<Post>>,
    behaviour: Mutex<Behaviour>,
}

#[derive(Debug, Clone, Default)]
struct Behaviour {
    starts: Option<Backend>,
    delay: Duration,
    status: StatusCode,
    hangs: bool,
}

impl WakeController {
    /// Answers 200 at once, and starts the backend after the delay.
    pub async fn starting(backend: &Backend, delay: Duration) -> Self {
        Self::serve(Behaviour {
            starts: Some(backend.clone()),
            delay,
            ..Behaviour::default()
        })
        .await
    }

    /// Answers with this status and starts nothing.
    pub async fn answering(status: u16) -> Self {
        Self::serve(Behaviour {
            status: as_status(status),
            ..Behaviour::default()
        })
        .await
    }

    /// Accepts and never answers.
    pub async fn hanging() -> Self {
        Self::serve(Behaviour {
            hangs: true,
            ..Behaviour::default()
        })
        .await
    }

    /// From now on answers with this status, and starts a backend, after the delay, only if one is given.
    pub fn change(&self, status: u16, starts: Option<&Backend>, delay: Duration) {
        let behaviour = Behaviour {
            starts: starts.cloned(),
            delay,
            status: as_status(status),
            hangs: false,
        };
        *self
            .state
            .behaviour
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// What to put into a recipe as `url`.
    pub fn url(&self) -> String {
        format!("{}/wake", self.url)
    }

    /// The requests up to now.
    pub fn posts(&self) -> Vec<Post> {
        self.state
            .posts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn serve(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let url = format!(
            "http://{}",
            listener.local_addr().expect("a bound listener has an address")
        );
        let state = Arc::new(Controls {
            posts: Mutex::default(),
            behaviour: Mutex::new(behaviour),
        });
        let router = Router::new().fallback(receive).with_state(state.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { url, state, server }
    }
}

impl Drop for WakeController {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn as_status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("a test names a real status")
}

async fn receive(
    State(state): State<Arc<Controls>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let post = Post {
        method,
        uri: uri.to_string(),
        headers,
        body,
        at: SystemTime::now(),
    };
    state
        .posts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(post);
    let behaviour = state
        .behaviour
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if behaviour.hangs {
        std::future::pending::<()>().await;
    }
    if let Some(backend) = behaviour.starts {
        tokio::spawn(async move {
            tokio::time::sleep(behaviour.delay).await;
            backend.start();
        });
    }
    (behaviour.status, "{}").into_response()
}
