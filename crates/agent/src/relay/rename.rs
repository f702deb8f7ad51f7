//! Changes the `model` of a request's JSON, form or query, and nothing else.

use bytes::{Bytes, BytesMut};
use reveille_bus::relay::FormReader;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::ops::Range;
use url::form_urlencoded;

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
    (replaced(&body, place, &quoted), Some(name))
}

fn replaced(body: &[u8], place: Range<usize>, text: &str) -> Bytes {
    let mut changed = BytesMut::with_capacity(body.len() + text.len());
    changed.extend_from_slice(&body[..place.start]);
    changed.extend_from_slice(text.as_bytes());
    changed.extend_from_slice(&body[place.end..]);
    changed.freeze()
}

/// Replaces the `model` of a form in the same way. `body` is its beginning, which `form` has read.
pub(super) fn rename_in_form(
    body: Bytes,
    form: &FormReader,
    rename: impl FnOnce(&str) -> Option<String>,
) -> (Bytes, Option<String>) {
    let Some(place) = model_in(form) else {
        return (body, None);
    };
    let asked = String::from_utf8_lossy(&body[place.clone()]).into_owned();
    let Some(name) = rename(&asked).filter(|name| *name != asked) else {
        return (body, Some(asked));
    };
    (replaced(&body, place, &name), Some(name))
}

/// Replaces the `model` of a query in the same way.
pub(super) fn rename_in_query(
    query: &str,
    rename: impl FnOnce(&str) -> Option<String>,
) -> (String, Option<String>) {
    let named = |part: &str| {
        let (key, model) = form_urlencoded::parse(part.as_bytes()).next()?;
        (key == "model").then(|| model.into_owned())
    };
    let mut parts: Vec<_> = query.split('&').map(str::to_owned).collect();
    let found = parts.iter_mut().find_map(|part| Some((named(part)?, part)));
    let Some((asked, part)) = found else {
        return (query.to_owned(), None);
    };
    let Some(name) = rename(&asked).filter(|name| *name != asked) else {
        return (query.to_owned(), Some(asked));
    };
    *part = form_urlencoded::Serializer::new(String::new())
        .append_pair("model", &name)
        .finish();
    (parts.join("&"), Some(name))
}

/// Where the `model` of a form is, if all of it has come.
pub(super) fn model_in(form: &FormReader) -> Option<Range<usize>> {
    let whole = form.whole_parts().iter();
    let mut models = whole.filter(|part| part.name == "model" && !part.is_file);
    models.next().map(|part| part.content.clone())
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

    #[test]
    fn only_the_model_of_a_form_changes() {
        let part = |head: &str, content: &str| {
            format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
        };
        let form = |model: &str| {
            let file = part("name=\"file\"; filename=\"model\"", "model\r\nwhisper");
            format!(
                "{file}{}{}--b--\r\n",
                part("name=\"model\"", model),
                part("name=\"x\"", "whisper")
            )
        };
        let to = |name: &str| (name == "whisper").then(|| "Org/W".to_owned());
        for (body, changed, model) in [
            (form("whisper"), form("Org/W"), Some("Org/W")),
            (form("other"), form("other"), Some("other")),
            ("no form".to_owned(), "no form".to_owned(), None),
        ] {
            let mut form = FormReader::new("b");
            // What is no form has no model.
            let _ = form.read(body.as_bytes());
            let (renamed, named) = rename_in_form(Bytes::from(body), &form, to);
            assert_eq!((renamed.as_ref(), named.as_deref()), (changed.as_bytes(), model));
        }
    }

    #[test]
    fn only_the_model_of_a_query_changes() {
        let to = |name: &str| (name == "a/b c").then(|| "Q&d".to_owned());
        for (query, changed, model) in [
            (
                "model=a%2Fb+c&autoload=%31",
                "model=Q%26d&autoload=%31",
                Some("Q&d"),
            ),
            ("x=model&mo%64el=a/b%20c", "x=model&model=Q%26d", Some("Q&d")),
            ("model=other&x", "model=other&x", Some("other")),
            ("models=a/b+c", "models=a/b+c", None),
        ] {
            let (renamed, named) = rename_in_query(query, to);
            assert_eq!((renamed.as_str(), named.as_deref()), (changed, model), "{query}");
        }
    }
}
