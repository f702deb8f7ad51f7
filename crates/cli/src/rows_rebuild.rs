//! `reveille rows rebuild`, with its progress on standard error.

use crate::{
    client::line,
    failure::Failure,
    logging,
    progress::{Progress, amount},
    services::projector::{self, Projector},
    signals::Signals,
};
use anyhow::anyhow;
use clap::Subcommand;
use reveille_projector::{Rebuilding, rebuild};
use std::time::{Duration, Instant};
use tokio::sync::watch;

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
    let mut shown = Progress::new();
    let done = tokio::select! {
        biased;
        done = rebuild(config, progress, signals.stop.clone()) => done,
        () = show(&seen, &mut shown, started) => Ok(None),
    };
    shown.clear();
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
async fn show(seen: &watch::Receiver<Rebuilding>, progress: &mut Progress, started: Instant) {
    let mut ticks = tokio::time::interval(progress.every());
    loop {
        ticks.tick().await;
        let seen = *seen.borrow();
        // Nothing is known before the journal was first read.
        if seen.last_seq > 0 {
            progress.show(|| text(seen, started.elapsed()));
        }
    }
}

fn text(seen: Rebuilding, elapsed: Duration) -> String {
    let Rebuilding {
        began_after,
        applied,
        last_seq,
    } = seen;
    let amount = amount(began_after, applied, last_seq, "commit", elapsed);
    let switch = if applied >= last_seq {
        ", about to switch"
    } else {
        ""
    };
    format!("rebuilding the rows: {amount}{switch}")
}

#[test]
fn progress_says_when_only_the_switch_is_left() {
    let at = |applied| Rebuilding {
        began_after: 5,
        applied,
        last_seq: 10,
    };
    let second = Duration::from_secs(1);
    assert_eq!(
        text(at(10), second),
        "rebuilding the rows: 10 of 10 commits (100 %), 5/s, about to switch"
    );
    assert!(!text(at(9), second).contains("switch"));
}
