//! A machine of backends: what they say, and a config with a secret wherever one can be.

use super::{PRESET, hub::Hub, scanner::Planted};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::any,
};
use reveille_tests::Port;
use serde_json::json;
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// Every request that reached a backend.
pub type Heard = Arc<Mutex<Vec<u8>>>;

/// What one backend with a secret in everything that it says knows and says.
#[derive(Clone)]
struct Secretive {
    awake: Arc<AtomicBool>,
    completion: String,
    error: String,
    refusal: String,
    cookie: String,
    header: String,
    heard: Heard,
}

pub async fn secretive(planted: &Planted, heard: &Heard) -> String {
    let backend = Secretive {
        awake: Arc::new(AtomicBool::new(false)),
        completion: planted.plant("completion"),
        error: planted.plant("error body of a backend"),
        refusal: planted.plant("body that refuses a recipe"),
        cookie: planted.plant("cookie of a backend"),
        header: planted.plant("header of a backend"),
        heard: heard.clone(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let routes = Router::new().fallback(any(answer)).with_state(backend);
    tokio::spawn(axum::serve(listener, routes).into_future());
    url
}

async fn answer(State(backend): State<Secretive>, uri: Uri, headers: HeaderMap, body: String) -> Response {
    let request = format!("{uri} {headers:?} {body}\n");
    backend
        .heard
        .lock()
        .expect("not poisoned")
        .extend(request.into_bytes());
    let (completion, error) = (&backend.completion, &backend.error);
    let json = "application/json";
    let (status, kind, text) = match uri.path() {
        "/v1/models" if uri.query() == Some("asleep") && !backend.awake.load(Ordering::SeqCst) => {
            (StatusCode::SERVICE_UNAVAILABLE, json, error.clone())
        }
        "/v1/models" => (
            StatusCode::OK,
            json,
            r#"{"object":"list","data":[{"id":"stand-in"}]}"#.to_owned(),
        ),
        "/wake_up" => {
            backend.awake.store(true, Ordering::SeqCst);
            (StatusCode::OK, json, error.clone())
        }
        "/sleep" => {
            backend.awake.store(false, Ordering::SeqCst);
            (StatusCode::OK, json, error.clone())
        }
        "/refuses" => (StatusCode::INTERNAL_SERVER_ERROR, json, backend.refusal.clone()),
        _ if body.contains("please-fail") => {
            let text = json!({ "error": { "message": error, "code": error } }).to_string();
            (StatusCode::INTERNAL_SERVER_ERROR, json, text)
        }
        _ if body.contains("\"stream\":true") => {
            let chunk = json!({ "choices": [{ "delta": { "content": completion } }] });
            (
                StatusCode::OK,
                "text/event-stream",
                format!("data: {chunk}\n\ndata: [DONE]\n\n"),
            )
        }
        _ => {
            let text = json!({ "choices": [{ "message": { "role": "assistant", "content": completion } }] })
                .to_string();
            (StatusCode::OK, json, text)
        }
    };
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::SET_COOKIE, format!("session={}", backend.cookie)),
        (header::WWW_AUTHENTICATE, backend.header.clone()),
        (header::LOCATION, format!("http://127.0.0.1/?{}", backend.header)),
    ];
    (status, headers, text).into_response()
}

impl Hub {
    pub(super) fn providers(&self, backend: &str) -> String {
        let plant = |place| self.planted.plant(place);
        let (marker, nowhere) = (&self.marker, Port::claim().http_url());
        let (program, args) = self.served.command();
        let serve = format!("{} {}", program.display(), args.join(" "));
        let script = self.failing_script();
        let provider = |name: &str, base_url: &str, more: &str| {
            format!(
                "\n[[provider]]\nname = \"{name}\"\nbase_url = {base_url:?}\nmodels = [{{ id = \"stand-in\", as = \"{name}-{marker}\" }}]\n{more}"
            )
        };
        [
            provider("open", backend, "api_key = \"${BACKEND_KEY}\"\n"),
            provider("sleepy", backend, &format!(
                "probe = {{ path = \"/v1/models?asleep\", interval = \"200ms\" }}\n\
                 [provider.wake]\ntype = \"http\"\nurl = \"{backend}/wake_up?key={}\"\nbody = \"{}\"\n\
                 headers = {{ x-start = \"${{START_KEY}}\", authorization = \"Bearer {}\", cookie = \"{}\" }}\n\
                 [provider.sleep]\ntype = \"http\"\nurl = \"{backend}/sleep?key={}\"\n",
                plant("query of a wake recipe"), plant("body of a recipe"), plant("authorization of a recipe"),
                plant("cookie of a recipe"), plant("query of a sleep recipe"),
            )),
            provider("refusing", &nowhere, &format!(
                "[provider.wake]\ntype = \"http\"\nurl = \"{backend}/refuses?{}\"\n", plant("query of a recipe that is refused"),
            )),
            provider("unreachable", &nowhere, &format!(
                "[provider.wake]\ntype = \"http\"\nurl = \"{nowhere}/{}\"\n", plant("path of a recipe that reaches nobody"),
            )),
            provider("failing", &nowhere, &format!(
                "[provider.wake]\ntype = \"command\"\ncommand = {script:?}\nargs = [\"{}\"]\nenv = {{ GIVEN = \"{}\", MARKER = \"{marker}\" }}\n",
                plant("argument of a command"), plant("variable of a command"),
            )),
            provider("missing", &nowhere, &format!(
                "[provider.wake]\ntype = \"command\"\ncommand = \"/nowhere/{}\"\n", plant("path of a program"),
            )),
            provider("served", &self.served.url(), &format!(
                "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = \"/bin/sh\"\nargs = [\"-c\", \"echo {}; {serve}; exit $?\", \"{}\"]\n\
                 env = {{ GIVEN = \"{}\", MARKER = \"{marker}\" }}\nmax_wait = \"30s\"\n",
                plant("output of a served command"), plant("argument of a served command"), plant("variable of a served command"),
            )),
            // `config show` has its beginning.
            format!(
                "\n[[preset]]\nname = \"bot-{marker}\"\nmodel = \"open-{marker}\"\nsystem = \"{} {}\"\n",
                "You are an assistant who answers in one word. ".repeat(2), plant(PRESET),
            ),
        ]
        .concat()
    }

    /// A script that shows what it sees, on both of its outputs and in a file of the test's, and fails.
    fn failing_script(&self) -> PathBuf {
        let script = self.folder.join("machine/failing.sh");
        let output = self.planted.plant("output of a failing command");
        let text = format!(
            "#!/bin/sh\nenv > {}\nenv >&2\necho \"{output} $* $GIVEN\"\necho \"{output} $* $GIVEN\" >&2\nexit 3\n",
            self.environment_file().display()
        );
        reveille_tests::write_script(&script, &text);
        script
    }
}
