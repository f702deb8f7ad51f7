//! What the API says of the providers of all agents: which are down, and at which requests fail.

use super::Findings;
use crate::client::{ApiClient, Row, age, field, printable};
use jiff::Timestamp;
use std::time::Duration;

/// For this long after requests have failed, it is worth a word even if they succeed again.
const RECENT: Duration = Duration::from_secs(10 * 60);

/// Adds a warning for each provider that doesn't work.
pub async fn look(api: &ApiClient, findings: &mut Findings) {
    match api.rows("/reveille/v1/providers", &[], usize::MAX).await {
        Ok(providers) => {
            let now = Timestamp::now();
            providers.iter().for_each(|row| provider(row, now, findings));
        }
        // Such as an API that requires a key.
        Err(failure) => {
            let failure = failure.to_string();
            let reason = failure.lines().next().unwrap_or_default();
            findings.ok("providers", format!("not checked: {reason}"));
        }
    }
}

fn provider(row: &Row, now: Timestamp, findings: &mut Findings) {
    let (id, agent) = (field(row, "id"), field(row, "agent"));
    let check = format!("provider {}", printable(id));
    if field(row, "status") == "down" {
        let found = format!(
            "down for {}: its backend is unavailable, and it has no [provider.wake]",
            age(&row["since_ms"], now)
        );
        let remedy =
            format!("start its backend on the machine of {agent}, or add a [provider.wake] that does");
        return findings.warning(check, found, remedy);
    }
    let failed = &row["failed_requests"];
    let (count, last) = (&failed["count"], printable(field(failed, "last")));
    let ago = age(&failed["last_at_ms"], now);
    let remedy = format!("check the backend's log on the machine of {agent}");
    if failed["suspect"] == true {
        let found = format!("failed requests in a row: {count}, the last one {ago} ago: {last}");
        findings.warning(check, found, remedy);
    } else if is_recent(failed, now) {
        let found =
            format!("requests failed until {ago} ago: {count}, the last one: {last}; it answers again");
        findings.warning(check, found, remedy);
    }
}

fn is_recent(failed: &Row, now: Timestamp) -> bool {
    let at = failed["last_at_ms"]
        .as_i64()
        .and_then(|at| Timestamp::from_millisecond(at).ok());
    at.is_some_and(|at| now.duration_since(at).unsigned_abs() < RECENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use serde_json::json;

    #[test]
    fn providers_that_are_down_or_fail_or_did_lately_are_warnings() {
        let now = Timestamp::now();
        let ago = |seconds: i64| now.as_millisecond() - seconds * 1_000;
        let failed = |suspect, seconds| json!({"suspect": suspect, "count": 3, "last_at_ms": ago(seconds), "last": "HTTP status 500"});
        let found = |status: &str, failed: Row| {
            let mut findings = Findings::default();
            let row = json!({"id": "pc/ollama", "agent": "pc", "status": status, "since_ms": ago(90), "failed_requests": failed});
            provider(&row, now, &mut findings);
            let found = findings.0.pop();
            found.map(|finding| {
                assert_eq!(
                    (finding.level, finding.check.as_str()),
                    (Level::Warning, "provider pc/ollama")
                );
                finding.found
            })
        };
        assert_eq!(found("active", Row::Null), None);
        assert_eq!(found("hibernating", Row::Null), None);
        assert_eq!(found("active", failed(false, 3_600)), None, "that is over");
        let down = "down for 1m30s: its backend is unavailable, and it has no [provider.wake]";
        assert_eq!(found("down", failed(true, 5)).as_deref(), Some(down));
        let failing = "failed requests in a row: 3, the last one 12s ago: HTTP status 500";
        assert_eq!(found("active", failed(true, 12)).as_deref(), Some(failing));
        let again = "requests failed until 12s ago: 3, the last one: HTTP status 500; it answers again";
        assert_eq!(found("active", failed(false, 12)).as_deref(), Some(again));
    }
}
