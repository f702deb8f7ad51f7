//! `reveille audit`: replays a journal, or its archive in Postgres with the rows beside it, and checks every published rule.

mod batches;
mod report;

use crate::{
    args::OutputArg,
    failure::Failure,
    journal::{self, Commits, Running},
    progress::{Progress, amount},
};
use anyhow::anyhow;
use batches::Batches;
use clap::Args;
use report::Report;
use reveille_bus::archive::{ArchiveError, JournalAudit};
use reveille_domain::audit::Invariant;
use reveille_projector::RowsAudit;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

const EXAMPLES: &str = "\
Examples:
  reveille audit                                the journal of the `up` that runs on this machine
  reveille audit journal.jsonl                  a file that `journal export` wrote
  reveille audit --nats nats://127.0.0.1:4222 -o json
  reveille audit --from-postgres postgres://reveille@127.0.0.1/reveille

It only reads. The rules are those of docs/invariants.md, by the same names.

Exit codes: 0 sound, 1 at least one rule is broken, 2 not checked to the end.";

/// `reveille audit`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Audit {
    /// A file that `journal export` wrote, instead of a running journal.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub running: Running,
    /// Audit the archive in a projector's database, and all rows beside it.
    #[arg(long, value_name = "URL", conflicts_with = "file")]
    pub from_postgres: Option<String>,
    #[command(flatten)]
    pub format: OutputArg,
}

/// Audits, and prints what was found.
pub async fn run(args: Audit) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let report = audit(&args, &mut progress).await;
    progress.clear();
    let report = report.map_err(|failure| Failure::NotAudited(format!("not audited: {failure}")))?;
    report.print(args.format.output)?;
    match report.broken() {
        0 => Ok(()),
        broken => Err(anyhow!("the journal is not sound: {}", report::breaches(broken)).into()),
    }
}

async fn audit(args: &Audit, progress: &mut Progress) -> Result<Report, Failure> {
    let (commits, mut rows) = open(args).await?;
    let of = commits.last_sequence();
    let started = Instant::now();
    let mut report = Report::default();
    let mut journal = JournalAudit::default();
    let mut batches = Batches::new(commits, rows.is_some());
    loop {
        let batch = match batches.next().await {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => {
                report.stopped_by(of_damage(error, args.file.as_deref())?);
                break;
            }
        };
        for parsed in batch.parsed {
            report.add(journal.take(parsed));
        }
        if let Some(rows) = &mut rows {
            for commit in batch.kept {
                report.add(rows.take(commit).await?);
            }
        }
        progress.show(|| {
            let done = journal.last_states().last_sequence();
            format!("auditing: {}", amount(0, done, of, "commit", started.elapsed()))
        });
    }
    if let Some(rows) = rows.filter(|_| !report.is_cut_off) {
        let (breaches, compared) = rows.finish(journal.last_states()).await?;
        report.add(breaches);
        report.rows = Some(compared);
    }
    report.audited = journal.audited();
    report.aggregates = journal.last_states().aggregates();
    report.checks = Invariant::ALL.iter().map(|rule| journal.checks(*rule)).collect();
    Ok(report)
}

async fn open(args: &Audit) -> Result<(Commits, Option<RowsAudit>), Failure> {
    if let Some(file) = &args.file {
        let commits = Commits::file(file).map_err(|error| journal::about(error, file))?;
        return Ok((commits, None));
    }
    if let Some(url) = &args.from_postgres {
        let mut commits = reveille_projector::ArchivedCommits::read(url).await?;
        let rows = RowsAudit::open(url, &mut commits).await?;
        return Ok((Commits::Postgres(commits), Some(rows)));
    }
    let nats = args
        .running
        .nats("start it, name a FILE, or use --nats or --from-postgres")?;
    Ok((Commits::live(&nats).await?, None))
}

/// The breach that damage is. Anything else keeps the audit from its end.
fn of_damage(error: ArchiveError, file: Option<&Path>) -> Result<report::Damage, Failure> {
    match error {
        ArchiveError::Breach(breach) => Ok(report::Damage::of_commit(breach)),
        ArchiveError::Damaged { .. } => Ok(report::Damage::of_file(Invariant::Chain, &error)),
        ArchiveError::Truncated { .. } => Ok(report::Damage::of_file(Invariant::Sequence, &error)),
        error => Err(match file {
            Some(file) => journal::about(error, file).into(),
            None => error.into(),
        }),
    }
}
