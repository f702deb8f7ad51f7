//! `reveille agent pause` and `reveille agent resume`: the machine's owner controls the agent through a file in its
//! state directory. Neither needs a hub, a key or a running agent.

use crate::{
    args::{DataDirArg, OutputArg, duration},
    client::print_one,
    data_dir::AGENT_STATE,
    failure::Failure,
};
use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use reveille_agent::{owner_policy::Pause, state_dir::StateDir};
use serde_json::json;
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
    #[command(flatten)]
    pub format: OutputArg,
}

/// `reveille agent resume`.
#[derive(Debug, Args)]
pub struct AgentResume {
    #[command(flatten)]
    pub data_dir: DataDirArg,
    #[command(flatten)]
    pub format: OutputArg,
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
    let mut text = format!("paused {pause}: no backend is woken, and those awake {awake}");
    if !runs {
        let shown = state.path().display();
        text += &format!("\nno agent is using {shown} now; the next one starts paused");
    }
    let until_ms = pause.until().map(Timestamp::as_millisecond);
    let row = json!({"paused": true, "until_ms": until_ms, "sleep": args.sleep, "agent_running": runs});
    print_one(&row, args.format.output, &text)
}

/// Resumes the agent.
pub fn resume(args: &AgentResume) -> Result<(), Failure> {
    let (state, runs) = agent(&args.data_dir)?;
    let lifted = Pause::lift(&state, Timestamp::now());
    let lifted = lifted.with_context(|| format!("cannot resume the agent of {}", state.path().display()))?;
    let note = if runs { "" } else { " (no agent is running now)" };
    let text = match lifted {
        true => format!("resumed: backends are woken again{note}"),
        false => format!("the agent of {} wasn't paused{note}", state.path().display()),
    };
    let row = json!({"paused": false, "was_paused": lifted, "agent_running": runs});
    print_one(&row, args.format.output, &text)
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
