//! Lengths of time as people write them, in configs and on the command line, and as messages carry them.

use jiff::{Span, SpanRelativeTo};
use std::time::Duration;

/// A length of time as messages carry it.
pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a length of time such as `500ms`, `90s`, `1h 30m` or `30d`; a day has 24 hours.
///
/// # Errors
/// When it is none, or not more than zero.
pub fn parse_duration(raw: &str) -> Result<Duration, &'static str> {
    let span = raw.parse::<Span>();
    let length = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let length =
        length.map_err(|_| "is not a duration; write one such as \"500ms\", \"60s\", \"15m\" or \"2d\"")?;
    Duration::try_from(length)
        .ok()
        .filter(|length| !length.is_zero())
        .ok_or("must be more than zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        for (raw, ms) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("12h", 43_200_000),
            ("30d", 30 * 86_400_000),
            ("1d 12h", 129_600_000),
        ] {
            assert_eq!(parse_duration(raw), Ok(Duration::from_millis(ms)), "{raw}");
        }
        for raw in ["", "30", "-1d", "0s", "soon", "1 month"] {
            assert!(parse_duration(raw).is_err(), "{raw}");
        }
    }
}
