//! `[provider.wake.verify]`: the completion that must succeed before a backend counts as awake.

use super::{
    BaseUrl, ConfigError, ModelConfig,
    table::{Table, Value},
};
use serde_json::json;
use std::{fmt, time::Duration};

/// How long a verification may take unless `timeout` says otherwise.
pub const DEFAULT_VERIFY_TIMEOUT: Duration = Duration::from_secs(30);
/// Where it is sent unless `path` says otherwise.
const CHAT_PATH: &str = "/v1/chat/completions";

/// A completion of one token that a backend must answer.
#[derive(Clone, PartialEq)]
pub struct VerifyConfig {
    /// A path below the base URL.
    pub path: String,
    /// What is sent there; it names a model.
    pub body: serde_json::Value,
    /// What the answer's JSON must contain beside a choice.
    pub expect: Option<serde_json::Value>,
    /// How long it may take, repetitions included.
    pub timeout: Duration,
}

impl fmt::Debug for VerifyConfig {
    /// Without what is sent and expected.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyConfig({})", self.path)
    }
}

/// What of a provider a verification needs.
#[derive(Clone, Copy)]
pub(super) struct Verified<'a> {
    pub base_url: &'a BaseUrl,
    pub models: Option<&'a [ModelConfig]>,
}

/// Reads `verify`.
pub(super) fn verify(value: Value<'_>, of: Verified<'_>) -> Result<VerifyConfig, ConfigError> {
    let mut table = value.table()?;
    let path = table
        .take("path")
        .map(|path| path.parsed(|raw| of.base_url.at(raw).map(|_| raw.to_owned())))
        .transpose()?;
    let timeout = table.take("timeout").map(|value| value.duration()).transpose()?;
    let model = model(&mut table, of.models)?;
    let body = table.take("body").map(body).transpose()?;
    let expect = table.take("expect").map(Value::json).transpose()?;
    table.finish()?;
    let mut body = body.unwrap_or_else(
        || json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 1, "stream": false }),
    );
    body["model"] = model.into();
    Ok(VerifyConfig {
        path: path.unwrap_or_else(|| CHAT_PATH.to_owned()),
        body,
        expect,
        timeout: timeout.unwrap_or(DEFAULT_VERIFY_TIMEOUT),
    })
}

/// The model that is asked: by the backend's own name.
fn model(table: &mut Table<'_>, models: Option<&[ModelConfig]>) -> Result<String, ConfigError> {
    let first = models.and_then(<[ModelConfig]>::first);
    match (table.take("model"), first) {
        (Some(value), _) => value.parsed(|raw| {
            let named = reveille_domain::ModelName::parse(raw);
            named.map(|name| name.to_string())
        }),
        (None, Some(first)) => Ok(first.id.to_string()),
        (None, None) => Err(table.error("`model` is missing: the provider names no `models`")),
    }
}

fn body(value: Value<'_>) -> Result<serde_json::Value, ConfigError> {
    let no_object = value.error("must be a table");
    let streams = value.error("must not ask for a stream, nor name the model: that is `model`");
    let body = value.json()?;
    match body.as_object() {
        None => Err(no_object),
        Some(body)
            if body.contains_key("model") || body.get("stream").is_some_and(|stream| stream != false) =>
        {
            Err(streams)
        }
        Some(_) => Ok(body),
    }
}
