//! Changes the `model` of a request's body, and nothing else.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
}

/// Replaces the `model` of a body by what `rename` returns for it, if anything. All other bytes stay the same, and so does a
/// body without a `model`.
pub(super) fn rename(body: Bytes, rename: impl FnOnce(&str) -> Option<String>) -> Bytes {
    renamed(&body, rename).unwrap_or(body)
}

fn renamed(body: &[u8], rename: impl FnOnce(&str) -> Option<String>) -> Option<Bytes> {
    let text = std::str::from_utf8(body).ok()?;
    let raw = serde_json::from_str::<Peek<'_>>(text).ok()?.model.get();
    let asked: String = serde_json::from_str(raw).ok()?;
    let name = rename(&asked).filter(|name| *name != asked)?;
    let start = raw.as_ptr().addr() - text.as_ptr().addr();
    let name = serde_json::to_vec(&name).ok()?;
    let mut changed = BytesMut::with_capacity(body.len() + name.len());
    changed.extend_from_slice(&body[..start]);
    changed.extend_from_slice(&name);
    changed.extend_from_slice(&body[start + raw.len()..]);
    Some(changed.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_top_level_model_changes() {
        let to = |name: &str| (name == "a\"b").then(|| "Q/\"c".to_owned());
        for (body, changed) in [
            (
                r#" { "x": {"model":"a\"b"}, "model" :  "a\"b" , "n": 1.0e5, "ü": [1,  2] } "#,
                r#" { "x": {"model":"a\"b"}, "model" :  "Q/\"c" , "n": 1.0e5, "ü": [1,  2] } "#,
            ),
            (r#"{"model":"other"}"#, r#"{"model":"other"}"#),
            (r#"{"model":7}"#, r#"{"model":7}"#),
            (r#"{"messages":[]}"#, r#"{"messages":[]}"#),
            ("not json", "not json"),
            ("", ""),
        ] {
            assert_eq!(rename(Bytes::from_static(body.as_bytes()), to), changed, "{body}");
        }
    }
}
