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
/// How often `--now` repeats its signal.
const AGAIN_EVERY: Duration = Duration::from_millis(200);

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
    let Some(pid) = running(&data_dir)? else {
        let text = format!("no `reveille up` is running with the data directory {shown}");
        return print_one(
            &json!({"stopped": false, "process": null}),
            args.format.output,
            &text,
        );
    };
    let stop = || {
        kill_process(pid, Signal::TERM)
            .with_context(|| format!("cannot stop `reveille up` (process {})", pid.as_raw_pid()))
    };
    stop()?;
    let began = Instant::now();
    let mut again_at = began + AGAIN_EVERY;
    let mut said = false;
    while running(&data_dir)? == Some(pid) {
        if began.elapsed() > ENDS_WITHIN {
            let remedy = match args.now {
                true => "`kill -9` ends it, and the journal is kept",
                false => "`reveille down --now` stops it at once",
            };
            return Err(anyhow!(
                "`reveille up` (process {}) has not stopped within {} s; {remedy}",
                pid.as_raw_pid(),
                ENDS_WITHIN.as_secs()
            )
            .into());
        }
        // A second signal makes it hurry; two at once may arrive as one.
        if args.now && Instant::now() >= again_at {
            // It may have ended by now.
            let _ = stop();
            again_at += AGAIN_EVERY;
        }
        if !args.now && !said && began.elapsed() > SAYS_AFTER {
            notice("waiting until requests in progress have finished; `reveille down --now` doesn't wait");
            said = true;
        }
        sleep(LOOK_EVERY).await;
    }
    let row = json!({"stopped": true, "process": pid.as_raw_pid()});
    print_one(&row, args.format.output, "stopped")
}

/// The process of the `up` that has the folder. Once another has it, as when a service manager starts it again, the first has
/// ended.
fn running(data_dir: &Path) -> Result<Option<Pid>, Failure> {
    let holder = holder(data_dir)
        .with_context(|| format!("cannot see whether `reveille up` has {}", data_dir.display()))?;
    let pid = holder.filter(|pid| is_locked(data_dir) && is_alive(pid));
    Ok(pid.and_then(|pid| Pid::from_raw(pid.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::DataDir;
    use std::fs;

    #[tokio::test]
    async fn who_has_a_folder_is_known_or_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(running(folder.path()).unwrap(), None);
        let own = Pid::from_raw(std::process::id().cast_signed());
        let data = DataDir::open(folder.path()).await.unwrap();
        assert_eq!(running(folder.path()).unwrap(), own);
        // Another run has taken it since.
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(data.join("lock"), other.id().to_string()).unwrap();
        assert_ne!(running(folder.path()).unwrap(), own);
        other.kill().unwrap();
        other.wait().unwrap();
        drop(data);
        let unreadable = tempfile::tempdir().unwrap();
        fs::create_dir(unreadable.path().join("lock")).unwrap();
        let said = running(unreadable.path()).unwrap_err().to_string();
        assert!(said.contains("cannot see whether"), "{said}");
    }
}
