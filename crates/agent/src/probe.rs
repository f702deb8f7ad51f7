//! Finds out whether a backend is available: one GET, any 2xx, and optionally a part of the answer's JSON; and whether it is the
//! provider's, by the models that it lists.

use crate::{
    backend_client::{BackendClient, hub_of},
    config::{Address, MODELS_PATH, ProviderConfig, Secret},
    fetch::{self, BodyError, MAX_ANSWER_BYTES},
    http1::SendError,
    json_match::contains,
    lenient_json,
    listeners::LocalPort,
    models::{Identity, MAX_LIST_BYTES, Mismatch, pull_command},
    tls,
    verify::{self, Failed, Finding, Verify},
};
use http::StatusCode;
use reveille_bus::HubId;
use reveille_domain::SleepReason;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

/// The first pause between probes while a backend boots; it doubles up to a cap.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pauses for a backend on this machine, whose start should be noticed at once.
const LOCAL_PAUSES: Pauses = Pauses {
    // Until something listens there, a probe costs nothing.
    refused: FIRST_PAUSE,
    // A backend that answers but isn't ready is busy loading.
    unready: Duration::from_millis(40),
};
/// The longest pauses for a backend on another machine.
const REMOTE_PAUSES: Pauses = Pauses {
    refused: Duration::from_millis(500),
    unready: Duration::from_millis(500),
};

/// After so many lists in a row with the same other models, over at least that time, a backend that boots won't list the provider's
/// any more. One that finds its models late lists none at first, and one that replaces another server on its port refuses
/// connections in between.
const SAME_LISTS: u32 = 5;
const SAME_LISTS_FOR: Duration = Duration::from_secs(10);
/// The same for a list that was there at the first look: another server may still be ending to make room, which is well over the
/// time that common service managers give one (a container 10 s, a pod 30 s).
const FIRST_LIST_FOR: Duration = Duration::from_secs(60);
/// Which only Ollama answers in its form.
const OLLAMA_VERSION_PATH: &str = "/api/version";

/// The probe of one provider's backend.
#[derive(Debug, Clone)]
pub struct Probe {
    client: BackendClient,
    address: Address,
    api_key: Option<Secret>,
    expect: Option<Value>,
    identity: Option<Identity>,
    /// Where the list of models is that shows the backend's identity, if the probe asks for something else.
    list: Option<Address>,
    /// Where an Ollama has its version.
    version: Option<Url>,
    /// Where it listens, if that is on this machine.
    port: Option<LocalPort>,
    timeout: Duration,
    pauses: Pauses,
    verify: Vec<Verify>,
}

/// The longest pauses between probes.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    /// While connections are refused.
    refused: Duration,
    /// While the backend answers, but isn't available, or doesn't answer at all.
    unready: Duration,
}

/// The result of a probe: the backend can answer requests, or why it can't.
pub type Verdict = Result<(), Unavailable>;

/// Why a backend isn't available.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// Whether the backend itself said that it sleeps, rather than not answering.
    pub asleep: bool,
    /// Whether the connection was refused.
    pub refused: bool,
    /// Whether it answered the probe, but no completion.
    pub failed: bool,
    /// Whether the agent couldn't ask, because it has reached its limit of open files. This says nothing about the backend.
    pub no_files: bool,
    /// Whether it is the hub that its agent belongs to; `None` if nothing answered.
    pub is_hub: Option<bool>,
    /// Whether it is another server that answered.
    pub stranger: bool,
    /// Whether that lists models, but none of the provider's.
    pub other_models: bool,
    /// For people; contains no URLs, headers or answers.
    pub reason: String,
}

impl Unavailable {
    fn because(reason: impl Into<String>) -> Self {
        Self {
            asleep: false,
            refused: false,
            failed: false,
            no_files: false,
            is_hub: None,
            stranger: false,
            other_models: false,
            reason: reason.into(),
        }
    }

    /// The backend has answered, and isn't the hub.
    fn answered(reason: impl Into<String>) -> Self {
        Self {
            is_hub: Some(false),
            ..Self::because(reason)
        }
    }

    /// Nothing can make it available.
    pub(crate) fn hub_itself(reason: impl Into<String>) -> Self {
        Self {
            is_hub: Some(true),
            ..Self::because(reason)
        }
    }

    /// Whether it is the hub itself.
    #[must_use]
    pub const fn is_hub_itself(&self) -> bool {
        matches!(self.is_hub, Some(true))
    }

    /// The sleep reason to report if the backend was available before.
    #[must_use]
    pub const fn sleep_reason(&self) -> SleepReason {
        if self.asleep {
            SleepReason::FoundAsleep
        } else if self.failed {
            SleepReason::Failed
        } else {
            SleepReason::Unreachable
        }
    }
}

impl Probe {
    /// The probe of a provider.
    ///
    /// # Panics
    /// Never for a config that was read: reading checks the path.
    #[must_use]
    pub fn new(client: impl Into<BackendClient>, provider: &ProviderConfig) -> Self {
        let client = client.into();
        let local = provider.base_url.is_loopback();
        let verify = provider.wake.as_ref().and_then(|wake| wake.verify.as_ref());
        let verify = verify.map(|config| Verify::new(client.clone(), provider, config));
        let address = |path| provider.base_url.address(path).expect("a checked path");
        let elsewhere = !provider.probe.asks_for_models();
        Self {
            client,
            address: address(&provider.probe.path),
            api_key: provider.api_key.clone(),
            expect: provider.probe.expect.clone(),
            // Any list will do only as an answer to the probe: elsewhere there may be none.
            identity: Identity::of(provider).filter(|identity| !(elsewhere && identity.is_any())),
            list: elsewhere.then(|| address(MODELS_PATH)),
            version: provider.base_url.at(OLLAMA_VERSION_PATH).ok(),
            port: LocalPort::of(&provider.base_url),
            timeout: provider.probe.timeout,
            pauses: if local { LOCAL_PAUSES } else { REMOTE_PAUSES },
            verify: verify.into_iter().collect(),
        }
    }

    /// Probes once.
    pub async fn check(&self) -> Verdict {
        self.check_within(self.timeout).await
    }

    /// The hub that answers the probe, whichever it is; `None` if no hub does.
    pub async fn hub(&self) -> Option<HubId> {
        let request = self.client.get(self.address.url.clone());
        hub_of(request.timeout(self.timeout).send().await.ok()?.headers())
    }

    /// Probes once, and makes sure that it is the provider's backend which answers.
    pub async fn check_and_identify(&self) -> Verdict {
        self.check().await?;
        self.identify(self.timeout).await
    }

    /// Probes a backend that wasn't available before, and verifies it too if the config says so.
    pub async fn check_and_verify(&self) -> Verdict {
        self.check_and_identify().await?;
        let verified = verify::any(&self.verify, None).await;
        verified.map_err(|reason| Unavailable::because(format!("verify: {reason}")))
    }

    /// Probes a backend that is available as far as the probe shows, but whose requests fail: it counts as failed if all of
    /// `completions` fail too, the first of them not for its own content or for the load.
    pub(crate) async fn check_doubted(&self, completions: &[Verify]) -> Verdict {
        self.check_and_identify().await?;
        match verify::any_at_once(completions).await {
            Ok(()) => Ok(()),
            Err(failed) => match failed.finding() {
                Finding::Unclear => Ok(()),
                Finding::Unreachable => Err(failed.into()),
                Finding::Dead => Err(Unavailable {
                    failed: true,
                    ..failed.into()
                }),
            },
        }
    }

    /// The same probe with other completions that verify a backend which wasn't available before.
    pub(crate) fn verified_by(&self, completions: Vec<Verify>) -> Self {
        Self {
            verify: completions,
            ..self.clone()
        }
    }

    /// The completions of which one must succeed before a backend counts as available again; none if there need be none.
    pub(crate) fn verification(&self) -> &[Verify] {
        &self.verify
    }

    /// Where the backend listens, if that is a TCP port of this machine.
    #[must_use]
    pub fn port(&self) -> Option<&LocalPort> {
        self.port.as_ref()
    }

    /// Probes until the backend is available.
    ///
    /// # Errors
    /// What the last probe found before `deadline`, or as soon as it is clear: the hub itself answers in place of a backend, or a
    /// server that lists other models than the provider's.
    pub async fn await_available(&self, deadline: Instant) -> Verdict {
        let mut pause = Duration::ZERO;
        let mut seen = None;
        let mut lists = Lists::default();
        loop {
            let limit = || {
                let left = deadline.saturating_duration_since(Instant::now());
                self.timeout.min(left)
            };
            let mut found = self.check_within(limit()).await;
            if found.is_ok() {
                found = self.identify(limit()).await;
            }
            let Err(why) = found else { return Ok(()) };
            if why.is_hub_itself() {
                return Err(why);
            }
            if lists.are_clear(&why) {
                return Err(why);
            }
            let now = Instant::now();
            if now >= deadline {
                // The deadline cut this probe short, so the one before says more.
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

    /// The command that gets the provider's model, if that is an Ollama's.
    pub(crate) async fn pull_command(&self) -> Option<String> {
        let request = self.client.get(self.version.clone()?);
        let answer = self
            .client
            .json(request.timeout(self.timeout), MAX_LIST_BYTES)
            .await?;
        answer["version"].as_str()?;
        pull_command(self.identity.as_ref()?.first_model()?)
    }

    /// The provider's own name of a model, if its config has it.
    pub(crate) fn model(&self, name: &str) -> Option<&str> {
        self.identity.as_ref()?.model(name)
    }

    /// Probes until the backend isn't available; false when it still is at `deadline`.
    pub async fn await_unavailable(&self, deadline: Instant) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.check_and_identify().await.is_err() {
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
        let in_time = timeout(limit, self.ask(limit)).await;
        in_time.unwrap_or_else(|_| Err(Unavailable::because(format!("no answer within {limit:?}"))))
    }

    async fn ask(&self, limit: Duration) -> Verdict {
        let request = self
            .client
            .get(self.address.url.clone())
            .authorized(self.api_key.as_ref());
        let began = Instant::now();
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(self.broke(&error, began.elapsed().min(limit)).await),
        };
        if let Some(why) = self.client.hub_itself(&mut answer).await {
            return Err(Unavailable::hub_itself(why));
        }
        let status = answer.status();
        if !status.is_success() {
            // What some servers answer to a request without the TLS that they expect.
            let hint = match status {
                StatusCode::BAD_REQUEST => tls::other_scheme(&self.address).await,
                _ => None,
            };
            let status = format!("HTTP status {}", status.as_u16());
            return Err(Unavailable::answered(hint.map_or(status, str::to_owned)));
        }
        let identity = self.identity.as_ref().filter(|_| self.list.is_none());
        if self.expect.is_none() && identity.is_none() {
            return Ok(());
        }
        let max_bytes = identity.map_or(MAX_ANSWER_BYTES, |_| MAX_LIST_BYTES);
        let body = match answer.body(max_bytes).await {
            Ok(body) => body,
            Err(BodyError::TooLarge) => {
                let most = max_bytes / (1024 * 1024);
                let reason = format!("the probe's answer is larger than {most} MiB");
                return Err(Unavailable::answered(reason));
            }
            Err(BodyError::Broken(error)) => {
                return Err(self.broke(&error, began.elapsed().min(limit)).await);
            }
        };
        let found = lenient_json::read(&body);
        let found = found.ok_or_else(|| match identity {
            Some(_) => Mismatch::NoList.into(),
            None => Unavailable::answered("the probe's answer is not JSON"),
        })?;
        let identified = identity.map_or(Ok(()), |identity| identity.check(&found));
        let as_expected = self.expect.as_ref().is_none_or(|expect| contains(&found, expect));
        match identified {
            // A list of the models in memory may lack the provider's because it sleeps.
            Ok(()) | Err(Mismatch::NoModels(_) | Mismatch::OtherModels { .. }) if !as_expected => {
                Err(Unavailable {
                    asleep: true,
                    ..Unavailable::answered("the probe's answer is not what `expect` asks for")
                })
            }
            identified => identified.map_err(Unavailable::from),
        }
    }

    /// Makes sure that a backend which has answered the probe is the provider's, if the probe's own answer doesn't show that.
    /// No list shows nothing: a backend may have none, or want another key for it.
    async fn identify(&self, limit: Duration) -> Verdict {
        let (Some(identity), Some(list)) = (&self.identity, &self.list) else {
            return Ok(());
        };
        let request = self
            .client
            .get(list.url.clone())
            .authorized(self.api_key.as_ref());
        let answer = timeout(limit, self.client.json(request, MAX_LIST_BYTES)).await;
        let answer = match answer {
            Ok(Some(answer)) => answer,
            // A deadline has cut this short, so it shows nothing.
            Err(_) if limit < self.timeout => {
                return Err(Unavailable::answered("its models weren't listed in time"));
            }
            Ok(None) | Err(_) => return Ok(()),
        };
        match identity.check(&answer) {
            Ok(()) | Err(Mismatch::NoList) => Ok(()),
            Err(mismatch @ (Mismatch::NoModels(_) | Mismatch::OtherModels { .. })) => Err(mismatch.into()),
        }
    }

    async fn broke(&self, error: &SendError, waited: Duration) -> Unavailable {
        Unavailable {
            refused: fetch::is_refused(error),
            no_files: fetch::limit_reached(error).is_some(),
            ..Unavailable::because(fetch::reason_at(error, &self.address, waited).await)
        }
    }
}

impl From<Mismatch> for Unavailable {
    fn from(mismatch: Mismatch) -> Self {
        Self {
            // A server that lists nothing may still be starting.
            stranger: !matches!(mismatch, Mismatch::NoModels(_)),
            other_models: matches!(mismatch, Mismatch::OtherModels { .. }),
            ..Self::answered(mismatch.to_string())
        }
    }
}

impl From<Failed> for Unavailable {
    fn from(failed: Failed) -> Self {
        let refused = matches!(failed, Failed::Unreached { refused: true, .. });
        let is_hub = matches!(failed, Failed::HubItself(_)).then_some(true);
        Self {
            refused,
            no_files: matches!(failed, Failed::NoFiles(_)),
            is_hub,
            ..Self::because(format!("verify: {failed}"))
        }
    }
}

/// The lists with the same other models that a backend has given in a row.
#[derive(Default)]
struct Lists {
    /// What the first look found; empty if that was no such list.
    at_first: Option<String>,
    reason: String,
    count: u32,
    since: Option<Instant>,
}

impl Lists {
    /// Takes in what a probe has found. Returns whether the backend surely won't list the provider's models.
    fn are_clear(&mut self, found: &Unavailable) -> bool {
        let list: &str = if found.other_models { &found.reason } else { "" };
        let was_there = self.at_first.get_or_insert_with(|| list.to_owned()) == list;
        if list.is_empty() || list != self.reason {
            (self.reason, self.count, self.since) = (list.to_owned(), 0, None);
        }
        if list.is_empty() {
            return false;
        }
        self.count += 1;
        let since = self.since.get_or_insert_with(Instant::now);
        let wanted = if was_there { FIRST_LIST_FOR } else { SAME_LISTS_FOR };
        self.count >= SAME_LISTS && since.elapsed() >= wanted
    }
}

impl Pauses {
    /// The pause after a probe that found this: twice as long as the one before, within bounds.
    fn after(self, found: &Unavailable, pause: Duration) -> Duration {
        let longest = if found.refused { self.refused } else { self.unready };
        (pause * 2).clamp(FIRST_PAUSE, longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[tokio::test(start_paused = true)]
    async fn only_the_same_other_models_several_times_in_a_row_and_for_a_while_are_clear() {
        let lists = |names: &str| Unavailable {
            stranger: true,
            other_models: true,
            ..Unavailable::because(names)
        };
        let (other, another) = (lists("a"), lists("b"));
        let mut seen = Lists::default();
        assert!(!seen.are_clear(&Unavailable::because("connection refused")));
        assert!(!seen.are_clear(&other));
        tokio::time::advance(SAME_LISTS_FOR).await;
        for _ in 0..3 {
            assert!(!seen.are_clear(&other), "too few");
        }
        assert!(
            !seen.are_clear(&Unavailable::because("HTTP status 503")),
            "it loads"
        );
        for _ in 0..10 {
            assert!(!seen.are_clear(&other), "too soon");
        }
        tokio::time::advance(SAME_LISTS_FOR).await;
        assert!(!seen.are_clear(&another), "its list changes");
        assert!(!seen.are_clear(&other));
        tokio::time::advance(SAME_LISTS_FOR).await;
        let clear: Vec<_> = (0..5).map(|_| seen.are_clear(&other)).collect();
        assert_eq!(clear, [false, false, false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_was_there_at_the_first_look_may_be_of_a_server_that_is_still_ending() {
        let list = |names: &str| Unavailable {
            other_models: true,
            ..Unavailable::because(names)
        };
        let (old, new) = (list("old"), list("new"));
        let mut seen = Lists::default();
        for _ in 0..10 {
            assert!(!seen.are_clear(&old));
        }
        tokio::time::advance(FIRST_LIST_FOR - SAME_LISTS_FOR).await;
        assert!(!seen.are_clear(&old), "it may still be ending");
        let mut replaced = Lists::default();
        assert!(!replaced.are_clear(&old));
        for _ in 0..5 {
            assert!(!replaced.are_clear(&new));
        }
        tokio::time::advance(SAME_LISTS_FOR).await;
        assert!(replaced.are_clear(&new), "it came later");
        assert!(seen.are_clear(&old), "it stays");
    }
}
