//! `reveille key`: creates, lists, rotates and revokes API keys.

use crate::{
    args::{Format, Listing, duration, one_of},
    client::{self, ApiClient, Row, field, table},
    failure::Failure,
};
use clap::{Args, Subcommand};
use reveille_domain::{KeyName, Priority, Scope};
use serde_json::json;
use std::time::Duration;

const PATH: &str = "/reveille/v1/keys";

/// How a stream may report that it waits.
const PROGRESS: [&str; 4] = ["comment", "delta", "reasoning", "off"];

/// The classes of requests that wait.
const PRIORITIES: [&str; 3] = ["high", "normal", "low"];

const CREATE_EXAMPLES: &str = "\
Examples:
  reveille key create --name laptop --scope infer:*                 may use every model
  reveille key create --name ci --scope infer:qwen3-8b --expires 30d --rate 600 --concurrency 8 --wakes-per-hour 20
  reveille key create --name batch --scope infer:* --priority low   gets 1 slot of 21 while others wait
  reveille key create --name dashboard --scope query                may read status and history

The key is printed once; only its hash is stored.";

/// `reveille key …`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create an API key and print it, once.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),
    /// List the keys, without secrets.
    List(Listing),
    /// Give a key a new secret and print it, once.
    Rotate(Rotate),
    /// Revoke a key: every replica refuses it within a second.
    Revoke(Revoke),
}

/// `reveille key create`.
#[derive(Debug, Args)]
pub struct Create {
    /// A name for the key.
    #[arg(long)]
    pub name: KeyName,
    /// What the key may do: infer:*, infer:MODEL, infer:AGENT/MODEL, query, admin.
    #[arg(
        long = "scope",
        value_name = "SCOPE,…",
        value_delimiter = ',',
        required = true
    )]
    pub scopes: Vec<Scope>,
    /// How long the key is valid, such as 30d or 12h [default: until it is revoked].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub expires: Option<Duration>,
    /// Requests per minute, at each replica [default: no limit].
    #[arg(long, value_name = "REQUESTS")]
    pub rate: Option<u32>,
    /// Concurrent requests, at each replica [default: no limit].
    #[arg(long, value_name = "REQUESTS")]
    pub concurrency: Option<u32>,
    /// Wakes it may start per hour; with 0 it can only use models that are awake [default: no limit].
    #[arg(long, value_name = "WAKES")]
    pub wakes_per_hour: Option<u32>,
    /// How streams of its requests report that they wait, if a request doesn't say: `delta` for clients that give up in spite
    /// of comments [default: by the client].
    #[arg(long, value_name = "FORM", value_parser = PROGRESS)]
    pub progress: Option<String>,
    /// How soon its requests have their turn where requests wait for a provider: high, normal or low.
    #[arg(long, value_name = "CLASS", default_value_t, value_parser = one_of::<Priority>(PRIORITIES))]
    pub priority: Priority,
    #[command(flatten)]
    pub listing: Listing,
}

/// `reveille key rotate`.
#[derive(Debug, Args)]
pub struct Rotate {
    /// The key's name, its id or the beginning of it, from `reveille key list`.
    #[arg(value_name = "KEY")]
    pub named: String,
    /// How long the old secret stays valid, such as 1h [default: not at all].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub grace: Option<Duration>,
    #[command(flatten)]
    pub listing: Listing,
}

/// `reveille key revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The key's name, its id or the beginning of it, from `reveille key list`.
    #[arg(value_name = "KEY")]
    pub named: String,
    #[command(flatten)]
    pub listing: Listing,
}

/// Runs the command.
pub async fn run(command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Create(args) => create(args).await,
        KeyCommand::List(args) => list(&args).await,
        KeyCommand::Rotate(args) => rotate(&args).await,
        KeyCommand::Revoke(args) => revoke(&args).await,
    }
}

async fn create(args: Create) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let body = json!({"name": args.name, "scopes": args.scopes, "expires_in_s": args.expires.map(|time|
     time.as_secs()),
        "rate": args.rate, "concurrency": args.concurrency, "wakes_per_hour": args.wakes_per_hour, "progress": args.progress,
        "priority": args.priority});
    show(&client.post(PATH, &body).await?, args.listing.output)
}

async fn list(args: &Listing) -> Result<(), Failure> {
    let rows = ApiClient::new(&args.api)?.rows(PATH, &[], usize::MAX).await?;
    client::print(&rows, args.output, table::KEYS)
}

async fn rotate(args: &Rotate) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let body = json!({"grace_s": args.grace.unwrap_or_default().as_secs()});
    let id = client::key(&client, &args.named).await?;
    let path = format!("{PATH}/{id}/rotate");
    show(&client.post(&path, &body).await?, args.listing.output)
}

async fn revoke(args: &Revoke) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let id = client::key(&client, &args.named).await?;
    let row = client.delete(&format!("{PATH}/{id}")).await?;
    client::print_one(&row, args.listing.output, &format!("{id} is revoked"))
}

/// Prints only the key on standard output, for scripts; the note for people goes to standard error.
fn show(made: &Row, format: Format) -> Result<(), Failure> {
    match format {
        Format::Table => {
            client::line(field(made, "key"))?;
            client::notice(format_args!(
                "This is key {}. Save it now: it won't be shown again.",
                field(made, "id")
            ));
            Ok(())
        }
        Format::Json => client::line(&serde_json::to_string_pretty(made)?),
        Format::Jsonl => client::line(&made.to_string()),
    }
}
