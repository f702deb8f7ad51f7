//! Enrolling agents: a token from the hub, `reveille join` on the machine, and revoking an agent.

mod hub_nats;
mod join;
mod moved;
mod pinned;
mod service;
mod token;

pub use join::{Join, Joined, join};
pub use token::{HubAddress, Token};

use crate::{
    args::{Format, Listing, duration},
    client::{ApiClient, Row, check_agent, field, is_local, line, moment, print_one},
    failure::Failure,
    logging::notice,
};
use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use reveille_domain::{AgentName, MAX_TOKEN_LIFETIME};
use serde_json::json;
use std::time::Duration;
use url::Url;

/// `reveille agent revoke`.
#[derive(Debug, Args)]
pub struct AgentRevoke {
    /// The agent.
    #[arg(value_name = "AGENT")]
    pub agent: AgentName,
    #[command(flatten)]
    pub listing: Listing,
}

/// `reveille agent forget`.
#[derive(Debug, Args)]
pub struct AgentForget {
    /// The agent.
    #[arg(value_name = "AGENT")]
    pub agent: AgentName,
    #[command(flatten)]
    pub listing: Listing,
}

/// `reveille agent-token …`.
#[derive(Debug, Subcommand)]
pub enum AgentTokenCommand {
    /// Create a one-time token with which a machine joins as this agent.
    Create(AgentTokenCreate),
}

/// `reveille agent token`, or as it was called first, `reveille agent-token create`.
#[derive(Debug, Args)]
pub struct AgentTokenCreate {
    /// The agent.
    #[arg(value_name = "AGENT")]
    pub agent: AgentName,
    /// How long the token is valid, at most 15 minutes.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = token_lifetime)]
    pub expires: Duration,
    /// URL at which the machine reaches the API, for a hub that listens for no agents itself [default: that of --api].
    #[arg(long, env = "REVEILLE_HUB_URL", value_name = "URL")]
    pub hub: Option<Url>,
    #[command(flatten)]
    pub listing: Listing,
}

fn token_lifetime(raw: &str) -> Result<Duration, String> {
    let lifetime = duration(raw)?;
    if lifetime > MAX_TOKEN_LIFETIME {
        return Err("must be at most 15 minutes".to_owned());
    }
    Ok(lifetime)
}

/// Creates a token, and prints the command that uses it.
pub async fn create_token(args: &AgentTokenCreate) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let path = format!("/reveille/v1/agents/{}/tokens", args.agent);
    let api = args.listing.api.url()?;
    // An address of this machine alone leads no other one to the API, unless somebody has chosen it.
    let over_nats = args.hub.is_none() && args.listing.api.api.is_none() && is_local(&api);
    let mut wanted = json!({"expires_in_s": args.expires.as_secs()});
    if over_nats {
        wanted["over_nats"] = true.into();
    }
    let issued = client.post(&path, &wanted).await?;
    let token = Token::of(args.hub.as_ref(), &api, &issued)?;
    if args.listing.output != Format::Table {
        let expires_at_ms = &issued["expires_at_ms"];
        return line(
            &json!({"agent": args.agent, "token": token.to_string(), "expires_at_ms": expires_at_ms})
                .to_string(),
        );
    }
    let until = moment(&issued["expires_at_ms"], &TimeZone::system());
    notice(format_args!(
        "Valid once, until {until}. Run this on the machine of {}:\n",
        args.agent
    ));
    line(&format!("reveille join {token}"))
}

/// Revokes an agent.
pub async fn revoke(args: &AgentRevoke) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let path = format!("/reveille/v1/agents/{}", args.agent);
    let row = of_known(&client, &args.agent, client.delete(&path).await).await?;
    let text = match row["revoked"].as_bool() {
        Some(true) => revoked(&args.agent, row["admitted_at_start"] == true),
        _ => format!("{} had no key and no tokens", args.agent),
    };
    print_one(&row, args.listing.output, &text)
}

fn revoked(agent: &AgentName, is_admitted_at_start: bool) -> String {
    if is_admitted_at_start {
        return format!(
            "{agent} is revoked, and nothing on the hub's own machine is served: the next start of `reveille up` admits it again. \
             To keep it out, leave its [[provider]] entries out of that machine's config, and restart `reveille up`"
        );
    }
    format!(
        "{agent} is revoked: its key and tokens no longer work (`reveille agent forget {agent}` takes it off the lists)"
    )
}

/// Removes an agent from the lists, with what it has published.
pub async fn forget(args: &AgentForget) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let path = format!("/reveille/v1/agents/{}/providers", args.agent);
    let row = of_known(&client, &args.agent, client.delete(&path).await).await?;
    let text = match row["providers"].as_u64() {
        Some(0) | None => format!("forgot {}", args.agent),
        Some(1) => format!("forgot {} and its provider", args.agent),
        Some(providers) => format!("forgot {} and its {providers} providers", args.agent),
    };
    let text = match row["has_key"].as_bool() {
        Some(true) => format!(
            "{text}; its key still works, and it is listed again if it comes back (`reveille agent revoke {}` ends that)",
            args.agent
        ),
        _ => text,
    };
    print_one(&row, args.listing.output, &text)
}

/// The answer about an agent, or else that nobody knows one of its name.
async fn of_known(
    client: &ApiClient,
    agent: &AgentName,
    answer: Result<Row, Failure>,
) -> Result<Row, Failure> {
    if answer.is_err() {
        check_agent(client, Some(agent), 0).await?;
    }
    answer
}

fn text(row: &Row, name: &str) -> Result<String, Failure> {
    match field(row, name) {
        "" => Err(anyhow::anyhow!("the API's response has no {name}").into()),
        text => Ok(text.to_owned()),
    }
}
