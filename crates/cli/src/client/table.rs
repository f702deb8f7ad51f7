//! Tables for people: aligned columns without frames, easy to cut and grep.

use super::format::{Row, age, moment, printable, span, word};
use comfy_table::presets::NOTHING;
use jiff::{Timestamp, Zoned};
use std::time::Duration;

/// The space between two columns.
const GAP: u16 = 3;

/// The columns of a list: each one's heading and its cells.
pub type Columns = &'static [(&'static str, Cell)];

/// What a column shows of a row.
#[derive(Debug)]
pub enum Cell {
    /// The value at this JSON pointer.
    Value(&'static str),
    /// How long ago the time in this field was.
    Age(&'static str),
    /// The time in this field, in this machine's time zone.
    Moment(&'static str),
    /// A text made from the row and the current time.
    Text(fn(&Row, Timestamp) -> String),
}

use Cell::{Age, Moment, Text, Value};

/// The models, with the time since each one's status changed.
pub const LLMS: Columns = &[
    ("LLM", Value("/name")),
    ("PROVIDER", Value("/provider")),
    ("STATUS", Value("/status")),
    ("SINCE", Age("since_ms")),
    ("WAKES", Value("/wakes/requested")),
    ("LAST WAKE", Text(last_wake)),
];

/// The providers, with the time since each one's status changed.
pub const PROVIDERS: Columns = &[
    ("PROVIDER", Value("/id")),
    ("STATUS", Text(status)),
    ("SINCE", Age("since_ms")),
    ("MODELS", Value("/models")),
    ("WAKES", Value("/wakes/requested")),
    ("LAST WAKE", Text(hold_or_last_wake)),
];

/// The providers, with the requests that wait for each.
pub const STATUS: Columns = &[
    ("PROVIDER", Value("/id")),
    ("STATUS", Text(status)),
    ("SINCE", Age("since_ms")),
    ("MODELS", Value("/models")),
    ("WAITING", Value("/waiting")),
    ("LAST WAKE", Text(hold_or_last_wake)),
];

/// The agents, with the time since one went away or was revoked, and the age of each one's session.
pub const AGENTS: Columns = &[
    ("AGENT", Value("/agent")),
    ("STATUS", Text(agent_status)),
    ("SESSION", Age("connected_at_ms")),
    ("VERSION", Value("/version")),
    ("PROVIDERS", Value("/providers")),
    ("KEY", Value("/key")),
];

pub const WAKES: Columns = &[
    ("REQUESTED", Moment("requested_at_ms")),
    ("PROVIDER", Value("/provider")),
    ("OUTCOME", Value("/outcome")),
    ("TOOK", Text(took)),
    ("CAUSE", Text(cause)),
    ("WAKE", Value("/wake_id")),
    ("REASON", Value("/failure/reason")),
];

/// The latest wakes, on one screen.
pub const LATEST: Columns = &[
    ("REQUESTED", Moment("requested_at_ms")),
    ("PROVIDER", Value("/provider")),
    ("OUTCOME", Value("/outcome")),
    ("TOOK", Text(took)),
    ("CAUSE", Text(cause)),
];

/// API keys.
pub const KEYS: Columns = &[
    ("KEY", Value("/id")),
    ("NAME", Value("/name")),
    ("STATUS", Value("/status")),
    ("SCOPES", Value("/scopes")),
    ("EXPIRES", Moment("expires_at_ms")),
    ("RATE/MIN", Value("/rate")),
    ("AT ONCE", Value("/concurrency")),
    ("WAKES/H", Value("/wakes_per_hour")),
    ("LAST USED HERE", Moment("last_used_ms")),
];

/// The rows as a table, with a heading over each column.
pub fn table(columns: Columns, rows: &[Row]) -> String {
    table_at(columns, rows, &Zoned::now())
}

/// The same, as of `now` and in its time zone.
pub fn table_at(columns: Columns, rows: &[Row], now: &Zoned) -> String {
    let cells = |row: &Row| -> Vec<_> { columns.iter().map(|(_, cell)| cell.of(row, now)).collect() };
    let mut table = comfy_table::Table::new();
    table.load_style(NOTHING);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    table.add_rows(rows.iter().map(cells));
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.trim_fmt()
}

impl Cell {
    fn of(&self, row: &Row, now: &Zoned) -> String {
        match self {
            Value(at) => word(row.pointer(at).unwrap_or(&Row::Null)),
            Age(name) => age(&row[*name], now.timestamp()),
            Moment(name) => moment(&row[*name], now.time_zone()),
            Text(text) => text(row, now.timestamp()),
        }
    }
}

/// The status; a provider that counts as active may fail all the same.
fn status(row: &Row, _: Timestamp) -> String {
    let status = word(&row["status"]);
    let fails = row["status"] == "active" && row["failed_requests"]["suspect"] == true;
    if fails {
        format!("{status}, failing")
    } else {
        status
    }
}

/// Whether an agent is there, and if not, for how long.
fn agent_status(row: &Row, now: Timestamp) -> String {
    let status = word(&row["status"]);
    if row["status_since_ms"].is_null() {
        return status;
    }
    format!("{status} {}", age(&row["status_since_ms"], now))
}

fn last_wake(row: &Row, _: Timestamp) -> String {
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

fn hold_or_last_wake(row: &Row, now: Timestamp) -> String {
    if let Some(held) = on_hold(&row["failures"], now) {
        return held;
    }
    let last = row["last_wakes"].as_array().and_then(|wakes| wakes.last());
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

fn took(row: &Row, _: Timestamp) -> String {
    time_between(row).map_or_else(|| word(&Row::Null), span)
}

fn time_between(wake: &Row) -> Option<Duration> {
    let (from, to) = (wake["requested_at_ms"].as_u64()?, wake["ended_at_ms"].as_u64()?);
    Some(Duration::from_millis(to.saturating_sub(from)))
}

fn cause(row: &Row, _: Timestamp) -> String {
    let cause = &row["cause"];
    match (cause["by"].as_str(), cause["model"].as_str()) {
        (Some("request"), Some(model)) => format!("request for {}", printable(model)),
        _ => word(&cause["by"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use serde_json::json;

    const NOW_MS: i64 = 1_795_449_600_000;

    fn shown(columns: Columns, rows: &[Row]) -> String {
        let now = Timestamp::from_millisecond(NOW_MS).unwrap();
        table_at(columns, rows, &now.to_zoned(TimeZone::UTC))
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
        insta::assert_snapshot!(shown(LLMS, &rows));
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
            json!({"id": "lab/phi", "status": "active", "since_ms": NOW_MS - 5_000, "models": ["d"],
            "wakes": {"requested": 0}, "failed_requests": {"suspect": true, "count": 2}}),
            json!({"id": "pc/ollama", "status": "down", "since_ms": NOW_MS - 60_000, "models": ["d"],
            "wakes": {"requested": 0}, "failed_requests": {"suspect": false, "count": 2}}),
        ];
        insta::assert_snapshot!(shown(PROVIDERS, &rows));
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
        insta::assert_snapshot!(shown(WAKES, &rows));
    }

    #[test]
    fn keys_are_listed_with_scopes_and_limits() {
        let rows = [
            json!({"id": "k7mq2v9x4a1b", "name": "the laptop\n", "status": "issued", "scopes": ["query", "infer:*"],
                "expires_at_ms": NOW_MS, "rate": 600, "concurrency": 8, "wakes_per_hour": 0, "last_used_ms": NOW_MS}),
            json!({"id": "zz00zz00zz00", "name": null, "status": "unreadable", "scopes": [], "last_used_ms": null}),
        ];
        insta::assert_snapshot!(shown(KEYS, &rows));
    }

    #[test]
    fn an_empty_table_still_has_its_headings() {
        assert!(shown(LLMS, &[]).starts_with("LLM"));
    }
}
