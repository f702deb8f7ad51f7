//! Reads JSON as some servers write it.
//!
//! Python's `json` writes `NaN` and `Infinity`, which JSON doesn't have, and others put a byte order mark before it. Callers get such
//! answers as they are, so they show that a backend works.

use serde_json::Value;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The JSON in `text`; `null` for each number that JSON has no word for, or no room.
pub(crate) fn read(text: &[u8]) -> Option<Value> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let read = serde_json::from_slice(text);
    read.or_else(|_| serde_json::from_str(&with_nulls(&String::from_utf8_lossy(text))))
        .ok()
}

/// The same with `null` for each number outside of strings that is none in JSON.
fn with_nulls(text: &str) -> String {
    let mut nulled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (part, after) = rest.split_at(match first {
            '"' => string_end(rest),
            _ if is_of_word(first) => rest.find(|next| !is_of_word(next)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        });
        let is_number = is_of_word(first) && part.parse::<f64>().is_ok();
        let is_odd = is_number && serde_json::from_str::<Value>(part).is_err();
        nulled.push_str(if is_odd { "null" } else { part });
        rest = after;
    }
    nulled
}

const fn is_of_word(next: char) -> bool {
    next.is_ascii_alphanumeric() || matches!(next, '+' | '-' | '.' | '_')
}

/// Where the string ends that `text` begins with.
fn string_end(text: &str) -> usize {
    let mut escaped = true;
    let end = text.find(|next| {
        let ends = next == '"' && !escaped;
        escaped = !escaped && next == '\\';
        ends
    });
    end.map_or(text.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_json_has_no_word_for_is_null_and_everything_else_stays() {
        for (text, is) in [
            ("{\"a\": 1.5}", Some(json!({"a": 1.5}))),
            ("\u{feff}{\"a\": 1}", Some(json!({"a": 1}))),
            (
                r#"{"a": NaN, "b": [-Infinity, 1e400, -2e3, true, null], "c": "NaN \" Infinity"}"#,
                Some(json!({"a": null, "b": [null, null, -2e3, true, null], "c": "NaN \" Infinity"})),
            ),
            (r#"{"a": "x\\", "b": NaN}"#, Some(json!({"a": "x\\", "b": null}))),
            ("canary-1", None),
            ("[undefined]", None),
            ("", None),
            ("<h1>Sign in</h1>", None),
            ("{\"a\": NaN", None),
            ("{\"a\": \"NaN", None),
            ("\"", None),
        ] {
            assert_eq!(read(text.as_bytes()), is, "{text}");
        }
        let latin_1 = b"{\"name\": \"Z\xfcrich\", \"id\": \"m\"}";
        assert_eq!(read(latin_1).expect("readable")["id"], "m");
    }
}
