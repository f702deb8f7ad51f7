//! `reveille rows rebuild`, with its progress on standard error.

use crate::{
    client::line,
    failure::Failure,
    logging,
    services::projector::{self, Projector},
    signals::Signals,
};
use anyhow::anyhow;
use clap::Subcommand;
use reveille_domain::counted;
use reveille_projector::{Rebuilding, rebuild};
use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How often the line on a terminal is updated.
const LINE_EVERY: Duration = Duration::from_millis(250);
/// How often a line is written to anything else.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// The width to clear before a new text.
const LINE_CHARS: usize = 79;

/// `reveille rows …`.
#[derive(Debug, Subcommand)]
pub enum RowsCommand {
    /// Rebuild the rows from the journal while everything keeps running, then switch to them.
    ///
    /// The current rows stay in use until the switch, which is a single transaction. An interrupted rebuild changes
    /// nothing; the next one continues where it stopped.
    Rebuild(Projector),
}

/// Rebuilds the rows and shows the progress.
pub async fn run(args: Projector) -> Result<(), Failure> {
    logging::start()?;
    let signals = Signals::listen()?;
    let config = args.config()?;
    let (progress, seen) = watch::channel(Rebuilding::default());
    let started = Instant::now();
    let done = tokio::select! {
        biased;
        done = rebuild(config, progress, signals.stop.clone()) => done,
        () = show(&seen, started) => Ok(None),
    };
    if stderr().is_terminal() {
        logging::replace_line(&" ".repeat(LINE_CHARS));
        logging::replace_line("");
    }
    let Some(done) = done.map_err(projector::failure)? else {
        return Err(anyhow!(
            "stopped at commit {}: the current rows are unchanged, and the next rebuild continues from there",
            seen.borrow().applied
        )
        .into());
    };
    let took = started.elapsed().as_secs_f64();
    line(&format!(
        "rebuilt the rows up to commit {} in {took:.1} s",
        done.applied
    ))?;
    if let Some(schema) = done.old_kept_in {
        line(&format!(
            "the journal no longer holds the commits behind the old rows, so these are kept in the schema {schema}; \
             to delete them: DROP SCHEMA {schema} CASCADE"
        ))?;
    }
    Ok(())
}

/// Never ends.
async fn show(seen: &watch::Receiver<Rebuilding>, started: Instant) {
    let terminal = stderr().is_terminal();
    let mut ticks = tokio::time::interval(if terminal { LINE_EVERY } else { LINES_EVERY });
    loop {
        ticks.tick().await;
        let seen = *seen.borrow();
        // Nothing is known before the journal was first read.
        if seen.last_seq == 0 {
            continue;
        }
        let line = progress(seen, started.elapsed());
        if terminal {
            logging::replace_line(&format!("{line:LINE_CHARS$}"));
        } else {
            logging::notice(line);
        }
    }
}

fn progress(seen: Rebuilding, elapsed: Duration) -> String {
    let Rebuilding {
        began_after,
        applied,
        last_seq,
    } = seen;
    let left = last_seq.saturating_sub(applied);
    let percent = applied * 100 / last_seq.max(1);
    let done = applied.saturating_sub(began_after);
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1_000) / millis;
    let mut line = format!(
        "rebuilding the rows: {applied} of {} ({percent} %), {rate}/s",
        counted(last_seq, "commit")
    );
    if left == 0 {
        line += ", about to switch";
    } else if let Some(seconds) = left.checked_div(rate) {
        line += &format!(", {seconds} s left");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_this_run_only_and_never_divides_by_zero() {
        let at = |began_after, applied, last_seq| Rebuilding {
            began_after,
            applied,
            last_seq,
        };
        let second = Duration::from_secs(1);
        let cases = [
            (at(0, 0, 10), "rebuilding the rows: 0 of 10 commits (0 %), 0/s"),
            (
                at(500, 1_500, 3_500),
                "rebuilding the rows: 1500 of 3500 commits (42 %), 1000/s, 2 s left",
            ),
            (
                at(5, 10, 10),
                "rebuilding the rows: 10 of 10 commits (100 %), 5/s, about to switch",
            ),
        ];
        for (seen, expected) in cases {
            assert_eq!(progress(seen, second), expected);
        }
        assert!(progress(at(0, 5, 10), Duration::ZERO).contains("50 %"));
    }
}
