//! Why an API isn't ready, by its own answer.

use super::format::printable;
use serde_json::Value;

/// The reason in an answer to `/readyz`, or else the checks that fail.
pub fn missing(answer: &Value) -> String {
    if let Some(reason) = answer["reason"].as_str() {
        return printable(reason);
    }
    let checks = answer["checks"].as_object().into_iter().flatten();
    let failing: Vec<_> = checks
        .filter(|(_, passed)| **passed == Value::Bool(false))
        .map(|(check, _)| printable(check))
        .collect();
    if failing.is_empty() {
        return "it gives no reason".to_owned();
    }
    format!("waiting for {}", failing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn failing_checks_are_named() {
        let answer =
            json!({"status": "not_ready", "checks": {"registry": true, "nats": false, "clock": false}});
        let said = missing(&answer);
        assert!(
            said.contains("nats") && said.contains("clock") && !said.contains("registry"),
            "{said}"
        );
        assert_eq!(missing(&json!({})), "it gives no reason");
        let full = json!({"status": "not_ready", "reason": "the disk is full", "checks": {"journal": false}});
        assert_eq!(missing(&full), "the disk is full");
    }
}
