//! Relays requests from the hub to the backends of this machine, and the answers back.
//!
//! Only listed paths and headers are relayed. The hub names a provider of the config, never a URL. The backend's key is added
//! here and goes nowhere else.

mod answer_model;
mod backend;
mod error_lines;
mod hand_over;
mod headers;
mod hidden_names;
mod model;
mod outcome;
mod preset;
mod rename;
mod request_body;

use crate::{
    config::{CHAT_PATH, COMPLETIONS_PATH, EMBEDDINGS_PATH, ProviderConfig},
    http1::{Client, SentBody},
    models::Memory,
    own_hub::OwnHub,
    provider::{Asked, Handle, Input, Symptom},
};
use backend::Backend;
use error_lines::ErrorLines;
use futures::{StreamExt, TryStreamExt, stream};
use hand_over::{Answer, Connections, Outgoing, Patience, enter};
use headers::{is_compressed, rename_in, request_headers, response_head, unreadable_error};
use hidden_names::HiddenNames;
use http::{Method, Uri, header::CONTENT_TYPE};
use model::{AsAsked, InAnswers};
use outcome::Broken;
use parking_lot::RwLock;
use request_body::{Begun, BodyMemory};
use reveille_bus::relay::{
    AnswerKind, FaultCode, FormReader, Incoming, RelayFault, RequestBody, RequestHead, RespondError,
    STORED_PATH, boundary, is_relayed,
};
use reveille_domain::{AgentName, ProviderName};
use std::{collections::HashMap, pin::pin, sync::Arc};
use tokio::time::Instant;
use tracing::debug;
use url::Position;

/// Carries requests to the backends.
pub struct Relay {
    agent: AgentName,
    own_hub: OwnHub,
    memory: Memory,
    backends: RwLock<HashMap<ProviderName, Arc<Backend>>>,
    bodies: BodyMemory,
    connections: Connections,
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
            bodies: BodyMemory::new(),
            connections: Connections::new(),
        }
    }

    /// Relays to the backend of a provider, in place of the one that it had before.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn publish(&self, config: ProviderConfig, handle: Handle) -> Result<(), rustls::Error> {
        let name = config.name.clone();
        let backend = Backend {
            client: Client::of_backend(&config)?,
            config,
            handle,
        };
        backend
            .handle
            .gate
            .limit(backend.config.balancing.max_concurrency());
        self.backends.write().insert(name, Arc::new(backend));
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
        let (answer, model) = match forwarded {
            None => return debug!(request.id = %id, "the request was cancelled"),
            Some(Err(fault)) => {
                debug!(request.id = %id, provider.name = %head.provider, %fault, "the request failed");
                let fault = match self.hidden_names(backend, &head) {
                    Some(hidden) => hidden.in_fault(fault),
                    None => fault,
                };
                return responder.error(&fault);
            }
            Some(Ok(answer)) => answer,
        };
        let Answer {
            response,
            mut answering,
            slot,
            connection,
        } = answer;
        let mut head = response_head(&response.head);
        let is_error = head.status >= 400;
        let hidden = model.as_ref().and_then(|model| model.hidden.clone());
        // Nobody can look for names in it.
        let is_unreadable = hidden.is_some() && is_error && is_compressed(&head);
        let in_its_place = is_unreadable.then(|| unreadable_error(&mut head));
        let hidden = hidden.filter(|_| !is_compressed(&head));
        let mut model = model.and_then(|model| rename_in(&mut head, &model.name));
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
        let sent = match (in_its_place, hidden) {
            (Some(own), _) => {
                drop(body);
                let own = stream::iter([Ok::<_, RelayFault>(own)]);
                responder.stream(&head, own).await
            }
            (None, Some(hidden)) if is_error => responder.stream(&head, hidden.in_error(pin!(body))).await,
            (None, Some(hidden)) => {
                let lines = ErrorLines::new(hidden, kind);
                responder.stream(&head, lines.in_answer(pin!(body))).await
            }
            (None, None) => responder.stream(&head, body).await,
        };
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

    /// The answer of the backend to a request, and the name for the model in it, if not the backend's.
    async fn forward(
        &self,
        backend: &Backend,
        replica: &str,
        head: &RequestHead,
        body: RequestBody,
    ) -> Result<(Answer, Option<InAnswers>), RelayFault> {
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
        let slot = enter(backend, patience.hold).await?;
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
        } = self.bodies.read(head, body, form).await?;
        let left = head.body_bytes.saturating_sub(begun.len() as u64);
        let asked = AsAsked {
            head,
            path,
            is_stored: !is_extra && path.starts_with(STORED_PATH),
            query,
            begun,
            form,
        };
        let asked = asked.for_backend(&self.memory, &self.agent, &backend.config)?;
        let body = match rest {
            Some(rest) => {
                let bytes = asked.begun.len() as u64 + left;
                SentBody::arriving(bytes, stream::iter([Ok(asked.begun)]).chain(rest))
            }
            None => asked.begun.into(),
        };
        let mut query = asked.query;
        if !query.is_empty() {
            query.insert(0, '?');
        }
        let url = backend.config.base_url.at(&format!("{path}{query}")).ok();
        let target = url.and_then(|url| Uri::try_from(&url[Position::BeforePath..]).ok());
        let target = target.ok_or_else(|| bad_frame("the request's path is invalid"))?;
        if let Some(path) = verified_by(path) {
            backend.handle.health.asked(Asked {
                path,
                model: asked.model,
            });
        }
        let in_answers = asked
            .served
            .and_then(|served| InAnswers::of(&backend.config, served));
        let request = Outgoing {
            method,
            target,
            headers: request_headers(head, &self.own_hub, in_answers.is_some()),
            body,
        };
        let answer = self.connections.send(backend, &request, slot, patience).await?;
        Ok((answer, in_answers))
    }

    /// The names that the caller of a preset doesn't read.
    fn hidden_names(&self, backend: &Backend, head: &RequestHead) -> Option<HiddenNames> {
        let asked = head.preset.as_ref()?;
        let mut presets = backend.config.presets.iter();
        let preset = presets.find(|preset| preset.hash() == *asked)?;
        let served = self
            .memory
            .served(&self.agent, &backend.config, preset.name.as_str());
        HiddenNames::of(&served?)
    }
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

fn bad_frame(message: &str) -> RelayFault {
    RelayFault::new(FaultCode::BadFrame, message)
}
