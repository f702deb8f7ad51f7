//! `verify`: one token of a completion, requested and read as a client would.
//!
//! A health path may say yes while the weights are missing, loading or broken, or the engine behind it is dead. A backend is
//! verified when it comes up, and when its requests fail. Other backends that are up aren't: that would be work, and keep them
//! awake.

use crate::{
    backend_client::BackendClient,
    config::{ProviderConfig, Secret, VerifyConfig},
    fetch::{self, BodyError, MAX_ANSWER_BYTES},
    http1::{ConnectError, SendError},
    json_match::contains,
    lenient_json,
};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;
use std::{fmt, time::Duration};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use url::Url;

/// The first pause before a backend that isn't ready is asked again; it doubles up to a cap. Each question is work, or a line in its
/// log.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// The verification of one provider's backend.
#[derive(Debug, Clone)]
pub struct Verify {
    client: BackendClient,
    url: Url,
    api_key: Option<Secret>,
    body: Secret,
    expect: Option<Value>,
    timeout: Duration,
}

/// Why a completion failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The agent has reached its limit of open files.
    NoFiles(String),
    /// There was no connection.
    Unreached {
        refused: bool,
        reason: String,
    },
    /// The connection broke.
    Broken(String),
    Status(StatusCode),
    /// The hub itself has answered: why that is clear.
    HubItself(&'static str),
    /// The answer is no completion.
    Wrong(String),
    /// The answer is something that the agent can't read.
    Unreadable,
    /// There was no answer within the time-out.
    Late(Duration),
}

/// What a failed completion says about the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing listens, the machine is away, there is no backend but the hub itself, or the agent could not ask.
    Unreachable,
    /// It is loading or busy, or refuses this request for its content.
    Unclear,
    /// It can't answer.
    Dead,
}

impl Verify {
    /// The verification of a provider.
    ///
    /// # Panics
    /// Never for a config that was read: reading checks the path.
    #[must_use]
    pub fn new(client: impl Into<BackendClient>, provider: &ProviderConfig, config: &VerifyConfig) -> Self {
        Self {
            client: client.into(),
            url: provider.base_url.at(&config.path).expect("a checked path"),
            api_key: provider.api_key.clone(),
            body: Secret::new(config.body.to_string()),
            expect: config.expect.clone(),
            timeout: config.timeout,
        }
    }

    /// Asks for the completion, repeatedly while the backend isn't ready, until the time-out or `by`.
    ///
    /// # Errors
    /// Why there was none in that time; contains no URLs, headers or answers.
    pub async fn check(&self, by: Option<Instant>) -> Result<(), String> {
        let left = by.map_or(self.timeout, |by| by.saturating_duration_since(Instant::now()));
        until_ready(left.min(self.timeout), || self.ask()).await
    }

    /// Asks for the completion once.
    pub(crate) async fn once(&self) -> Result<(), Failed> {
        let in_time = timeout(self.timeout, self.ask()).await;
        in_time.unwrap_or(Err(Failed::Late(self.timeout)))
    }

    async fn ask(&self) -> Result<(), Failed> {
        let body = self.body.reveal().to_owned();
        let request = self.client.post(self.url.clone()).body(body);
        let request = request.headers([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let request = request.authorized(self.api_key.as_ref());
        let began = Instant::now();
        let broke = |error: SendError| broke(&error, began.elapsed());
        let mut answer = request.send().await.map_err(broke)?;
        if let Some(why) = self.client.hub_itself(&mut answer).await {
            return Err(Failed::HubItself(why));
        }
        if !answer.status().is_success() {
            return Err(Failed::Status(answer.status()));
        }
        let body = answer.body(MAX_ANSWER_BYTES).await;
        let body = body.map_err(|error| match error {
            BodyError::TooLarge => Failed::Wrong("the answer is larger than 1 MiB".to_owned()),
            BodyError::Broken(error) => broke(error),
        })?;
        judge(&body, self.expect.as_ref())
    }
}

/// Whether the body of a 2xx is a completion, and the one that is expected.
fn judge(body: &[u8], expect: Option<&Value>) -> Result<(), Failed> {
    let answers: Vec<_> = match lenient_json::read(body) {
        Some(answer) => vec![answer],
        None => events(body).collect(),
    };
    if answers.is_empty() {
        return Err(match body.trim_ascii() {
            [] => Failed::Wrong("the answer is empty".to_owned()),
            _ => Failed::Unreadable,
        });
    }
    if !answers.iter().any(is_completion) {
        return Err(Failed::Wrong("the answer is no completion".to_owned()));
    }
    match expect {
        Some(expect) if !answers.iter().any(|answer| contains(answer, expect)) => Err(Failed::Wrong(
            "the answer is not what `expect` asks for".to_owned(),
        )),
        Some(_) | None => Ok(()),
    }
}

/// The data of a stream of events, which some backends answer whatever they are asked for.
fn events(body: &[u8]) -> impl Iterator<Item = Value> {
    let lines = body.split(|byte| matches!(byte, b'\n' | b'\r'));
    lines.filter_map(|line| lenient_json::read(line.strip_prefix(b"data:")?))
}

/// Asks until an answer shows more than that the backend isn't ready, but no longer than `limit`.
async fn until_ready<F>(limit: Duration, ask: impl Fn() -> F) -> Result<(), String>
where
    F: Future<Output = Result<(), Failed>>,
{
    let deadline = Instant::now() + limit;
    let mut seen = None;
    let mut pause = Duration::ZERO;
    loop {
        let asked = async {
            sleep(pause).await;
            ask().await
        };
        match timeout_at(deadline, asked).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failed)) if failed.may_change() => seen = Some(failed.to_string()),
            Ok(Err(failed)) => return Err(failed.to_string()),
            Err(_) => {
                let last = seen.map(|reason| format!(": {reason}")).unwrap_or_default();
                let late = Failed::Late(fetch::rounded(limit));
                return Err(format!("{late}{last}"));
            }
        }
        pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }
}

fn broke(error: &SendError, waited: Duration) -> Failed {
    if let Some(limit) = fetch::limit_reached(error) {
        return Failed::NoFiles(limit);
    }
    let reason = fetch::reason(error, waited);
    match error {
        SendError::Connect(ConnectError::Late(_) | ConnectError::Failed(_)) => Failed::Unreached {
            refused: fetch::is_refused(error),
            reason,
        },
        SendError::Connect(ConnectError::Closed) | SendError::Silent(_) | SendError::Broken(_) => {
            Failed::Broken(reason)
        }
    }
}

impl Failed {
    /// Whether the backend may only not be ready yet.
    fn may_change(&self) -> bool {
        match self {
            Self::NoFiles(_) | Self::Unreached { .. } | Self::Broken(_) => true,
            Self::Status(status) => matches!(
                *status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE
            ),
            Self::Wrong(_) | Self::Unreadable | Self::Late(_) | Self::HubItself(_) => false,
        }
    }

    pub(crate) fn finding(&self) -> Finding {
        match self {
            Self::NoFiles(_) | Self::Unreached { .. } | Self::HubItself(_) => Finding::Unreachable,
            Self::Status(status) if is_engine_failure(*status) => Finding::Dead,
            // Its callers may be able to.
            Self::Unreadable => Finding::Unclear,
            Self::Status(status) if status.is_client_error() || status.is_server_error() => Finding::Unclear,
            Self::Status(_) | Self::Broken(_) | Self::Wrong(_) | Self::Late(_) => Finding::Dead,
        }
    }
}

impl fmt::Display for Failed {
    /// The reason, for people; contains no URLs, headers or answers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFiles(reason)
            | Self::Unreached { reason, .. }
            | Self::Broken(reason)
            | Self::Wrong(reason) => f.write_str(reason),
            Self::Status(status) => write!(f, "HTTP status {}", status.as_u16()),
            Self::HubItself(why) => f.write_str(why),
            Self::Unreadable => f.write_str("the answer is not JSON"),
            Self::Late(limit) => write!(f, "no completion within {limit:?} (`timeout`)"),
        }
    }
}

/// Whether a status says that the backend couldn't answer a request that it should have answered: not that the request was
/// wrong, unsupported (501) or one too many (503, 529), nor that the model is still loading (503), nor that hubs send it in a
/// circle (508).
pub(crate) fn is_engine_failure(status: StatusCode) -> bool {
    status.is_server_error() && !matches!(status.as_u16(), 501 | 503 | 508 | 529)
}

/// Asks for each of `completions` in turn until one succeeds.
///
/// # Errors
/// Why the first one failed.
pub(crate) async fn any(completions: &[Verify], by: Option<Instant>) -> Result<(), String> {
    let mut first = None;
    for completion in completions {
        match completion.check(by).await {
            Ok(()) => return Ok(()),
            Err(reason) => first = first.or(Some(reason)),
        }
    }
    first.map_or(Ok(()), Err)
}

/// Asks for each of `completions` once until one succeeds. The others than the first are asked only if the first has failed
/// like a dead engine, which may be the fault of its model alone.
///
/// # Errors
/// Why the first one failed.
pub(crate) async fn any_at_once(completions: &[Verify]) -> Result<(), Failed> {
    let Some((first, others)) = completions.split_first() else {
        return Ok(());
    };
    let Err(failed) = first.once().await else {
        return Ok(());
    };
    if failed.finding() == Finding::Dead {
        for other in others {
            if other.once().await.is_ok() {
                return Ok(());
            }
        }
    }
    Err(failed)
}

/// Whether the answer has a choice with a message or a text, or a part of one, or an embedding. A text may be empty: the first token
/// of a reasoning model is.
fn is_completion(answer: &Value) -> bool {
    let choice = answer.get("choices").and_then(|choices| choices.get(0));
    let embedding = || answer.get("data").and_then(|data| data.get(0)?.get("embedding"));
    let has_message = |choice: &Value| choice["message"].is_object() || choice["delta"].is_object();
    choice.is_some_and(|choice| has_message(choice) || choice["text"].is_string())
        || embedding().is_some_and(|embedding| embedding.is_array() || embedding.is_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use serde_json::json;
    use std::future::ready;

    #[test]
    fn a_completion_has_a_choice_with_a_message_or_a_text_or_an_embedding() {
        for (answer, is) in [
            (
                json!({"choices": [{"message": {"role": "assistant", "content": null}}]}),
                true,
            ),
            (json!({"choices": [{"text": ""}]}), true),
            (json!({"choices": [{"delta": {}}]}), true),
            (json!({"data": [{"embedding": [0.5]}]}), true),
            (json!({"data": [{"id": "m"}]}), false),
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

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_is_not_ready_is_asked_ever_less_often_and_to_the_end() {
        let asked = Mutex::new(Vec::new());
        let began = Instant::now();
        let ask = || {
            asked.lock().push(began.elapsed().as_secs());
            ready(Err(match asked.lock().len() {
                1 => Failed::Broken("the connection broke".to_owned()),
                2 => Failed::Status(StatusCode::TOO_MANY_REQUESTS),
                _ => Failed::Status(StatusCode::SERVICE_UNAVAILABLE),
            }))
        };
        let told = until_ready(Duration::from_secs(20), ask).await;
        let late = "no completion within 20s (`timeout`): HTTP status 503";
        assert_eq!(told.expect_err("it never is"), late);
        assert_eq!(began.elapsed(), Duration::from_secs(20));
        assert_eq!(*asked.lock(), [0, 1, 3, 7, 11, 15, 19]);
    }

    #[test]
    fn only_an_answer_that_can_be_read_shows_that_the_engine_is_dead() {
        let message = r#"{"choices":[{"message":{"content":"4"}}],"logprob":NaN}"#;
        let events = "data: {\"choices\":[{\"delta\":{\"content\":\"4\"}}]}\r\n\r\ndata: [DONE]\r\n\r\n";
        for (body, finding) in [
            (message, None),
            (&format!("\u{feff}{message}"), None),
            (events, None),
            ("data: {\"error\":{}}\n\ndata: [DONE]\n\n", Some(Finding::Dead)),
            ("<h1>Sign in</h1>", Some(Finding::Unclear)),
            ("{\"error\":{}}", Some(Finding::Dead)),
            (" \n", Some(Finding::Dead)),
        ] {
            let found = judge(body.as_bytes(), None).err().map(|failed| failed.finding());
            assert_eq!(found, finding, "{body}");
        }
        let of = |content: &str| json!({"choices": [{"delta": {"content": content}}]});
        assert!(judge(events.as_bytes(), Some(&of("4"))).is_ok());
        assert!(judge(events.as_bytes(), Some(&of("5"))).is_err());
    }

    #[test]
    fn what_is_about_the_request_or_the_load_says_nothing_of_the_engine() {
        for (status, finding) in [
            (500, Finding::Dead),
            (502, Finding::Dead),
            (504, Finding::Dead),
            (302, Finding::Dead),
            (400, Finding::Unclear),
            (404, Finding::Unclear),
            (429, Finding::Unclear),
            (501, Finding::Unclear),
            (503, Finding::Unclear),
            (508, Finding::Unclear),
        ] {
            let failed = Failed::Status(StatusCode::from_u16(status).expect("a status"));
            assert_eq!(failed.finding(), finding, "{status}");
        }
    }
}
