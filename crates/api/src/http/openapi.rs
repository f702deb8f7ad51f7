//! `/openapi.json`: the paths that reach a backend, from their table and from the configs of the providers whose models the
//! caller may use, and the limits on what is sent to them, with their answers. A key's own limits are not among them.

use super::{AppState, HttpLimits, body::MIN_BYTES_PER_SECOND};
use crate::{
    inference::{
        Endpoint, Family, MAX_DEPTH, MODEL_WITHIN_BYTES, ModelPlace, REMEMBERED,
        endpoint::{ENDPOINTS, EXTRA, Required, Streams},
        pools_for,
    },
    keys::Caller,
    server::ServerLimits,
};
use axum::{Extension, Json, extract::State};
use reveille_bus::relay::{MAX_FORM_PARTS, MAX_PART_HEAD_BYTES, MAX_STORED_ID_BYTES, takes_presets};
use reveille_domain::{ExtraPath, MAX_MODEL_NAME_BYTES, MAX_TOKEN_BYTES, ProviderSpec};
use reveille_http1_guard::MAX_FIELDS;
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, time::Duration};

/// How long the name is at most that a request asks for a model by: it may begin with those of an agent and a provider.
const MAX_ASKED_BYTES: usize = 2 * (MAX_TOKEN_BYTES + "/".len()) + MAX_MODEL_NAME_BYTES;

/// What is answered here without a backend.
const OWN: [(&str, &str, &str); 8] = [
    ("get", "/v1/models", "All models, those that sleep included."),
    ("get", "/v1/models/{id}", "One model."),
    ("post", "/models/load", "Begins the wake of a model."),
    (
        "post",
        "/models/unload",
        "Puts a model to sleep. It needs the scope `admin`.",
    ),
    ("get", "/api/tags", "All models, in Ollama's form."),
    ("get", "/api/ps", "The models that are awake, in Ollama's form."),
    (
        "get",
        "/api/version",
        "The release of Ollama that has these paths.",
    ),
    ("get", "/openapi.json", "This document."),
];

/// A limit, and what a request beyond it gets.
struct Limit {
    name: &'static str,
    bound: Bound,
    unit: &'static str,
    status: u16,
    code: &'static str,
}

enum Bound {
    Most(u64),
    Least(u64),
}

/// The document of this replica for this caller.
pub(super) async fn document(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
) -> Json<Value> {
    let pools = pools_for(&state.registry, &caller);
    let specs = pools.values().flatten().map(|snapshot| &snapshot.provider.spec);
    let extra_paths: BTreeSet<_> = specs.flat_map(ProviderSpec::extra_paths).collect();
    Json(of(&state.limits, state.default_model.is_some(), extra_paths))
}

fn of<'a>(
    limits: &HttpLimits,
    has_default_model: bool,
    extra_paths: impl IntoIterator<Item = &'a ExtraPath>,
) -> Value {
    let mut paths = Map::new();
    let mut add = |path: &str, method: &str, operation: Value| {
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = operation;
    };
    for endpoint in &ENDPOINTS {
        for path in endpoint.paths {
            let method = endpoint.verb.as_str().to_ascii_lowercase();
            add(path, &method, operation(endpoint, path, has_default_model));
        }
    }
    for path in extra_paths {
        add(
            path.as_str(),
            "post",
            operation(&EXTRA, path.as_str(), has_default_model),
        );
    }
    for (method, path, what) in OWN {
        add(path, method, own_operation(method, path, what));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Reveille",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The paths that reach a backend. Beyond what is named here, requests and answers are the backend's own. \
                            `x-limits` has the limits that hold for every caller, and the status and code of the error beyond each.",
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "apiKey": [] }, {}],
        "paths": paths,
        "components": components(limits),
        "x-limits": all_limits(limits).into_iter().map(Limit::json).collect::<Vec<_>>(),
    })
}

fn all_limits(limits: &HttpLimits) -> Vec<Limit> {
    let timings = &limits.timings;
    let most = |name, most: usize, unit, status, code| Limit {
        name,
        bound: Bound::Most(most as u64),
        unit,
        status,
        code,
    };
    let longest = |name, longest: Duration, status, code| Limit {
        name,
        bound: Bound::Most(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)),
        unit: "ms",
        status,
        code,
    };
    let head_bytes = ServerLimits::default().head_bytes;
    vec![
        most("body", limits.body_bytes, "bytes", 413, "request_too_large"),
        most("all_bodies", limits.held_body_bytes, "bytes", 429, "memory_full"),
        longest("body_pause", timings.body_idle, 408, "request_timeout"),
        Limit {
            name: "body_rate",
            bound: Bound::Least(MIN_BYTES_PER_SECOND),
            unit: "bytes/s",
            status: 408,
            code: "request_timeout",
        },
        most("json_depth", MAX_DEPTH, "levels", 400, "invalid_json"),
        most("model_name", MAX_MODEL_NAME_BYTES, "bytes", 400, "invalid_model"),
        most(
            "form_model_within",
            MODEL_WITHIN_BYTES,
            "bytes",
            400,
            "model_too_late",
        ),
        most("form_parts", MAX_FORM_PARTS, "parts", 400, "invalid_form"),
        most(
            "form_part_head",
            MAX_PART_HEAD_BYTES,
            "bytes",
            400,
            "invalid_form",
        ),
        most("headers", MAX_FIELDS, "headers", 431, "headers_too_large"),
        most("head", head_bytes, "bytes", 431, "headers_too_large"),
        most("request_line", head_bytes, "bytes", 414, "uri_too_long"),
        most(
            "stored_response_id",
            MAX_STORED_ID_BYTES,
            "bytes",
            404,
            "response_not_found",
        ),
        most(
            "stored_responses",
            REMEMBERED,
            "responses",
            404,
            "response_not_found",
        ),
        most(
            "waiting_for_one_provider",
            limits.waiting,
            "requests",
            429,
            "queue_full",
        ),
        longest("wait", timings.wait, 504, "wake_timeout"),
    ]
}

impl Limit {
    fn json(self) -> Value {
        let (bound, value) = match self.bound {
            Bound::Most(most) => ("most", most),
            Bound::Least(least) => ("least", least),
        };
        json!({
            "name": self.name, bound: value, "unit": self.unit, "status": self.status, "code": self.code,
        })
    }
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn description(endpoint: &Endpoint, path: &str) -> &'static str {
    match (endpoint.wakes, takes_presets(endpoint.verb.as_str(), path)) {
        (true, true) => "Wakes the backend if it sleeps. The model may be a preset.",
        (true, false) => "Wakes the backend if it sleeps. A preset gets 400 `preset_not_supported`.",
        (false, true) => "Wakes no backend.",
        (false, false) => "Wakes no backend. A preset gets 400 `preset_not_supported`.",
    }
}

fn operation(endpoint: &Endpoint, path: &str, has_default_model: bool) -> Value {
    let (method, streams) = (endpoint.verb.as_str(), endpoint.streams != Streams::Never);
    let mut parameters = vec![reference("parameters", "RequestId")];
    if endpoint.wakes {
        parameters
            .extend(["Wake", "Wait", "QueueWait", "Priority"].map(|name| reference("parameters", name)));
    }
    if streams {
        parameters.push(reference("parameters", "Progress"));
    }
    match endpoint.model {
        ModelPlace::Query | ModelPlace::JsonOrQuery => parameters.push(json!({
            "name": "model",
            "in": "query",
            "required": !has_default_model && endpoint.model == ModelPlace::Query,
            "schema": reference("schemas", "Model"),
        })),
        ModelPlace::Stored => parameters.push(reference("parameters", "ResponseId")),
        ModelPlace::Json | ModelPlace::Form => {}
    }
    let mut content = json!({ "*/*": {} });
    if streams {
        content[stream_type(endpoint.family)] = json!({});
    }
    let error = reference("responses", error_name(endpoint.family));
    let mut operation = json!({
        "operationId": operation_id(method, path),
        "tags": [endpoint.family.api()],
        "description": description(endpoint, path),
        "parameters": parameters,
        "responses": {
            "200": { "description": "The backend's answer.", "content": content },
            "4XX": error,
            "5XX": error,
        },
    });
    let kind = match endpoint.model {
        ModelPlace::Json | ModelPlace::JsonOrQuery => "application/json",
        ModelPlace::Form => "multipart/form-data",
        ModelPlace::Query | ModelPlace::Stored => return operation,
    };
    let schema = body_schema(endpoint, has_default_model);
    operation["requestBody"] = json!({ "required": true, "content": { kind: { "schema": schema } } });
    operation
}

fn body_schema(endpoint: &Endpoint, has_default_model: bool) -> Value {
    let mut required = Vec::new();
    let mut properties = json!({ "model": reference("schemas", "Model") });
    // Ollama's clients may send `name` instead.
    if !has_default_model && endpoint.family != Family::Ollama {
        required.push("model");
    }
    match endpoint.streams {
        Streams::Never => {}
        Streams::WhenTrue => properties["stream"] = json!({ "type": "boolean", "default": false }),
        Streams::UnlessFalse => properties["stream"] = json!({ "type": "boolean", "default": true }),
    }
    if let Some(field) = endpoint.required.field() {
        required.push(field);
        properties[field] = match endpoint.required {
            Required::Array(_) => json!({ "type": "array" }),
            Required::Field(_) | Required::Nothing => json!({}),
        };
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

fn own_operation(method: &str, path: &str, what: &str) -> Value {
    let error = reference("responses", error_name(Family::of_path(path)));
    let mut operation = json!({
        "operationId": operation_id(method, path),
        "tags": ["Reveille"],
        "description": what,
        "parameters": [reference("parameters", "RequestId")],
        "responses": {
            "200": { "description": what, "content": { "application/json": {} } },
            "4XX": error,
            "5XX": error,
        },
    });
    if method == "post" {
        let schema = json!({
            "type": "object",
            "properties": { "model": reference("schemas", "Model") },
            "required": ["model"],
        });
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    } else if path.contains('{') {
        operation["parameters"] = json!([
            reference("parameters", "RequestId"),
            { "name": "id", "in": "path", "required": true, "schema": reference("schemas", "Model") },
        ]);
    }
    operation
}

fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|char: char| !char.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty()).collect::<Vec<_>>();
    format!("{}_{}", method.to_ascii_lowercase(), words.join("_"))
}

const fn stream_type(family: Family) -> &'static str {
    match family {
        Family::Ollama => "application/x-ndjson",
        Family::OpenAi | Family::Responses | Family::Anthropic | Family::LlamaCpp => "text/event-stream",
    }
}

const fn error_name(family: Family) -> &'static str {
    match family {
        Family::OpenAi | Family::Responses | Family::LlamaCpp => "OpenAiError",
        Family::Anthropic => "AnthropicError",
        Family::Ollama => "OllamaError",
    }
}

fn components(limits: &HttpLimits) -> Value {
    let text = || json!({ "type": "string" });
    let header = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "header", "description": description, "schema": schema });
    let answer = |name: &str| {
        json!({
            "description": "An error. `x-should-retry: false` says that sending the request again can't better it.",
            "headers": {
                "Retry-After": { "description": "Seconds.", "schema": { "type": "integer", "minimum": 1, "maximum": 60 } },
                "x-request-id": { "schema": text() },
                "x-should-retry": { "schema": { "const": "false" } },
            },
            "content": { "application/json": { "schema": reference("schemas", name) } },
        })
    };
    let fields = json!({
        "type": "object",
        "properties": {
            "message": text(),
            "type": text(),
            "param": { "type": ["string", "null"] },
            "code": text(),
        },
        "required": ["message", "type", "code"],
    });
    json!({
        "securitySchemes": {
            "bearer": { "type": "http", "scheme": "bearer" },
            "apiKey": { "type": "apiKey", "in": "header", "name": "x-api-key" },
        },
        "parameters": {
            "RequestId": header("x-request-id", "The request's id in logs and answers.", text()),
            "Wake": header(
                "X-Reveille-Wake",
                "What happens if the model sleeps.",
                json!({ "type": "string", "enum": ["block", "async", "never"], "default": "block" }),
            ),
            "Wait": header(
                "X-Reveille-Wait",
                "How long the request waits for a wake and for a slot, in seconds. A longer time counts as the longest one.",
                json!({ "type": "number", "minimum": 0, "default": limits.timings.wait.as_secs_f64() }),
            ),
            "QueueWait": header(
                "X-Reveille-Queue-Wait",
                "How long of that it waits for a slot, in seconds.",
                json!({ "type": "number", "minimum": 0 }),
            ),
            "Priority": header(
                "X-Reveille-Priority",
                "The class of the request where requests wait for a slot. That of its key counts if it is lower.",
                json!({ "type": "string", "enum": ["high", "normal", "low"] }),
            ),
            "Progress": header(
                "X-Reveille-Progress",
                "What a waiting stream sends.",
                json!({ "type": "string", "enum": ["comment", "delta", "reasoning", "off"], "default": "comment" }),
            ),
            "ResponseId": {
                "name": "id",
                "in": "path",
                "required": true,
                "schema": { "type": "string", "maxLength": MAX_STORED_ID_BYTES, "pattern": "^[A-Za-z0-9_-]+$" },
            },
        },
        "schemas": {
            "Model": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_ASKED_BYTES,
                "description": "The name of a model, as `/v1/models` has it or as one of Ollama's without its tag, or `agent/model` \
                                or `agent/provider/model`.",
            },
            "OpenAiError": { "type": "object", "properties": { "error": fields }, "required": ["error"] },
            "AnthropicError": {
                "type": "object",
                "properties": { "type": { "const": "error" }, "error": fields, "request_id": text() },
                "required": ["type", "error"],
            },
            "OllamaError": {
                "type": "object",
                "properties": { "error": text(), "code": text() },
                "required": ["error", "code"],
            },
        },
        "responses": {
            "OpenAiError": answer("OpenAiError"),
            "AnthropicError": answer("AnthropicError"),
            "OllamaError": answer("OllamaError"),
        },
    })
}
