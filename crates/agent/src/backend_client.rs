//! The agent's own requests to a backend: probes, verifications and lists. Each says which hub sends it, and each answer may
//! show that the backend is that hub itself.

use crate::{
    fetch::{Answer, Client, MAX_ANSWER_BYTES, Request},
    own_hub::OwnHub,
};
use http::{HeaderMap, StatusCode};
use reveille_bus::{HUB_HEADER, HubId, LOOP_DETECTED};
use serde_json::Value;
use url::Url;

/// Why a backend whose answer names the agent's own hub is refused.
const NAMES_ITSELF: &str =
    "this is the hub itself (the answer has its id): set base_url to the backend's own address";
/// Why one is refused whose answer says that the request came back to the hub.
const CAME_BACK: &str = "this is the hub itself, or leads back to it (508 loop_detected): set base_url to the backend's own address";

/// Asks one backend.
#[derive(Debug, Clone)]
pub struct BackendClient {
    http: Client,
    own_hub: OwnHub,
}

impl From<Client> for BackendClient {
    /// A client of an agent that belongs to no hub.
    fn from(http: Client) -> Self {
        Self::new(http, OwnHub::default())
    }
}

impl BackendClient {
    #[must_use]
    pub const fn new(http: Client, own_hub: OwnHub) -> Self {
        Self { http, own_hub }
    }

    pub(crate) fn get(&self, url: Url) -> Request {
        self.sent_by_hub(self.http.get(url))
    }

    pub(crate) fn post(&self, url: Url) -> Request {
        self.sent_by_hub(self.http.post(url))
    }

    fn sent_by_hub(&self, request: Request) -> Request {
        let mut headers = HeaderMap::new();
        self.own_hub.add_to(&mut headers);
        request.headers(
            headers
                .into_iter()
                .filter_map(|(name, value)| Some((name?, value))),
        )
    }

    /// The JSON of a 2xx, of which there may be `max_bytes`. What the hub itself answers is about the backends of others.
    pub(crate) async fn json(&self, request: Request, max_bytes: usize) -> Option<Value> {
        let mut answer = request.send().await.ok()?;
        if !answer.status().is_success() || self.hub_itself(&mut answer).await.is_some() {
            return None;
        }
        answer.json(max_bytes).await
    }

    /// Why the answer shows that the backend is the hub itself. A proxy in between may drop headers of answers, but then the
    /// request has come back to the hub, which says so.
    pub(crate) async fn hub_itself(&self, answer: &mut Answer) -> Option<&'static str> {
        if self.own_hub.is_named_in(answer.headers()) {
            return Some(NAMES_ITSELF);
        }
        if answer.status() != StatusCode::LOOP_DETECTED || self.own_hub.id().is_none() {
            return None;
        }
        let error = answer.json(MAX_ANSWER_BYTES).await?;
        (error["error"]["code"] == LOOP_DETECTED).then_some(CAME_BACK)
    }
}

/// The hub that an answer with these headers comes from, whichever it is; `None` if it comes from no hub.
#[must_use]
pub fn hub_of(headers: &HeaderMap) -> Option<HubId> {
    headers.get(HUB_HEADER)?.to_str().ok()?.parse().ok()
}
