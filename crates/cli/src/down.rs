//! `reveille down`: ends the `reveille up` of a data directory, in order, and waits until it has ended.

use crate::{
    args::{DataDirArg, OutputArg},
    client::print_one,
    data_dir::{holder, is_alive, is_locked},
    failure::Failure,
    logging::notice,
};
use anyhow::{Context, anyhow};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::{path::Path, time::Duration};
use tokio::time::{Instant, sleep};

/// How long an `up` may take to end: each of its parts has 60 s to finish its work.
const ENDS_WITHIN: Duration = Duration::from_secs(200);
/// After how long a line says what is waited for.
const SAYS_AFTER: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// `reveille down`.
#[derive(Debug, Args)]
pub struct Down {
    /// Stop at once: requests in progress are cut.
    #[arg(long)]
    pub now: bool,
    #[command(flatten)]
    pub data_dir: DataDirArg,
    #[command(flatten)]
    pub format: OutputArg,
}

/// Ends the running `up`, if there is one.
pub async fn run(args: &Down) -> Result<(), Failure> {
    let data_dir = args.data_dir.path()?;
    let shown = data_dir.display();
    let Some(pid) = running(&data_dir) else {
        let text = format!("no `reveille up` is running with the data directory {shown}");
        return print_one(
            &json!({"stopped": false, "process": null}),
            args.format.output,
            &text,
        );
    };
    // A second signal makes it hurry.
    for _ in 0..if args.now { 2 } else { 1 } {
        kill_process(pid, Signal::TERM)
            .with_context(|| format!("cannot stop `reveille up` (process {})", pid.as_raw_pid()))?;
        sleep(LOOK_EVERY).await;
    }
    let began = Instant::now();
    let mut said = false;
    while is_locked(&data_dir) {
        if began.elapsed() > ENDS_WITHIN {
            return Err(anyhow!(
                "`reveille up` (process {}) has not stopped within {} s; `reveille down --now` stops it at once",
                pid.as_raw_pid(),
                ENDS_WITHIN.as_secs()
            )
            .into());
        }
        if !said && began.elapsed() > SAYS_AFTER {
            notice("waiting until requests in progress have finished; `reveille down --now` doesn't wait");
            said = true;
        }
        sleep(LOOK_EVERY).await;
    }
    let row = json!({"stopped": true, "process": pid.as_raw_pid()});
    print_one(&row, args.format.output, "stopped")
}

/// The process that holds the folder.
fn running(data_dir: &Path) -> Option<Pid> {
    let pid = holder(data_dir).filter(|pid| is_locked(data_dir) && is_alive(pid))?;
    Pid::from_raw(pid.parse().ok()?)
}
