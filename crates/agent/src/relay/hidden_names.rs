//! Puts a preset's name in place of its model's wherever an error has that: in the backend's own words, and in the agent's. Callers of a
//! preset may not know its model.

use crate::models::Served;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use reveille_bus::relay::RelayFault;

/// The longest error that passes, in bytes. A longer one is cut off.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// The most bytes of a character.
const MAX_CHAR_BYTES: usize = 4;
/// The most bytes that stand for one byte of a name: `\u` and four digits, behind some backslashes.
const MAX_ESCAPED_BYTES: usize = 8;

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

    /// The body of an error without them, as far as it isn't too long. What isn't UTF-8 in it is lost.
    pub fn in_error<E, S>(self, body: S) -> impl Stream<Item = Result<Bytes, E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let whole = async move {
            let (mut body, mut read) = (body, BytesMut::new());
            let last = loop {
                match body.next().await {
                    Some(Ok(piece)) => read.extend_from_slice(&piece),
                    last => break last,
                }
                if read.len() > MAX_ERROR_BYTES {
                    break None;
                }
            };
            let shown = if read.len() > MAX_ERROR_BYTES {
                self.in_beginning(&read[..MAX_ERROR_BYTES])
            } else {
                self.in_text(&String::from_utf8_lossy(&read))
            };
            stream::iter([Ok(Bytes::from(shown))]).chain(stream::iter(last))
        };
        stream::once(whole).flatten()
    }

    /// The beginning of an error that goes on, without its end: a name or a character may be cut in half there.
    fn in_beginning(&self, read: &[u8]) -> String {
        let mut shown = self.in_text(&String::from_utf8_lossy(read));
        let longest = self.names.iter().map(String::len).max().unwrap_or_default();
        let left_out = longest * MAX_ESCAPED_BYTES + MAX_CHAR_BYTES;
        shown.truncate(shown.floor_char_boundary(shown.len().saturating_sub(left_out)));
        shown
    }

    /// A text without them. In JSON, or in JSON within it, their characters may be escaped.
    pub fn in_text(&self, text: &str) -> String {
        let public = if text.trim_start().starts_with(['{', '[', '"']) {
            let quoted = serde_json::Value::from(self.public.as_str()).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        } else {
            self.public.clone()
        };
        let (mut shown, mut rest, mut before) = (String::with_capacity(text.len()), text, None);
        while let Some((next, bytes)) = first_char(rest) {
            // A letter behind a backslash may be an escaped one, or the name's own.
            let backslashes = rest.len() - rest.trim_start_matches('\\').len();
            let named = match self.named_at(rest, before) {
                None if backslashes > 0 => self
                    .named_at(&rest[backslashes..], None)
                    .map(|named| (backslashes, named)),
                named => named.map(|named| (0, named)),
            };
            if let Some((skipped, named)) = named {
                shown.push_str(&rest[..skipped]);
                shown.push_str(&public);
                rest = &rest[skipped + named..];
                // What follows is no part of a name.
                before = None;
            } else {
                shown.push_str(&rest[..bytes]);
                rest = &rest[bytes..];
                before = Some(next);
            }
        }
        shown
    }

    /// How many bytes of a text are the name that it begins with, if that is no part of a longer one.
    fn named_at(&self, text: &str, before: Option<char>) -> Option<usize> {
        if before.is_some_and(is_part_of_name) {
            return None;
        }
        // Its own name may contain the other.
        let mut known = [&self.public].into_iter().chain(&self.names);
        known.find_map(|name| {
            let named = written(text, name)?;
            let behind = first_char(&text[named..]).map(|(char, _)| char);
            (!behind.is_some_and(is_part_of_name)).then_some(named)
        })
    }
}

fn is_part_of_name(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, '-' | '_')
}

/// How many bytes of a text are the name that it begins with, which may be escaped.
fn written(text: &str, name: &str) -> Option<usize> {
    let mut rest = text;
    for char in name.chars() {
        rest = match rest.strip_prefix(char) {
            Some(behind) if char == '\\' => behind.trim_start_matches(char),
            Some(behind) => behind,
            None => {
                let (meant, bytes) = first_char(rest)?;
                (meant == char).then(|| &rest[bytes..])?
            }
        };
    }
    Some(text.len() - rest.len())
}

/// The first character of a text as JSON means it, and how many bytes it takes. Within JSON that is itself a text there are more
/// backslashes.
fn first_char(text: &str) -> Option<(char, usize)> {
    let escaped = text.trim_start_matches('\\');
    let backslashes = text.len() - escaped.len();
    let next = escaped.chars().next();
    if backslashes == 0 {
        return next.map(|next| (next, next.len_utf8()));
    }
    let of_letter = |char| Some((char, backslashes + 1));
    let meant = match next {
        Some(same @ ('/' | '"')) => of_letter(same),
        Some('n' | 'r' | 't' | 'b' | 'f') => of_letter(' '),
        Some('u') => coded(escaped).map(|(char, bytes)| (char, backslashes + bytes)),
        _ => None,
    };
    Some(meant.unwrap_or(('\\', backslashes)))
}

/// The character that a text begins with as `u` and four digits, or as two of these, and how many bytes that takes.
fn coded(text: &str) -> Option<(char, usize)> {
    let unit = |text: &str| {
        let digits = text.strip_prefix('u')?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(text)?;
    let behind = &text[5..];
    let second = unit(behind.trim_start_matches('\\'));
    let backslashes = behind.len() - behind.trim_start_matches('\\').len();
    let units = [first].into_iter().chain(second.filter(|_| backslashes > 0));
    let char = char::decode_utf16(units).next()?;
    let (char, bytes) = match char {
        Ok(char) if char.len_utf16() == 2 => (char, 10 + backslashes),
        Ok(char) => (char, 5),
        Err(_) => (char::REPLACEMENT_CHARACTER, 5),
    };
    Some((char, bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use futures::{TryStreamExt, executor::block_on};

    pub(in crate::relay) fn hidden() -> HiddenNames {
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
    fn names_are_found_however_json_has_them() {
        for (text, shown) in [
            (r#"{"error":"no Org\/Own-7B"}"#, r#"{"error":"no Org/bot"}"#),
            (
                r#"{"error":"no Org\u002fOwn\u002D7B"}"#,
                r#"{"error":"no Org/bot"}"#,
            ),
            (
                r#"{"error":"{\"error\":\"no \\\"Org\\\/Own-7B\\\"\"}"}"#,
                r#"{"error":"{\"error\":\"no \\\"Org/bot\\\"\"}"}"#,
            ),
            (
                r#"{"error":"no model:\nown \u2018own\u2019"}"#,
                r#"{"error":"no model:\nOrg/bot \u2018Org/bot\u2019"}"#,
            ),
            (
                r#"{"error":"C:\\models\\own and C:\own"}"#,
                r#"{"error":"C:\\models\\Org/bot and C:\Org/bot"}"#,
            ),
            (
                r#"{"error":"\u00fcown own\u00fc \ud83d\ude00own \ud83d"}"#,
                r#"{"error":"\u00fcown own\u00fc \ud83d\ude00Org/bot \ud83d"}"#,
            ),
        ] {
            assert_eq!(hidden().in_text(text), shown);
        }
        let quoted = HiddenNames {
            public: "a\"b".to_owned(),
            names: vec!["modèle".to_owned(), "x\\new".to_owned()],
        };
        for (text, shown) in [
            (
                r#"{"error":"no mod\u00e8le or x\\new"}"#,
                r#"{"error":"no a\"b or a\"b"}"#,
            ),
            ("no modèle or x\\new", "no a\"b or a\"b"),
        ] {
            assert_eq!(quoted.in_text(text), shown);
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
    }

    #[test]
    fn an_error_that_is_no_text_or_too_long_has_no_name_either() {
        let all = |pieces: Vec<Bytes>| {
            let shown = hidden().in_error(stream::iter(pieces.into_iter().map(Ok::<_, ()>)));
            let shown: Vec<Bytes> = block_on(shown.try_collect()).expect("no error");
            String::from_utf8(shown.concat()).expect("text")
        };
        let latin = all(vec![Bytes::from_static(
            b"le mod\xe8le `Org/Own-7B` n'existe pas",
        )]);
        assert_eq!(latin, "le mod\u{fffd}le `Org/bot` n'existe pas");
        let named = "ü`Org/Own-7B`";
        for before in MAX_ERROR_BYTES - named.len()..=MAX_ERROR_BYTES {
            let long = vec![
                Bytes::from("x ".repeat(before / 2) + &"-".repeat(before % 2)),
                Bytes::from(named),
                Bytes::from("own ".repeat(MAX_ERROR_BYTES)),
            ];
            let shown = all(long);
            assert!(shown.len() <= MAX_ERROR_BYTES && shown.len() > MAX_ERROR_BYTES / 2);
            for part in ["Org/O", "Own", "own", "\u{fffd}"] {
                assert!(!shown.contains(part), "{before}: {part}");
            }
        }
    }
}
