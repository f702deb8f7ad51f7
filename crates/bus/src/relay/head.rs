//! The heads of requests and responses, and faults. They are compact JSON, and readers ignore fields they don't know, so
//! that agents and APIs of neighbouring versions understand each other.

use super::frame::{BadFrame, MAX_META_BYTES};
use crate::hub_id::VIA_HEADER;
use reveille_domain::{ModelName, PresetHash, ProviderName, ReportId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The longest time that an agent holds a request while its backend is being put to sleep. After that, the API tells the
/// client that the request waits.
pub const HOLD_LIMIT: Duration = Duration::from_secs(5);

/// The largest body of a request that an agent takes, in bytes. An API's own limit is no higher.
pub const MAX_BODY_BYTES: u64 = 256 * 1024 * 1024;

/// Header names and values in order, as the relay carries them.
pub type Headers = Vec<(String, String)>;

/// The request headers that reach the backend. Both ends drop all others, so that credentials, cookies, hop-by-hop
/// headers and future inventions stay out.
pub const REQUEST_HEADERS: [&str; 7] = [
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "openai-beta",
    VIA_HEADER,
    "x-request-id",
];
/// What may be posted to a backend. Agents refuse all other paths, such as those by which a backend is administered, whatever a
/// hub asks for.
pub const POST_PATHS: [&str; 32] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/rerank",
    "/rerank",
    "/v1/reranking",
    "/reranking",
    "/v2/rerank",
    "/v1/score",
    "/score",
    "/classify",
    "/pooling",
    "/v1/moderations",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/images/edits",
    "/v1/images/variations",
    "/v1/images/generations",
    "/tokenize",
    "/detokenize",
    "/completion",
    "/infill",
    "/apply-template",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
];
/// Those of them whose requests have a place for a system prompt, so that a preset can be asked.
pub const PRESET_PATHS: [&str; 7] = [
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/chat",
    "/api/generate",
    "/apply-template",
];
/// What is posted to ask about a model. The API answers it for a preset, and agents still get it from older ones.
const SHOW_PATH: &str = "/api/show";
/// What may be got from a backend.
pub const GET_PATHS: [&str; 2] = ["/v1/audio/voices", PROPS_PATH];
/// What llama.cpp says of a model that it has loaded.
const PROPS_PATH: &str = "/props";
/// What the path of an answer begins with that a backend keeps; its id follows.
pub const STORED_PATH: &str = "/v1/responses/";
/// The longest id of such an answer, in bytes.
pub const MAX_STORED_ID_BYTES: usize = 128;

/// What a hub answers itself, beside everything below `/reveille/` and `/v1/models/`.
pub const OWN_PATHS: [&str; 8] = [
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    MODELS_PATH,
    "/api/tags",
    "/api/ps",
    "/api/version",
];
const OWN_FOLDERS: [&str; 2] = ["/reveille/", "/v1/models/"];
const MODELS_PATH: &str = "/v1/models";

/// Whether a request with this method and path may name a preset: its body has a place for one, or it only asks about a model. What
/// `/props` answers has the model's file and template, which aren't the preset's.
#[must_use]
pub fn takes_presets(method: &str, path: &str) -> bool {
    match method {
        "POST" => PRESET_PATHS.contains(&path) || path == SHOW_PATH || path.starts_with(STORED_PATH),
        _ => path != PROPS_PATH,
    }
}

/// Why the config of a provider can't add a path: no request would come by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UselessPath {
    /// Every backend may be asked for it.
    Relayed,
    /// The hub answers it, or has it with other methods only.
    Own,
    /// The hub reads it as this one.
    ReadAs(String),
}

/// Why `path` can't be added to those of a backend; `None` if it can.
#[must_use]
pub fn useless_path(path: &str) -> Option<UselessPath> {
    let read = read_path(path);
    let read = read.as_str();
    let is_stored =
        |rest: &str| !rest.contains('/') || rest.ends_with("/input_items") || rest.ends_with("/cancel");
    if POST_PATHS.contains(&read) {
        Some(UselessPath::Relayed)
    } else if OWN_PATHS.contains(&read)
        || GET_PATHS.contains(&read)
        || OWN_FOLDERS.iter().any(|folder| read.starts_with(folder))
        || read.strip_prefix(STORED_PATH).is_some_and(is_stored)
    {
        Some(UselessPath::Own)
    } else {
        (read != path).then(|| UselessPath::ReadAs(read.to_owned()))
    }
}

/// The path that a hub takes `path` for: one that a client writes with `/v1` twice, or without it.
fn read_path(path: &str) -> String {
    let mut read = path;
    while let Some(rest) = read
        .strip_prefix("/v1")
        .filter(|rest| rest.starts_with("/v1/") || *rest == "/v1")
    {
        read = rest;
    }
    let is_known =
        |path: &str| POST_PATHS.contains(&path) || GET_PATHS.contains(&path) || path == MODELS_PATH;
    let ends = read.match_indices('/').map(|(at, _)| at).chain([read.len()]);
    let lacks_v1 = ends
        .map(|end| &read[..end])
        .any(|begun| !is_known(begun) && is_known(&format!("/v1{begun}")));
    if lacks_v1 {
        format!("/v1{read}")
    } else {
        read.to_owned()
    }
}

/// Whether an agent relays requests with this method for this path, whatever the config of the provider.
#[must_use]
pub fn is_relayed(method: &str, path: &str) -> bool {
    let listed = match method {
        "POST" => POST_PATHS.contains(&path),
        "GET" => GET_PATHS.contains(&path),
        _ => false,
    };
    let stored = || {
        let (id, what) = path
            .strip_prefix(STORED_PATH)?
            .split_once('/')
            .unwrap_or_else(|| (&path[STORED_PATH.len()..], ""));
        let offered = matches!(
            (method, what),
            ("GET" | "DELETE", "") | ("GET", "input_items") | ("POST", "cancel")
        );
        Some(offered && is_stored_id(id))
    };
    listed || stored().unwrap_or(false)
}

/// Whether this may be the id of an answer that a backend keeps.
#[must_use]
pub fn is_stored_id(id: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_STORED_ID_BYTES).contains(&id.len()) && id.bytes().all(legal)
}

/// The response headers that reach the client.
pub const RESPONSE_HEADERS: [&str; 9] = [
    "content-encoding",
    "content-length",
    "content-type",
    "openai-model",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
];

/// Everything but the body that the agent needs to send the request to the backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHead {
    /// The agent's provider that the request is for.
    pub provider: ProviderName,
    /// The HTTP method, such as `POST`.
    pub method: String,
    /// The path and query, relative to the provider's base URL.
    pub path: String,
    /// The headers that the API passes on; never the caller's credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Headers,
    /// The W3C trace context, so that the backend's spans join the request's trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// How long the agent may hold the request while the backend is being put to sleep, in milliseconds; [`HOLD_LIMIT`]
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
    /// How long the request may wait at the agent for its turn at the backend, in milliseconds; absent when it doesn't wait for one,
    /// because it only asks about the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_within_ms: Option<u64>,
    /// The caller's name for the model, of a request that names none itself: for an answer that the backend keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// The preset that the API takes that name for; absent when it is a model's. An agent that has something else by this name refuses
    /// the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<PresetHash>,
    /// The length of the whole body in bytes. [`Reservation::send`](super::Reservation::send) sets it.
    #[serde(default)]
    pub body_bytes: u64,
}

/// The backend's response up to its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHead {
    /// The HTTP status code.
    pub status: u16,
    /// The headers that the agent passes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Headers,
}

impl RequestHead {
    /// How long the agent may hold the request while the backend is being put to sleep.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.hold_ms
            .map_or(HOLD_LIMIT, |hold| HOLD_LIMIT.min(Duration::from_millis(hold)))
    }

    /// How long the request may wait at the agent for its turn at the backend, if it waits for one.
    #[must_use]
    pub fn turn_within(&self) -> Option<Duration> {
        self.turn_within_ms.map(Duration::from_millis)
    }
}

impl ResponseHead {
    /// The value of the first header of this name, ignoring case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The number of body bytes that the backend announced.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.header("content-length").and_then(|value| value.parse().ok())
    }
}

/// Why the agent didn't complete a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FaultCode {
    /// The backend is asleep, or is being put to sleep if the fault names no report. The backend didn't get the request.
    Asleep,
    /// The backend refused the connection, or never got the request.
    BackendUnavailable,
    /// The backend died or answered nonsense, and may have read the request.
    BackendFailed,
    /// The backend exceeded the agent's time limit.
    BackendTimeout,
    /// The backend exceeded the agent's time limit for the beginning of its answer.
    FirstByteTimeout,
    /// The request was cancelled while the agent worked on it.
    Cancelled,
    /// The agent has no such provider. The backend didn't get the request.
    UnknownProvider,
    /// The provider publishes no model or preset by the request's name, or another one than the API meant. The backend didn't get the
    /// request.
    UnknownModel,
    /// The agent is at one of its limits. The backend didn't get the request.
    Overloaded,
    /// The backend had no turn for the request for as long as that could wait, and didn't get it. Sent only to those who say how long
    /// they wait.
    Busy,
    /// The agent is stopping. The backend didn't get the request.
    ShuttingDown,
    /// The request can't be put together with the preset that it names, whatever is tried again. The backend didn't get it.
    BadRequest,
    /// The request's frames make no sense, or a frame was lost.
    BadFrame,
    /// The agent doesn't know the request: its head or the response's end was lost.
    Lost,
    /// A newer agent sent a code that this version doesn't know.
    #[serde(other)]
    Unknown,
}

impl FaultCode {
    /// Whether no backend can have seen the request, so that sending it again is safe.
    #[must_use]
    pub const fn never_handed_over(self) -> bool {
        match self {
            Self::Asleep
            | Self::BackendUnavailable
            | Self::UnknownProvider
            | Self::UnknownModel
            | Self::Overloaded
            | Self::Busy
            | Self::ShuttingDown
            | Self::BadRequest => true,
            Self::BackendFailed
            | Self::BackendTimeout
            | Self::FirstByteTimeout
            | Self::Cancelled
            | Self::BadFrame
            | Self::Lost
            | Self::Unknown => false,
        }
    }
}

/// A refusal or failure, which the agent sends instead of a response or its rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RelayFault {
    /// The kind of failure.
    pub code: FaultCode,
    /// A sentence for the caller's error object, without URLs, secrets or text from the backend.
    pub message: String,
    /// With [`FaultCode::Asleep`], the report that a retry must wait for until it is folded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportId>,
}

impl RelayFault {
    /// The longest message that is sent, in bytes; longer ones are cut off.
    const MAX_MESSAGE_BYTES: usize = 1024;

    /// A fault of this kind with this message.
    #[must_use]
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > Self::MAX_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(Self::MAX_MESSAGE_BYTES));
        }
        Self {
            code,
            message,
            report: None,
        }
    }

    /// The fault for a backend that is asleep; `report` is the agent's report of that to control.
    #[must_use]
    pub fn asleep(message: impl Into<String>, report: ReportId) -> Self {
        Self {
            report: Some(report),
            ..Self::new(FaultCode::Asleep, message)
        }
    }
}

/// Reads the JSON of a head or a fault.
pub(super) fn read_meta<'a, T: Deserialize<'a>>(meta: &'a [u8]) -> Result<T, BadFrame> {
    serde_json::from_slice(meta).map_err(|_| BadFrame::Meta)
}

/// Writes the JSON of a head or a fault.
pub(super) fn write_meta<T: Serialize>(meta: &T) -> Result<Vec<u8>, BadFrame> {
    let written = serde_json::to_vec(meta).map_err(|_| BadFrame::Meta)?;
    if written.len() > MAX_META_BYTES {
        Err(BadFrame::Meta)
    } else {
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_by_which_no_request_would_come_is_told() {
        for path in [
            "/v1/audio/speech",
            "/audio/speech",
            "/v1/v1/embeddings",
            "/rerank",
        ] {
            assert_eq!(useless_path(path), Some(UselessPath::Relayed), "{path}");
        }
        for path in [
            "/metrics",
            "/api/tags",
            "/models",
            "/v1/models/m",
            "/models/load",
            "/props",
            "/audio/voices",
            "/reveille/v1/keys",
            "/v1/responses/input_tokens",
            "/responses/r/cancel",
        ] {
            assert_eq!(useless_path(path), Some(UselessPath::Own), "{path}");
        }
        for (path, read) in [("/completions/x", "/v1/completions/x"), ("/v1/v1/x", "/v1/x")] {
            assert_eq!(
                useless_path(path),
                Some(UselessPath::ReadAs(read.to_owned())),
                "{path}"
            );
        }
        for path in [
            "/sdapi/v1/txt2img",
            "/v1/x",
            "/metrics/x",
            "/rerank/x",
            "/chat",
            "/v1/responses/r/x",
        ] {
            assert_eq!(useless_path(path), None, "{path}");
        }
    }

    #[test]
    fn only_what_is_listed_is_relayed() {
        for (method, path) in [
            ("POST", "/v1/chat/completions"),
            ("GET", "/props"),
            ("GET", "/v1/responses/resp_1"),
            ("GET", "/v1/responses/resp_1/input_items"),
            ("DELETE", "/v1/responses/resp_1"),
            ("POST", "/v1/responses/resp_1/cancel"),
        ] {
            assert!(is_relayed(method, path), "{method} {path}");
        }
        for (method, path) in [
            ("POST", "/props"),
            ("GET", "/v1/chat/completions"),
            ("DELETE", "/v1/chat/completions"),
            ("POST", "/v1/responses/resp_1"),
            ("GET", "/v1/responses/"),
            ("GET", "/v1/responses/../models"),
            ("GET", "/v1/responses/a%2Fb"),
            ("GET", "/v1/responses/a/b/c"),
            ("PUT", "/v1/responses/resp_1"),
            ("POST", "/sleep"),
            ("POST", "/api/pull"),
        ] {
            assert!(!is_relayed(method, path), "{method} {path}");
        }
    }
}
