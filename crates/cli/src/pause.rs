//! `reveille agent pause` and `reveille agent resume`: the machine's owner controls the agent through a file in its
//! state directory. Neither needs a hub, a key or a running agent.

use crate::{
    args::{DataDirArg, OutputArg, duration},
    client::print_one,
    data_dir::AGENT_STATE,
    failure::Failure,
};
use anyhow::{Context, anyhow};
use clap::Args;
use jiff::Timestamp;
use reveille_agent::{
    owner_policy::{Pause, PauseTaken, PutToSleep},
    state_dir::StateDir,
};
use reveille_domain::ProviderName;
use serde_json::json;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a running agent may take to notice a pause: it looks every 250 ms, and then has 2 s to send that to its hub.
const TAKEN_WITHIN: Duration = Duration::from_secs(6);
/// How long its backends may take to sleep: their requests have 30 s, and then their recipes run.
const ASLEEP_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Examples:
  reveille agent pause                      until `reveille agent resume`
  reveille agent pause --for 2h --sleep     for two hours, freeing the GPU now

It ends once the agent has sent that to its hub, and with --sleep once the backends sleep or it is clear why one stays awake (exit
code 1). The pause survives restarts of the agent and the machine.";

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
    let written = PauseTaken::clear(&state).and_then(|()| pause.write(&state));
    written.with_context(|| format!("cannot pause the agent of {}", state.path().display()))?;
    let awake = if args.sleep {
        "are put to sleep"
    } else {
        "stay awake"
    };
    let mut text = format!("paused {pause}: no backend is woken, and those awake {awake}");
    let mut taken = vec![];
    if runs {
        taken = taken_by_agents(&state, Some(&pause));
        text += not_told(&taken);
    } else {
        let shown = state.path().display();
        text += &format!("\nno agent is using {shown} now; the next one starts paused");
    }
    for (provider, result) in results(&taken) {
        text += &match result {
            PutToSleep::Asleep => format!("\n{provider} is asleep"),
            PutToSleep::Pending => {
                format!("\n{provider} is still being put to sleep; `reveille status` shows what comes of it")
            }
            PutToSleep::Awake { .. } => continue,
        };
    }
    let until_ms = pause.until().map(Timestamp::as_millisecond);
    let providers = results(&taken).map(|(provider, result)| {
        let mut row = json!(result);
        row["provider"] = json!(provider);
        row
    });
    let row = json!({"paused": true, "until_ms": until_ms, "sleep": args.sleep, "agent_running": runs,
        "hub_told": is_told(&taken), "providers": providers.collect::<Vec<_>>()});
    print_one(&row, args.format.output, &text)?;
    let awake: Vec<_> = results(&taken)
        .filter_map(|(provider, result)| match result {
            PutToSleep::Awake { reason } => Some(format!("{provider} stays awake: {reason}")),
            PutToSleep::Asleep | PutToSleep::Pending => None,
        })
        .collect();
    if awake.is_empty() {
        return Ok(());
    }
    Err(anyhow!("{}", awake.join("\n")).into())
}

/// Waits until the agents have noticed a pause or its end, and have put to sleep what they can. Empty if none says so in time.
fn taken_by_agents(state: &StateDir, pause: Option<&Pause>) -> Vec<PauseTaken> {
    let began = Instant::now();
    loop {
        let taken = PauseTaken::of(state, pause).unwrap_or_default();
        let waited = began.elapsed();
        let is_done = match taken.is_empty() {
            true => waited >= TAKEN_WITHIN,
            false => waited >= ASLEEP_WITHIN || taken.iter().all(PauseTaken::is_done),
        };
        if is_done {
            return taken;
        }
        sleep(LOOK_EVERY);
    }
}

fn is_told(taken: &[PauseTaken]) -> bool {
    !taken.is_empty() && taken.iter().all(|taken| taken.hub_told)
}

/// What to add if the hub may not know yet.
fn not_told(taken: &[PauseTaken]) -> &'static str {
    match is_told(taken) {
        true => "",
        false if taken.is_empty() => "\nthe agent hasn't confirmed it yet, but reads it before each wake",
        false => "\nthe hub can't be reached now, and shows it once the agent is connected again",
    }
}

fn results(taken: &[PauseTaken]) -> impl Iterator<Item = (&ProviderName, &PutToSleep)> {
    taken.iter().flat_map(|taken| &taken.providers)
}

/// Resumes the agent.
pub fn resume(args: &AgentResume) -> Result<(), Failure> {
    let (state, runs) = agent(&args.data_dir)?;
    let lifted = PauseTaken::clear(&state).and_then(|()| Pause::lift(&state, Timestamp::now()));
    let lifted = lifted.with_context(|| format!("cannot resume the agent of {}", state.path().display()))?;
    let taken = if runs && lifted {
        taken_by_agents(&state, None)
    } else {
        vec![]
    };
    let note = if runs { "" } else { " (no agent is running now)" };
    let text = match lifted {
        true => format!(
            "resumed: backends are woken again{note}{}",
            if runs { not_told(&taken) } else { "" }
        ),
        false => format!("the agent of {} wasn't paused{note}", state.path().display()),
    };
    let row =
        json!({"paused": false, "was_paused": lifted, "agent_running": runs, "hub_told": is_told(&taken)});
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
