//! Tables for people: aligned columns without frames, easy to cut and grep.

use super::format::{Row, age, ago, field, moment, printable, span, word};
use comfy_table::presets::NOTHING;
use jiff::{Timestamp, Zoned, tz::TimeZone};
use std::time::Duration;

/// How much space the models of a provider have on one screen.
const MODELS_CHARS: usize = 28;
/// How much of a changed value is shown.
const CHANGED_CHARS: usize = 32;
/// The kind of a wake that the machine's owner has refused.
pub const NOT_ALLOWED: &str = "not_allowed";
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
    ("PRESET OF", Value("/preset/model")),
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
    ("MODELS", Text(few_models)),
    ("WAITING", Value("/waiting")),
    ("LAST WAKE", Text(last_wake_in_short)),
];

/// The agents, with the time since one went away or was revoked, and the age of each one's session.
pub const AGENTS: Columns = &[
    ("AGENT", Value("/agent")),
    ("STATUS", Text(agent_status)),
    ("SESSION", Age("connected_at_ms")),
    ("VERSION", Value("/version")),
    ("PROVIDERS", Value("/providers")),
    ("WAKES", Text(wakes_of_agent)),
    ("KEY", Value("/key")),
];

pub const WAKES: Columns = &[
    ("REQUESTED", Moment("requested_at_ms")),
    ("PROVIDER", Value("/provider")),
    ("OUTCOME", Text(outcome)),
    ("TOOK", Text(took)),
    ("CAUSE", Text(cause)),
    ("WAKE", Value("/wake_id")),
    ("REASON", Value("/failure/reason")),
];

/// What has changed, and by which commit.
pub const CHANGES: Columns = &[
    ("COMMIT", Value("/by/sequence")),
    ("AT", Text(changed_at)),
    ("WHAT", Text(changed_what)),
    ("FROM", Text(|row, _| in_short(&row["from"]))),
    ("TO", Text(|row, _| in_short(&row["to"]))),
    ("BY", Text(changed_by)),
];

/// The latest wakes, on one screen.
pub const LATEST: Columns = &[
    ("REQUESTED", Moment("requested_at_ms")),
    ("PROVIDER", Value("/provider")),
    ("OUTCOME", Text(outcome)),
    ("TOOK", Text(took)),
    ("CAUSE", Text(cause)),
];

/// Requests.
pub const REQUESTS: Columns = &[
    ("RECEIVED", Moment("received_at_ms")),
    ("KEY", Value("/key")),
    ("MODEL", Value("/model")),
    ("PROVIDER", Value("/provider")),
    ("OUTCOME", Text(request_outcome)),
    ("WAITED", Text(waited)),
    ("TOOK", Text(request_took)),
    ("TOKENS", Text(tokens)),
    ("REQUEST", Value("/request_id")),
    ("REASON", Text(request_reason)),
];

/// What was used in each hour.
pub const USAGE: Columns = &[
    ("HOUR", Moment("hour_ms")),
    ("KEY", Value("/key")),
    ("MODEL", Value("/model")),
    ("PROVIDER", Value("/provider")),
    ("REQUESTS", Value("/requests")),
    ("FAILED", Value("/failures")),
    ("TOKENS IN", Value("/tokens_in")),
    ("TOKENS OUT", Text(tokens_out)),
    ("BUSY", Text(busy)),
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
    ("PRIORITY", Value("/priority")),
    ("PROGRESS", Value("/progress")),
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

fn changed_at(row: &Row, _: Timestamp) -> String {
    moment(&row["by"]["at_ms"], &TimeZone::system())
}

/// Such as `provider gpu-box/vllm status`.
fn changed_what(row: &Row, _: Timestamp) -> String {
    let what = ["kind", "id", "field"].map(|name| printable(field(row, name)));
    what.join(" ").trim_end().to_owned()
}

/// Such as `request, key k7mq2v9x`.
fn changed_by(row: &Row, _: Timestamp) -> String {
    let (cause, key) = (word(&row["by"]["cause"]), &row["by"]["key"]);
    match key {
        Row::Null => cause,
        key => format!("{cause}, key {}", word(key)),
    }
}

/// The beginning of a value.
fn in_short(value: &Row) -> String {
    let text = word(value);
    match text.chars().count() > CHANGED_CHARS {
        true => text.chars().take(CHANGED_CHARS).chain(['…']).collect(),
        false => text,
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

/// The models, if there is space for them, or else the first ones and how many more there are.
fn few_models(row: &Row, _: Timestamp) -> String {
    let models: Vec<_> = row["models"].as_array().into_iter().flatten().map(word).collect();
    let all = models.join(", ");
    if all.chars().count() <= MODELS_CHARS {
        return all;
    }
    let space = MODELS_CHARS - ", +99".len();
    let mut few = String::new();
    let mut shown = 0;
    for model in &models {
        let longer = if few.is_empty() {
            model.clone()
        } else {
            format!("{few}, {model}")
        };
        if longer.chars().count() > space {
            break;
        }
        (few, shown) = (longer, shown + 1);
    }
    if few.is_empty() {
        few = models[0].chars().take(space - 1).chain(['…']).collect();
        shown = 1;
    }
    match models.len() - shown {
        0 => few,
        more => format!("{few}, +{more}"),
    }
}

/// Whether the agent's owner lets its providers wake.
fn wakes_of_agent(row: &Row, _: Timestamp) -> String {
    match (&row["connected_at_ms"], &row["wakes_refused"]) {
        (Row::Null, _) => word(&Row::Null),
        (_, Row::Null) => "allowed".to_owned(),
        (_, refused) => rule(refused),
    }
}

/// The rule by which a machine's owner refuses wakes.
pub fn rule(refused: &Row) -> String {
    printable(field(refused, "stage")).replace('_', " ")
}

fn last_wake(row: &Row, _: Timestamp) -> String {
    let wake = &row["last_wake"];
    match wake["took_ms"].as_u64() {
        None => word(&Row::Null),
        Some(ms) => ended(Duration::from_millis(ms), &wake["failure"]),
    }
}

/// For how long wakes are on hold after failures; `None` if they aren't.
fn on_hold(failures: &Row, now: Timestamp) -> Option<String> {
    let until = failures["held_until_ms"].as_i64()?;
    let left = u64::try_from(until.saturating_sub(now.as_millisecond()))
        .ok()
        .filter(|left| *left > 0)?;
    Some(format!("on hold for {}", span(Duration::from_millis(left))))
}

fn hold_or_last_wake(row: &Row, now: Timestamp) -> String {
    let refused = &row["wakes_refused"];
    if row["status"] == "hibernating" && !refused.is_null() {
        return format!("held back: {}", word(&refused["reason"]));
    }
    if let Some(held) = on_hold(&row["failures"], now) {
        return format!("{held}: {}", word(&row["failures"]["last"]["reason"]));
    }
    match latest(row) {
        None => word(&Row::Null),
        Some((wake, took)) => ended(took, &wake["failure"]),
    }
}

/// The same without reasons, which the rest of the screen has.
fn last_wake_in_short(row: &Row, now: Timestamp) -> String {
    if let Some(held) = on_hold(&row["failures"], now) {
        return held;
    }
    let Some((wake, took)) = latest(row) else {
        return word(&Row::Null);
    };
    let failure = &wake["failure"];
    match field(failure, "kind") {
        _ if failure.is_null() => format!("ok in {}", span(took)),
        NOT_ALLOWED => format!("refused {}", ago(&wake["ended_at_ms"], now)),
        _ => format!("failed {}", ago(&wake["ended_at_ms"], now)),
    }
}

/// The last wake that has ended, and how long it took.
fn latest(row: &Row) -> Option<(&Row, Duration)> {
    let last = row["last_wakes"].as_array()?.last()?;
    Some((last, time_between(last)?))
}

fn ended(took: Duration, failure: &Row) -> String {
    let took = span(took);
    match failure["reason"].as_str() {
        None => format!("ok in {took}"),
        Some(reason) => format!("failed after {took}: {}", printable(reason)),
    }
}

/// How a wake ended. One that the machine's owner hasn't allowed, or that nobody waited for any longer, hasn't failed.
fn outcome(row: &Row, _: Timestamp) -> String {
    match field(&row["failure"], "kind") {
        NOT_ALLOWED => "refused".to_owned(),
        "not_needed" => "not_needed".to_owned(),
        _ => word(&row["outcome"]),
    }
}

fn took(row: &Row, _: Timestamp) -> String {
    time_between(row).map_or_else(|| word(&Row::Null), span)
}

fn time_between(wake: &Row) -> Option<Duration> {
    let (from, to) = (wake["requested_at_ms"].as_u64()?, wake["ended_at_ms"].as_u64()?);
    Some(Duration::from_millis(to.saturating_sub(from)))
}

fn request_outcome(row: &Row, _: Timestamp) -> String {
    let outcome = word(&row["outcome"]).replace('_', " ");
    match row["status"].as_u64() {
        Some(status) if row["outcome"] == "failed" => format!("{outcome}, {status}"),
        Some(_) | None => outcome,
    }
}

/// How long a request waited for its first byte, and whether for a wake.
fn waited(row: &Row, _: Timestamp) -> String {
    let waited = row["first_byte_ms"].as_u64().or_else(|| row["ended_ms"].as_u64());
    let waited = waited.map(|ms| span(Duration::from_millis(ms)));
    match (waited, row["wake_id"].is_null()) {
        (None, _) => word(&Row::Null),
        (Some(waited), true) => waited,
        (Some(waited), false) => format!("{waited}, wake"),
    }
}

fn request_took(row: &Row, _: Timestamp) -> String {
    let took = row["ended_ms"].as_u64();
    took.map_or_else(|| word(&Row::Null), |ms| span(Duration::from_millis(ms)))
}

/// The tokens of the prompt and of the answer.
fn tokens(row: &Row, _: Timestamp) -> String {
    let tokens = &row["tokens"];
    if tokens.is_null() {
        return word(&Row::Null);
    }
    let about = if tokens["estimated"] == true { "~" } else { "" };
    format!("{} + {about}{}", word(&tokens["input"]), word(&tokens["output"]))
}

fn request_reason(row: &Row, _: Timestamp) -> String {
    let error = &row["error"];
    match field(error, "reason") {
        "" => word(&error["code"]),
        reason => printable(reason),
    }
}

fn tokens_out(row: &Row, _: Timestamp) -> String {
    let about = if row["tokens_estimated"].as_u64() > Some(0) {
        "~"
    } else {
        ""
    };
    format!("{about}{}", word(&row["tokens_out"]))
}

fn busy(row: &Row, _: Timestamp) -> String {
    span(Duration::from_millis(row["busy_ms"].as_u64().unwrap_or_default()))
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
            json!({"name": "lab/bot", "provider": "x", "preset": {"model": "phi", "hash": "0123456789ab"}, "status": "active",
                "since_ms": NOW_MS, "wakes": {"requested": 0}, "last_wake": null}),
        ];
        insta::assert_snapshot!(shown(LLMS, &rows));
    }

    #[test]
    fn a_wake_that_the_owner_refused_has_not_failed() {
        let now = Timestamp::now();
        for (kind, shown) in [
            ("not_allowed", "refused"),
            ("not_needed", "not_needed"),
            ("recipe", "failed"),
        ] {
            let row = json!({"outcome": "failed", "failure": {"kind": kind}});
            assert_eq!(outcome(&row, now), shown);
        }
        assert_eq!(
            outcome(&json!({"outcome": "succeeded", "failure": null}), now),
            "succeeded"
        );
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
            json!({"id": "pc/vllm", "status": "hibernating", "since_ms": NOW_MS - 60_000, "models": ["d"],
            "wakes": {"requested": 0}, "wakes_refused": {"stage": "paused", "reason": "its owner has paused this agent"}}),
        ];
        insta::assert_snapshot!(shown(PROVIDERS, &rows));
    }

    #[test]
    fn many_models_and_a_long_failure_leave_the_screen_narrow() {
        let models = ["qwen2.5:7b", "llama3:8b", "phi", "qwen3-coder:30b", "gemma3:27b"];
        let failure = json!({"kind": "recipe", "reason": "the served command exited with code 3, and more"});
        let row = |id: &str, models: &[&str], failures: Row| {
            json!({"id": id, "status": "hibernating", "since_ms": NOW_MS - 754_000, "models": models, "waiting": 120,
            "failures": failures, "last_wakes": [{"requested_at_ms": NOW_MS - 70_000, "ended_at_ms": NOW_MS - 60_000,
            "failure": failure}]})
        };
        let long = "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF";
        let held = json!({"held_until_ms": NOW_MS + 59_000, "last": failure});
        let rows = [
            row("gpu-box/ollama", &models, Row::Null),
            row("gpu-box/vllm", &models[..2], held),
            row("nas/llama-cpp", &[long, "phi"], Row::Null),
        ];
        let shown = shown(STATUS, &rows);
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines.iter().all(|line| line.trim_end().len() <= 100), "{shown}");
        for part in ["qwen2.5:7b, llama3:8b, +3 ", "failed 1m ago", "on hold for 59s"] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
        assert!(lines[3].contains("unsloth/Qwen3-Coder-30…, +1 "), "{shown}");
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
                "expires_at_ms": NOW_MS, "rate": 600, "concurrency": 8, "wakes_per_hour": 0, "priority": "high", "progress": "delta", "last_used_ms": NOW_MS}),
            json!({"id": "zz00zz00zz00", "name": null, "status": "unreadable", "scopes": [], "last_used_ms": null}),
        ];
        insta::assert_snapshot!(shown(KEYS, &rows));
    }

    #[test]
    fn requests_are_listed_with_their_outcome_and_tokens() {
        let rows = [
            json!({"received_at_ms": NOW_MS, "key": "k7mq2v9x4a1b", "model": "qwen3-8b", "provider": "gpu-box/vllm", "outcome": "done",
                "status": 200, "first_byte_ms": 8_400, "ended_ms": 9_900, "wake_id": "w", "request_id": "r-1",
                "tokens": {"input": 12, "output": 340, "estimated": false}}),
            json!({"received_at_ms": NOW_MS, "key": null, "model": "phi", "provider": "nas/ollama", "outcome": "failed", "status": 503,
                "first_byte_ms": null, "ended_ms": 400, "request_id": "r-2", "tokens": null,
                "error": {"code": "wake_failed", "reason": "nas/ollama did not wake: no route"}}),
            json!({"received_at_ms": NOW_MS, "outcome": "in_flight", "status": 200, "first_byte_ms": 20, "request_id": "r-3\u{1b}",
                "tokens": {"input": null, "output": 31, "estimated": true}}),
            json!({"received_at_ms": NOW_MS, "outcome": "failed", "status": 400, "ended_ms": 1, "request_id": "r-4",
                "error": {"code": "invalid_json", "reason": ""}}),
        ];
        insta::assert_snapshot!(shown(REQUESTS, &rows));
    }

    #[test]
    fn usage_is_listed_by_the_hour() {
        let rows = [
            json!({"hour_ms": NOW_MS, "key": "k7mq2v9x4a1b", "model": "qwen3-8b", "provider": "gpu-box/vllm", "requests": 120,
                "failures": 2, "tokens_in": 9_000, "tokens_out": 40_000, "tokens_estimated": 10, "busy_ms": 754_000}),
            json!({"hour_ms": NOW_MS, "key": null, "model": null, "provider": null, "requests": 1, "failures": 1, "tokens_in": 0,
                "tokens_out": 0, "tokens_estimated": 0, "busy_ms": 0}),
        ];
        insta::assert_snapshot!(shown(USAGE, &rows));
    }

    #[test]
    fn an_empty_table_still_has_its_headings() {
        assert!(shown(LLMS, &[]).starts_with("LLM"));
    }
}
