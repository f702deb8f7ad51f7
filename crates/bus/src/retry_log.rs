//! Which failures of what is tried again and again are logged: each reason once, and then now and then.

use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// How often the log repeats the same reason.
const REPEATED_EVERY: Duration = Duration::from_secs(60);
/// How many reasons are remembered.
const REASONS: usize = 8;

/// The reasons that the log has, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct RetryLog(VecDeque<(String, Instant)>);

impl RetryLog {
    /// Whether to log a failure for this reason now.
    pub(crate) fn is_due(&mut self, reason: &str) -> bool {
        let now = Instant::now();
        self.0.retain(|(_, logged)| now - *logged < REPEATED_EVERY);
        if self.0.iter().any(|(logged, _)| logged == reason) {
            return false;
        }
        if self.0.len() == REASONS {
            self.0.pop_front();
        }
        self.0.push_back((reason.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_logged_once_a_minute() {
        let mut log = RetryLog::default();
        let mut told = vec![];
        for second in 0..150 {
            for reason in ["one", "another"] {
                if log.is_due(reason) {
                    told.push((second, reason));
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(
            told,
            [0, 60, 120]
                .map(|second| [(second, "one"), (second, "another")])
                .concat()
        );
        assert!((0..100).all(|number| log.is_due(&number.to_string())));
        assert_eq!(log.0.len(), REASONS);
    }
}
