//! How far a long command has come, on standard error: one line that changes on a terminal, a line now and then elsewhere.

use crate::logging;
use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

/// How often the line on a terminal is updated.
const LINE_EVERY: Duration = Duration::from_millis(250);
/// How often a line is written to anything else.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// The width to clear before a new text.
const LINE_CHARS: usize = 79;

/// The progress of one command.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
    shown_at: Instant,
    is_shown: bool,
}

impl Progress {
    /// Begins now; the first text is shown after a while.
    pub fn new() -> Self {
        Self {
            is_terminal: stderr().is_terminal(),
            shown_at: Instant::now(),
            is_shown: false,
        }
    }

    /// How often [`show`](Self::show) shows a text.
    pub const fn every(&self) -> Duration {
        if self.is_terminal { LINE_EVERY } else { LINES_EVERY }
    }

    /// Shows the text if the last one has been there for a while.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.shown_at.elapsed() < self.every() {
            return;
        }
        self.shown_at = Instant::now();
        self.is_shown = true;
        if self.is_terminal {
            logging::replace_line(&format!("{:LINE_CHARS$}", text()));
        } else {
            logging::notice(text());
        }
    }

    /// Clears the line on a terminal.
    pub fn clear(&mut self) {
        if self.is_terminal && std::mem::take(&mut self.is_shown) {
            logging::replace_line(&" ".repeat(LINE_CHARS));
            logging::replace_line("");
        }
    }
}

/// How much of `of` is `done`, how many of the unit that came in `elapsed`, and how long the rest will take, as in
/// `5 of 10 commits (50 %), 1/s, 5 s left`. `began_after` were done before.
pub fn amount(began_after: u64, done: u64, of: u64, unit: &str, elapsed: Duration) -> String {
    let left = of.saturating_sub(done);
    let percent = done.saturating_mul(100) / of.max(1);
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_sub(began_after).saturating_mul(1_000) / millis;
    let mut text = format!(
        "{done} of {} ({percent} %), {rate}/s",
        reveille_domain::counted(of, unit)
    );
    if let Some(seconds) = left.checked_div(rate).filter(|_| left > 0) {
        text += &format!(", {seconds} s left");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_counts_this_run_only_and_never_divides_by_zero() {
        let second = Duration::from_secs(1);
        for ((began_after, done, of), expected) in [
            ((0, 0, 10), "0 of 10 commits (0 %), 0/s"),
            (
                (500, 1_500, 3_500),
                "1500 of 3500 commits (42 %), 1000/s, 2 s left",
            ),
            ((5, 10, 10), "10 of 10 commits (100 %), 5/s"),
        ] {
            assert_eq!(amount(began_after, done, of, "commit", second), expected);
        }
        assert!(amount(0, 5, 10, "commit", Duration::ZERO).contains("50 %"));
    }
}
