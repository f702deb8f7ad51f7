//! Tables for people: aligned columns without frames, easy to cut and grep.

use super::format::{Row, age, moment, printable, span, word};
use comfy_table::presets::NOTHING;
use jiff::{Timestamp, tz::TimeZone};
use std::{fmt, time::Duration};

/// The space between two columns.
const GAP: u16 = 3;

/// A table with a heading over each column.
#[derive(Debug)]
pub struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The models, with the time since each one's status changed.
    pub fn llms(rows: &[Row]) -> Self {
        Self::llms_at(rows, Timestamp::now())
    }

    /// The providers, with the time since each one's status changed.
    pub fn providers(rows: &[Row]) -> Self {
        Self::providers_at(rows, Timestamp::now())
    }

    /// The agents, with the age of each one's session.
    pub fn agents(rows: &[Row]) -> Self {
        let now = Timestamp::now();
        let row = |row: &Row| {
            vec![
                word(&row["agent"]),
                age(&row["connected_at_ms"], now),
                word(&row["version"]),
                word(&row["providers"]),
                word(&row["key"]),
            ]
        };
        Self {
            headings: &["AGENT", "SESSION", "VERSION", "PROVIDERS", "KEY"],
            rows: rows.iter().map(row).collect(),
        }
    }

    /// Wakes, in this machine's time zone.
    pub fn wakes(rows: &[Row]) -> Self {
        Self::wakes_in(rows, &TimeZone::system())
    }

    /// API keys, in this machine's time zone.
    pub fn keys(rows: &[Row]) -> Self {
        Self::keys_in(rows, &TimeZone::system())
    }

    fn keys_in(rows: &[Row], zone: &TimeZone) -> Self {
        let row = |row: &Row| {
            vec![
                word(&row["id"]),
                word(&row["name"]),
                word(&row["status"]),
                word(&row["scopes"]),
                moment(&row["expires_at_ms"], zone),
                word(&row["rate"]),
                word(&row["concurrency"]),
                word(&row["wakes_per_hour"]),
                moment(&row["last_used_ms"], zone),
            ]
        };
        Self {
            headings: &[
                "KEY",
                "NAME",
                "STATUS",
                "SCOPES",
                "EXPIRES",
                "RATE/MIN",
                "AT ONCE",
                "WAKES/H",
                "LAST USED HERE",
            ],
            rows: rows.iter().map(row).collect(),
        }
    }

    fn llms_at(rows: &[Row], now: Timestamp) -> Self {
        let row = |row: &Row| {
            vec![
                word(&row["name"]),
                word(&row["provider"]),
                word(&row["status"]),
                age(&row["since_ms"], now),
                word(&row["wakes"]["requested"]),
                last_wake(row),
            ]
        };
        Self {
            headings: &["LLM", "PROVIDER", "STATUS", "SINCE", "WAKES", "LAST WAKE"],
            rows: rows.iter().map(row).collect(),
        }
    }

    fn providers_at(rows: &[Row], now: Timestamp) -> Self {
        let row = |row: &Row| {
            vec![
                word(&row["id"]),
                word(&row["status"]),
                age(&row["since_ms"], now),
                word(&row["models"]),
                word(&row["wakes"]["requested"]),
                on_hold(&row["failures"], now).unwrap_or_else(|| last_of(&row["last_wakes"])),
            ]
        };
        Self {
            headings: &["PROVIDER", "STATUS", "SINCE", "MODELS", "WAKES", "LAST WAKE"],
            rows: rows.iter().map(row).collect(),
        }
    }

    fn wakes_in(rows: &[Row], zone: &TimeZone) -> Self {
        let row = |row: &Row| {
            vec![
                moment(&row["requested_at_ms"], zone),
                word(&row["provider"]),
                word(&row["outcome"]),
                took(row),
                cause(&row["cause"]),
                word(&row["wake_id"]),
                word(&row["failure"]["reason"]),
            ]
        };
        Self {
            headings: &[
                "REQUESTED",
                "PROVIDER",
                "OUTCOME",
                "TOOK",
                "CAUSE",
                "WAKE",
                "REASON",
            ],
            rows: rows.iter().map(row).collect(),
        }
    }
}

fn last_wake(row: &Row) -> String {
    let wake = &row["last_wake"];
    match wake["took_ms"].as_u64() {
        None => word(&Row::Null),
        Some(ms) => ended(Duration::from_millis(ms), &wake["failure"]),
    }
}

/// Why wakes are on hold after failures, and for how long; `None` if they aren't.
fn on_hold(failures: &Row, now: Timestamp) -> Option<String> {
    let until = failures["held_until_ms"].as_i64()?;
    let left = u64::try_from(until.saturating_sub(now.as_millisecond()))
        .ok()
        .filter(|left| *left > 0)?;
    let (left, reason) = (
        span(Duration::from_millis(left)),
        word(&failures["last"]["reason"]),
    );
    Some(format!("on hold for {left}: {reason}"))
}

fn last_of(wakes: &Row) -> String {
    let last = wakes.as_array().and_then(|wakes| wakes.last());
    match last.and_then(|wake| Some((wake, time_between(wake)?))) {
        None => word(&Row::Null),
        Some((wake, took)) => ended(took, &wake["failure"]),
    }
}

fn ended(took: Duration, failure: &Row) -> String {
    let took = span(took);
    match failure["reason"].as_str() {
        None => format!("ok in {took}"),
        Some(reason) => format!("failed after {took}: {}", printable(reason)),
    }
}

fn took(row: &Row) -> String {
    time_between(row).map_or_else(|| word(&Row::Null), span)
}

fn time_between(wake: &Row) -> Option<Duration> {
    let (from, to) = (wake["requested_at_ms"].as_u64()?, wake["ended_at_ms"].as_u64()?);
    Some(Duration::from_millis(to.saturating_sub(from)))
}

fn cause(cause: &Row) -> String {
    match (cause["by"].as_str(), cause["model"].as_str()) {
        (Some("request"), Some(model)) => format!("request for {}", printable(model)),
        _ => word(&cause["by"]),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_header(self.headings.to_vec());
        table.add_rows(&self.rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        f.write_str(&table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW_MS: i64 = 1_795_449_600_000;

    fn now() -> Timestamp {
        Timestamp::from_millisecond(NOW_MS).unwrap()
    }

    #[test]
    fn models_are_listed_with_their_status_and_last_wake() {
        let rows = [
            json!({"name": "gpu-box/qwen3-8b", "provider": "vllm", "status": "hibernating", "since_ms": NOW_MS - 754_000,
                "wakes": {"requested": 3}, "last_wake": {"took_ms": 8_400}}),
            json!({"name": "gpu-box/llama3:70b", "provider": "ollama", "status": "waking", "since_ms": NOW_MS - 1_500,
                "wakes": {"requested": 12}, "last_wake": {"took_ms": 61_000, "failure": {"reason": "exit code \
                 1\nsecond"}}}),
            json!({"name": "lab/phi", "provider": "x", "status": "active", "since_ms": NOW_MS, "wakes": {"requested": 0},
                "last_wake": null}),
        ];
        insta::assert_snapshot!(Table::llms_at(&rows, now()));
    }

    #[test]
    fn providers_are_listed_with_their_models() {
        let rows = [
            json!({"id": "gpu-box/vllm", "status": "active", "since_ms": NOW_MS - 90_000_000,
            "models": ["a", "b"], "wakes": {"requested": 2}, "last_wakes": [
                {"requested_at_ms": NOW_MS - 9_000, "ended_at_ms": NOW_MS - 8_000, "failure": {"reason": "old"}},
                {"requested_at_ms": NOW_MS - 5_000, "ended_at_ms": NOW_MS - 2_000}],
            "failures": {"count": 2, "held_until_ms": NOW_MS - 1, "last": {"reason": "old"}}}),
            json!({"id": "gpu-box/llama", "status": "hibernating", "since_ms": NOW_MS - 1_000, "models": ["c"],
            "wakes": {"requested": 2}, "last_wakes": [{"requested_at_ms": NOW_MS - 5_000, "ended_at_ms": NOW_MS - 2_000}],
            "failures": {"count": 3, "held_until_ms": NOW_MS + 3_500, "last": {"reason": "the backend ended"}}}),
        ];
        insta::assert_snapshot!(Table::providers_at(&rows, now()));
    }

    #[test]
    fn wakes_are_listed_with_cause_and_failure() {
        let id = "019a0000-0000-7000-8000-000000000001";
        let rows = [
            json!({"requested_at_ms": NOW_MS, "ended_at_ms": null, "provider": "gpu-box/vllm", "outcome": "in_flight",
                "cause": {"by": "request", "request_id": "r", "model": "qwen3-8b"}, "failure": null, "wake_id": id}),
            json!({"requested_at_ms": NOW_MS, "ended_at_ms": NOW_MS + 2_500, "provider": "gpu-box/vllm",
                "outcome": "failed", "cause": {"by": "operator"}, "failure": {"reason": "no route"}, "wake_id": id}),
        ];
        insta::assert_snapshot!(Table::wakes_in(&rows, &TimeZone::UTC));
    }

    #[test]
    fn keys_are_listed_with_scopes_and_limits() {
        let rows = [
            json!({"id": "k7mq2v9x4a1b", "name": "the laptop\n", "status": "issued", "scopes": ["query", "infer:*"],
                "expires_at_ms": NOW_MS, "rate": 600, "concurrency": 8, "wakes_per_hour": 0, "last_used_ms": NOW_MS}),
            json!({"id": "zz00zz00zz00", "name": null, "status": "unreadable", "scopes": [], "last_used_ms": null}),
        ];
        insta::assert_snapshot!(Table::keys_in(&rows, &TimeZone::UTC));
    }

    #[test]
    fn an_empty_table_still_has_its_headings() {
        assert!(Table::llms_at(&[], now()).to_string().starts_with("LLM"));
    }
}
