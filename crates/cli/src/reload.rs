//! `reveille agent reload`: the agents of this machine's data directory use their config files as they are now.

use crate::{
    args::{DataDirArg, Format, OutputArg},
    client::{Row, line},
    data_dir::AGENT_STATE,
    failure::Failure,
};
use anyhow::{Context, anyhow};
use clap::Args;
use reveille_agent::{
    config::Change,
    reload::{self, Asked, ReloadEvent},
    state_dir::StateDir,
};
use reveille_domain::counted;
use std::{io::ErrorKind, path::Path, time::Duration};
use tokio::time::{Instant, timeout_at};

/// How long an agent may take to say whether it can use the file.
const ACCEPTS_WITHIN: Duration = Duration::from_secs(10);
/// How long the reload may take then. Requests of a provider that restarts have two minutes to finish.
const ENDS_WITHIN: Duration = Duration::from_secs(300);

/// `reveille agent reload`.
#[derive(Debug, Args)]
pub struct AgentReload {
    #[command(flatten)]
    pub data_dir: DataDirArg,
    #[command(flatten)]
    pub format: OutputArg,
}

/// Reloads the agents, and prints what changes.
pub async fn run(args: &AgentReload) -> Result<(), Failure> {
    let data_dir = args.data_dir.path()?;
    let state = StateDir::new(data_dir.join(AGENT_STATE));
    let asked = match reload::agents(&state).await {
        Ok(asked) if asked.is_empty() => return Err(none_runs(&data_dir)),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(none_runs(&data_dir)),
        asked => asked.with_context(|| format!("cannot reach the agent of {}", state.path().display()))?,
    };
    let mut outcome = Ok(());
    let mut events = vec![];
    let format = args.format.output;
    for asked in asked {
        outcome = outcome.and(follow(asked, format, &mut events).await);
    }
    if format == Format::Json {
        line(&serde_json::to_string_pretty(&events)?)?;
    }
    outcome
}

fn none_runs(data_dir: &Path) -> Failure {
    anyhow!(
        "no running agent can be reached in the data directory {}: name your agent's with --data-dir or REVEILLE_DATA_DIR. One that hasn't \
         reached its hub yet can't be asked: end it and start it again",
        data_dir.display()
    )
    .into()
}

/// Prints how one agent reloads, to its end; as JSON, adds it to the `events`.
pub async fn follow(mut asked: Asked, format: Format, events: &mut Vec<Row>) -> Result<(), Failure> {
    let agent = asked.agent.clone();
    let mut until = Instant::now() + ACCEPTS_WITHIN;
    let mut failed = 0;
    loop {
        let event = match timeout_at(until, asked.next()).await {
            Ok(event) => event.with_context(|| format!("lost the connection to {agent}"))?,
            Err(_) => {
                return Err(
                    anyhow!("{agent} is not done in time, but goes on; its log says when it is").into(),
                );
            }
        };
        if let Some(event) = &event {
            let mut row = serde_json::to_value(event)?;
            row["agent"] = asked.agent.to_string().into();
            match format {
                Format::Table => {}
                Format::Json => events.push(row),
                Format::Jsonl => line(&row.to_string())?,
            }
        }
        let line = |text: &str| match format {
            Format::Table => line(text),
            Format::Json | Format::Jsonl => Ok(()),
        };
        match event {
            None => return Err(anyhow!("{agent} stopped before the reload was complete").into()),
            Some(ReloadEvent::Done) if failed > 0 => {
                return Err(anyhow!(
                    "{agent} can't use {}; the next reload tries again",
                    counted(failed, "provider")
                )
                .into());
            }
            Some(ReloadEvent::Done) => return line(&format!("{agent}: done")),
            Some(ReloadEvent::Refused { reason }) => {
                let text = format!("{agent} was not reloaded, and nothing has changed: {reason}");
                return Err(Failure::Config(text));
            }
            Some(ReloadEvent::Accepted {
                unchanged,
                agent_keys,
            }) => {
                until = Instant::now() + ENDS_WITHIN;
                for key in agent_keys {
                    line(&format!("{agent}: agent.{key} changed"))?;
                }
                line(&format!("{agent}: {} unchanged", counted(unchanged, "provider")))?;
            }
            Some(ReloadEvent::Changes {
                provider,
                change,
                in_flight,
            }) => line(&format!("{agent}/{provider}: {}", sentence(&change, in_flight)))?,
            Some(ReloadEvent::Failed { provider, reason }) => {
                failed += 1;
                line(&format!("{agent}/{provider}: {reason}"))?;
            }
            Some(ReloadEvent::Settled { provider }) => {
                line(&format!("{agent}/{provider}: has stopped"))?;
            }
        }
    }
}

fn sentence(change: &Change, in_flight: u32) -> String {
    let first = match in_flight {
        0 => String::new(),
        1 => ", once its request has finished".to_owned(),
        many => format!(", once its {many} requests have finished"),
    };
    match change {
        Change::Added => "added".to_owned(),
        Change::Removed => format!("removed{first}"),
        Change::Adjusted { keys } => format!("changed without a restart ({})", keys.join(", ")),
        Change::Restarted { keys } => format!("restarts ({}){first}", keys.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_said_with_its_keys_and_what_it_waits_for() {
        let keys = vec!["base_url".to_owned(), "wake".to_owned()];
        assert_eq!(sentence(&Change::Added, 0), "added");
        assert_eq!(
            sentence(&Change::Removed, 1),
            "removed, once its request has finished"
        );
        let adjusted = Change::Adjusted { keys: keys.clone() };
        assert_eq!(
            sentence(&adjusted, 3),
            "changed without a restart (base_url, wake)"
        );
        assert_eq!(
            sentence(&Change::Restarted { keys }, 3),
            "restarts (base_url, wake), once its 3 requests have finished"
        );
    }
}
