//! `reveille health`: whether an API is ready, as an exit code for service managers and container engines.

use super::{ApiClient, output::line};
use crate::{args::ApiAddress, failure::Failure};
use anyhow::anyhow;
use reqwest::Method;
use serde_json::Value;

/// The status of an API that has all it needs.
const READY: &str = "ready";

/// Succeeds if the API is ready.
pub async fn health(address: &ApiAddress) -> Result<(), Failure> {
    let client = ApiClient::new(address)?;
    let answer = client.body(client.request(Method::GET, "/readyz")).await?;
    if answer["status"] == READY {
        return line(READY);
    }
    let missing = missing(&answer);
    Err(anyhow!("the API is not ready: {missing}").into())
}

/// The checks that fail.
fn missing(answer: &Value) -> String {
    let checks = answer["checks"].as_object().into_iter().flatten();
    let failing: Vec<_> = checks
        .filter(|(_, passed)| **passed == Value::Bool(false))
        .map(|(check, _)| super::format::printable(check))
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
    }
}
