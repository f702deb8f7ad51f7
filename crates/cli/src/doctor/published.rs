//! What the API says of the providers of all agents: which are down, whose wakes fail, and at which requests fail.

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

/// Adds a warning if a provider doesn't work.
pub fn provider(row: &Row, now: Timestamp, findings: &mut Findings) {
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
    wakes(row, &check, now, findings);
    let failed = &row["failed_requests"];
    let (count, last) = (&failed["count"], printable(field(failed, "last")));
    let ago = age(&failed["last_at_ms"], now);
    let remedy = format!("check the backend's log on the machine of {agent}");
    if failed["suspect"] == true {
        let found = format!(
            "failed requests in a row: {count}, the last one {ago} ago: {last}; none has succeeded since"
        );
        findings.warning(check, found, remedy);
    } else if is_recent(failed, now) {
        // It is no longer suspected after a success, but also after any change of its status.
        let found = format!(
            "failed requests in a row: {count}, the last one {ago} ago: {last}; none has failed since"
        );
        findings.warning(check, found, remedy);
    }
}

/// Adds a warning if the last wakes failed.
fn wakes(row: &Row, check: &str, now: Timestamp, findings: &mut Findings) {
    let failures = &row["failures"];
    let wakes = row["last_wakes"].as_array().and_then(|wakes| wakes.last());
    let count = failures["count"].as_u64().unwrap_or_default();
    if count == 0 || !["hibernating", "waking"].contains(&field(row, "status")) {
        return;
    }
    let ago = wakes.map_or_else(String::new, |wake| {
        format!(", the last one {} ago", age(&wake["ended_at_ms"], now))
    });
    let last = printable(field(&failures["last"], "reason"));
    let found = format!("failed wakes in a row: {count}{ago}: {last}");
    let remedy = format!(
        "read `reveille logs {name}` on the machine of {}, and correct its [provider.wake] until `reveille recipe test {name} \
         --config FILE` succeeds there",
        printable(field(row, "agent")),
        name = printable(field(row, "provider")),
    );
    findings.warning(check, found, remedy);
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
            let row = json!({"id": "pc/ollama", "agent": "pc", "status": status, "since_ms": ago(90), "failed_requests": failed,
                "failures": {"count": 0}});
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
        let failing =
            "failed requests in a row: 3, the last one 12s ago: HTTP status 500; none has succeeded since";
        assert_eq!(found("active", failed(true, 12)).as_deref(), Some(failing));
        let over =
            "failed requests in a row: 3, the last one 12s ago: HTTP status 500; none has failed since";
        assert_eq!(found("active", failed(false, 12)).as_deref(), Some(over));
    }

    #[test]
    fn wakes_that_fail_are_a_warning_with_the_last_failure_and_the_command_that_tests_the_recipe() {
        let now = Timestamp::now();
        let ended = |seconds: i64| json!({"ended_at_ms": now.as_millisecond() - seconds * 1_000});
        let findings = |status: &str, count: u32| {
            let mut findings = Findings::default();
            let row = json!({"id": "pc/vllm", "agent": "pc", "provider": "vllm", "status": status,
                "last_wakes": [ended(600), ended(12)],
                "failures": {"count": count, "last": {"kind": "recipe", "stage": "step 1 command", "reason": "step 1 command: exited with code 3"}}});
            provider(&row, now, &mut findings);
            findings.0.pop()
        };
        assert!(findings("hibernating", 0).is_none());
        assert!(findings("active", 3).is_none(), "somebody else has started it");
        let found = findings("hibernating", 3).expect("a warning");
        assert_eq!(found.level, Level::Warning);
        assert_eq!(
            found.found,
            "failed wakes in a row: 3, the last one 12s ago: step 1 command: exited with code 3"
        );
        let remedy = found.remedy.expect("a remedy");
        for command in [
            "`reveille logs vllm`",
            "`reveille recipe test vllm --config FILE`",
        ] {
            assert!(remedy.contains(command), "{command}: {remedy}");
        }
    }
}
