//! The paths that reach a backend.

mod arriving;
mod as_events;
mod backend_error;
mod completion;
mod decoded;
mod respond;
mod sniff;
mod sse_keepalive;
mod sse_position;
mod sse_stream;
mod waiting;

pub(super) use respond::event_stream;

use self::arriving::{Form, Reading};
use super::{
    ApiError, AppState,
    body::{self, BodyLimit, HeldBody, check_media_type, form_type},
    ollama,
    request_id::RequestId,
};
use crate::{
    inference::{
        AskedModel, BadBody, BadOption, CurrentPhase, Endpoint, InferenceError, InferenceRequest, ModelPlace,
        Options, Remembered, RequestBody, Stored, WakeMode, check_case, checked_model, default_for,
        endpoint::SHOW, headers, peek, peek_form, with_model,
    },
    keys::Caller,
    origin::quoted,
};
use axum::{
    Extension,
    body::Body,
    extract::{Query, Request, State},
    http::{Uri, request::Parts, uri::PathAndQuery},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use reveille_bus::relay::STORED_PATH;
use reveille_domain::{ModelName, ProviderId};
use tokio::time::Instant;

/// Answers a request for `path`, one of the endpoint's.
pub(super) async fn infer(
    endpoint: &'static Endpoint,
    path: &str,
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let caller = parts.extensions.remove::<Caller>().ok_or(ApiError::NotReady)?;
    let mut options = Options::read(&parts.headers, state.limits.timings.wait)?;
    if !endpoint.wakes {
        options.wake = WakeMode::Never;
    }
    // On the heap, so that a request that waits holds no room for what reads requests.
    let asked = Box::pin(read(&state, &caller, &options, endpoint, path, &parts, body)).await?;
    let Asked {
        model,
        member,
        stream,
        path: sent_path,
        body,
        reading,
    } = asked;
    let request = InferenceRequest {
        endpoint,
        path: sent_path,
        model,
        member,
        caller,
        request_id: id.as_str().to_owned(),
        options,
        headers: headers::passed_on(&parts.headers),
        body,
    };
    drop(parts);
    if stream {
        waiting::respond_when_known(state, request, reading).await
    } else {
        let phase = CurrentPhase::default();
        let answering = Box::pin(state.inference.answer(&request, &phase));
        match arriving::while_reading(reading, answering).await {
            Err(InferenceError::Asleep { .. }) if path == SHOW => {
                Ok(ollama::show(&state, &request).into_response())
            }
            answered => Ok(respond::respond(endpoint, answered?, None)?),
        }
    }
}

/// What a request asks for.
struct Asked {
    model: ModelName,
    member: Option<ProviderId>,
    stream: bool,
    path: String,
    body: RequestBody,
    /// What reads the rest of the body, if it isn't all there.
    reading: Option<Reading>,
}

async fn read(
    state: &AppState,
    caller: &Caller,
    options: &Options,
    endpoint: &'static Endpoint,
    path: &str,
    parts: &Parts,
    body: Body,
) -> Result<Asked, ApiError> {
    match endpoint.model {
        ModelPlace::Json => in_json(state, caller, options, endpoint, path, parts, body).await,
        ModelPlace::Form => in_form(state, caller, options, endpoint, path, parts, body).await,
        ModelPlace::Query => in_query(state, caller, options, path, &parts.uri).await,
        ModelPlace::Stored => stored(state, caller, &parts.uri),
        ModelPlace::JsonOrQuery if model_of_query(&parts.uri)?.is_some() => {
            let body = without_model(state, endpoint, parts, body).await?;
            Ok(Asked {
                body,
                ..in_query(state, caller, options, path, &parts.uri).await?
            })
        }
        ModelPlace::JsonOrQuery => in_json(state, caller, options, endpoint, path, parts, body).await,
    }
}

async fn in_json(
    state: &AppState,
    caller: &Caller,
    options: &Options,
    endpoint: &Endpoint,
    path: &str,
    parts: &Parts,
    body: Body,
) -> Result<Asked, ApiError> {
    check_media_type(&parts.headers, &body)?;
    let mut body = held(state, parts, body).await?;
    let peeked = peek(&body.bytes, endpoint)?;
    let (model, gap) = match peeked.model {
        AskedModel::Named(model) => (model, None),
        AskedModel::Otherwise(model, gap) => (model, Some(gap)),
        AskedModel::Unnamed(gap) => (default_model(state, caller, options, gap.code).await?, Some(gap)),
    };
    if let Some(gap) = gap {
        body.bytes = gap.filled(&body.bytes, &model);
    }
    let previous = match &peeked.previous {
        Some(id) => remembered(state, caller, id)?,
        None => None,
    };
    // Without that backend, another one says itself that it doesn't know the response.
    let member = previous.map(|stored| stored.provider);
    let in_pool = |member: &ProviderId| {
        let pool = state.registry.pool(model.as_str());
        pool.iter().any(|snapshot| snapshot.provider.id == *member)
    };
    Ok(Asked {
        member: member.filter(in_pool),
        model,
        stream: peeked.stream,
        path: path.to_owned(),
        body: RequestBody::whole(body.bytes, body.held),
        reading: None,
    })
}

async fn in_form(
    state: &AppState,
    caller: &Caller,
    options: &Options,
    endpoint: &'static Endpoint,
    path: &str,
    parts: &Parts,
    body: Body,
) -> Result<Asked, ApiError> {
    let mut body = match arriving::read(state, endpoint, parts, body).await? {
        Form::Whole(body) => body,
        Form::Arriving {
            model,
            stream,
            body,
            reading,
        } => {
            return Ok(Asked {
                model,
                member: None,
                stream,
                path: path.to_owned(),
                body,
                reading: Some(reading),
            });
        }
    };
    let kind = form_type(&parts.headers)?;
    let peeked = peek_form(kind, &body.bytes, endpoint).ok_or_else(|| ApiError::NoForm(String::new()))??;
    let model = match peeked.model {
        Some(model) => model,
        None => {
            let model = default_model(state, caller, options, "missing_field").await?;
            body.bytes = with_model(kind, &body.bytes, &model);
            model
        }
    };
    Ok(Asked {
        model,
        member: None,
        stream: peeked.stream,
        path: path.to_owned(),
        body: RequestBody::whole(body.bytes, body.held),
        reading: None,
    })
}

async fn held(state: &AppState, parts: &Parts, body: Body) -> Result<HeldBody, ApiError> {
    let limit = BodyLimit {
        bytes: state.limits.body_bytes,
        flag: Some("--max-body"),
    };
    let idle = state.limits.timings.body_idle;
    body::read(&parts.headers, body, limit, idle, &state.bodies).await
}

/// The body of a request whose query names the model. The backend could go by another one that the body names.
async fn without_model(
    state: &AppState,
    endpoint: &Endpoint,
    parts: &Parts,
    body: Body,
) -> Result<RequestBody, ApiError> {
    check_media_type(&parts.headers, &body)?;
    let body = held(state, parts, body).await?;
    let text = body.bytes.trim_ascii();
    let may_name = !text.is_empty() && !text.starts_with(b"[");
    if may_name && !matches!(peek(&body.bytes, endpoint)?.model, AskedModel::Unnamed(_)) {
        let message = "`model` is given twice: in the query and in the body";
        return Err(ApiError::invalid("duplicate_field", "model", message));
    }
    Ok(RequestBody::whole(body.bytes, body.held))
}

/// The backend gets the query too.
async fn in_query(
    state: &AppState,
    caller: &Caller,
    options: &Options,
    path: &str,
    uri: &Uri,
) -> Result<Asked, ApiError> {
    let query = uri.query().unwrap_or_default();
    let (model, path) = match model_of_query(uri)? {
        Some(model) => (checked_model("model", &model)?, format!("{path}?{query}")),
        None => {
            let model = default_model(state, caller, options, "missing_field").await?;
            let named = [("model".to_owned(), model.to_string())];
            // One that is empty names none.
            let others = parameters(uri)?.into_iter().filter(|(name, _)| name != "model");
            let query: Vec<_> = named
                .into_iter()
                .chain(others)
                .map(|(name, value)| format!("{}={}", escaped(&name), escaped(&value)))
                .collect();
            (model, format!("{path}?{}", query.join("&")))
        }
    };
    Ok(Asked {
        model,
        member: None,
        stream: false,
        path,
        body: RequestBody::whole(Bytes::new(), state.bodies.hold()),
        reading: None,
    })
}

/// What concerns a response that a backend keeps.
fn stored(state: &AppState, caller: &Caller, uri: &Uri) -> Result<Asked, ApiError> {
    let id = uri.path().strip_prefix(STORED_PATH).unwrap_or_default();
    let id = id.split('/').next().unwrap_or_default();
    let stored = remembered(state, caller, id)?.ok_or_else(|| unknown_response(id))?;
    let target = uri.path_and_query().map(PathAndQuery::as_str);
    Ok(Asked {
        model: stored.model,
        member: Some(stored.provider),
        stream: false,
        path: target.unwrap_or_default().to_owned(),
        body: RequestBody::whole(Bytes::new(), state.bodies.hold()),
        reading: None,
    })
}

/// Where the response `id` is kept, if this replica remembers it. One of another key doesn't exist for the caller.
fn remembered(state: &AppState, caller: &Caller, id: &str) -> Result<Option<Stored>, ApiError> {
    match state.inference.stored.get(id, caller.key()) {
        Remembered::Nothing => Ok(None),
        Remembered::Anothers => Err(unknown_response(id)),
        Remembered::Own(stored) => Ok(Some(stored)),
    }
}

fn unknown_response(id: &str) -> ApiError {
    ApiError::UnknownResponse {
        id: quoted(id.as_bytes()),
    }
}

fn model_of_query(uri: &Uri) -> Result<Option<String>, ApiError> {
    let query = parameters(uri)?;
    query.iter().try_for_each(|(name, _)| check_case(name, "model"))?;
    let mut models = query.into_iter().filter(|(name, _)| name == "model");
    let model = models
        .next()
        .map(|(_, model)| model)
        .filter(|model| !model.is_empty());
    if models.next().is_some() {
        return Err(ApiError::invalid(
            "duplicate_field",
            "model",
            "`model` is given twice",
        ));
    }
    Ok(model)
}

/// The names and values of a query.
fn parameters(uri: &Uri) -> Result<Vec<(String, String)>, ApiError> {
    let Query(query) = Query::try_from_uri(uri)
        .map_err(|_| ApiError::invalid("invalid_query", None, "the query can't be read"))?;
    Ok(query)
}

/// A text as a query has it.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// The model of a request that names none. Right after a start, it waits for one.
async fn default_model(
    state: &AppState,
    caller: &Caller,
    options: &Options,
    code: &'static str,
) -> Result<ModelName, ApiError> {
    let (registry, startup, default) = (&state.registry, &state.startup, state.default_model.as_ref());
    let find = || default_for(registry, startup, caller, default, code);
    Ok(startup.wait_for(Instant::now() + options.wait, find).await?)
}

impl From<BadBody> for ApiError {
    fn from(bad: BadBody) -> Self {
        Self::invalid(bad.code, bad.param, bad.message)
    }
}

impl From<BadOption> for ApiError {
    fn from(bad: BadOption) -> Self {
        Self::invalid(
            "invalid_header",
            bad.header,
            format!("{} must be {}", bad.header, bad.expected),
        )
    }
}
