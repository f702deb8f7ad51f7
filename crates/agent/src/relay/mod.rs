//! Relays requests from the hub to the backends of this machine, and the answers back.
//!
//! Only listed paths and headers are relayed. The hub names a provider of the config, never a URL. The backend's key is added
//! here and goes nowhere else.

mod answer_model;
mod outcome;
mod preset;
mod rename;

use crate::{
    config::{AnswerModelName, CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH, Preset, ProviderConfig},
    http1::{Client, Response, SendError, SendProgress, SentBody},
    models::{Memory, Served},
    own_hub::OwnHub,
    provider::{Asked, Handle, Input, NoTurn, Slot, Symptom},
    tls,
};
use answer_model::AnswerModel;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
    response::Parts,
};
use outcome::{Answering, Broken, Connecting};
use parking_lot::RwLock;
use reveille_bus::{
    open_files,
    relay::{
        AnswerKind, FaultCode, FormReader, Incoming, MAX_BODY_BYTES, PRESET_PATHS, REQUEST_HEADERS,
        RESPONSE_HEADERS, RelayFault, RequestBody, RequestHead, RespondError, ResponseHead, boundary,
        is_relayed, takes_presets,
    },
};
use reveille_domain::{AgentName, Availability, ModelName, ProviderId, ProviderName, named};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::debug;
use url::Position;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest value of an answer's header. All that pass fit into a frame.
const MAX_HEADER_BYTES: usize = 2048;
/// The memory for all request bodies together, in KiB: at least two of the largest. Requests beyond that wait, and then get
/// `overloaded`.
const MAX_HELD_KIB: u32 = 512 * 1024;
/// How much of a form is read for its model before it is sent, in bytes: the API takes none whose model comes later.
const FORM_BEGINNING_BYTES: usize = 128 * 1024;
/// The memory for a form that is sent while it comes in, in KiB: its beginning, and what comes in at once.
const ARRIVING_KIB: u32 = 512;
/// How many connections to backends there may be, if the limit of open files has room for as many.
const MAX_CONNECTIONS: usize = 65_536;
/// The pause before a request asks again for a connection when the process had no file left for it.
const FILES_PAUSE: Duration = Duration::from_millis(100);
/// How long a request that found no backend waits for its owner's report, beyond the time of a probe.
const SETTLE_MARGIN: Duration = Duration::from_secs(8);
/// How many names of presets are remembered of a provider before those of earlier configs are forgotten.
const MAX_PRESET_NAMES: usize = 1024;
/// The pause before a request asks again to be let in.
const ENTRY_PAUSE: Duration = Duration::from_millis(10);

/// Carries requests to the backends.
pub struct Relay {
    agent: AgentName,
    own_hub: OwnHub,
    memory: Memory,
    backends: RwLock<HashMap<ProviderName, Arc<Backend>>>,
    held: Semaphore,
    /// A permit for each connection, so that files are left for everything else. Served in order.
    connections: Arc<Semaphore>,
}

struct Backend {
    config: ProviderConfig,
    handle: Handle,
    client: Client,
    /// The names of the presets that it has, or had before a reload. The backend itself may answer to any name.
    preset_names: BTreeSet<ModelName>,
}

impl Backend {
    /// Whether a name without a meaning now is a preset's, whose system prompt a request for it would lack.
    fn lost_preset(&self, agent: &AgentName, asked: &str) -> bool {
        let id = ProviderId::new(agent.clone(), self.config.name.clone());
        named(&self.preset_names.iter(), true, &id, asked).is_some()
    }
}

/// A request as the backend gets it.
#[derive(Clone)]
struct Outgoing {
    method: Method,
    target: Uri,
    headers: HeaderMap,
    body: SentBody,
}

/// A request's body as far as it was read.
struct Begun<'a> {
    bytes: Bytes,
    /// Reads the fields of a form.
    form: Option<FormReader>,
    /// What is still to come.
    rest: Option<RequestBody>,
    /// Its share of the memory.
    held: SemaphorePermit<'a>,
}

/// What a request waits for at the agent, and for how long.
#[derive(Clone, Copy)]
struct Patience<'a> {
    replica: &'a str,
    /// While the backend is being put to sleep, and for a connection.
    hold: Duration,
    /// Until when it waits for its turn, if it does.
    turn_by: Option<Instant>,
}

/// A backend's answer, and the request's slot and permit until it is over.
struct Answer {
    response: Response,
    answering: Answering,
    slot: Slot,
    connection: OwnedSemaphorePermit,
    /// The model to name in it, if not as the backend does.
    model: Option<ModelName>,
}

impl Relay {
    /// A relay without backends.
    #[must_use]
    pub fn new(agent: AgentName, own_hub: OwnHub, memory: Memory) -> Self {
        Self {
            agent,
            own_hub,
            memory,
            backends: RwLock::default(),
            held: Semaphore::new(MAX_HELD_KIB as usize),
            connections: Arc::new(Semaphore::new(open_files::room_within(
                open_files::raise_limit(),
                MAX_CONNECTIONS,
            ))),
        }
    }

    /// Relays to the backend of a provider, in place of the one that it had before.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn publish(&self, config: ProviderConfig, handle: Handle) -> Result<(), rustls::Error> {
        let client = Client::of_backend(&config)?;
        handle.gate.limit(config.balancing.max_concurrency());
        let name = config.name.clone();
        let mut backends = self.backends.write();
        let before = backends.get(&name).map(|before| before.preset_names.clone());
        let mut preset_names = before
            .filter(|names| names.len() < MAX_PRESET_NAMES)
            .unwrap_or_default();
        preset_names.extend(config.presets.iter().map(|preset| preset.name.clone()));
        let backend = Arc::new(Backend {
            config,
            handle,
            client,
            preset_names,
        });
        backends.insert(name, backend);
        Ok(())
    }

    /// Relays no more requests to the backend of a provider. Those that it works on go on.
    pub fn remove(&self, provider: &ProviderName) {
        self.backends.write().remove(provider);
    }

    /// Carries one request to its end, or until nobody wants it any longer.
    pub async fn serve(&self, incoming: Incoming) {
        let Incoming {
            id,
            replica,
            head,
            body,
            responder,
            cancelled,
            ..
        } = incoming;
        let kind = AnswerKind::of_path(&head.path);
        let backend = self.backends.read().get(&head.provider).cloned();
        let Some(backend) = backend.as_deref() else {
            let fault = RelayFault::new(FaultCode::UnknownProvider, "the agent has no such provider");
            return responder.error(&fault);
        };
        let forwarded = cancelled
            .run_until_cancelled(self.forward(backend, &replica, &head, body))
            .await;
        let answer = match forwarded {
            None => return debug!(request.id = %id, "the request was cancelled"),
            Some(Err(fault)) => {
                debug!(request.id = %id, provider.name = %head.provider, %fault, "the request failed");
                return responder.error(&fault);
            }
            Some(Ok(answer)) => answer,
        };
        let Answer {
            response,
            mut answering,
            slot,
            connection,
            model,
        } = answer;
        let mut head = response_head(&response.head);
        let mut model = model.and_then(|model| rename_in(&mut head, &model));
        if self.own_hub.is_named_in(&response.head.headers) {
            backend.handle.send(Input::Suspect(Symptom::HubItself));
        }
        answering.head(&response.head, kind);
        let body = stream::unfold(Some((response, &mut answering)), async |open| {
            let (mut response, answering) = open?;
            match response.next(Some(answering.silent_until())).await {
                Ok(None) => None,
                Ok(Some(part)) => {
                    answering.part(&part, &slot);
                    Some((Ok(part), Some((response, answering))))
                }
                Err(error) => Some((Err(answering.broke(&error, Broken::MidAnswer)), None)),
            }
        });
        let body = body.map_ok(|part| match &mut model {
            Some(model) => model.pass(part),
            None => part,
        });
        let sent = responder.stream(&head, body).await;
        if let Err(error) = &sent {
            debug!(request.id = %id, %error, "the answer was not sent completely");
        }
        match sent {
            Ok(_) => answering.ended(&slot),
            Err(RespondError::Cancelled(_)) => {}
            Err(_) => answering.forget(),
        }
        drop((slot, connection));
    }

    async fn forward(
        &self,
        backend: &Backend,
        replica: &str,
        head: &RequestHead,
        body: RequestBody,
    ) -> Result<Answer, RelayFault> {
        let (path, query) = head.path.split_once('?').unwrap_or((&head.path, ""));
        let extra = &backend.config.extra_paths;
        let is_extra = head.method == "POST" && extra.iter().any(|extra| extra.as_str() == path);
        if !is_extra && !is_relayed(&head.method, path) {
            return Err(bad_frame("the agent doesn't relay this method and path"));
        }
        let method = Method::from_bytes(head.method.as_bytes());
        let method = method.map_err(|_| bad_frame("the request's method is invalid"))?;
        let patience = Patience {
            replica,
            hold: head.hold(),
            turn_by: head.turn_within().map(|within| Instant::now() + within),
        };
        let slot = self.enter(backend, patience.hold).await?;
        let kind = head
            .headers
            .iter()
            .find(|(name, _)| name == CONTENT_TYPE.as_str());
        let form = kind.and_then(|(_, kind)| boundary(kind)).map(FormReader::new);
        let Begun {
            bytes: begun,
            form,
            rest,
            held: _held,
        } = self.read(head, body, form).await?;
        let left = head.body_bytes.saturating_sub(begun.len() as u64);
        let mut served = None;
        let mut as_backend = |asked: &str| {
            served = self.memory.served(&self.agent, &backend.config, asked);
            served.as_ref().map(|served| served.id.to_string())
        };
        let (mut query, in_query) = rename::rename_in_query(query, &mut as_backend);
        let (mut begun, model) = match (in_query, form) {
            (Some(model), _) => (begun, Some(model)),
            (None, Some(form)) => rename::rename_in_form(begun, &form, as_backend),
            (None, None) => rename::rename(begun, as_backend),
        };
        if let Some(preset) = served.as_ref().and_then(|served| served.preset.as_ref()) {
            begun = with_preset(preset, head, path, begun)?;
        }
        let lost_preset = |asked: &String| backend.lost_preset(&self.agent, asked);
        if served.is_none() && model.as_ref().is_some_and(lost_preset) {
            let why = "the preset is no longer there, or its model isn't";
            return Err(RelayFault::new(FaultCode::BadRequest, why));
        }
        let body = match rest {
            Some(rest) => {
                let bytes = begun.len() as u64 + left;
                SentBody::arriving(bytes, stream::iter([Ok(begun)]).chain(rest))
            }
            None => begun.into(),
        };
        if !query.is_empty() {
            query.insert(0, '?');
        }
        let url = backend.config.base_url.at(&format!("{path}{query}")).ok();
        let target = url.and_then(|url| Uri::try_from(&url[Position::BeforePath..]).ok());
        let target = target.ok_or_else(|| bad_frame("the request's path is invalid"))?;
        if let Some(path) = verified_by(path) {
            backend.handle.health.asked(Asked { path, model });
        }
        let request = Outgoing {
            method,
            target,
            headers: request_headers(head, &self.own_hub),
            body,
        };
        let sent = self.send(backend, &request, slot, patience).await?;
        let (response, answering, slot, connection) = sent;
        Ok(Answer {
            response,
            answering,
            slot,
            connection,
            model: served.and_then(|served| named_in_answers(&backend.config, served)),
        })
    }

    /// Sends a request once it's its turn, a second time if there was no connection although the backend is up. While the process
    /// has no file left for a connection, the request waits.
    async fn send(
        &self,
        backend: &Backend,
        request: &Outgoing,
        mut slot: Slot,
        patience: Patience<'_>,
    ) -> Result<(Response, Answering, Slot, OwnedSemaphorePermit), RelayFault> {
        let mut is_last = false;
        let mut by = Instant::now() + patience.hold;
        loop {
            if let Some(turn_by) = patience.turn_by {
                let turn = slot.turn(patience.replica, turn_by).await;
                turn.map_err(|none| busy(none, &backend.config.name))?;
                by = by.max(Instant::now() + patience.hold);
            }
            let connection = self.connection_permit(by).await?;
            let upload = request.body.progress();
            let mut answering = Answering::begin(&backend.handle, &backend.config, upload);
            let error = match hand_over(backend, &mut slot, request.clone()).await {
                Ok(response) => return Ok((response, answering, slot, connection)),
                Err(error) => error,
            };
            drop(connection);
            if let Some(fault) = upload.and_then(SendProgress::fault) {
                answering.forget();
                return Err(fault);
            }
            let SendError::Connect(failed) = &error else {
                // The owner must hear of it before it can learn otherwise that the backend has ended.
                let fault = answering.broke(&error, Broken::BeforeAnswer);
                drop(slot);
                return Err(match scheme_hint(backend, &error).await {
                    Some(hint) => RelayFault::new(fault.code, format!("{}: {hint}", fault.message)),
                    None => fault,
                });
            };
            answering.forget();
            if let Some(limit) = failed.limit_reached() {
                if Instant::now() >= by {
                    return Err(RelayFault::new(FaultCode::Overloaded, limit));
                }
                sleep(FILES_PAUSE).await;
                continue;
            }
            drop(slot);
            let hint = scheme_hint(backend, &error).await;
            let reason = hint.map_or_else(|| failed.reason(), str::to_owned);
            let fault = unreached(backend, &reason).await;
            let is_up = backend.handle.gate.availability() == Some(Availability::Available);
            let is_used = upload.is_some_and(SendProgress::has_begun);
            if is_last || is_used || fault.code != FaultCode::BackendUnavailable || !is_up {
                return Err(fault);
            }
            is_last = true;
            slot = self.enter(backend, patience.hold).await?;
        }
    }

    /// The permit for a connection, in the order of those who ask.
    async fn connection_permit(&self, by: Instant) -> Result<OwnedSemaphorePermit, RelayFault> {
        let permit = timeout_at(by, self.connections.clone().acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| {
            let full = "the agent's limit of open files (`ulimit -n`) has no room for another connection";
            RelayFault::new(FaultCode::Overloaded, full)
        })
    }

    /// A slot at the backend. While the backend is being put to sleep, requests wait until it sleeps or stays awake after all.
    async fn enter(&self, backend: &Backend, hold: Duration) -> Result<Slot, RelayFault> {
        let entered = async {
            loop {
                if let Some(slot) = backend.handle.gate.enter() {
                    return Ok(slot);
                }
                if let Some(why) = backend.handle.gate.refusal() {
                    return Err(RelayFault::new(FaultCode::BackendUnavailable, why));
                }
                if let Some(report) = backend.handle.refused().await {
                    return Err(RelayFault::asleep("the backend sleeps", report));
                }
                if backend.handle.gate.is_closed_for_good() {
                    // The API asks again, until there is another owner or the provider is withdrawn.
                    return Err(RelayFault::new(FaultCode::Asleep, "the provider is reloaded"));
                }
                sleep(ENTRY_PAUSE).await;
            }
        };
        // The backend still works on other requests. The API tells its client so, and asks again.
        let held = RelayFault::new(FaultCode::Asleep, "the backend is being put to sleep");
        timeout(hold, entered).await.unwrap_or(Err(held))
    }

    /// The whole body, or that of a form as far as its `model`.
    async fn read(
        &self,
        head: &RequestHead,
        mut body: RequestBody,
        mut form: Option<FormReader>,
    ) -> Result<Begun<'_>, RelayFault> {
        let overloaded = |message| RelayFault::new(FaultCode::Overloaded, message);
        let most = form.as_ref().map_or(u32::MAX, |_| ARRIVING_KIB);
        let kib = u32::try_from(head.body_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        if head.body_bytes > MAX_BODY_BYTES {
            return Err(overloaded("the request's body is larger than the agent takes"));
        }
        // The semaphore serves requests in order.
        let held = timeout(head.hold(), self.held.acquire_many(kib.min(most))).await;
        let held = held
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| overloaded("the agent has no memory for another request body"))?;
        let mut begun = Begun {
            bytes: Bytes::new(),
            form: None,
            rest: None,
            held,
        };
        if let Some(whole) = body.whole() {
            if let Some(form) = &mut form {
                // What is no form passes as it is.
                let _ = form.read(&whole);
            }
            (begun.bytes, begun.form) = (whole, form);
            return Ok(begun);
        }
        let mut read = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            if (read.len() + chunk.len()) as u64 > head.body_bytes {
                return Err(bad_frame("the request's body is longer than announced"));
            }
            read.extend_from_slice(&chunk);
            if let Some(form) = &mut form
                && (form.read(&chunk).is_err()
                    || rename::model_in(form).is_some()
                    || read.len() >= FORM_BEGINNING_BYTES)
                && (read.len() as u64) < head.body_bytes
            {
                begun.rest = Some(body);
                break;
            }
        }
        (begun.bytes, begun.form) = (read.freeze(), form);
        Ok(begun)
    }
}

/// Connects to the backend and sends it a request. `slot` knows from when on the backend may have seen it.
async fn hand_over(backend: &Backend, slot: &mut Slot, request: Outgoing) -> Result<Response, SendError> {
    let connecting = Connecting::begin(&backend.handle);
    let connection = backend.client.connect().await;
    connecting.end();
    let connection = connection?;
    slot.connected();
    let mut sent = Request::new(request.body);
    (*sent.method_mut(), *sent.uri_mut(), *sent.headers_mut()) =
        (request.method, request.target, request.headers);
    backend.client.send(connection, sent).await
}

/// The path of a completion that shows whether a backend works that is asked for `path`; `None` if no completion shows that.
fn verified_by(path: &str) -> Option<&'static str> {
    Some(match path {
        COMPLETIONS_PATH => COMPLETIONS_PATH,
        EMBEDDINGS_PATH => EMBEDDINGS_PATH,
        // What has one of these has chat completions too.
        CHAT_PATH | "/v1/responses" | "/v1/messages" | "/api/chat" => CHAT_PATH,
        _ => return None,
    })
}

/// What to do about a request that got no answer, if `http` and `https` were mixed up.
async fn scheme_hint(backend: &Backend, error: &SendError) -> Option<&'static str> {
    let base_url = &backend.config.base_url;
    if !error.is_garbled(base_url.is_https()) {
        return None;
    }
    tls::other_scheme(&base_url.address("/").ok()?).await
}

/// The fault for a request that got no connection, so that it may be sent again when the backend is awake: with the report that
/// tells control that it isn't, if there is one.
async fn unreached(backend: &Backend, reason: &str) -> RelayFault {
    let message = format!("the backend can't be reached: {reason}");
    let settled_within = backend.config.probe.timeout + SETTLE_MARGIN;
    match timeout(settled_within, backend.handle.unreachable()).await {
        Ok(Some(report)) => RelayFault::asleep(&message, report),
        Ok(None) | Err(_) => RelayFault::new(FaultCode::BackendUnavailable, &message),
    }
}

/// The body with the preset in it, unless the request only asks about its model.
fn with_preset(preset: &Preset, head: &RequestHead, path: &str, body: Bytes) -> Result<Bytes, RelayFault> {
    if !PRESET_PATHS.contains(&path) && takes_presets(&head.method, path) {
        return Ok(body);
    }
    preset::put(&body, preset, path).map_err(|why| {
        let message = format!(
            "the request can't be put together with the preset `{}`: {why}",
            preset.name
        );
        RelayFault::new(FaultCode::BadRequest, message)
    })
}

/// The fault for a request that had no turn in time.
fn busy(none: NoTurn, provider: &ProviderName) -> RelayFault {
    let (limit, waiting) = (none.limit, none.waiting);
    let message = format!(
        "all its turns are taken (max_concurrency = {limit} of `{provider}`), and requests that wait for one at its agent: {waiting}"
    );
    RelayFault::new(FaultCode::Busy, message)
}

fn bad_frame(message: &str) -> RelayFault {
    RelayFault::new(FaultCode::BadFrame, message)
}

/// The listed headers of the request, with the agent's hub as one more that it has passed.
fn request_headers(head: &RequestHead, own_hub: &OwnHub) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        let name = HeaderName::try_from(name.as_str())
            .ok()
            .filter(|name| REQUEST_HEADERS.contains(&name.as_str()));
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    if let Some(Ok(trace)) = head.traceparent.as_deref().map(HeaderValue::from_str) {
        headers.insert(TRACEPARENT, trace);
    }
    own_hub.add_to(&mut headers);
    headers
}

/// The listed headers that the relay can carry; a value that isn't text, or is too large, is left out. So is the length of an
/// answer in chunks, which they may not have (RFC 9112, 6.3): the caller would read on or stop by it.
fn response_head(head: &Parts) -> ResponseHead {
    let in_chunks = head.headers.contains_key(TRANSFER_ENCODING);
    let listed = RESPONSE_HEADERS
        .iter()
        .filter(|name| !(in_chunks && **name == CONTENT_LENGTH));
    let headers = listed.filter_map(|name| {
        let value = std::str::from_utf8(head.headers.get(*name)?.as_bytes()).ok()?;
        (value.len() <= MAX_HEADER_BYTES).then(|| ((*name).to_owned(), value.to_owned()))
    });
    ResponseHead {
        status: head.status.as_u16(),
        headers: headers.collect(),
    }
}

/// The name for the model in answers, if it isn't the backend's: where the request's was changed by the config, so is the answer's.
fn named_in_answers(config: &ProviderConfig, served: Served) -> Option<ModelName> {
    let renamed = served.public != served.id;
    let public = match config.answer_model {
        Some(answer_model) => answer_model == AnswerModelName::Public,
        None => renamed,
    };
    public.then_some(served.public)
}

/// Prepares a head for an answer with another `model`; `None` for one that can't be changed because it is compressed.
fn rename_in(head: &mut ResponseHead, model: &ModelName) -> Option<AnswerModel> {
    let compressed = |(name, value): &(String, String)| name == "content-encoding" && value != "identity";
    if head.headers.iter().any(compressed) {
        return None;
    }
    head.headers.retain(|(name, _)| name != "content-length");
    Some(AnswerModel::new(model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, provider::Gate};
    use futures::{channel::mpsc::unbounded, future::join};
    use http::StatusCode;
    use reveille_domain::ReportId;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream, UnixListener},
        sync::{mpsc, oneshot},
    };

    const PATIENCE: Patience<'static> = Patience {
        replica: "api-1",
        hold: Duration::ZERO,
        turn_by: None,
    };

    #[test]
    fn an_answer_in_chunks_has_no_length() {
        let mut answer = http::Response::new(());
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(3));
        let names = |answer: &http::Response<()>| {
            let (head, ()) = answer.clone().into_parts();
            let headers = response_head(&head).headers;
            headers.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(&answer), ["content-length"]);
        let chunked = HeaderValue::from_static("chunked");
        answer.headers_mut().insert(TRANSFER_ENCODING, chunked);
        assert_eq!(names(&answer), [""; 0]);
    }

    #[test]
    fn credentials_and_unknown_headers_never_reach_the_backend() {
        let header = |name: &str| (name.to_owned(), "1".to_owned());
        let names = [
            "Content-Type",
            "authorization",
            "cookie",
            "x-api-key",
            "x-forwarded-for",
            "Accept",
            "a b",
        ];
        let head = RequestHead {
            provider: ProviderName::parse("p").expect("legal"),
            method: "POST".to_owned(),
            path: "/v1/completions".to_owned(),
            headers: names.map(header).to_vec(),
            traceparent: Some("00-1-2-01".to_owned()),
            hold_ms: None,
            turn_within_ms: None,
            body_bytes: 0,
        };
        let own_hub = OwnHub::of(Some("00112233445566aa".parse().expect("an id")));
        let headers = request_headers(&head, &own_hub);
        let mut sent: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        sent.sort_unstable();
        assert_eq!(sent, ["accept", "content-type", "traceparent", "x-reveille-via"]);
    }

    #[test]
    fn a_compressed_answer_keeps_its_name_of_the_model_and_its_length() {
        let model = ModelName::parse("m").expect("legal");
        for (encoding, is_renamed) in [("gzip", false), ("identity", true)] {
            let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let mut head = ResponseHead {
                status: 200,
                headers: vec![
                    header("content-encoding", encoding),
                    header("content-length", "9"),
                ],
            };
            assert_eq!(rename_in(&mut head, &model).is_some(), is_renamed, "{encoding}");
            assert_eq!(head.header("content-length").is_none(), is_renamed, "{encoding}");
        }
    }

    /// A relay, and a backend that is up as far as is known, with what its owner is told.
    fn backend(url: &str) -> (Relay, Backend, mpsc::Receiver<Input>) {
        let text = format!("[[provider]]\nname = \"p\"\nbase_url = \"{url}\"\n");
        let config = Config::parse(&text, "test.toml", &|_| None).expect("legal");
        let config = config.providers[0].clone();
        let (handle, inputs, _) = Handle::new(config.name.clone(), Gate::open(), Arc::default());
        handle.gate.set(Some(Availability::Available), true);
        let client = Client::of_backend(&config).expect("no TLS");
        let backend = Backend {
            config,
            handle,
            client,
            preset_names: BTreeSet::new(),
        };
        let agent = AgentName::parse("box").expect("legal");
        let relay = Relay::new(agent, OwnHub::of(None), Memory::default());
        (relay, backend, inputs)
    }

    async fn send(relay: &Relay, backend: &Backend) -> Result<StatusCode, RelayFault> {
        let request = Outgoing {
            method: Method::POST,
            target: Uri::from_static("/v1/completions"),
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"{}").into(),
        };
        let slot = backend.handle.gate.enter().expect("open");
        let sent = relay.send(backend, &request, slot, PATIENCE).await;
        sent.map(|(response, ..)| response.head.status)
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(60), future).await.expect("in time")
    }

    /// The next request that found no backend.
    async fn refused(inputs: &mut mpsc::Receiver<Input>) -> oneshot::Sender<Option<ReportId>> {
        loop {
            if let Input::Refused(reply) = inputs.recv().await.expect("an input") {
                return reply;
            }
        }
    }

    #[tokio::test]
    async fn a_request_that_got_no_connection_is_sent_once_more_if_the_backend_is_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("llm.sock");
        let (relay, backend, mut inputs) = backend(&format!("unix://{}", socket.display()));

        let owner = async {
            for _ in 0..2 {
                let reply = refused(&mut inputs).await;
                reply.send(None).expect("it waits");
            }
        };
        let (sent, ()) = soon(join(send(&relay, &backend), owner)).await;
        assert_eq!(
            sent.expect_err("nobody listens").code,
            FaultCode::BackendUnavailable
        );
        assert!(inputs.try_recv().is_err(), "it was tried twice");

        let owner = async {
            let reply = refused(&mut inputs).await;
            let listener = UnixListener::bind(&socket).expect("a socket");
            reply.send(None).expect("it waits");
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            connection.write_all(answer).await.expect("sent");
            connection
        };
        let (sent, _connection) = soon(join(send(&relay, &backend), owner)).await;
        assert_eq!(sent.expect("an answer"), StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_connection_that_open_files_have_room_for_and_blames_the_limit() {
        let (mut relay, backend, mut inputs) = backend("http://127.0.0.1:1");
        relay.connections = Arc::new(Semaphore::new(1));
        let request = Outgoing {
            method: Method::POST,
            target: Uri::from_static("/v1/completions"),
            headers: HeaderMap::new(),
            body: Bytes::new().into(),
        };
        let taken = relay.connection_permit(Instant::now()).await.expect("room");
        let began = Instant::now();
        let slot = backend.handle.gate.enter().expect("open");
        let patience = Patience {
            hold: Duration::from_secs(5),
            ..PATIENCE
        };
        let sent = relay.send(&backend, &request, slot, patience).await;
        let fault = sent.map(drop).expect_err("no room");
        assert_eq!(
            (fault.code, began.elapsed().as_secs()),
            (FaultCode::Overloaded, 5)
        );
        assert!(fault.message.contains("limit of open files"), "{fault}");
        assert!(inputs.try_recv().is_err(), "it says nothing of the backend");
        drop(taken);
        let room = relay.connection_permit(Instant::now()).await;
        drop(room.expect("room again"));
    }

    #[tokio::test]
    async fn a_name_that_was_a_presets_never_reaches_a_backend_that_may_answer_to_any() {
        let (relay, backend, _inputs) = backend("http://127.0.0.1:1");
        let Backend { config, handle, .. } = backend;
        let preset = |name: &str| {
            let text = format!(
                "[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\nmodels = [\"m\"]\n\
                 [[preset]]\nname = \"{name}\"\nmodel = \"m\"\nsystem = \"x\"\n"
            );
            let config = Config::parse(&text, "test.toml", &|_| None).expect("legal");
            config.providers[0].clone()
        };
        for config in [preset("bot"), preset("later"), config.clone()] {
            relay.publish(config, handle.clone()).expect("no TLS");
        }
        let backends = relay.backends.read();
        let lost = |asked: &str| backends[&config.name].lost_preset(&relay.agent, asked);
        for asked in ["bot", "box/bot", "box/p/later", "bot:latest"] {
            assert!(lost(asked), "{asked}");
        }
        assert!(!lost("m") && !lost("other"));
    }

    /// What a backend has read once it ends like this.
    async fn read_to(connection: &mut TcpStream, end: &str) -> String {
        let mut read = String::new();
        while !read.ends_with(end) {
            let mut bytes = [0; 1024];
            let count = connection.read(&mut bytes).await.expect("a request");
            assert!(count > 0, "{read}");
            read += std::str::from_utf8(&bytes[..count]).expect("text");
        }
        read
    }

    #[tokio::test]
    async fn a_backend_gets_a_body_while_it_comes_in_and_is_not_blamed_for_one_that_stays_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (relay, backend, mut inputs) = backend(&url);
        for is_whole in [true, false] {
            let (pieces, coming) = unbounded();
            let send = |piece: Result<&'static str, RelayFault>| {
                let piece = piece.map(|text| Bytes::from_static(text.as_bytes()));
                pieces.unbounded_send(piece).expect("it is read");
            };
            let request = Outgoing {
                method: Method::POST,
                target: Uri::from_static("/v1/audio/transcriptions"),
                headers: HeaderMap::new(),
                body: SentBody::arriving(6, coming),
            };
            let slot = backend.handle.gate.enter().expect("open");
            let sending = relay.send(&backend, &request, slot, PATIENCE);
            send(Ok("abc"));
            let serving = async {
                let (mut connection, _) = listener.accept().await.expect("a connection");
                let begun = read_to(&mut connection, "abc").await;
                assert!(begun.contains("content-length: 6\r\n"), "{begun}");
                if is_whole {
                    send(Ok("def"));
                    read_to(&mut connection, "def").await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    connection.write_all(answer).await.expect("sent");
                } else {
                    send(Err(RelayFault::new(FaultCode::Cancelled, "its caller has left")));
                    let end = connection.read(&mut [0; 8]).await;
                    assert!(end.is_err() || end.is_ok_and(|count| count == 0));
                }
                connection
            };
            let (sent, _connection) = soon(join(sending, serving)).await;
            match sent {
                Ok((response, ..)) => assert!(is_whole && response.head.status.is_success()),
                Err(fault) => assert!(!is_whole && fault.code == FaultCode::Cancelled, "{fault}"),
            }
            assert!(inputs.try_recv().is_err(), "the backend did nothing wrong");
        }
    }

    #[tokio::test]
    async fn an_owner_hears_that_its_backend_broke_off_before_anybody_looks_why() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (relay, backend, mut inputs) = backend(&url);
        let breaks_off = async {
            let (mut connection, _) = listener.accept().await.expect("the request");
            let _ = connection.read(&mut [0; 1024]).await;
            drop(connection);
            // Somebody asks whether it speaks TLS.
            let _look = listener.accept().await.expect("a connection");
            let heard = inputs.try_recv();
            assert!(
                matches!(heard, Ok(Input::Suspect(Symptom::BrokeOff))),
                "{heard:?}"
            );
        };
        let (sent, ()) = soon(join(send(&relay, &backend), breaks_off)).await;
        assert_eq!(sent.expect_err("no answer").code, FaultCode::BackendFailed);
    }
}
