//! Puts a preset's name in place of its model's wherever an error has that: in the backend's own words, and in the agent's. Callers of a
//! preset may not know its model.

use crate::models::Served;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use reveille_bus::relay::RelayFault;

/// The longest error in which names are looked for, in bytes. A longer one passes as it is after that.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// The names that callers of a preset don't read.
#[derive(Debug, Clone)]
pub(super) struct HiddenNames {
    /// What they read instead.
    public: String,
    /// The longest first.
    names: Vec<String>,
}

impl HiddenNames {
    /// Those of what a request asks for, if that is a preset.
    pub fn of(served: &Served) -> Option<Self> {
        let preset = served.preset.as_ref()?;
        let mut names = vec![served.id.to_string(), preset.model.to_string()];
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        names.dedup();
        Some(Self {
            public: served.public.to_string(),
            names,
        })
    }

    /// A fault without them.
    pub fn in_fault(&self, mut fault: RelayFault) -> RelayFault {
        fault.message = self.in_text(&fault.message);
        fault
    }

    /// The body of an error without them.
    pub fn in_error<E, S>(self, body: S) -> impl Stream<Item = Result<Bytes, E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let whole = async move {
            let (mut body, mut read) = (body.fuse(), BytesMut::new());
            let last = loop {
                match body.next().await {
                    Some(Ok(piece)) => read.extend_from_slice(&piece),
                    other => break other,
                }
                if read.len() >= MAX_ERROR_BYTES {
                    break None;
                }
            };
            let shown = match std::str::from_utf8(&read) {
                Ok(text) => Bytes::from(self.in_text(text)),
                Err(_) => read.freeze(),
            };
            stream::iter([Ok(shown)]).chain(stream::iter(last)).chain(body)
        };
        stream::once(whole).flatten()
    }

    fn in_text(&self, text: &str) -> String {
        let (mut shown, mut rest, mut before) = (String::with_capacity(text.len()), text, None);
        while let Some(next) = rest.chars().next() {
            let hidden = self.names.iter().map(|name| (name, &self.public));
            // Its own name may contain the other.
            let mut known = [(&self.public, &self.public)].into_iter().chain(hidden);
            let found = known.find(|(name, _)| stands_at(rest, name, before));
            let taken = match found {
                Some((name, public)) => {
                    shown.push_str(public);
                    name.as_str()
                }
                None => {
                    shown.push(next);
                    &rest[..next.len_utf8()]
                }
            };
            before = taken.chars().next_back();
            rest = &rest[taken.len()..];
        }
        shown
    }
}

/// Whether a text begins with a name that is no part of a longer one.
fn stands_at(text: &str, name: &str, before: Option<char>) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || matches!(char, '-' | '_');
    let behind = text.strip_prefix(name).map(|behind| behind.chars().next());
    behind.is_some_and(|behind| !before.is_some_and(is_part) && !behind.is_some_and(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{TryStreamExt, executor::block_on};

    fn hidden() -> HiddenNames {
        HiddenNames {
            public: "Org/bot".to_owned(),
            names: vec!["Org/Own-7B".to_owned(), "own".to_owned(), "bot".to_owned()],
        }
    }

    #[test]
    fn an_error_has_the_presets_name_wherever_it_had_its_models() {
        for (text, shown) in [
            (
                r#"{"error":{"message":"The model `Org/Own-7B` does not exist"}}"#,
                r#"{"error":{"message":"The model `Org/bot` does not exist"}}"#,
            ),
            (
                "registry.ollama.ai/library/own does not support tools",
                "registry.ollama.ai/library/Org/bot does not support tools",
            ),
            ("own", "Org/bot"),
            (
                "its owner owns own-1 and the downs",
                "its owner owns own-1 and the downs",
            ),
            ("Org/bot is not bot", "Org/bot is not Org/bot"),
            ("ünown own ü", "ünown Org/bot ü"),
        ] {
            assert_eq!(hidden().in_text(text), shown);
        }
    }

    #[test]
    fn names_are_found_across_the_pieces_of_an_error_and_what_ends_it_stays() {
        let pieces = || ["no model `Org/", "Own-7B`"].map(Bytes::from).into_iter();
        // One that may not be asked again after its end, as a backend's answer.
        let whole = stream::unfold(pieces(), async |mut left| Some((Ok(left.next()?), left)));
        let whole = std::pin::pin!(whole);
        let shown = hidden().in_error(whole);
        let shown: Vec<Result<_, ()>> = block_on(shown.collect());
        assert_eq!(shown, [Ok(Bytes::from("no model `Org/bot`"))]);
        let broken = pieces().map(Ok).chain([Err("it broke off")]);
        let shown = hidden().in_error(stream::iter(broken));
        let shown: Vec<_> = block_on(shown.collect());
        assert_eq!(
            shown,
            [Ok(Bytes::from("no model `Org/bot`")), Err("it broke off")]
        );
        let long = vec![
            Ok::<_, ()>(Bytes::from(vec![b'x'; MAX_ERROR_BYTES])),
            Ok(Bytes::from("own")),
        ];
        let shown = hidden().in_error(stream::iter(long));
        let shown: Vec<Bytes> = block_on(shown.try_collect()).expect("no error");
        assert_eq!(shown.concat().len(), MAX_ERROR_BYTES + 3);
    }
}
