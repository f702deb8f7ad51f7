//! A streamed chat completion that is read as far as a scenario wants.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Response;
use serde_json::Value;

use crate::scene::Scene;

/// A stream and what was read of it.
#[derive(Debug)]
pub struct Answer {
    response: Response,
    unread: Vec<u8>,
    sent: Instant,
    /// From sending the request to the first token.
    pub first_token_after: Option<Duration>,
    /// How many pieces of text there were.
    pub tokens: usize,
    /// All of them.
    pub text: String,
    /// The error that ended it: its code and its message.
    pub error: Option<(String, String)>,
    /// Whether `[DONE]` was there.
    pub done: bool,
}

impl Answer {
    /// Sends the request and waits until the answer begins.
    pub async fn begin(scene: &Scene<'_>, tokens: usize) -> Result<Self> {
        let request = scene.request(tokens, true);
        let sent = Instant::now();
        let response = request.send().await?;
        if response.status() != 200 {
            bail!("answered {}: {}", response.status(), response.text().await?);
        }
        Ok(Self {
            response,
            unread: Vec::new(),
            sent,
            first_token_after: None,
            tokens: 0,
            text: String::new(),
            error: None,
            done: false,
        })
    }

    /// Sends the request and reads the answer to its end, which must be a good one.
    pub async fn whole(scene: &Scene<'_>, tokens: usize) -> Result<Self> {
        let mut answer = Self::begin(scene, tokens).await?;
        answer.read(usize::MAX).await?;
        ensure!(
            answer.done && answer.error.is_none() && answer.tokens == tokens,
            "not an answer of {tokens} tokens: {answer:?}"
        );
        Ok(answer)
    }

    /// Reads until there are so many tokens, or to the end.
    pub async fn read(&mut self, tokens: usize) -> Result<()> {
        while self.tokens < tokens {
            let Some(piece) = self.response.chunk().await.context("the answer was cut")? else {
                return Ok(());
            };
            self.unread.extend_from_slice(&piece);
            while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                self.take(String::from_utf8_lossy(&line).trim())?;
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let Some(data) = line.strip_prefix("data: ") else {
            return Ok(());
        };
        ensure!(!self.done, "there was more after [DONE]: {data}");
        if data == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        let event: Value = serde_json::from_str(data).context("an event that is not JSON")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if event["error"].is_object() {
            self.error = Some((text(&event["error"]["code"]), text(&event["error"]["message"])));
        }
        let said = text(&event["choices"][0]["delta"]["content"]);
        if !said.is_empty() {
            self.first_token_after.get_or_insert_with(|| self.sent.elapsed());
            self.tokens += 1;
            self.text += &said;
        }
        Ok(())
    }

    /// `first token after 2.31 s`.
    pub fn first_token(&self) -> String {
        match self.first_token_after {
            Some(after) => format!("first token after {:.2} s", after.as_secs_f64()),
            None => "no token".to_owned(),
        }
    }
}
