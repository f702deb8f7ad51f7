//! Formats the API's rows for people. Rows are untyped, so that unknown values are printed as they are.

use crate::terminal;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;
use std::time::Duration;

/// One row of a list.
pub type Row = Value;

/// Shown for an absent value.
const NOTHING: &str = "-";

/// A field as text; empty when it is absent.
pub fn field<'a>(row: &'a Row, name: &str) -> &'a str {
    row[name].as_str().unwrap_or_default()
}

/// A value of any type as a table cell.
pub fn word(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) if text.is_empty() => NOTHING.to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Text that a terminal shows as it is.
pub fn printable(text: &str) -> String {
    terminal::word(text).into_owned()
}

/// A time in milliseconds as a local date and time.
pub fn moment(value: &Value, zone: &TimeZone) -> String {
    local(value, zone, "%Y-%m-%d %H:%M:%S")
}

/// A time in milliseconds as a local date and time with milliseconds, for log-like lines.
pub fn exact(value: &Value, zone: &TimeZone) -> String {
    local(value, zone, "%Y-%m-%d %H:%M:%S.%3f")
}

fn local(value: &Value, zone: &TimeZone, format: &str) -> String {
    let local = |at: Timestamp| at.to_zoned(zone.clone()).strftime(format).to_string();
    timestamp(value).map_or_else(|| NOTHING.to_owned(), local)
}

/// How long ago a time in milliseconds was.
pub fn age(value: &Value, now: Timestamp) -> String {
    let age = |at: Timestamp| span(now.duration_since(at).try_into().unwrap_or_default());
    timestamp(value).map_or_else(|| NOTHING.to_owned(), age)
}

/// How long ago a time in milliseconds was, in its largest unit alone.
pub fn ago(value: &Value, now: Timestamp) -> String {
    let ago = |at: Timestamp| {
        let seconds = now.duration_since(at).as_secs().max(0);
        match seconds {
            0..60 => format!("{seconds}s ago"),
            60..3_600 => format!("{}m ago", seconds / 60),
            3_600..86_400 => format!("{}h ago", seconds / 3_600),
            _ => format!("{}d ago", seconds / 86_400),
        }
    };
    timestamp(value).map_or_else(|| NOTHING.to_owned(), ago)
}

/// A duration in its two largest units.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A time in milliseconds; `None` if there is none.
pub fn timestamp(value: &Value) -> Option<Timestamp> {
    Timestamp::from_millisecond(value.as_i64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_shown_in_their_two_largest_units() {
        for (ms, shown) in [
            (0, "0.0s"),
            (1_240, "1.2s"),
            (59_999, "59s"),
            (61_000, "1m01s"),
            (3_660_000, "1h01m"),
            (90_000_000, "1d01h"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), shown);
        }
    }

    #[test]
    fn a_time_ago_is_shown_in_its_largest_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, shown) in [
            (-5, "0s ago"),
            (59, "59s ago"),
            (119, "1m ago"),
            (7_199, "1h ago"),
            (180_000, "2d ago"),
        ] {
            assert_eq!(ago(&json!((1_000_000 - seconds) * 1_000), now), shown);
        }
        assert_eq!(ago(&Value::Null, now), "-");
    }

    #[test]
    fn control_characters_of_a_row_do_not_reach_the_terminal() {
        assert_eq!(word(&json!("a\u{1b}[2Jb\n")), r"a\u001b[2Jb\u000a");
        assert_eq!(word(&json!(["a", "b"])), "a, b");
        assert_eq!(word(&json!(null)), "-");
    }
}
