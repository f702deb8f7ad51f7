//! Reads `[provider.wake.verify]`.

use super::table::{Table, Value};
use crate::config::{BaseUrl, CHAT_PATH, ModelConfig, VerifyConfig, recipe::DEFAULT_VERIFY_TIMEOUT};
use reveille_domain::ModelName;

/// Reads the verification of a provider with that URL and those models, of which there may be none that could be read.
pub(super) fn verify(
    mut table: Table<'_>,
    base_url: &BaseUrl,
    models: Option<&[ModelConfig]>,
) -> VerifyConfig {
    table.only(&[&["path", "timeout", "model", "body", "expect"]]);
    let path = table.optional("path", |path| path.parsed(|raw| base_url.legal_path(raw)));
    let timeout = table.duration("timeout");
    let model = model(&mut table, models);
    let body = table.take("body").and_then(|value| body(&value));
    let expect = table.take("expect").and_then(Value::json);
    let mut verify = VerifyConfig::of_one_token(path.as_deref().unwrap_or(CHAT_PATH), model.as_deref());
    if let Some(mut body) = body {
        body["model"] = model.into();
        verify.body = body;
    }
    VerifyConfig {
        expect,
        timeout: timeout.unwrap_or(DEFAULT_VERIFY_TIMEOUT),
        ..verify
    }
}

/// The model to ask, by the backend's name for it.
fn model(table: &mut Table<'_>, models: Option<&[ModelConfig]>) -> Option<String> {
    let Some(value) = table.take("model") else {
        if models.is_none() {
            table.missing("`model` is missing: the provider names no `models`");
        }
        return models?.first().map(|first| first.id.to_string());
    };
    value.note(value.parsed(|raw| ModelName::parse(raw).map(|name| name.to_string())))
}

fn body(value: &Value<'_>) -> Option<serde_json::Value> {
    if !value.is_table() {
        value.wrong("must be a table");
        return None;
    }
    let body = value.clone().json()?;
    let asks_to_stream = body.get("stream").is_some_and(|stream| stream != false);
    if asks_to_stream || body.get("model").is_some() {
        value.wrong("must not ask for a stream, nor name the model: that is `model`");
        return None;
    }
    Some(body)
}
