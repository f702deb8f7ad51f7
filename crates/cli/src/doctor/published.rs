//! What the API says of the providers of all agents: which are down, whose wakes fail, and at which requests fail.

use super::Findings;
use crate::client::{ApiClient, Row, age, ago, field, printable, table::NOT_ALLOWED, timestamp};
use jiff::Timestamp;
use reveille_domain::{MODELS_STAGE, PAUSED_STAGE, counted, provider::STABLE_AFTER};
use serde_json::json;
use std::time::Duration;

/// The stage of a wake that a provider may no longer begin today.
const USED_UP_STAGE: &str = "max_per_day";
/// The kind of failure of a backend that ended, or answered no more, after its wake had succeeded.
const DIED: &str = "died";
/// How long a failed backend that was woken again is still told.
const RECENT: Duration = Duration::from_secs(60 * 60);

/// Adds a warning for each provider and agent that doesn't work.
pub async fn look(api: &ApiClient, findings: &mut Findings) {
    if let Ok(agents) = api.rows("/reveille/v1/agents", &[], usize::MAX).await {
        agents.iter().for_each(|row| agent(row, findings));
    }
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

/// Adds a warning if the agent is the hub's own and was revoked. Another one that was revoked is away for good.
pub fn agent(row: &Row, findings: &mut Findings) {
    if field(row, "status") == "revoked" && row["admitted_at_start"] == true {
        findings.warning(
            format!("agent {}", printable(field(row, "agent"))),
            "it is the hub's own, and was revoked: nothing on the hub's machine is served",
            "`reveille down` and `reveille up` there admit it again",
        );
    }
}

/// Adds a warning if a provider doesn't work.
pub fn provider(row: &Row, now: Timestamp, findings: &mut Findings) {
    let (id, agent) = (field(row, "id"), field(row, "agent"));
    let check = format!("provider {}", printable(id));
    overruled(row, &check, findings);
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
    if let Some(reason) = row["stays_awake"]["reason"].as_str() {
        let remedy = if row["can_sleep"] == false {
            format!("add a [provider.sleep] to it in the config of {agent}")
        } else {
            format!(
                "see to that on the machine of {agent}; `reveille sleep {}` tries it again",
                printable(id)
            )
        };
        let found = format!("it was to sleep and stays awake: {}", printable(reason));
        findings.warning(check.as_str(), found, remedy);
    }
    let failed = &row["failed_requests"];
    // After any change of its status they say nothing about it.
    if failed["suspect"] == true {
        let found = format!(
            "{}: {}; none has succeeded since",
            in_a_row(&failed["count"], "request", &failed["last_at_ms"], now),
            printable(field(failed, "last"))
        );
        findings.warning(
            check,
            found,
            format!("check the backend's log on the machine of {agent}"),
        );
    }
}

/// Adds a warning for each name that means something else at another provider, to which all requests for it go.
fn overruled(row: &Row, check: &str, findings: &mut Findings) {
    for name in row["overruled"].as_array().into_iter().flatten() {
        let (model, at) = (printable(field(name, "name")), printable(field(name, "at")));
        let (is, means) = (printable(field(name, "is")), printable(field(name, "means")));
        let another = if is == means { "another" } else { "a" };
        let remedy = format!(
            "rename one of them, by `as` of a model or `name` of a preset; `{}/{model}` reaches this one",
            printable(field(row, "agent"))
        );
        let found =
            format!("its {is} `{model}` gets no requests by that name: at {at} it is {another} {means}");
        findings.warning(check, found, remedy);
    }
}

/// Adds a warning if the last wakes failed, or the backend did after a wake.
fn wakes(row: &Row, check: &str, now: Timestamp, findings: &mut Findings) {
    let failures = &row["failures"];
    if failures["count"].as_u64().unwrap_or_default() == 0 {
        return;
    }
    if failures["last"]["kind"] == DIED {
        return died(row, check, now, findings);
    }
    if !["hibernating", "waking"].contains(&field(row, "status")) {
        return;
    }
    let ended = row["last_wakes"].as_array().map_or(&[][..], Vec::as_slice);
    // An owner's refusal is no failure.
    let ended = || {
        ended
            .iter()
            .rev()
            .filter(|wake| wake["failure"]["kind"] != NOT_ALLOWED)
    };
    let (at, last) = match ended().next() {
        // The recipe works, though the count goes on until the backend has stayed awake for a while.
        Some(wake) if wake["failure"].is_null() => return,
        Some(wake) => (&wake["ended_at_ms"], &wake["failure"]),
        None => (&Row::Null, &failures["last"]),
    };
    let (count, since) = match ended().position(|wake| wake["failure"].is_null()) {
        Some(in_a_row) if json!(in_a_row) != failures["count"] => (
            json!(in_a_row),
            format!(
                " ({} since it last stayed awake for {} s)",
                counted(failures["count"].as_u64().unwrap_or_default(), "failure"),
                STABLE_AFTER.as_secs()
            ),
        ),
        _ => (failures["count"].clone(), String::new()),
    };
    let found = format!(
        "{}{since}: {}",
        in_a_row(&count, "wake", at, now),
        printable(field(last, "reason"))
    );
    let (agent, name) = (printable(field(row, "agent")), printable(field(row, "provider")));
    let remedy = match field(last, "stage") {
        MODELS_STAGE => {
            format!("load that model there, or correct `models` or `base_url` in the config of {agent}")
        }
        _ => format!(
            "read `reveille logs {name}` on the machine of {agent}, and correct its [provider.wake] until `reveille recipe test \
             {name} --config FILE` succeeds there"
        ),
    };
    findings.warning(check, found, remedy);
}

/// Adds a warning about a backend that failed after its wake had succeeded, for [`RECENT`] after it was woken again.
fn died(row: &Row, check: &str, now: Timestamp, findings: &mut Findings) {
    let (failures, since) = (&row["failures"], &row["since_ms"]);
    let what = match field(row, "status") {
        "hibernating" => "its backend failed after its wake had succeeded".to_owned(),
        "waking" => "its backend failed, and is being woken again".to_owned(),
        "active" if is_recent(since, now) => {
            format!("its backend failed, and was woken again {}", ago(since, now))
        }
        _ => return,
    };
    let reason = printable(field(&failures["last"], "reason"));
    let count = match failures["count"].as_u64() {
        Some(..=1) | None => String::new(),
        Some(count) => format!("; that was failure {count} in a row"),
    };
    let remedy = format!(
        "read `reveille logs {}` on the machine of {}, or the backend's own log",
        printable(field(row, "provider")),
        printable(field(row, "agent"))
    );
    findings.warning(check, format!("{what}: {reason}{count}"), remedy);
}

fn is_recent(at: &Row, now: Timestamp) -> bool {
    timestamp(at).is_some_and(|at| now.duration_since(at).unsigned_abs() < RECENT)
}

/// Such as `the last 3 wakes failed, the last one 1m ago`.
fn in_a_row(count: &Row, what: &str, at: &Row, now: Timestamp) -> String {
    match count.as_u64() {
        count if at.is_null() => format!("{} failed", counted(count.unwrap_or(1), what)),
        Some(..=1) | None => format!("the last {what} failed {}", ago(at, now)),
        Some(count) => format!("the last {count} {what}s failed, the latest {}", ago(at, now)),
    }
}

/// Adds what the owners of machines hold back: the agents that are paused or in quiet hours, and the providers that may not wake
/// any more today.
pub fn held_back(agents: &[Row], providers: &[Row], now: Timestamp, held: &mut Findings) {
    for row in agents {
        let refused = &row["wakes_refused"];
        if refused.is_null() {
            continue;
        }
        let agent = printable(field(row, "agent"));
        let remedy = if field(refused, "stage") == PAUSED_STAGE {
            format!("run `reveille agent resume` on the machine of {agent} to end the pause")
        } else {
            format!("nothing to do if this is intended; agent.quiet_hours in the config of {agent} sets them")
        };
        let found = format!("nothing is woken: {}", printable(field(refused, "reason")));
        held.warning(format!("agent {agent}"), found, remedy);
    }
    for row in providers {
        let (last, wakes) = (&row["failures"]["last"], row["last_wakes"].as_array());
        let is_used_up = last["kind"] == NOT_ALLOWED && last["stage"] == USED_UP_STAGE;
        if !is_used_up || field(row, "status") != "hibernating" || !row["wakes_refused"].is_null() {
            continue;
        }
        let when = wakes
            .and_then(|wakes| wakes.last())
            .map(|wake| &wake["ended_at_ms"]);
        held.warning(
            format!("provider {}", printable(field(row, "id"))),
            format!(
                "it was not woken {}: {}",
                ago(when.unwrap_or(&Row::Null), now),
                printable(field(last, "reason"))
            ),
            format!(
                "nothing to do if this is intended; otherwise raise provider.wake.max_per_day in the config of {}",
                printable(field(row, "agent"))
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn providers_that_are_down_or_fail_are_warnings_until_a_success() {
        let now = Timestamp::now();
        let ago = |seconds: i64| now.as_millisecond() - seconds * 1_000;
        let failed = |count, suspect, seconds| json!({"suspect": suspect, "count": count, "last_at_ms": ago(seconds), "last": "HTTP status 500"});
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
        assert_eq!(found("active", failed(3, false, 12)), None, "its status changed");
        let down = "down for 1m30s: its backend is unavailable, and it has no [provider.wake]";
        assert_eq!(found("down", failed(3, true, 5)).as_deref(), Some(down));
        for (count, expected) in [
            (
                1,
                "the last request failed 12s ago: HTTP status 500; none has succeeded since",
            ),
            (
                3,
                "the last 3 requests failed, the latest 12s ago: HTTP status 500; none has succeeded since",
            ),
        ] {
            assert_eq!(
                found("active", failed(count, true, 12)).as_deref(),
                Some(expected)
            );
        }
    }

    #[test]
    fn a_name_that_means_something_else_elsewhere_is_a_warning_with_where_and_what_to_rename() {
        let mut findings = Findings::default();
        let name = |is: &str| json!({"name": "bot", "is": is, "means": "preset", "at": "lab/vllm"});
        let row = json!({"id": "pc/ollama", "agent": "pc", "status": "active", "overruled": [name("model"), name("preset")],
            "failures": {"count": 0}});
        provider(&row, Timestamp::now(), &mut findings);
        let found: Vec<_> = findings.0.iter().map(|finding| finding.found.as_str()).collect();
        assert_eq!(
            found,
            [
                "its model `bot` gets no requests by that name: at lab/vllm it is a preset",
                "its preset `bot` gets no requests by that name: at lab/vllm it is another preset"
            ]
        );
        let remedy = findings.0[0].remedy.as_deref().expect("a remedy");
        assert!(remedy.contains("`pc/bot` reaches this one"), "{remedy}");
    }

    #[test]
    fn the_hubs_own_agent_that_was_revoked_is_a_warning_until_the_next_start() {
        let found = |status: &str, own: bool| {
            let mut findings = Findings::default();
            agent(
                &json!({"agent": "pc", "status": status, "admitted_at_start": own}),
                &mut findings,
            );
            findings.0.pop().and_then(|found| found.remedy)
        };
        assert_eq!(found("connected", true), None);
        assert_eq!(found("revoked", false), None);
        let remedy = found("revoked", true).expect("a warning");
        assert!(remedy.contains("`reveille up`"), "{remedy}");
    }

    #[test]
    fn a_wake_that_found_other_models_sends_nobody_to_the_recipe() {
        let failure =
            json!({"kind": "recipe", "stage": "models", "reason": "the server there lists `a`, not `b`"});
        let mut findings = Findings::default();
        let row = json!({"id": "pc/vllm", "agent": "pc", "provider": "vllm", "status": "hibernating",
            "last_wakes": [{"ended_at_ms": 1, "failure": failure}], "failures": {"count": 1, "last": failure}});
        provider(&row, Timestamp::now(), &mut findings);
        let remedy = findings.0.pop().and_then(|found| found.remedy).expect("a remedy");
        assert!(remedy.contains("correct `models`"), "{remedy}");
    }

    #[test]
    fn a_backend_that_was_to_sleep_and_stays_awake_is_a_warning_with_the_reason() {
        let row = |stays: Row| json!({"id": "pc/ollama", "agent": "pc", "provider": "ollama", "status": "active", "can_sleep": true, "stays_awake": stays});
        let mut findings = Findings::default();
        provider(&row(Row::Null), Timestamp::now(), &mut findings);
        assert!(findings.all().is_empty());
        let reason = "port 11434 is taken by `ollama` (process 7)";
        provider(
            &row(json!({"attempt": 1, "reason": reason})),
            Timestamp::now(),
            &mut findings,
        );
        let found = findings.0.pop().expect("a warning");
        assert_eq!(found.level, Level::Warning);
        assert!(found.found.ends_with(reason), "{}", found.found);
        assert!(
            found
                .remedy
                .expect("a remedy")
                .contains("`reveille sleep pc/ollama`"),
            "what to do next"
        );
        let mut row = row(json!({"attempt": 1, "reason": "it has no sleep recipe"}));
        row["can_sleep"] = false.into();
        provider(&row, Timestamp::now(), &mut findings);
        let remedy = findings.0.pop().and_then(|found| found.remedy).expect("a remedy");
        assert!(remedy.starts_with("add a [provider.sleep]"), "{remedy}");
    }

    #[test]
    fn wakes_that_fail_are_a_warning_with_the_last_failure_and_the_command_that_tests_the_recipe() {
        let now = Timestamp::now();
        let ended = |seconds: i64, kind: &str| {
            json!({"ended_at_ms": now.as_millisecond() - seconds * 1_000,
            "failure": {"kind": kind, "reason": "step 1 command: exited with code 3"}})
        };
        let findings = |status: &str, count: u32| {
            let mut findings = Findings::default();
            let row = json!({"id": "pc/vllm", "agent": "pc", "provider": "vllm", "status": status,
                "last_wakes": [ended(600, "recipe"), ended(12, "recipe"), ended(1, "not_allowed")],
                "failures": {"count": count, "last": {"kind": "not_allowed", "stage": "paused", "reason": "its owner has paused it"}}});
            provider(&row, now, &mut findings);
            findings.0.pop()
        };
        assert!(findings("hibernating", 0).is_none());
        assert!(findings("active", 3).is_none(), "somebody else has started it");
        let found = findings("hibernating", 3).expect("a warning");
        assert_eq!(found.level, Level::Warning);
        assert_eq!(
            found.found,
            "the last 3 wakes failed, the latest 12s ago: step 1 command: exited with code 3"
        );
        let remedy = found.remedy.expect("a remedy");
        for command in [
            "`reveille logs vllm`",
            "`reveille recipe test vllm --config FILE`",
        ] {
            assert!(remedy.contains(command), "{command}: {remedy}");
        }
    }

    #[test]
    fn only_the_wakes_since_the_last_success_failed_in_a_row() {
        let now = Timestamp::now();
        let found = |wakes: &[bool], count: u32| {
            let wakes: Vec<_> = wakes
                .iter()
                .map(|succeeded| {
                    let failure = json!({"kind": "recipe", "reason": "exited with code 7"});
                    json!({"ended_at_ms": now.as_millisecond() - 1_000,
                        "failure": if *succeeded { Row::Null } else { failure }})
                })
                .collect();
            let mut findings = Findings::default();
            let row = json!({"id": "pc/vllm", "agent": "pc", "provider": "vllm", "status": "hibernating", "last_wakes": wakes,
                "failures": {"count": count, "last": {"kind": "recipe", "reason": "exited with code 7"}}});
            provider(&row, now, &mut findings);
            findings.0.pop().map(|found| found.found)
        };
        assert_eq!(found(&[false, false, true], 2), None, "the latest has succeeded");
        let one = "the last wake failed 1s ago (3 failures since it last stayed awake for 30 s): exited with code 7";
        assert_eq!(found(&[false, false, true, false], 3).as_deref(), Some(one));
        let two = "the last 2 wakes failed, the latest 1s ago: exited with code 7";
        assert_eq!(found(&[true, false, false], 2).as_deref(), Some(two));
        assert_eq!(found(&[false, false], 2).as_deref(), Some(two));
    }

    #[test]
    fn a_backend_that_failed_after_its_wake_is_a_warning_until_an_hour_after_it_was_woken_again() {
        let now = Timestamp::now();
        let ago = |seconds: i64| now.as_millisecond() - seconds * 1_000;
        let reason = "the backend answered its probe, but no completion";
        let found = |status: &str, count: u32, since_ms: i64| {
            let mut findings = Findings::default();
            let row = json!({"id": "pc/vllm", "agent": "pc", "provider": "vllm", "status": status, "since_ms": since_ms,
                "last_wakes": [{"ended_at_ms": ago(14)}], "failed_requests": null,
                "failures": {"count": count, "last": {"kind": "died", "stage": "active", "reason": reason}}});
            provider(&row, now, &mut findings);
            let found = findings.0.pop();
            found.map(|finding| {
                assert_eq!(finding.level, Level::Warning);
                assert!(finding.remedy.expect("a remedy").contains("`reveille logs vllm`"));
                finding.found
            })
        };
        for (status, since_ms, what) in [
            (
                "hibernating",
                ago(10),
                "its backend failed after its wake had succeeded",
            ),
            ("waking", ago(1), "its backend failed, and is being woken again"),
            (
                "active",
                ago(12),
                "its backend failed, and was woken again 12s ago",
            ),
        ] {
            assert_eq!(found(status, 1, since_ms), Some(format!("{what}: {reason}")));
            let second = format!("{what}: {reason}; that was failure 2 in a row");
            assert_eq!(found(status, 2, since_ms), Some(second));
        }
        assert_eq!(found("active", 1, ago(7_200)), None);
        assert_eq!(found("active", 0, ago(12)), None);
    }

    #[test]
    fn what_owners_hold_back_is_told_with_what_ends_it() {
        let now = Timestamp::now();
        let agent = |name: &str, stage: &str| json!({"agent": name, "wakes_refused": {"stage": stage, "reason": "its owner says no"}});
        let mut agents = vec![agent("gpu-box", "paused"), agent("nas", "quiet_hours")];
        agents.push(json!({"agent": "pc", "wakes_refused": null}));
        let spent = json!({"kind": "not_allowed", "stage": "max_per_day", "reason": "its owner allows no more than 1 wake"});
        let provider = |id: &str, status: &str| {
            json!({"id": id, "agent": "pc", "status": status, "wakes_refused": null,
            "last_wakes": [{"ended_at_ms": now.as_millisecond() - 61_000}], "failures": {"count": 0, "last": spent}})
        };
        let providers = [
            provider("pc/ollama", "hibernating"),
            provider("pc/vllm", "active"),
        ];
        let mut held = Findings::default();
        held_back(&agents, &providers, now, &mut held);
        let told: Vec<_> = held
            .all()
            .iter()
            .map(|finding| {
                let remedy = finding.remedy.as_deref().unwrap_or_default();
                format!("{}: {} -> {remedy}", finding.check, finding.found)
            })
            .collect();
        assert_eq!(
            told,
            [
                "agent gpu-box: nothing is woken: its owner says no -> run `reveille agent resume` on the machine of gpu-box to \
                 end the pause",
                "agent nas: nothing is woken: its owner says no -> nothing to do if this is intended; agent.quiet_hours in the \
                 config of nas sets them",
                "provider pc/ollama: it was not woken 1m ago: its owner allows no more than 1 wake -> nothing to do if this is \
                 intended; otherwise raise provider.wake.max_per_day in the config of pc",
            ]
        );
    }
}
