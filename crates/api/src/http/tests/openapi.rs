//! `/openapi.json` says what is so: each path of the table, and each limit with its answer.

use super::{
    Answer, HttpLimits, Served,
    fake_hub::{Reply, active, hibernating, id},
    limits,
    surface::WHOLE,
};
use crate::{
    inference::endpoint::{ENDPOINTS, Streams},
    wakes::WakeError,
};
use axum::http::Method;
use bytes::Bytes;
use futures::{StreamExt, stream};
use reqwest::RequestBuilder;
use reveille_domain::{MAX_MODEL_NAME_BYTES, MAX_TOKEN_BYTES, ModelName, rows::MemoryRows};
use serde_json::{Value, json};
use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const FORM: &str = "multipart/form-data; boundary=b";

async fn served_with(change: impl FnOnce(&mut HttpLimits)) -> Served {
    let mut limits = limits();
    change(&mut limits);
    let served = Served::with(limits, Arc::new(MemoryRows::new())).await;
    served.hub.publish("gpu-box/vllm", "m", active());
    served.hub.publish("gpu-box/asleep", "asleep", hibernating());
    served
}

async fn document(served: &Served) -> Value {
    served.get("/openapi.json").await.json()
}

#[tokio::test]
async fn each_path_of_the_table_is_there_as_the_table_has_it_and_each_path_is_answered() {
    let served = served_with(|_| {}).await;
    let document = document(&served).await;
    assert_eq!(document["openapi"], "3.1.0");
    for endpoint in &ENDPOINTS {
        for path in endpoint.paths {
            let method = endpoint.verb.as_str().to_ascii_lowercase();
            let operation = &document["paths"][path][&method];
            let description = operation["description"].as_str().expect("a text");
            let wakes = description.starts_with("Wakes the backend if it sleeps.");
            assert_eq!(wakes, endpoint.wakes, "{method} {path}");
            let content = operation["requestBody"]["content"].as_object();
            let schema = content.and_then(|content| content.values().next());
            let required = schema.and_then(|schema| schema["schema"]["required"].as_array());
            let is_required = |field: &str| required.is_some_and(|all| all.contains(&json!(field)));
            assert!(endpoint.required.field().is_none_or(is_required), "{path}");
            let streams = operation["responses"]["200"]["content"]
                .as_object()
                .expect("types")
                .len()
                > 1;
            assert_eq!(streams, endpoint.streams != Streams::Never, "{path}");
        }
    }
    let (mut ids, mut references) = (HashSet::new(), Vec::new());
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            assert!(ids.insert(operation["operationId"].to_string()), "{path}");
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).expect("a method");
            let url = format!("{}{}", served.url, path.replace("{id}", "m"));
            let answer = Answer::of(served.client.request(method, url)).await;
            let code = answer.json()["error"]["code"].clone();
            assert!(
                answer.status != 405 && code != "not_found",
                "{path}: {}",
                answer.text()
            );
        }
    }
    references_in(&document, &mut references);
    for reference in references {
        let there = document.pointer(reference.trim_start_matches('#'));
        assert!(there.is_some(), "{reference}");
    }
}

fn references_in(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| references_in(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references_in(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn part(head: &str, content: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
}

fn chat(served: &Served, body: String) -> RequestBuilder {
    let request = served.client.post(format!("{}/v1/chat/completions", served.url));
    request.header("content-type", "application/json").body(body)
}

fn form(served: &Served, parts: &str) -> RequestBuilder {
    let request = served
        .client
        .post(format!("{}/v1/audio/transcriptions", served.url));
    request
        .header("content-type", FORM)
        .body(format!("{parts}--b--\r\n"))
}

/// A body whose pieces come so far apart.
fn dripping(pause: Duration) -> reqwest::Body {
    let pieces = stream::repeat(()).then(move |()| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, Infallible>(Bytes::from_static(b" "))
    });
    reqwest::Body::wrap_stream(pieces)
}

/// A request that takes so much of a limit.
fn request(served: &Served, limit: &str, size: usize) -> RequestBuilder {
    let get = |path: String| served.client.get(format!("{}{path}", served.url));
    let model = || part("name=\"model\"", "m");
    let file = |bytes| part("name=\"file\"; filename=\"a\"", &"x".repeat(bytes));
    match limit {
        "body" | "all_bodies" => {
            let body = json!({ "model": "m", "messages": [], "x": "" }).to_string();
            let filling = "x".repeat(size - body.len());
            chat(served, body.replace("\"\"", &format!("\"{filling}\"")))
        }
        "body_pause" => chat(served, String::new()).body(dripping(Duration::from_secs(60))),
        "body_rate" => chat(served, String::new()).body(dripping(Duration::from_millis(10))),
        "json_depth" => {
            let arrays = "[".repeat(size - 1) + &"]".repeat(size - 1);
            chat(served, format!("{{\"model\":\"m\",\"messages\":{arrays}}}"))
        }
        "model_name" => chat(
            served,
            json!({ "model": "x".repeat(size), "messages": [] }).to_string(),
        ),
        "form_model_within" => {
            let end_of_model = file(0).len() + model().len() - "\r\n".len();
            form(served, &(file(size - end_of_model) + &model()))
        }
        "form_parts" => {
            let others = part("name=\"x\"", "x").repeat(size - 2);
            form(served, &(model() + &file(1) + &others))
        }
        "form_part_head" => {
            let head = "name=\"x\"\r\nx: ";
            let filling = "x".repeat(size - part(head, "").len() + "--b\r\n".len() + "\r\n".len());
            form(
                served,
                &(model() + &file(1) + &part(&format!("{head}{filling}"), "x")),
            )
        }
        "headers" => (0..size).fold(get("/v1/models".to_owned()), |request, n| {
            request.header(format!("x-{n}"), "1")
        }),
        "head" => get("/v1/models".to_owned()).header("x", "x".repeat(size)),
        "stored_response_id" => get(format!("/v1/responses/{}", "x".repeat(size))),
        "stored_responses" => get("/v1/responses/forgotten".to_owned()),
        "waiting_for_one_provider" => {
            served.hub.refuse(WakeError::QueueFull {
                provider: id("gpu-box/asleep"),
                limit: size,
            });
            served.chat("asleep", false)
        }
        "wait" => served.chat("asleep", false),
        _ => panic!("a test is missing for the limit {limit}"),
    }
}

/// The answer to a request line of so many bytes, which no client sends.
async fn long_line(served: &Served, size: usize) -> String {
    let line = format!(
        "GET /{} HTTP/1.1\r\n",
        "x".repeat(size - "GET / HTTP/1.1\r\n".len())
    );
    let mut stream = TcpStream::connect(served.address()).await.expect("a connection");
    stream.write_all(line.as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test]
async fn the_document_allows_the_longest_name_that_a_request_may_use() {
    let served = served_with(|_| {}).await;
    let document = document(&served).await;
    let most = document["components"]["schemas"]["Model"]["maxLength"].as_u64();
    let (token, model) = ("a".repeat(MAX_TOKEN_BYTES), "m".repeat(MAX_MODEL_NAME_BYTES));
    let longest = format!("{token}/{token}/{model}");
    assert!(ModelName::parse(&longest).is_ok());
    assert!(ModelName::parse(&(longest.clone() + "m")).is_err());
    assert_eq!(most, Some(longest.len() as u64));
}

#[tokio::test]
async fn each_limit_of_the_document_is_in_force_with_its_answer() {
    let served = served_with(|limits| limits.body_bytes = 300 * 1024).await;
    let tight = served_with(|limits| {
        limits.held_body_bytes = 200;
        limits.timings.body_idle = Duration::from_millis(50);
        limits.timings.wait = Duration::from_millis(50);
    })
    .await;
    let (named, in_tight) = (document(&served).await, document(&tight).await);
    let limits = named["x-limits"].as_array().expect("limits");
    assert!(limits.len() > 10);
    for (limit, in_tight) in limits
        .iter()
        .zip(in_tight["x-limits"].as_array().expect("limits"))
    {
        let name = limit["name"].as_str().expect("a name");
        let (served, limit) = match name {
            "all_bodies" | "body_pause" | "body_rate" | "wait" => (&tight, in_tight),
            _ => (&served, limit),
        };
        let most = limit["most"]
            .as_u64()
            .or(limit["least"].as_u64())
            .expect("a number");
        let most = usize::try_from(most).expect("it fits");
        if name == "request_line" {
            let answer = long_line(served, most + 1).await;
            for told in [&limit["status"], &limit["code"]] {
                assert!(
                    answer.contains(told.to_string().trim_matches('"')),
                    "{limit}: {answer}"
                );
            }
            continue;
        }
        let answer = Answer::of(request(served, name, most + 1)).await;
        assert_eq!(
            (json!(answer.status), json!(answer.error())),
            (limit["status"].clone(), limit["code"].clone()),
            "{limit}"
        );
        let is_exact = [
            "body",
            "all_bodies",
            "json_depth",
            "model_name",
            "form_model_within",
            "form_parts",
            "form_part_head",
        ];
        if is_exact.contains(&name) {
            served
                .hub
                .replies([Reply::Whole(200, "application/json", WHOLE.into())]);
            let answer = Answer::of(request(served, name, most)).await;
            assert_ne!(answer.status, limit["status"], "{limit}: {}", answer.text());
        }
    }
}
