//! `expect`: whether the JSON of a backend's answer contains what the config asks for.

use serde_json::Value;

/// Whether `found` contains `expect`: objects may have more keys, and lists more entries in any order; everything else must be
/// equal.
pub(crate) fn contains(found: &Value, expect: &Value) -> bool {
    match (found, expect) {
        (Value::Object(found), Value::Object(expect)) => expect
            .iter()
            .all(|(key, expect)| found.get(key).is_some_and(|found| contains(found, expect))),
        (Value::Array(found), Value::Array(expect)) => expect
            .iter()
            .all(|expect| found.iter().any(|found| contains(found, expect))),
        // 1 and 1.0 are the same number, whichever the config or the backend wrote.
        (Value::Number(found), Value::Number(expect)) => found == expect || found.as_f64() == expect.as_f64(),
        (found, expect) => found == expect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_may_say_more_than_is_expected_and_nothing_else() {
        for (found, expect, fits) in [
            (
                json!({"is_sleeping": false, "x": 1}),
                json!({"is_sleeping": false}),
                true,
            ),
            (json!({"is_sleeping": true}), json!({"is_sleeping": false}), false),
            (json!({}), json!({"is_sleeping": false}), false),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 1.0}}), true),
            (
                json!({"a": [1, {"b": 2, "c": 3}]}),
                json!({"a": [1, {"b": 2}]}),
                true,
            ),
            (json!({"a": [1, 2]}), json!({"a": [2]}), true),
            (json!({"a": [1, 2]}), json!({"a": [2, 1]}), true),
            (json!({"a": [1, 2]}), json!({"a": [1, 3]}), false),
            (json!({"a": []}), json!({"a": [1]}), false),
            (
                json!({"data": [{"id": "a", "on": true}, {"id": "b", "on": false}]}),
                json!({"data": [{"id": "b", "on": true}]}),
                false,
            ),
            (json!({"a": {"b": 1}}), json!({"a": [1]}), false),
            (json!("ok"), json!("ok"), true),
            (json!("1"), json!(1), false),
        ] {
            assert_eq!(contains(&found, &expect), fits, "{found} {expect}");
        }
    }
}
