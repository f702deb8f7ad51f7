//! `reveille key`: making, listing, rotating and revoking keys.

use crate::{
    args::{ApiAddress, Format, Listing, duration},
    client::{self, ApiClient, Row, field, table::Table},
    failure::Failure,
};
use clap::{Args, Subcommand};
use reqwest::Method;
use reveille_domain::{KeyId, KeyName, Scope};
use serde_json::json;
use std::time::Duration;

const PATH: &str = "/reveille/v1/keys";

const CREATE_EXAMPLES: &str = "\
Examples:
  reveille key create --name laptop --scope infer:*                 may ask every model
  reveille key create --name ci --scope infer:qwen3-8b --expires 30d --rate 600 --concurrency 8 --wakes-per-hour 20
  reveille key create --name dashboard --scope query                may read what is and what was

The key is printed once and kept nowhere: what is kept is its hash.";

/// `reveille key …`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it, this once.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),
    /// List the keys, without their secrets.
    List(Listing),
    /// Give a key a new secret and print it, this once.
    Rotate(Rotate),
    /// Revoke a key: every replica refuses it within a second.
    Revoke(Revoke),
}

/// `reveille key create`.
#[derive(Debug, Args)]
pub struct Create {
    /// What to call it.
    #[arg(long)]
    pub name: KeyName,
    /// What it may do: infer:*, infer:MODEL, infer:AGENT/MODEL, query, admin.
    #[arg(
        long = "scope",
        value_name = "SCOPE,…",
        value_delimiter = ',',
        required = true
    )]
    pub scopes: Vec<Scope>,
    /// How long it is good, such as 30d or 12h; without it, until it is revoked.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub expires: Option<Duration>,
    /// How many requests it may send a minute, to each replica.
    #[arg(long, value_name = "REQUESTS")]
    pub rate: Option<u32>,
    /// How many requests it may have under way at once, at each replica.
    #[arg(long, value_name = "REQUESTS")]
    pub concurrency: Option<u32>,
    /// How many wakes it may start an hour; 0 for one that asks only what is awake.
    #[arg(long, value_name = "WAKES")]
    pub wakes_per_hour: Option<u32>,
    #[command(flatten)]
    pub listing: Listing,
}

/// `reveille key rotate`.
#[derive(Debug, Args)]
pub struct Rotate {
    /// The key's id, as `reveille key list` has it.
    #[arg(value_name = "ID")]
    pub id: KeyId,
    /// How long the secret before stays good, such as 1h; without it, not at all.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub grace: Option<Duration>,
    #[command(flatten)]
    pub listing: Listing,
}

/// `reveille key revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The key's id, as `reveille key list` has it.
    #[arg(value_name = "ID")]
    pub id: KeyId,
    #[command(flatten)]
    pub api: ApiAddress,
}

/// Runs one of the commands.
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
    let body = json!({"name": args.name, "scopes": args.scopes, "expires_in_s": args.expires.map(|time| time.as_secs()),
        "rate": args.rate, "concurrency": args.concurrency, "wakes_per_hour": args.wakes_per_hour});
    let made: Row = client
        .json(client.request(Method::POST, PATH).json(&body))
        .await?;
    show(&made, args.listing.output)
}

async fn list(args: &Listing) -> Result<(), Failure> {
    let rows = ApiClient::new(&args.api)?.rows(PATH, &[], usize::MAX).await?;
    client::print(&rows, args.output, Table::keys)
}

async fn rotate(args: &Rotate) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let body = json!({"grace_s": args.grace.unwrap_or_default().as_secs()});
    let path = format!("{PATH}/{}/rotate", args.id);
    let made: Row = client
        .json(client.request(Method::POST, &path).json(&body))
        .await?;
    show(&made, args.listing.output)
}

async fn revoke(args: &Revoke) -> Result<(), Failure> {
    let client = ApiClient::new(&args.api)?;
    let path = format!("{PATH}/{}", args.id);
    let _: Row = client.json(client.request(Method::DELETE, &path)).await?;
    client::line(&format!("{} is revoked", args.id))
}

/// The key alone, so that a script can take it; what a person wants to know beside it stands on standard error.
fn show(made: &Row, format: Format) -> Result<(), Failure> {
    match format {
        Format::Table => {
            client::line(field(made, "key"))?;
            eprintln!(
                "this is the key {}, shown this once: keep it now",
                field(made, "id")
            );
            Ok(())
        }
        Format::Json => client::line(&serde_json::to_string_pretty(made)?),
        Format::Jsonl => client::line(&made.to_string()),
    }
}
