//! `verify`: one token of a completion, requested and read as a client would.
//!
//! A health path may say yes while the weights are missing, loading or broken. A backend is verified when it comes up, and
//! never while it is up: that would be work, and keep it awake.

use crate::{
    config::{ProviderConfig, Secret, VerifyConfig},
    fetch::{self, BodyError, MAX_ANSWER_BYTES},
    json_match::contains,
};
use reqwest::{Client, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use url::Url;

/// The pause before a backend that isn't ready is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// The verification of one provider's backend.
#[derive(Debug, Clone)]
pub struct Verify {
    client: Client,
    url: Url,
    api_key: Option<Secret>,
    body: Secret,
    expect: Option<Value>,
    timeout: Duration,
}

/// Why a completion failed.
enum Failed {
    /// The backend isn't ready or doesn't listen, which may change.
    NotYet(String),
    /// The backend is ready, and its answer is no completion.
    Wrong(String),
}

impl Verify {
    /// The verification of a provider.
    ///
    /// # Panics
    /// Never for a config that was read: reading checks the path.
    #[must_use]
    pub fn new(client: Client, provider: &ProviderConfig, config: &VerifyConfig) -> Self {
        Self {
            client,
            url: provider.base_url.at(&config.path).expect("a checked path"),
            api_key: provider.api_key.clone(),
            body: Secret::new(config.body.to_string()),
            expect: config.expect.clone(),
            timeout: config.timeout,
        }
    }

    /// Asks for the completion, repeatedly while the backend isn't ready.
    ///
    /// # Errors
    /// Why there was none within the time-out; contains no URLs, headers or answers.
    pub async fn check(&self) -> Result<(), String> {
        let deadline = Instant::now() + self.timeout;
        let mut seen = None;
        loop {
            match timeout_at(deadline, self.ask()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Failed::Wrong(reason))) => return Err(reason),
                Ok(Err(Failed::NotYet(reason))) => seen = Some(reason),
                Err(_) => {
                    let last = seen.map(|reason| format!(": {reason}")).unwrap_or_default();
                    return Err(format!(
                        "no completion within {:?} (`timeout`){last}",
                        self.timeout
                    ));
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask(&self) -> Result<(), Failed> {
        let body = self.body.reveal().to_owned();
        let request = self.client.post(self.url.clone()).body(body);
        let request = request.header(CONTENT_TYPE, "application/json");
        let request = fetch::authorized(request, self.api_key.as_ref());
        let broke = |error: reqwest::Error| Failed::NotYet(fetch::reason(&error, self.timeout));
        let answer = request.send().await.map_err(broke)?;
        let status = answer.status();
        if !status.is_success() {
            let reason = format!("HTTP status {}", status.as_u16());
            let not_yet = [
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
            ];
            return Err(if not_yet.contains(&status) {
                Failed::NotYet(reason)
            } else {
                Failed::Wrong(reason)
            });
        }
        let body = fetch::read_body(answer, MAX_ANSWER_BYTES).await;
        let body = body.map_err(|error| match error {
            BodyError::TooLarge => Failed::Wrong("the answer is larger than 1 MiB".to_owned()),
            BodyError::Broken(error) => broke(error),
        })?;
        match serde_json::from_slice::<Value>(&body) {
            Err(_) => Err(Failed::Wrong("the answer is not JSON".to_owned())),
            Ok(answer) if !is_completion(&answer) => {
                Err(Failed::Wrong("the answer is no completion".to_owned()))
            }
            Ok(answer) => match &self.expect {
                Some(expect) if !contains(&answer, expect) => Err(Failed::Wrong(
                    "the answer is not what `expect` asks for".to_owned(),
                )),
                Some(_) | None => Ok(()),
            },
        }
    }
}

/// Whether the answer has a choice with a message or a text. Either may be empty: the first token of a reasoning model is.
fn is_completion(answer: &Value) -> bool {
    let choice = answer.get("choices").and_then(|choices| choices.get(0));
    choice.is_some_and(|choice| choice["message"].is_object() || choice["text"].is_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_completion_has_a_choice_with_a_message_or_a_text() {
        for (answer, is) in [
            (
                json!({"choices": [{"message": {"role": "assistant", "content": null}}]}),
                true,
            ),
            (json!({"choices": [{"text": ""}]}), true),
            (json!({"choices": []}), false),
            (json!({"choices": [{}]}), false),
            (json!({"choices": [{"message": "hello"}]}), false),
            (json!({"choices": {"message": {}}}), false),
            (json!({"error": {"message": "no"}}), false),
            (json!([{"choices": [{"text": ""}]}]), false),
            (json!("hello"), false),
        ] {
            assert_eq!(is_completion(&answer), is, "{answer}");
        }
    }
}
