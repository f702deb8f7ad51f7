//! What a caller gets: a streamed chat completion that is read as far as a scenario wants, or an answer in one piece.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Response;
use reveille_tests::Answer as Whole;
use serde_json::Value;

use crate::scene::Scene;

/// Tokens of an answer that outlasts what is done meanwhile.
pub const ENDLESS: usize = 3_900;

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
    /// From sending the request to the end of the stream.
    ended_after: Option<Duration>,
}

/// The one outcome of a request whose answer comes in one piece.
#[derive(Debug)]
pub struct Outcome {
    pub status: u16,
    /// The code and the message of an error.
    pub error: Option<(String, String)>,
    /// From sending the request to the end of the answer.
    after: Duration,
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
            ended_after: None,
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
                self.ended_after.get_or_insert_with(|| self.sent.elapsed());
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
        ensure!(self.error.is_none(), "there was more after the error: {data}");
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

    /// What a stream that was broken off says: an error's code and message, and not that it is complete.
    pub fn broken_off(&self) -> Result<(&str, &str)> {
        ensure!(
            !self.done,
            "a stream that was broken off says that it is complete"
        );
        ensure!(
            self.tokens < ENDLESS,
            "the answer was over before anything was done to its server"
        );
        let (code, message) = self.error.as_ref().context("the caller was not told why")?;
        ensure!(
            !code.is_empty() && !message.is_empty(),
            "an error without a reason: {self:?}"
        );
        Ok((code, message))
    }

    /// `200 and 7 tokens, then backend_timeout after 5.02 s: …`, of a stream that was broken off.
    pub fn end(&self) -> Result<String> {
        let (code, message) = self.broken_off()?;
        let after = self.ended_after.context("the stream was not read to its end")?;
        Ok(format!(
            "200 and {} tokens, then {code} after {:.2} s: {message}",
            self.tokens,
            after.as_secs_f64()
        ))
    }

    /// `first token after 2.31 s`.
    pub fn first_token(&self) -> String {
        match self.first_token_after {
            Some(after) => format!("first token after {:.2} s", after.as_secs_f64()),
            None => "no token".to_owned(),
        }
    }
}

impl Outcome {
    /// Sends a request that isn't streamed, and waits for whatever comes.
    pub async fn of(scene: &Scene<'_>, tokens: usize) -> Self {
        let answer = Whole::of(scene.request(tokens, false)).await;
        let error = (answer.status != 200).then(|| {
            let message = answer.json()["error"]["message"].as_str().map(str::to_owned);
            (answer.error_code(), message.unwrap_or_default())
        });
        Self {
            status: answer.status,
            error,
            after: answer.took,
        }
    }

    /// Wants an answer.
    pub fn answered(&self) -> Result<()> {
        ensure!(self.status == 200, "not answered: {self}");
        Ok(())
    }

    /// Wants this refusal. Returns its message.
    pub fn refused(&self, status: u16, code: &str) -> Result<&str> {
        match &self.error {
            Some((found, message)) if self.status == status && found == code && !message.is_empty() => {
                Ok(message)
            }
            Some(_) | None => bail!("not refused with {status} {code}: {self}"),
        }
    }
}

impl fmt::Display for Outcome {
    /// `200 after 3.21 s`, or `503 wake_failed after 2.00 s: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = self.after.as_secs_f64();
        match &self.error {
            None => write!(f, "{} after {after:.2} s", self.status),
            Some((code, message)) => write!(f, "{} {code} after {after:.2} s: {message}", self.status),
        }
    }
}
