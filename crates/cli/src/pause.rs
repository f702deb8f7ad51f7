//! `reveille agent pause` and `reveille agent resume`: what the owner of a machine says to its agent, by a file in its
//! state directory. Neither needs a hub, a key, or an agent that runs.

use crate::{
    args::{AgentDir, AgentPause},
    client::line,
    failure::Failure,
    services::AGENT_STATE,
    up::data_dir,
};
use anyhow::Context;
use jiff::Timestamp;
use reveille_agent::{rights::Pause, state_dir::StateDir};

/// `reveille agent pause`.
pub fn pause(args: &AgentPause) -> Result<(), Failure> {
    let (state, runs) = agent(&args.agent)?;
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

/// `reveille agent resume`.
pub fn resume(args: &AgentDir) -> Result<(), Failure> {
    let (state, runs) = agent(args)?;
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
fn agent(args: &AgentDir) -> Result<(StateDir, bool), Failure> {
    let data_dir = args.data_dir.clone().map_or_else(data_dir::default_path, Ok)?;
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
