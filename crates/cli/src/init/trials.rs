//! Tries what was written: which recipes, with whose leave, and what became of it.

use super::{answers::Answers, recipe::Trial, text::WrittenConfig};
use crate::{
    args::DataDirArg,
    failure::Failure,
    logging::notice,
    signals::Signals,
    trial::{self, Before, TrialOptions, TriedWake, seconds},
};
use anyhow::anyhow;
use reveille_agent::{config::Config, listeners::listener_on};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::BufRead,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

/// How long a server that is asked to end may take.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The providers that may be tried, each with its trial.
pub type ChosenTrials<'a> = Vec<(&'a str, Trial)>;

/// Asks which recipes to try.
pub fn chosen<'a, I: BufRead>(
    written: &'a WrittenConfig,
    answers: &mut Answers<I>,
) -> Result<ChosenTrials<'a>, Failure> {
    let mut chosen = vec![];
    for (provider, trial) in &written.trials {
        let wanted = match trial {
            Trial::Stopped => answers.tries_stopped(&format!("Start `{provider}` now, to try its recipe?"))?,
            Trial::Now => answers.tries_running(&format!(
                "Put `{provider}` to sleep and wake it now, to try its recipe? Requests that it is answering may fail."
            ))?,
            Trial::AfterStopping { pid, .. } => answers.tries_running(&format!(
                "Stop process {} now, to try the recipe of `{provider}`? Requests that it is answering fail, and it stays \
                 stopped: from then on Reveille starts it.",
                pid.as_raw_pid()
            ))?,
        };
        if wanted {
            chosen.push((provider.as_str(), *trial));
        }
    }
    Ok(chosen)
}

/// Tries these recipes one after the other, and says what works. Returns the providers whose recipes failed.
pub async fn run<'a>(
    config: &Config,
    chosen: &ChosenTrials<'a>,
    data_dir: &DataDirArg,
) -> Result<Vec<&'a str>, Failure> {
    let mut failed = vec![];
    if chosen.is_empty() {
        return Ok(failed);
    }
    let data_dir = data_dir.path()?;
    let signals = Signals::listen()?;
    for (provider, trial) in chosen {
        notice(format_args!("\nTrying `{provider}`; Ctrl-C ends it."));
        let tried = one(config, provider, *trial, &data_dir, &signals).await;
        if signals.stop.is_cancelled() {
            return tried.and(Err(anyhow!("stopped").into()));
        }
        match tried {
            Ok(tried) => notice(format_args!("`{provider}` works: {}.", outcome(&tried))),
            Err(error) => {
                let stays = match trial {
                    Trial::AfterStopping { pid, .. } => format!(
                        " If process {} was stopped, start that server again as you did before.",
                        pid.as_raw_pid()
                    ),
                    Trial::Now => " It may be left asleep.".to_owned(),
                    Trial::Stopped => String::new(),
                };
                notice(format_args!("`{provider}` doesn't work yet: {error}.{stays}"));
                failed.push(*provider);
            }
        }
    }
    notice("");
    Ok(failed)
}

async fn one(
    config: &Config,
    name: &str,
    trial: Trial,
    data_dir: &Path,
    signals: &Signals,
) -> Result<TriedWake, Failure> {
    let mut providers = config.providers.iter();
    let provider = providers.find(|provider| provider.name.as_str() == name);
    let provider = provider.ok_or_else(|| anyhow!("it isn't in the file"))?;
    if let Trial::AfterStopping { pid, address } = trial {
        tokio::select! {
            stopped = end(pid, address) => stopped?,
            () = signals.stop.cancelled() => return Err(anyhow!("stopped").into()),
        }
    }
    let options = TrialOptions {
        no_sleep: false,
        wake_anyway: false,
        say: &|said| {
            notice(format_args!("  {said}"));
            Ok(())
        },
    };
    trial::run(config, provider, data_dir, options, signals).await
}

/// Asks the process that listens at an address to end, and waits until it doesn't any more.
async fn end(pid: Pid, address: SocketAddr) -> Result<(), Failure> {
    let listens = || listener_on(address).and_then(|process| Pid::from_raw(process.pid));
    let number = pid.as_raw_pid();
    // The number may be another process's by now.
    if listens() != Some(pid) {
        return Err(
            anyhow!("process {number} doesn't listen at {address} any more, so it was left alone").into(),
        );
    }
    kill_process(pid, Signal::TERM).map_err(|error| anyhow!("process {number} can't be stopped: {error}"))?;
    let began = Instant::now();
    while listens().is_some() {
        if began.elapsed() > ENDS_WITHIN {
            return Err(anyhow!(
                "process {number} was asked to end, but something still listens at {address} after {} s",
                ENDS_WITHIN.as_secs()
            )
            .into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    notice(format_args!(
        "  stopped process {number} in {}",
        seconds(began.elapsed())
    ));
    Ok(())
}

fn outcome(tried: &TriedWake) -> String {
    let slept = match tried.before {
        Before::PutToSleep => "it slept, and ",
        Before::Asleep | Before::Available => "it ",
    };
    let left = match tried.ended {
        true => ", and was stopped again",
        false => ", and is left awake",
    };
    format!("{slept}was awake after {}{left}", seconds(tried.took))
}
