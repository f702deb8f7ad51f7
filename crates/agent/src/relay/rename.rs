//! Changes the `model` of a request's body, and nothing else.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::ops::Range;

#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
}

/// Replaces the `model` of a body by what `rename` returns for it, if anything. All other bytes stay the same, and so does a
/// body without a `model`. Returns also the model that the body names then.
pub(super) fn rename(body: Bytes, rename: impl FnOnce(&str) -> Option<String>) -> (Bytes, Option<String>) {
    let Some((asked, place)) = model_of(&body) else {
        return (body, None);
    };
    let Some(name) = rename(&asked).filter(|name| *name != asked) else {
        return (body, Some(asked));
    };
    let quoted = serde_json::Value::from(name.as_str()).to_string();
    let mut changed = BytesMut::with_capacity(body.len() + quoted.len());
    changed.extend_from_slice(&body[..place.start]);
    changed.extend_from_slice(quoted.as_bytes());
    changed.extend_from_slice(&body[place.end..]);
    (changed.freeze(), Some(name))
}

/// The model that a body names, and where.
fn model_of(body: &[u8]) -> Option<(String, Range<usize>)> {
    let text = std::str::from_utf8(body).ok()?;
    let raw = serde_json::from_str::<Peek<'_>>(text).ok()?.model.get();
    let model = serde_json::from_str(raw).ok()?;
    let start = raw.as_ptr().addr() - text.as_ptr().addr();
    Some((model, start..start + raw.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_top_level_model_changes() {
        let to = |name: &str| (name == "a\"b").then(|| "Q/\"c".to_owned());
        for (body, changed, model) in [
            (
                r#" { "x": {"model":"a\"b"}, "model" :  "a\"b" , "n": 1.0e5, "ü": [1,  2] } "#,
                r#" { "x": {"model":"a\"b"}, "model" :  "Q/\"c" , "n": 1.0e5, "ü": [1,  2] } "#,
                Some("Q/\"c"),
            ),
            (r#"{"model":"other"}"#, r#"{"model":"other"}"#, Some("other")),
            (r#"{"model":7}"#, r#"{"model":7}"#, None),
            (r#"{"messages":[]}"#, r#"{"messages":[]}"#, None),
            ("not json", "not json", None),
            ("", "", None),
        ] {
            let (renamed, named) = rename(Bytes::from_static(body.as_bytes()), to);
            assert_eq!(
                (renamed.as_ref(), named.as_deref()),
                (changed.as_bytes(), model),
                "{body}"
            );
        }
    }
}
