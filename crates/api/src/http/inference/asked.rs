//! What a request asks for: which model, which of its members, and by what body. Each endpoint has one place for that.

use super::arriving::{self, FormBody, Reading};
use crate::{
    http::{
        ApiError, AppState,
        body::{self, BodyLimit, HeldBody, check_media_type, form_type},
    },
    inference::{
        AskedModel, Endpoint, ModelPlace, Options, Remembered, RequestBody, Stored, check_case,
        checked_model, default_for, peek, peek_form, with_model,
    },
    keys::Caller,
    origin::quoted,
};
use axum::{
    body::Body,
    extract::Query,
    http::{Uri, request::Parts, uri::PathAndQuery},
};
use bytes::Bytes;
use reveille_bus::relay::STORED_PATH;
use reveille_domain::{ModelName, ProviderId};
use tokio::time::Instant;

/// What a request asks for.
pub(super) struct Asked {
    pub model: ModelName,
    /// The only member of its pool that can answer.
    pub member: Option<ProviderId>,
    pub stream: bool,
    /// The path and query that the backend gets.
    pub path: String,
    pub body: RequestBody,
    /// What reads the rest of the body, if it isn't all there.
    pub reading: Option<Box<Reading>>,
}

/// A request, but for its body.
pub(super) struct Head<'a> {
    pub state: &'a AppState,
    pub caller: &'a Caller,
    pub options: &'a Options,
    pub endpoint: &'static Endpoint,
    /// One of the endpoint's.
    pub path: &'a str,
    pub parts: &'a Parts,
}

impl Head<'_> {
    /// Reads what the request asks for.
    pub async fn asked(&self, body: Body) -> Result<Asked, ApiError> {
        match self.endpoint.model {
            ModelPlace::Json => self.in_json(body).await,
            ModelPlace::Form => self.in_form(body).await,
            ModelPlace::Query => self.in_query().await,
            ModelPlace::Stored => self.of_stored(),
            ModelPlace::JsonOrQuery if model_of_query(&self.parts.uri)?.is_some() => {
                let body = self.without_model(body).await?;
                Ok(Asked {
                    body,
                    ..self.in_query().await?
                })
            }
            ModelPlace::JsonOrQuery => self.in_json(body).await,
        }
    }

    /// With the path that it came by.
    fn asked_for(&self, model: ModelName, stream: bool, body: RequestBody) -> Asked {
        Asked {
            model,
            member: None,
            stream,
            path: self.path.to_owned(),
            body,
            reading: None,
        }
    }

    async fn in_json(&self, body: Body) -> Result<Asked, ApiError> {
        check_media_type(&self.parts.headers, &body)?;
        let mut body = held(self.state, self.parts, body).await?;
        let peeked = peek(&body.bytes, self.endpoint)?;
        let (model, gap) = match peeked.model {
            AskedModel::Named(model) => (model, None),
            AskedModel::Otherwise(model, gap) => (model, Some(gap)),
            AskedModel::Unnamed(gap) => (self.default_model(gap.code).await?, Some(gap)),
        };
        if let Some(gap) = gap {
            body.bytes = gap.filled(&body.bytes, &model);
        }
        let previous = match &peeked.previous {
            Some(id) => self.remembered(id)?,
            None => None,
        };
        // Without that backend, another one says itself that it doesn't know the response.
        let member = previous.map(|stored| stored.provider);
        let in_pool = |member: &ProviderId| {
            let pool = self.state.registry.pool(model.as_str());
            pool.iter().any(|snapshot| snapshot.provider.id == *member)
        };
        let member = member.filter(in_pool);
        let body = RequestBody::whole(body.bytes, body.held);
        Ok(Asked {
            member,
            ..self.asked_for(model, peeked.stream, body)
        })
    }

    async fn in_form(&self, body: Body) -> Result<Asked, ApiError> {
        let mut body = match arriving::read(self.state, self.endpoint, self.parts, body).await? {
            FormBody::Whole(body) => body,
            FormBody::Arriving {
                model,
                stream,
                body,
                reading,
            } => {
                return Ok(Asked {
                    reading: Some(reading),
                    ..self.asked_for(model, stream, body)
                });
            }
        };
        let kind = form_type(&self.parts.headers)?;
        let peeked = peek_form(kind, &body.bytes, self.endpoint);
        let peeked = peeked.ok_or_else(|| ApiError::NoForm(String::new()))??;
        let model = match peeked.model {
            Some(model) => model,
            None => {
                let model = self.default_model("missing_field").await?;
                body.bytes = with_model(kind, &body.bytes, &model);
                model
            }
        };
        let body = RequestBody::whole(body.bytes, body.held);
        Ok(self.asked_for(model, peeked.stream, body))
    }

    /// The body of a request whose query names the model. The backend could go by another one that the body names.
    async fn without_model(&self, body: Body) -> Result<RequestBody, ApiError> {
        check_media_type(&self.parts.headers, &body)?;
        let body = held(self.state, self.parts, body).await?;
        let text = body.bytes.trim_ascii();
        let may_name = !text.is_empty() && !text.starts_with(b"[");
        if may_name && !matches!(peek(&body.bytes, self.endpoint)?.model, AskedModel::Unnamed(_)) {
            let message = "`model` is given twice: in the query and in the body";
            return Err(ApiError::invalid("duplicate_field", "model", message));
        }
        Ok(RequestBody::whole(body.bytes, body.held))
    }

    /// The backend gets the query too.
    async fn in_query(&self) -> Result<Asked, ApiError> {
        let (uri, path) = (&self.parts.uri, self.path);
        let query = uri.query().unwrap_or_default();
        let (model, path) = match model_of_query(uri)? {
            Some(model) => (checked_model("model", &model)?, format!("{path}?{query}")),
            None => {
                let model = self.default_model("missing_field").await?;
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
        let no_body = RequestBody::whole(Bytes::new(), self.state.bodies.hold());
        Ok(Asked {
            path,
            ..self.asked_for(model, false, no_body)
        })
    }

    /// What concerns a response that a backend keeps.
    fn of_stored(&self) -> Result<Asked, ApiError> {
        let uri = &self.parts.uri;
        let id = uri.path().strip_prefix(STORED_PATH).unwrap_or_default();
        let id = id.split('/').next().unwrap_or_default();
        let stored = self.remembered(id)?.ok_or_else(|| unknown_response(id))?;
        let target = uri.path_and_query().map(PathAndQuery::as_str);
        let no_body = RequestBody::whole(Bytes::new(), self.state.bodies.hold());
        Ok(Asked {
            member: Some(stored.provider),
            path: target.unwrap_or_default().to_owned(),
            ..self.asked_for(stored.model, false, no_body)
        })
    }

    /// Where the response `id` is kept, if this replica remembers it. One of another key doesn't exist for the caller.
    fn remembered(&self, id: &str) -> Result<Option<Stored>, ApiError> {
        match self.state.inference.stored.get(id, self.caller.key()) {
            Remembered::Nothing => Ok(None),
            Remembered::Anothers => Err(unknown_response(id)),
            Remembered::Own(stored) => Ok(Some(stored)),
        }
    }

    /// The model of a request that names none. Right after a start, it waits for one.
    async fn default_model(&self, code: &'static str) -> Result<ModelName, ApiError> {
        let (registry, startup) = (&self.state.registry, &self.state.startup);
        let default = self.state.default_model.as_ref();
        let find = || default_for(registry, startup, self.caller, default, code);
        let until = Instant::now() + self.options.wait;
        Ok(startup.wait_for(until, find).await?)
    }
}

/// All of a body.
pub(super) async fn held(state: &AppState, parts: &Parts, body: Body) -> Result<HeldBody, ApiError> {
    let limit = BodyLimit {
        bytes: state.limits.body_bytes,
        flag: Some("--max-body"),
    };
    let idle = state.limits.timings.body_idle;
    body::read(&parts.headers, body, limit, idle, &state.bodies).await
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
