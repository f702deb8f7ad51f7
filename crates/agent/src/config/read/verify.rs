//! Reads `[provider.wake.verify]`.

use super::table::{Table, Value};
use crate::config::{
    BaseUrl, CHAT_PATH, ConfigError, ModelConfig, VerifyConfig, recipe::DEFAULT_VERIFY_TIMEOUT,
};

/// Reads the verification of a provider with that URL and those models.
pub(super) fn verify(
    mut table: Table<'_>,
    base_url: &BaseUrl,
    models: Option<&[ModelConfig]>,
) -> Result<VerifyConfig, ConfigError> {
    table.only(&[&["path", "timeout", "model", "body", "expect"]]);
    let path = table.optional("path", |path| path.parsed(|raw| base_url.legal_path(raw)))?;
    let timeout = table.duration("timeout")?;
    let model = model(&mut table, models)?;
    let body = table.optional("body", body)?;
    let expect = table.optional("expect", Value::json)?;
    let mut verify = VerifyConfig::of_one_token(path.as_deref().unwrap_or(CHAT_PATH), Some(&model));
    if let Some(mut body) = body {
        body["model"] = model.into();
        verify.body = body;
    }
    Ok(VerifyConfig {
        expect,
        timeout: timeout.unwrap_or(DEFAULT_VERIFY_TIMEOUT),
        ..verify
    })
}

/// The model to ask, by the backend's name for it.
fn model(table: &mut Table<'_>, models: Option<&[ModelConfig]>) -> Result<String, ConfigError> {
    let first = models.and_then(<[ModelConfig]>::first);
    match (table.take("model"), first) {
        (Some(value), _) => value.parsed(|raw| {
            let named = reveille_domain::ModelName::parse(raw);
            named.map(|name| name.to_string())
        }),
        (None, Some(first)) => Ok(first.id.to_string()),
        (None, None) => {
            let error = table.error("`model` is missing: the provider names no `models`");
            Err(error.of_missing())
        }
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
