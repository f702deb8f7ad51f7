//! Which member of a pool keeps which response of `/v1/responses`, as far as this replica has passed it on: only that member can be
//! asked for it again.

use super::ResponseBody;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use memchr::memmem;
use parking_lot::Mutex;
use reveille_bus::relay::is_stored_id;
use reveille_domain::{KeyId, ModelName, ProviderId};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// How many responses are remembered: the last ones.
pub(crate) const REMEMBERED: usize = 10_000;
/// How far into a response its id is looked for, in bytes.
const ID_WITHIN_BYTES: usize = 16 * 1024;

/// Where a response is kept, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub provider: ProviderId,
    pub model: ModelName,
    pub key: Option<KeyId>,
}

/// The responses that are remembered. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoredResponses(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<String, Stored>,
    /// The oldest first.
    ids: VecDeque<String>,
}

impl StoredResponses {
    /// The response `id`, if it is one of this caller's.
    pub fn get(&self, id: &str, key: Option<&KeyId>) -> Option<Stored> {
        let inner = self.0.lock();
        inner
            .by_id
            .get(id)
            .filter(|stored| stored.key.as_ref() == key)
            .cloned()
    }

    fn keep(&self, id: String, stored: Stored) {
        let mut inner = self.0.lock();
        if inner.by_id.insert(id.clone(), stored).is_some() {
            return;
        }
        inner.ids.push_back(id);
        if inner.ids.len() > REMEMBERED
            && let Some(oldest) = inner.ids.pop_front()
        {
            inner.by_id.remove(&oldest);
        }
    }

    /// The same body; the id in it is kept while it passes.
    pub fn watching(&self, body: ResponseBody, stored: Stored) -> ResponseBody {
        let mut watch = Watch {
            stored: Some(stored),
            read: BytesMut::new(),
            responses: self.clone(),
        };
        match body {
            ResponseBody::Whole(bytes) => {
                watch.pass(&bytes);
                ResponseBody::Whole(bytes)
            }
            ResponseBody::Pieces(pieces) => ResponseBody::Pieces(
                pieces
                    .inspect(move |piece| {
                        if let Ok(piece) = piece {
                            watch.pass(piece);
                        }
                    })
                    .boxed(),
            ),
        }
    }
}

/// Looks for the id at the beginning of one response.
struct Watch {
    /// `None` once it is found, or won't be.
    stored: Option<Stored>,
    read: BytesMut,
    responses: StoredResponses,
}

impl Watch {
    fn pass(&mut self, piece: &Bytes) {
        if self.stored.is_none() {
            return;
        }
        let room = ID_WITHIN_BYTES - self.read.len();
        self.read.extend_from_slice(&piece[..room.min(piece.len())]);
        let found = id_in(&self.read);
        let is_over = self.read.len() == ID_WITHIN_BYTES;
        if (found.is_some() || is_over)
            && let Some(stored) = self.stored.take()
        {
            if let Some(id) = found {
                self.responses.keep(id, stored);
            }
            self.read = BytesMut::new();
        }
    }
}

/// The first `"id"` in a text of JSON. Within a JSON string its quotes would be escaped.
fn id_in(text: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\"id\"";
    let after = &text[memmem::find(text, KEY)? + KEY.len()..];
    let value = after
        .trim_ascii_start()
        .strip_prefix(b":")?
        .trim_ascii_start()
        .strip_prefix(b"\"")?;
    let id = &value[..memchr::memchr(b'"', value)?];
    let id = std::str::from_utf8(id).ok()?;
    is_stored_id(id).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn stored(provider: &str) -> Stored {
        Stored {
            provider: provider.parse().expect("legal"),
            model: "m".parse().expect("legal"),
            key: None,
        }
    }

    #[tokio::test]
    async fn the_id_of_a_response_is_found_however_it_comes() {
        let whole = r#"{"object":"response","metadata":"\"id\":\"no\"", "id" : "resp_1", "x":{"id":"no"}}"#;
        let event = r#"event: response.created
data: {"type":"response.created","response":{"id":"resp_1","object":"response"}}

"#;
        for text in [whole, event] {
            for size in [1, 7, text.len()] {
                let responses = StoredResponses::default();
                let pieces: Vec<_> = text
                    .as_bytes()
                    .chunks(size)
                    .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                    .collect();
                let body = ResponseBody::Pieces(stream::iter(pieces).boxed());
                let ResponseBody::Pieces(pieces) = responses.watching(body, stored("a/p")) else {
                    panic!("pieces")
                };
                let passed: Vec<_> = pieces.map(|piece| piece.expect("a piece")).collect().await;
                assert_eq!(passed.concat(), text.as_bytes());
                assert_eq!(responses.get("resp_1", None), Some(stored("a/p")), "{text}");
                assert!(responses.get("no", None).is_none());
                let other = "ffffffffffff".parse().expect("a key's id");
                assert!(responses.get("resp_1", Some(&other)).is_none(), "another's");
            }
        }
    }

    #[test]
    fn the_last_ones_are_remembered() {
        let responses = StoredResponses::default();
        for number in 0..=REMEMBERED {
            responses.keep(format!("resp_{number}"), stored("a/p"));
        }
        assert!(responses.get("resp_0", None).is_none());
        assert!(responses.get("resp_1", None).is_some());
        assert!(responses.get(&format!("resp_{REMEMBERED}"), None).is_some());
        assert_eq!(responses.0.lock().ids.len(), REMEMBERED);
    }
}
