//! Which hub this agent belongs to, as far as control has said.

use http::{HeaderMap, HeaderValue};
use reveille_bus::{HUB_HEADER, HubId, VIA_HEADER, Via};
use std::sync::Arc;
use tokio::sync::watch;

/// The agent's own hub. Clones share it: its id is known only once the agent is connected, and another one after the journal
/// was replaced.
#[derive(Debug, Clone, Default)]
pub struct OwnHub(Arc<watch::Sender<Option<HubId>>>);

impl OwnHub {
    /// The hub with this id, if it is known.
    #[must_use]
    pub fn of(id: Option<HubId>) -> Self {
        Self(Arc::new(watch::Sender::new(id)))
    }

    /// Control has said which hub it is. An older replica doesn't say it, so what was known stays.
    pub fn connected(&self, id: Option<HubId>) {
        let Some(id) = id else { return };
        self.0.send_if_modified(|known| known.replace(id) != Some(id));
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Option<HubId> {
        *self.0.borrow()
    }

    /// Notified when it is another one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<HubId>> {
        self.0.subscribe()
    }

    /// Whether an answer with these headers comes from it.
    pub(crate) fn is_named_in(&self, headers: &HeaderMap) -> bool {
        let named = headers
            .get(HUB_HEADER)
            .and_then(|id| id.to_str().ok()?.parse().ok());
        named.is_some_and(|named| self.id() == Some(named))
    }

    /// Adds it to the hubs that a request with these headers has passed.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        let Some(id) = self.id() else { return };
        let lines = headers.get_all(VIA_HEADER).iter().map(HeaderValue::as_bytes);
        let via = Via::read(lines).unwrap_or_default().and(id);
        if let Ok(via) = HeaderValue::from_str(&via.to_string()) {
            headers.insert(VIA_HEADER, via);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "00112233445566aa";
    const OTHER: &str = "ffeeddccbbaa9988";

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            HeaderValue::from_str(value).expect("legal"),
        )])
    }

    #[test]
    fn an_answer_is_the_hubs_own_only_if_it_has_its_id() {
        let own = OwnHub::default();
        assert!(
            !own.is_named_in(&headers(HUB_HEADER, OWN)),
            "nothing is known yet"
        );
        own.connected(Some(OWN.parse().expect("an id")));
        assert!(own.is_named_in(&headers(HUB_HEADER, OWN)));
        for other in [OTHER, "", "x"] {
            assert!(!own.is_named_in(&headers(HUB_HEADER, other)), "{other}");
        }
        assert!(!own.is_named_in(&HeaderMap::new()));
        own.connected(None);
        assert!(
            own.is_named_in(&headers(HUB_HEADER, OWN)),
            "an older replica takes nothing away"
        );
        own.connected(Some(OTHER.parse().expect("an id")));
        assert!(!own.is_named_in(&headers(HUB_HEADER, OWN)));
    }

    #[test]
    fn the_way_of_a_request_is_continued() {
        let own = OwnHub::default();
        let way = |own: &OwnHub, mut headers: HeaderMap| {
            own.add_to(&mut headers);
            let ways: Vec<_> = headers.get_all(VIA_HEADER).iter().cloned().collect();
            ways.iter()
                .map(|way| way.to_str().expect("text").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(way(&own, HeaderMap::new()), [""; 0]);
        assert_eq!(
            way(&own, headers(VIA_HEADER, OTHER)),
            [OTHER],
            "what came goes on"
        );
        own.connected(Some(OWN.parse().expect("an id")));
        assert_eq!(way(&own, HeaderMap::new()), [OWN]);
        assert_eq!(way(&own, headers(VIA_HEADER, OTHER)), [format!("{OTHER}, {OWN}")]);
        assert_eq!(way(&own, headers(VIA_HEADER, "nonsense")), [OWN]);
    }
}
