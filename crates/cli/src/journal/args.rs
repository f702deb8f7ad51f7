//! The words of `reveille journal`.

use crate::args::HubArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

const EXPORT_EXAMPLES: &str = "\
Examples:
  reveille journal export --nats nats://127.0.0.1:4222 journal.jsonl
  reveille journal export --from-postgres postgres://reveille@127.0.0.1/reveille journal.jsonl
  reveille journal export --nats nats://127.0.0.1:4222 | zstd > journal.jsonl.zst

A file is written beside its place and then moved there, so that it is whole or not there at all.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  reveille journal import --nats nats://127.0.0.1:4222 journal.jsonl

Stop every API replica before. Run it again if it was broken off: it goes on where it stopped. Agents have to be started
again afterwards, because their epochs are raised above those of all sessions that were.";

/// `reveille journal …`.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Write the journal into a file that restores it.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
    /// Restore an empty journal from such a file, with the same sequences and bytes.
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Import),
    /// Look whether a journal is sound; name the first commit that isn't, with exit code 1.
    Verify(Source),
    /// Say in numbers what a journal consists of.
    Stats(Source),
}

/// `reveille journal export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Where to write it [default: standard output].
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The hub's NATS servers.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    #[command(flatten)]
    pub hub: HubArgs,
    /// The archive in a projector's database, instead of the journal: for when NATS has lost it.
    #[arg(long, value_name = "URL")]
    pub from_postgres: Option<String>,
}

/// `reveille journal import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The file that `export` wrote.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The NATS servers whose journal is restored.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: String,
    #[command(flatten)]
    pub hub: HubArgs,
    /// The file holds every commit that was ever acknowledged: agents go on with their sessions and epochs.
    #[arg(long)]
    pub exact: bool,
}

/// A file or a running journal.
#[derive(Debug, Args)]
pub struct Source {
    /// A file that `export` wrote, instead of a running journal.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The hub's NATS servers.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    #[command(flatten)]
    pub hub: HubArgs,
}
