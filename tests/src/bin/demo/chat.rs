//! A streaming chat completion, as any OpenAI client sends it.

use anyhow::{Context, Result, bail};
use reqwest::Response;
use reveille_tests::http_client;
use serde_json::{Value, json};
use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

const PROMPT: &str = "Good morning! Are you awake?";

/// What the client saw, in Unix milliseconds.
#[derive(Debug, Default)]
pub struct Answer {
    /// The id by which the request stands in the journal.
    pub request_id: String,
    /// When the request was sent.
    pub sent_at_ms: u64,
    /// When the first token arrived.
    pub first_token_at_ms: u64,
    /// When the last byte had arrived.
    pub done_at_ms: u64,
    /// How many tokens arrived.
    pub tokens: u64,
}

/// Sends the request and prints the answer as it arrives.
pub async fn ask(api: &str, model: &str) -> Result<Answer> {
    println!("POST {api}/v1/chat/completions, model `{model}`, streaming: {PROMPT}");
    let body = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": PROMPT}]});
    let request = http_client()
        .post(format!("{api}/v1/chat/completions"))
        .json(&body);
    let sent_at_ms = now_ms();
    let response = request.send().await.context("the request got no answer")?;
    if !response.status().is_success() {
        let status = response.status();
        bail!(
            "the answer is {status}: {}",
            response.text().await.unwrap_or_default()
        );
    }
    let request_id = response.headers().get("x-request-id");
    let request_id = request_id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let answer = Answer {
        request_id: request_id.to_owned(),
        sent_at_ms,
        ..Answer::default()
    };
    read(response, answer).await
}

async fn read(mut response: Response, mut answer: Answer) -> Result<Answer> {
    let (mut unread, mut ended) = (Vec::new(), false);
    while let Some(bytes) = response.chunk().await.context("the answer was cut off")? {
        unread.extend_from_slice(&bytes);
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            match String::from_utf8_lossy(&line).trim().strip_prefix("data: ") {
                Some("[DONE]") => ended = true,
                Some(event) => print_token(event, &mut answer)?,
                None => {}
            }
        }
    }
    println!("\n");
    answer.done_at_ms = now_ms();
    if !ended || answer.tokens == 0 {
        bail!(
            "the answer is not complete: {} tokens, [DONE]: {ended}",
            answer.tokens
        );
    }
    Ok(answer)
}

fn print_token(event: &str, answer: &mut Answer) -> Result<()> {
    let event: Value = serde_json::from_str(event).context("the answer holds an event that is not JSON")?;
    if let Some(error) = event["error"]["message"].as_str() {
        bail!("the answer ends with an error: {error}");
    }
    let text = event["choices"][0]["delta"]["content"]
        .as_str()
        .unwrap_or_default();
    if text.is_empty() {
        return Ok(());
    }
    if answer.tokens == 0 {
        answer.first_token_at_ms = now_ms();
    }
    answer.tokens += 1;
    print!("{text}");
    std::io::stdout().flush()?;
    Ok(())
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
