//! The past: what there was at a moment, from an API, an archive file or the projector's database; and what has changed
//! between two moments (`reveille diff`).

use crate::{
    args::{At, OutputArg, moment},
    client::{self, Agents, Published, Row, field, print, table},
    failure::Failure,
    journal::{self, Commits, Running},
};
use clap::Args;
use reveille_bus::{archive::ArchivedCommit, as_of};
use reveille_domain::{
    AgentName,
    as_of::{Changes, Moment, PastProvider, World},
    rows::{LlmRow, LlmSort, RowKey, SortKey},
};
use reveille_projector::world_as_of;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  reveille diff --from 120 --to 180
  reveille diff --from 2026-11-27T22:00:00Z         until now
  reveille diff --from '2026-11-27 22:00' --to '2026-11-28 06:00' journal.jsonl

A moment is the sequence of a commit, or a time: with a zone as in RFC 3339, or else in this machine's.";

/// Lists the models.
pub async fn llms(args: &Published) -> Result<(), Failure> {
    match world(&args.at).await? {
        None => client::llms(args).await,
        Some(world) => print_published(world.llms(), args, LlmRow::sort_key, table::LLMS),
    }
}

/// Lists the providers.
pub async fn providers(args: &Published) -> Result<(), Failure> {
    match world(&args.at).await? {
        None => client::providers(args).await,
        Some(world) => print_published(world.providers(), args, PastProvider::sort_key, table::PROVIDERS),
    }
}

/// Lists the agents.
pub async fn agents(args: &Agents) -> Result<(), Failure> {
    let Some(world) = world(&args.at).await? else {
        return client::agents(args).await;
    };
    let mut rows = world.agents();
    let sort = args.sort.as_deref().unwrap_or("name");
    if sort.trim_start_matches('-') == "connected" {
        rows.sort_by_key(|row| row.connected_at_ms);
    }
    if sort.starts_with('-') {
        rows.reverse();
    }
    rows.truncate(args.limit.or(usize::MAX));
    print(&as_json(rows), args.listing.output, table::AGENTS)
}

fn print_published<T: serde::Serialize, K: RowKey>(
    mut rows: Vec<T>,
    args: &Published,
    sort_key: impl Fn(&T, LlmSort) -> SortKey<K>,
    columns: table::Columns,
) -> Result<(), Failure> {
    let filter = &args.filter;
    let sort = args.sort.unwrap_or_default();
    rows.sort_by(|one, other| sort.order(&sort_key(one, sort.by), &sort_key(other, sort.by)));
    let mut rows = as_json(rows);
    let begins_ms = filter.begins_ms()?;
    rows.retain(|row| {
        let agent = field(row, "agent");
        let of_agent = filter
            .agent
            .as_ref()
            .is_none_or(|wanted| wanted.as_str() == agent);
        let name = field(row, "provider");
        let of_provider = filter
            .provider
            .as_ref()
            .is_none_or(|wanted| *wanted == name || *wanted == format!("{agent}/{name}"));
        let has_status = args
            .status
            .is_none_or(|status| row["status"] == status.to_string());
        of_agent && of_provider && has_status && row["since_ms"].as_i64() >= begins_ms
    });
    rows.truncate(filter.limit.or(usize::MAX));
    print(&rows, args.listing.output, columns)
}

/// The world at the moment, if that is looked up without an API.
async fn world(at: &At) -> Result<Option<World>, Failure> {
    let Some(moment) = at.at else {
        return Ok(None);
    };
    if let Some(url) = &at.from_postgres {
        return Ok(Some(world_as_of(url, moment).await?));
    }
    let Some(file) = &at.archive else {
        return Ok(None);
    };
    let mut commits = Commits::file(file).map_err(|error| journal::about(error, file))?;
    let mut world = World::default();
    while let Some(commit) = commits.next().await? {
        if is_after(&commit, moment) {
            break;
        }
        as_of::put(&mut world, &commit);
    }
    Ok(Some(world))
}

/// Rows as JSON.
fn as_json<T: serde::Serialize>(rows: Vec<T>) -> Vec<Row> {
    let json = |row| serde_json::to_value(row).unwrap_or_default();
    rows.into_iter().map(json).collect()
}

fn is_after(commit: &ArchivedCommit, moment: Moment) -> bool {
    match moment {
        Moment::Sequence(sequence) => commit.sequence > sequence,
        Moment::Time(at) => as_of::time_of(commit).is_some_and(|time| time > at),
    }
}

/// `reveille diff`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Diff {
    /// The moment that it begins with.
    #[arg(long, value_name = "TIME|SEQ", value_parser = moment)]
    pub from: Moment,
    /// The moment that it ends with [default: now].
    #[arg(long, value_name = "TIME|SEQ", value_parser = moment)]
    pub to: Option<Moment>,
    /// A file that `journal export` wrote, instead of a running journal.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub running: Running,
    /// Read the archive in a projector's database.
    #[arg(long, value_name = "URL", conflicts_with = "file")]
    pub from_postgres: Option<String>,
    /// Only what is of this agent.
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<AgentName>,
    #[command(flatten)]
    pub format: OutputArg,
}

/// Shows what has changed, field by field, and by which commit.
pub async fn diff(args: Diff) -> Result<(), Failure> {
    let mut commits = match (&args.file, &args.from_postgres) {
        (Some(file), _) => Commits::file(file).map_err(|error| journal::about(error, file))?,
        (None, Some(url)) => Commits::postgres(url).await?,
        (None, None) => {
            let otherwise = "start it, name a FILE, or use --nats or --from-postgres";
            Commits::live(&args.running.nats(otherwise)?).await?
        }
    };
    let mut world = World::default();
    let mut changes = None;
    while let Some(commit) = commits.next().await? {
        if args.to.is_some_and(|to| is_after(&commit, to)) {
            break;
        }
        if changes.is_none() && is_after(&commit, args.from) {
            changes = Some(Changes::since(&world));
        }
        match &mut changes {
            Some(changes) => as_of::change(changes, &commit),
            None => as_of::put(&mut world, &commit),
        }
    }
    let changed = changes.map(Changes::end).unwrap_or_default();
    let of_agent = |row: &Row| {
        let id = field(row, "id");
        args.agent
            .as_ref()
            .is_none_or(|agent| row["kind"] != "key" && id.split('/').next() == Some(agent.as_str()))
    };
    let mut rows = as_json(changed);
    rows.retain(of_agent);
    print(&rows, args.format.output, table::CHANGES)
}
