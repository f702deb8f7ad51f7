//! `reveille journal`: exports, restores, checks and measures the journal.

mod commits;

use crate::{
    args::{DataDirArg, HubArgs, OutputArg},
    client,
    failure::Failure,
    hub::{HubNats, UpNats},
    replica, whole_file,
};
use anyhow::Context;
use clap::{Args, Subcommand};
pub use commits::Commits;
use jiff::tz::TimeZone;
use reveille_bus::{
    Connection,
    access::Role,
    archive::{self, ArchiveError, ArchiveWriter, EPOCHS_LEFT_FREE, Epochs, Stats, Verifier},
};
use reveille_domain::{Timestamp, counted};
use serde_json::json;
use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

const EXPORT_EXAMPLES: &str = "\
Examples:
  reveille journal export journal.jsonl         the journal of the `up` that runs on this machine
  reveille journal export --nats nats://127.0.0.1:4222 journal.jsonl
  reveille journal export --from-postgres postgres://reveille@127.0.0.1/reveille journal.jsonl
  reveille journal export --nats nats://127.0.0.1:4222 | zstd > journal.jsonl.zst

The file is written under a temporary name and then renamed, so it is complete or absent.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  reveille journal import --nats nats://127.0.0.1:4222 journal.jsonl

Stop every API replica first. If the import is interrupted, run it again: it continues where it stopped. Restart the
agents afterwards, because their epochs are raised above those of all earlier sessions.";

/// The mode of an exported file, before the umask.
const FILE_MODE: u32 = 0o666;

/// `reveille journal …`.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Export the journal to a file that can restore it.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
    /// Restore an empty journal from such a file, with the same sequences and bytes.
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Import),
    /// Check that a journal is sound; otherwise name the first bad commit and exit with 1.
    Verify(Source),
    /// Show what a journal consists of, in numbers.
    Stats(Source),
}

/// `reveille journal export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The file to write [default: standard output].
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub running: Running,
    /// Export the archive in a projector's database, for when NATS has lost the journal.
    #[arg(long, value_name = "URL")]
    pub from_postgres: Option<String>,
}

/// `reveille journal import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The file that `export` wrote.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub running: Running,
    /// The file holds every commit ever acknowledged, so agents keep their sessions and epochs.
    #[arg(long)]
    pub exact: bool,
}

/// A running journal.
#[derive(Debug, Args)]
pub struct Running {
    /// The hub's NATS servers [default: that of the `up` that uses the data directory].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    #[command(flatten)]
    pub hub: HubArgs,
    #[command(flatten)]
    pub data_dir: DataDirArg,
}

impl Running {
    /// The servers that are named, or else that of the running `up`. Without either, the error ends with `otherwise`.
    pub fn nats(&self, otherwise: &str) -> Result<HubNats, Failure> {
        if let Some(url) = &self.nats {
            return HubNats::named(url, &self.hub);
        }
        let data_dir = self.data_dir.path()?;
        match UpNats::of(&data_dir) {
            Some(UpNats::Ours(nats)) => Ok(nats),
            Some(UpNats::Given(url)) => HubNats::named(&url, &self.hub),
            None => Err(Failure::Config(format!(
                "no `reveille up` is running with the data directory {}: {otherwise}",
                data_dir.display()
            ))),
        }
    }
}

/// A file or a running journal.
#[derive(Debug, Args)]
pub struct Source {
    /// A file that `export` wrote, instead of a running journal.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub running: Running,
    #[command(flatten)]
    pub format: OutputArg,
}

/// Runs the command.
pub async fn run(command: JournalCommand) -> Result<(), Failure> {
    match command {
        JournalCommand::Export(args) => export(args).await,
        JournalCommand::Import(args) => import(args).await,
        JournalCommand::Verify(source) => verify(source).await,
        JournalCommand::Stats(source) => stats(source).await,
    }
}

async fn export(args: Export) -> Result<(), Failure> {
    let mut commits = match &args.from_postgres {
        Some(url) => Commits::postgres(url).await?,
        None => Commits::live(&args.running.nats("start it, or use --nats or --from-postgres")?).await?,
    };
    match &args.file {
        None => write(&mut commits, io::stdout()).await?,
        Some(path) => {
            let cannot = || format!("can't write {}", path.display());
            let mut file = whole_file::begin(path, FILE_MODE).with_context(cannot)?;
            write(&mut commits, file.as_file_mut()).await?;
            whole_file::place(file, path, true).with_context(cannot)?;
        }
    }
    client::notice(format_args!(
        "exported {}",
        counted(commits.last_sequence(), "commit")
    ));
    Ok(())
}

async fn write(commits: &mut Commits, to: impl Write) -> Result<(), Failure> {
    let mut archive = ArchiveWriter::new(BufWriter::new(to), commits.last_sequence())?;
    while let Some(commit) = commits.next().await? {
        archive.write(&commit)?;
    }
    Ok(archive.finish()?.flush()?)
}

async fn import(args: Import) -> Result<(), Failure> {
    let connection = connect(&args.running.nats("start it, or use --nats")?).await?;
    let epochs = if args.exact { Epochs::Keep } else { Epochs::Advance };
    let show = |progress: archive::ImportProgress| {
        let archive::ImportProgress { done, of } = progress;
        client::notice(format_args!("{done} of {} in the journal", counted(of, "commit")));
    };
    let done = archive::import(&connection, &args.file, epochs, show)
        .await
        .map_err(|error| about(error, &args.file))?;
    let (commits, found, advanced) = (done.commits, done.found, done.advanced);
    if found > 0 {
        client::notice(format_args!(
            "{found} of them were already there from an interrupted import"
        ));
    }
    if advanced > 0 {
        let agents = counted(advanced, "agent");
        client::notice(format_args!(
            "raised the epochs of {agents} by {EPOCHS_LEFT_FREE}, for new sessions"
        ));
    }
    client::line(&format!("imported {}", counted(commits, "commit")))
}

async fn verify(source: Source) -> Result<(), Failure> {
    let mut commits = source.open().await?;
    let mut verifier = Verifier::default();
    while let Some(commit) = commits.next().await? {
        verifier.take(&commit)?;
    }
    let (taken, aggregates) = (verifier.taken(), verifier.aggregates());
    let text = format!(
        "sound: {} of {}",
        counted(taken, "commit"),
        counted(aggregates, "aggregate")
    );
    let row = json!({"sound": true, "commits": taken, "aggregates": aggregates});
    client::print_one(&row, source.format.output, &text)
}

async fn stats(source: Source) -> Result<(), Failure> {
    let mut commits = source.open().await?;
    let mut stats = Stats::default();
    while let Some(commit) = commits.next().await? {
        stats.take(&commit);
    }
    let kinds = stats.aggregates.iter().map(|(kind, of_kind)| {
        let (aggregates, commits, bytes) = (of_kind.aggregates, of_kind.commits, of_kind.bytes);
        let counts = json!({"aggregates": aggregates, "commits": commits, "bytes": bytes});
        ((*kind).to_owned(), counts)
    });
    let kinds: client::Row = kinds.collect::<serde_json::Map<_, _>>().into();
    let row = json!({"commits": stats.commits, "bytes": stats.bytes, "first_ms": stats.first_at, "last_ms": stats.last_at,
        "unreadable": stats.unreadable, "aggregates": kinds, "events": stats.events});
    client::print_one(&row, source.format.output, &as_text(&stats))
}

fn as_text(stats: &Stats) -> String {
    let mut text = format!(
        "commits     {}\nbytes       {}\nfirst       {}\nlast        {}\nunreadable  {}\n",
        stats.commits,
        stats.bytes,
        moment(stats.first_at),
        moment(stats.last_at),
        stats.unreadable
    );
    let heading = ["type", "aggregates", "commits", "bytes"];
    let [kind, aggregates, commits, bytes] = heading;
    let _ = write!(text, "\n{kind:<10} {aggregates:>10} {commits:>10} {bytes:>14}");
    for (kind, of_kind) in &stats.aggregates {
        let (aggregates, commits, bytes) = (of_kind.aggregates, of_kind.commits, of_kind.bytes);
        let _ = write!(text, "\n{kind:<10} {aggregates:>10} {commits:>10} {bytes:>14}");
    }
    let _ = write!(text, "\n\n{:<28} {:>10}", "event", "count");
    for (event, count) in &stats.events {
        let _ = write!(text, "\n{event:<28} {count:>10}");
    }
    text
}

impl Source {
    async fn open(&self) -> Result<Commits, Failure> {
        match &self.file {
            Some(file) => Ok(Commits::file(file).map_err(|error| about(error, file))?),
            None => Commits::live(&self.running.nats("start it, name a FILE, or use --nats")?).await,
        }
    }
}

/// The error with the file's name, if it doesn't tell the place itself.
pub fn about(error: ArchiveError, file: &Path) -> anyhow::Error {
    match error {
        ArchiveError::Io(_) | ArchiveError::NotAnArchive(_) | ArchiveError::Newer { .. } => {
            anyhow::Error::new(error).context(file.display().to_string())
        }
        error => error.into(),
    }
}

async fn connect(nats: &HubNats) -> Result<Connection, Failure> {
    let access = nats.access(Role::Admin)?;
    let options = access.named(&format!("journal {}", replica::name()));
    Ok(Connection::try_open(&options)
        .await
        .context("cannot reach the journal")?)
}

fn moment(at: Option<Timestamp>) -> String {
    client::moment(&json!(at.map(Timestamp::as_millis)), &TimeZone::system())
}
