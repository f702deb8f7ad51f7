//! Finding out whether a backend is available: one GET, any 2xx, and optionally a part of its JSON.

use crate::{config::ProviderConfig, fetch, verify::Verify};
use reqwest::{
    Client,
    header::{AUTHORIZATION, HeaderValue},
};
use reveille_domain::SleepReason;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

/// The first pause between probes while a backend boots; it doubles up to a cap.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pauses for a backend on this machine: it should be noticed at once.
const LOCAL_PAUSES: Pauses = Pauses {
    // Until somebody listens there, asking again costs nobody anything.
    refused: FIRST_PAUSE,
    // A backend that answers, but isn't ready, has better things to do.
    unready: Duration::from_millis(40),
};
/// The longest pauses for a backend on another machine.
const REMOTE_PAUSES: Pauses = Pauses {
    refused: Duration::from_millis(500),
    unready: Duration::from_millis(500),
};
/// The largest answer that is compared with `expect`.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// How one provider's backend is probed.
#[derive(Debug, Clone)]
pub struct Probe {
    client: Client,
    url: Url,
    authorization: Option<HeaderValue>,
    expect: Option<Value>,
    timeout: Duration,
    pauses: Pauses,
    verify: Option<Verify>,
}

/// The longest pauses between probes.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    /// While nobody listens.
    refused: Duration,
    /// Otherwise.
    unready: Duration,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The backend can answer requests.
    Available,
    /// It can't.
    Unavailable(Unavailable),
}

/// Why a backend isn't available.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// Whether the backend itself said that it sleeps, rather than not answering.
    pub asleep: bool,
    /// Whether nobody listens there.
    pub refused: bool,
    /// Why, for people; without URLs, headers or answers.
    pub reason: String,
}

impl Unavailable {
    fn because(reason: impl Into<String>) -> Self {
        Self {
            asleep: false,
            refused: false,
            reason: reason.into(),
        }
    }

    /// What is reported of a backend that was available before.
    #[must_use]
    pub const fn sleep_reason(&self) -> SleepReason {
        if self.asleep {
            SleepReason::FoundAsleep
        } else {
            SleepReason::Unreachable
        }
    }
}

impl Probe {
    /// The probe of a provider.
    ///
    /// # Panics
    /// Never for a config that was read: its key and path are proven then.
    #[must_use]
    pub fn new(client: Client, provider: &ProviderConfig) -> Self {
        let authorization = provider.api_key.as_ref().map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.reveal())).expect("a proven key");
            value.set_sensitive(true);
            value
        });
        let local = provider.base_url.is_loopback();
        let verify = provider.wake.as_ref().and_then(|wake| wake.verify.as_ref());
        let verify =
            verify.map(|config| Verify::new(client.clone(), provider, config, authorization.clone()));
        Self {
            client,
            url: provider.base_url.at(&provider.probe.path).expect("a proven path"),
            authorization,
            expect: provider.probe.expect.clone(),
            timeout: provider.probe.timeout,
            pauses: if local { LOCAL_PAUSES } else { REMOTE_PAUSES },
            verify,
        }
    }

    /// Probes once, within the probe's time-out.
    pub async fn check(&self) -> Verdict {
        self.check_within(self.timeout).await
    }

    /// Probes a backend that isn't known to be available: it must be verified too, if the config says so.
    pub async fn check_anew(&self) -> Verdict {
        match (self.check().await, &self.verify) {
            (Verdict::Available, Some(verify)) => match verify.check().await {
                Ok(()) => Verdict::Available,
                Err(reason) => Verdict::Unavailable(Unavailable::because(format!("verify: {reason}"))),
            },
            (verdict, _) => verdict,
        }
    }

    /// What a backend must answer before it counts as awake, beside the probe.
    pub(crate) const fn verification(&self) -> Option<&Verify> {
        self.verify.as_ref()
    }

    /// Probes until the backend is available or `deadline` has come.
    ///
    /// # Errors
    /// What the last probe found.
    pub async fn await_available(&self, deadline: Instant) -> Result<(), Unavailable> {
        let mut pause = Duration::ZERO;
        let mut seen = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Verdict::Unavailable(why) = self.check_within(self.timeout.min(left)).await else {
                return Ok(());
            };
            let now = Instant::now();
            if now >= deadline {
                // Cut short by the deadline: the one before says more.
                return Err(seen.unwrap_or(why));
            }
            pause = self.pauses.after(&why, pause);
            if now + pause >= deadline {
                return Err(why);
            }
            seen = Some(why);
            sleep(pause).await;
        }
    }

    /// Probes until the backend isn't available or `deadline` has come; whether it isn't.
    pub async fn await_unavailable(&self, deadline: Instant) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Verdict::Unavailable(_) = self.check().await {
                return true;
            }
            if Instant::now() + pause >= deadline {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(self.pauses.unready);
        }
    }

    async fn check_within(&self, limit: Duration) -> Verdict {
        match timeout(limit, self.ask(limit)).await {
            Ok(Ok(())) => Verdict::Available,
            Ok(Err(why)) => Verdict::Unavailable(why),
            Err(_) => Verdict::Unavailable(Unavailable::because(format!("no answer within {limit:?}"))),
        }
    }

    async fn ask(&self, limit: Duration) -> Result<(), Unavailable> {
        let mut request = self.client.get(self.url.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let broke = |error: reqwest::Error| Unavailable {
            asleep: false,
            refused: fetch::is_refused(&error),
            reason: fetch::reason(&error, limit),
        };
        let mut answer = request.send().await.map_err(broke)?;
        if !answer.status().is_success() {
            return Err(Unavailable::because(format!(
                "HTTP status {}",
                answer.status().as_u16()
            )));
        }
        let Some(expect) = &self.expect else { return Ok(()) };
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broke)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Unavailable::because("the probe's answer is larger than 1 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        let found: Value = serde_json::from_slice(&body)
            .map_err(|_| Unavailable::because("the probe's answer is not JSON"))?;
        if contains(&found, expect) {
            return Ok(());
        }
        Err(Unavailable {
            asleep: true,
            refused: false,
            reason: "the probe's answer is not what `expect` asks for".to_owned(),
        })
    }
}

impl Pauses {
    /// How long to wait after a probe that found this, `pause` having been waited before it: twice as long, within bounds.
    fn after(self, found: &Unavailable, pause: Duration) -> Duration {
        let longest = if found.refused { self.refused } else { self.unready };
        (pause * 2).clamp(FIRST_PAUSE, longest)
    }
}

/// Whether `found` has all that `expect` has: objects may have more keys, and lists more entries, in any order; everything else
/// is equal.
pub(crate) fn contains(found: &Value, expect: &Value) -> bool {
    match (found, expect) {
        (Value::Object(found), Value::Object(expect)) => expect
            .iter()
            .all(|(key, expect)| found.get(key).is_some_and(|found| contains(found, expect))),
        (Value::Array(found), Value::Array(expect)) => expect
            .iter()
            .all(|expect| found.iter().any(|found| contains(found, expect))),
        // 1 and 1.0 are the same number, whichever the config or the backend wrote.
        (Value::Number(found), Value::Number(expect)) => found == expect || found.as_f64() == expect.as_f64(),
        (found, expect) => found == expect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_backend_of_this_machine_is_asked_again_at_once_until_somebody_listens_and_then_ever_less_often() {
        let refused = Unavailable {
            refused: true,
            ..Unavailable::because("connection refused")
        };
        let unready = Unavailable::because("HTTP status 503");
        let mut pause = Duration::ZERO;
        for (found, wanted_ms) in [
            (&refused, 10),
            (&refused, 10),
            (&unready, 20),
            (&unready, 40),
            (&unready, 40),
            (&refused, 10),
        ] {
            pause = LOCAL_PAUSES.after(found, pause);
            assert_eq!(pause, Duration::from_millis(wanted_ms));
        }
        for wanted_ms in [20, 40, 80, 160, 320, 500, 500] {
            pause = REMOTE_PAUSES.after(&refused, pause);
            assert_eq!(pause, Duration::from_millis(wanted_ms));
        }
    }

    #[test]
    fn an_answer_may_say_more_than_is_expected_and_nothing_else() {
        for (found, expect, fits) in [
            (
                json!({"is_sleeping": false, "x": 1}),
                json!({"is_sleeping": false}),
                true,
            ),
            (json!({"is_sleeping": true}), json!({"is_sleeping": false}), false),
            (json!({}), json!({"is_sleeping": false}), false),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 1.0}}), true),
            (
                json!({"a": [1, {"b": 2, "c": 3}]}),
                json!({"a": [1, {"b": 2}]}),
                true,
            ),
            (json!({"a": [1, 2]}), json!({"a": [2]}), true),
            (json!({"a": [1, 2]}), json!({"a": [2, 1]}), true),
            (json!({"a": [1, 2]}), json!({"a": [1, 3]}), false),
            (json!({"a": []}), json!({"a": [1]}), false),
            (
                json!({"data": [{"id": "a", "on": true}, {"id": "b", "on": false}]}),
                json!({"data": [{"id": "b", "on": true}]}),
                false,
            ),
            (json!({"a": {"b": 1}}), json!({"a": [1]}), false),
            (json!("ok"), json!("ok"), true),
            (json!("1"), json!(1), false),
        ] {
            assert_eq!(contains(&found, &expect), fits, "{found} {expect}");
        }
    }
}
