//! Which member of a pool keeps which response of `/v1/responses`, as far as this replica has passed it on: only that member can be
//! asked for it again.

use super::{ResponseBody, peek::end_of_string};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
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

/// What is remembered of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// Nothing. Its provider may still keep it.
    Nothing,
    /// It is another key's.
    Anothers,
    Own(Stored),
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
    /// What is remembered of the response `id`, for a caller with this key.
    pub fn get(&self, id: &str, key: Option<&KeyId>) -> Remembered {
        match self.0.lock().by_id.get(id) {
            None => Remembered::Nothing,
            Some(stored) if stored.key.as_ref() != key => Remembered::Anothers,
            Some(stored) => Remembered::Own(stored.clone()),
        }
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

/// The `id` of a response, in its own object or in that of its first event. Others, such as that of its conversation, are deeper.
fn id_in(text: &[u8]) -> Option<String> {
    let (mut depth, mut is_in_event, mut rest) = (0_u32, false, text);
    loop {
        let at = rest.iter().position(|byte| b"{}[]\"".contains(byte))?;
        let (byte, after) = (rest[at], &rest[at + 1..]);
        rest = after;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {
                let (string, after) = after.split_at(end_of_string(after)?);
                rest = &after[1..];
                let is_answers = depth == 1 || depth == 2 && is_in_event;
                // Otherwise it is a value.
                let Some(value) = rest.trim_ascii_start().strip_prefix(b":").filter(|_| is_answers) else {
                    continue;
                };
                if string == b"id" {
                    let id = value.trim_ascii_start().strip_prefix(b"\"")?;
                    let id = std::str::from_utf8(&id[..end_of_string(id)?]).ok()?;
                    return is_stored_id(id).then(|| id.to_owned());
                }
                is_in_event = string == b"response" || depth == 2;
            }
        }
    }
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
        let behind = r#"{"conversation":{"id":"no"},"output":[{"id":"no"}],"x":"\\","id":"resp_1"}"#;
        let event = r#"event: response.created
data: {"type":"response.created","response":{"id":"resp_1","object":"response"}}

"#;
        let sorted =
            r#"data: {"response":{"conversation":{"id":"no"},"id":"resp_1"},"type":"response.created"}"#;
        for text in [whole, behind, event, sorted] {
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
                let own = Remembered::Own(stored("a/p"));
                assert_eq!(responses.get("resp_1", None), own, "{text}");
                assert_eq!(responses.get("no", None), Remembered::Nothing);
                let other = "ffffffffffff".parse().expect("a key's id");
                assert_eq!(responses.get("resp_1", Some(&other)), Remembered::Anothers);
            }
        }
    }

    #[test]
    fn the_last_ones_are_remembered() {
        let responses = StoredResponses::default();
        for number in 0..=REMEMBERED {
            responses.keep(format!("resp_{number}"), stored("a/p"));
        }
        let own = Remembered::Own(stored("a/p"));
        assert_eq!(responses.get("resp_0", None), Remembered::Nothing);
        assert_eq!(responses.get("resp_1", None), own);
        assert_eq!(responses.get(&format!("resp_{REMEMBERED}"), None), own);
        assert_eq!(responses.0.lock().ids.len(), REMEMBERED);
    }
}
