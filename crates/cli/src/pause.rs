//! `reveille agent pause` and `reveille agent resume`: what the owner of a machine says to its agent, by a file in its
//! state directory. Neither needs a hub, a key, or an agent that runs.

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
  reveille agent pause --for 2h --sleep     for two hours, and the GPU is freed now

It holds over restarts of the agent and of the machine.";

/// `reveille agent pause`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct AgentPause {
    /// For how long, such as 2h or 3d; without it, until `reveille agent resume`.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub lasts: Option<Duration>,
    /// Put to sleep what is awake, as `reveille sleep` does: requests that are there have 30 s to finish.
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
    let awake = if args.sleep { "is put to sleep" } else { "goes on" };
    line(&format!(
        "paused {pause}: no wake begins, and what is awake {awake}"
    ))?;
    if runs {
        return Ok(());
    }
    line(&format!(
        "no agent runs with {} now: the next one begins paused",
        state.path().display()
    ))
}

/// Resumes the agent.
pub fn resume(data_dir: &DataDirArg) -> Result<(), Failure> {
    let (state, runs) = agent(data_dir)?;
    let lifted = Pause::lift(&state, Timestamp::now());
    let lifted = lifted.with_context(|| format!("cannot resume the agent of {}", state.path().display()))?;
    let runs = if runs { "" } else { ", though no agent runs now" };
    match lifted {
        true => line(&format!("resumed: wakes begin again{runs}")),
        false => line(&format!(
            "the agent of {} was not paused{runs}",
            state.path().display()
        )),
    }
}

/// The state directory that is meant, and whether an agent runs with it.
fn agent(data_dir: &DataDirArg) -> Result<(StateDir, bool), Failure> {
    let data_dir = data_dir.path()?;
    let state = StateDir::new(data_dir.join(AGENT_STATE));
    let used = state.is_in_use();
    match used.with_context(|| format!("cannot look at {}", state.path().display()))? {
        Some(runs) => Ok((state, runs)),
        None => Err(Failure::Config(format!(
            "no agent has ever run with the data directory {}: name the one that yours was started with by --data-dir or \
             REVEILLE_DATA_DIR",
            data_dir.display()
        ))),
    }
}
