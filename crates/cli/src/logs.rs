//! `reveille logs`: what the commands of this machine's recipes have printed, and why recipes failed. It is read from the agent's state
//! directory, so it needs no hub, no key and no running agent.

use crate::{
    args::{DataDirArg, Format, OutputArg},
    client::{Row, line, print},
    config,
    config_file::default_file,
    data_dir::AGENT_STATE,
    failure::Failure,
    logging::notice,
    signals::Signals,
};
use anyhow::Context;
use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use reveille_agent::{
    config::nearest,
    output::{OutputFile, Reader, kept},
    state_dir::StateDir,
};
use reveille_domain::ProviderId;
use serde_json::json;
use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::sleep;

/// How many lines are printed by default.
const DEFAULT_LINES: &str = "100";
/// How often a follower looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(250);

const EXAMPLES: &str = "\
Examples:
  reveille logs                   the last lines of all providers of this machine
  reveille logs ollama -f         go on as ollama prints, until Ctrl-C

A line has its time, the step that printed it, and its text. Behind `*` is what happened to it.
The output is kept on the agent's machine alone, at most 2 MiB of each provider.";

/// `reveille logs`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Logs {
    /// The provider's name, or AGENT/PROVIDER [default: all providers of this machine].
    #[arg(value_name = "PROVIDER")]
    pub provider: Option<String>,
    /// Keep printing lines as they come, until Ctrl-C.
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the last lines to print first.
    #[arg(short = 'n', long, value_name = "LINES", default_value = DEFAULT_LINES)]
    pub lines: usize,
    /// The config file whose providers there are [default: those that have printed something; for PROVIDER also reveille.toml here or in
    /// the data directory].
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub data_dir: DataDirArg,
    #[command(flatten)]
    pub format: OutputArg,
}

/// Prints the last lines, and those that follow.
pub async fn run(args: Logs) -> Result<(), Failure> {
    let format = args.format.output;
    if args.follow && format == Format::Json {
        return Err(Failure::Config(
            "--follow never ends, and -o json prints one array: use -o jsonl".to_owned(),
        ));
    }
    let signals = Signals::quiet()?;
    let data_dir = args.data_dir.path()?;
    let state = StateDir::new(data_dir.join(AGENT_STATE));
    let mut logs = Sources::new(&args, &data_dir, state)?;
    let mut lines = logs.more()?;
    if lines.is_empty() {
        let whose = args.provider.as_deref().unwrap_or("any provider");
        let text = format!("nothing was printed by the commands of {whose} yet, and no recipe has failed");
        notice(match args.follow {
            true => format!("{text}; waiting for it, until Ctrl-C"),
            false => text,
        });
    }
    lines.drain(..lines.len().saturating_sub(args.lines));
    loop {
        match format {
            Format::Table => lines
                .iter()
                .try_for_each(|(index, text)| line(&logs.shown(*index, text)))?,
            Format::Json | Format::Jsonl => {
                let rows: Vec<_> = lines.iter().map(|(index, text)| logs.row(*index, text)).collect();
                print(&rows, format, &[])?;
            }
        }
        if !args.follow {
            return Ok(());
        }
        tokio::select! {
            () = signals.stop.cancelled() => return Ok(()),
            () = sleep(LOOK_EVERY) => {}
        }
        lines = logs.more()?;
    }
}

/// The providers whose lines are printed.
struct Sources {
    state: StateDir,
    /// Whether those are added that begin to print.
    all: bool,
    readers: Vec<(ProviderId, Reader)>,
    zone: TimeZone,
}

impl Sources {
    fn new(args: &Logs, data_dir: &Path, state: StateDir) -> Result<Self, Failure> {
        let mut known = kept(&state).with_context(|| cannot_read(&state))?;
        let used = state.is_in_use().with_context(|| cannot_read(&state))?;
        if known.is_empty() && used.is_none() {
            return Err(Failure::Config(format!(
                "no agent has ever used the data directory {}: name your agent's with --data-dir or REVEILLE_DATA_DIR",
                data_dir.display()
            )));
        }
        let config = match &args.config {
            Some(file) => Some(config::load(file)?),
            // It only tells which names are right, so it may be missing or wrong.
            None if args.provider.is_some() => {
                default_file(Some(data_dir)).and_then(|file| config::load(&file).ok())
            }
            None => None,
        };
        if let Some(config) = config {
            let providers = config.providers.into_iter();
            known.extend(providers.map(|provider| ProviderId::new(config.agent.name.clone(), provider.name)));
            known.sort();
            known.dedup();
        }
        let mut this = Self {
            state,
            all: args.provider.is_none(),
            readers: vec![],
            zone: TimeZone::system(),
        };
        let chosen = match &args.provider {
            None => known,
            Some(name) => named(name, known)?,
        };
        chosen.into_iter().for_each(|id| this.add(id));
        Ok(this)
    }

    fn add(&mut self, id: ProviderId) {
        let reader = Reader::new(OutputFile::of(&self.state, &id));
        self.readers.push((id, reader));
    }

    /// What came since the last time, in the order in which it was printed, each line with the number of its provider.
    fn more(&mut self) -> Result<Vec<(usize, String)>, Failure> {
        if self.all {
            for id in kept(&self.state).with_context(|| cannot_read(&self.state))? {
                if self.readers.iter().all(|(known, _)| *known != id) {
                    self.add(id);
                }
            }
        }
        let mut lines = vec![];
        for (index, (_, reader)) in self.readers.iter_mut().enumerate() {
            let more = reader.more().with_context(|| cannot_read(&self.state))?;
            lines.extend(more.into_iter().map(|line| (index, line)));
        }
        // Times have the same length.
        lines.sort_by(|(_, one), (_, other)| time(one).cmp(time(other)));
        Ok(lines)
    }

    /// A line for programs.
    fn row(&self, index: usize, line: &str) -> Row {
        let at = time(line);
        let text = line[at.len()..].strip_prefix(' ').unwrap_or_default();
        let (id, _) = &self.readers[index];
        json!({"at": at, "provider": id, "text": text})
    }

    /// A line with its local time, and its provider if there are several.
    fn shown(&self, index: usize, line: &str) -> String {
        let at = time(line);
        let rest = line[at.len()..].trim_start_matches(' ');
        let at = match at.parse::<Timestamp>() {
            Ok(at) => at
                .to_zoned(self.zone.clone())
                .strftime("%Y-%m-%d %H:%M:%S.%3f")
                .to_string(),
            Err(_) => at.to_owned(),
        };
        let (id, _) = &self.readers[index];
        let agents = self.readers.iter().any(|(other, _)| other.agent != id.agent);
        match self.readers.len() {
            1 if !self.all => format!("{at}  {rest}"),
            _ if agents => format!("{at}  {id}  {rest}"),
            _ => format!("{at}  {}  {rest}", id.provider),
        }
    }
}

/// The time with which a line begins.
fn time(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// The known providers with this name, or AGENT/PROVIDER.
fn named(name: &str, known: Vec<ProviderId>) -> Result<Vec<ProviderId>, Failure> {
    let (found, others): (Vec<_>, Vec<_>) = known
        .into_iter()
        .partition(|id| id.provider.as_str() == name || id.to_string() == name);
    if !found.is_empty() {
        return Ok(found);
    }
    let others: Vec<_> = others
        .iter()
        .map(|id| match name.contains('/') {
            true => id.to_string(),
            false => id.provider.to_string(),
        })
        .collect();
    Err(Failure::Config(unknown(name, &others)))
}

fn unknown(name: &str, known: &[String]) -> String {
    if known.is_empty() {
        return format!("nothing was printed by the commands of a provider `{name}`; is that its name?");
    }
    let list = known.join(", ");
    match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => {
            format!("there is no provider `{name}` here, did you mean `{meant}`? There are: {list}")
        }
        None => format!("there is no provider `{name}` here; there are: {list}"),
    }
}

fn cannot_read(state: &StateDir) -> String {
    let path = state.path().display();
    match std::fs::read_dir(state.path()).map(drop) {
        Err(error) if denied(&error) => {
            format!("cannot read {path}: only the user that the agent runs as can")
        }
        _ => format!("cannot read what is kept in {path}"),
    }
}

fn denied(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
}
