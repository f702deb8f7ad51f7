//! `reveille agent pause` and `reveille agent resume`: the machine's owner controls the agent through a file in its
//! state directory. Neither needs a hub, a key or a running agent.

use crate::{
    args::{DataDirArg, duration},
    client::line,
    data_dir::AGENT_STATE,
    failure::Failure,
};
use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use reveille_agent::{owner_policy::Pause, state_dir::StateDir};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  reveille agent pause                      until `reveille agent resume`
  reveille agent pause --for 2h --sleep     for two hours, freeing the GPU now

The pause survives restarts of the agent and the machine.";

/// `reveille agent pause`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct AgentPause {
    /// How long to pause, such as 2h or 3d [default: until `reveille agent resume`].
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub lasts: Option<Duration>,
    /// Also put awake backends to sleep, as `reveille sleep` does: requests in progress get 30 s to finish.
    #[arg(long)]
    pub sleep: bool,
    #[command(flatten)]
    pub data_dir: DataDirArg,
}

/// Pauses the agent.
pub fn pause(args: &AgentPause) -> Result<(), Failure> {
    let (state, runs) = agent(&args.data_dir)?;
    let pause = Pause::begin(Timestamp::now(), args.lasts, args.sleep);
    let written = pause.write(&state);
    written.with_context(|| format!("cannot pause the agent of {}", state.path().display()))?;
    let awake = if args.sleep {
        "are put to sleep"
    } else {
        "stay awake"
    };
    line(&format!(
        "paused {pause}: no backend is woken, and those awake {awake}"
    ))?;
    if runs {
        return Ok(());
    }
    line(&format!(
        "no agent is using {} now; the next one starts paused",
        state.path().display()
    ))
}

/// Resumes the agent.
pub fn resume(data_dir: &DataDirArg) -> Result<(), Failure> {
    let (state, runs) = agent(data_dir)?;
    let lifted = Pause::lift(&state, Timestamp::now());
    let lifted = lifted.with_context(|| format!("cannot resume the agent of {}", state.path().display()))?;
    let runs = if runs { "" } else { " (no agent is running now)" };
    match lifted {
        true => line(&format!("resumed: backends are woken again{runs}")),
        false => line(&format!(
            "the agent of {} wasn't paused{runs}",
            state.path().display()
        )),
    }
}

/// The agent's state directory, and whether an agent is using it.
fn agent(data_dir: &DataDirArg) -> Result<(StateDir, bool), Failure> {
    let data_dir = data_dir.path()?;
    let state = StateDir::new(data_dir.join(AGENT_STATE));
    let used = state.is_in_use();
    match used.with_context(|| format!("cannot look at {}", state.path().display()))? {
        Some(runs) => Ok((state, runs)),
        None => Err(Failure::Config(format!(
            "no agent has ever used the data directory {}: name your agent's with --data-dir or REVEILLE_DATA_DIR",
            data_dir.display()
        ))),
    }
}
