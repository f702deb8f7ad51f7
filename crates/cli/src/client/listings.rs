//! `reveille llms`, `reveille providers`, `reveille wakes` and `reveille agents`.

use super::{ApiClient, Row, named, output::print, table};
use crate::{
    args::{At, Filter, Limit, Listing, one_of},
    failure::Failure,
};
use clap::Args;
use reveille_domain::{
    provider::StatusName,
    rows::{LlmSort, Sort, WakeOutcomeFilter, WakeSort},
};

/// How many wakes are listed unless a number or a time is given.
const USUAL_WAKES: usize = 20;
const LLM_SORTS: [&str; 6] = ["name", "-name", "status", "-status", "since", "-since"];
const WAKE_SORTS: [&str; 4] = ["requested", "-requested", "took", "-took"];
const AGENT_SORTS: [&str; 4] = ["name", "-name", "connected", "-connected"];
const STATUSES: [&str; 5] = ["active", "waking", "hibernating", "down", "inactive"];
const OUTCOMES: [&str; 6] = [
    "in_flight",
    "succeeded",
    "failed",
    "timed_out",
    "refused",
    "not_needed",
];

/// `reveille llms` and `reveille providers`.
#[derive(Debug, Args)]
pub struct Published {
    #[command(flatten)]
    pub listing: Listing,
    /// What to sort by; a leading - reverses the order [default: name].
    #[arg(long, allow_hyphen_values = true, value_parser = one_of::<Sort<LlmSort>>(LLM_SORTS))]
    pub sort: Option<Sort<LlmSort>>,
    #[command(flatten)]
    pub filter: Filter,
    #[command(flatten)]
    pub at: At,
    /// Only those with this status.
    #[arg(long, value_name = "STATUS", value_parser = one_of::<StatusName>(STATUSES))]
    pub status: Option<StatusName>,
}

/// `reveille wakes`.
#[derive(Debug, Args)]
pub struct Wakes {
    #[command(flatten)]
    pub listing: Listing,
    /// What to sort by; a leading - reverses the order [default: -requested].
    #[arg(
        long,
        allow_hyphen_values = true,
        conflicts_with = "since",
        value_parser = one_of::<Sort<WakeSort>>(WAKE_SORTS)
    )]
    pub sort: Option<Sort<WakeSort>>,
    #[command(flatten)]
    pub filter: Filter,
    /// Only wakes with this outcome.
    #[arg(long, value_name = "OUTCOME", value_parser = one_of::<WakeOutcomeFilter>(OUTCOMES))]
    pub outcome: Option<WakeOutcomeFilter>,
}

/// `reveille agents`.
#[derive(Debug, Args)]
pub struct Agents {
    #[command(flatten)]
    pub listing: Listing,
    /// What to sort by; a leading - reverses the order [default: name].
    #[arg(long, allow_hyphen_values = true, value_parser = AGENT_SORTS)]
    pub sort: Option<String>,
    #[command(flatten)]
    pub limit: Limit,
    #[command(flatten)]
    pub at: At,
}

/// Lists the models.
pub async fn llms(args: &Published) -> Result<(), Failure> {
    let rows = published("/reveille/v1/llms", args).await?;
    print(&rows, args.listing.output, table::LLMS)
}

/// Lists the providers.
pub async fn providers(args: &Published) -> Result<(), Failure> {
    let rows = published("/reveille/v1/providers", args).await?;
    print(&rows, args.listing.output, table::PROVIDERS)
}

async fn published(path: &str, args: &Published) -> Result<Vec<Row>, Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let filter = &args.filter;
    let mut query: Vec<_> = args.at.query().into_iter().collect();
    query.extend(args.sort.map(|sort| ("sort", sort.to_string())));
    query.extend(args.status.map(|status| ("status", status.to_string())));
    match &filter.provider {
        Some(given) => {
            let id = named::provider(&client, given).await?;
            query.push(("agent", id.agent.to_string()));
            query.push(("provider", id.provider.to_string()));
        }
        None => query.extend(filter.agent.as_ref().map(|agent| ("agent", agent.to_string()))),
    }
    let begins_ms = filter.begins_ms()?;
    let wanted = |row: &Row| of_agent(row, filter) && row["since_ms"].as_i64() >= begins_ms;
    let most = filter.limit.or(usize::MAX);
    let rows = client.rows_until(path, &query, most, wanted, |_| false).await?;
    named::check_agent(&client, filter.agent.as_ref(), rows.len()).await?;
    Ok(rows)
}

/// Whether a row is of the wanted agent, even beside a provider of another.
fn of_agent(row: &Row, filter: &Filter) -> bool {
    filter
        .agent
        .as_ref()
        .is_none_or(|agent| row["agent"] == agent.as_str())
}

/// Lists the latest wakes.
pub async fn wakes(args: &Wakes) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let filter = &args.filter;
    let mut query = vec![];
    if let Some(given) = &filter.provider {
        query.push(("provider", named::provider(&client, given).await?.to_string()));
    }
    query.extend(filter.agent.as_ref().map(|agent| ("agent", agent.to_string())));
    query.extend(args.sort.map(|sort| ("sort", sort.to_string())));
    query.extend(args.outcome.map(|outcome| ("outcome", outcome.to_string())));
    let begins_ms = filter.begins_ms()?;
    let most = filter.limit.or(match begins_ms {
        None => USUAL_WAKES,
        Some(_) => usize::MAX,
    });
    // The latest come first.
    let past = |row: &Row| row["requested_at_ms"].as_i64() < begins_ms;
    let rows = client
        .rows_until("/reveille/v1/wakes", &query, most, |_| true, past)
        .await?;
    named::check_agent(&client, filter.agent.as_ref(), rows.len()).await?;
    print(&rows, args.listing.output, table::WAKES)
}

/// Lists the agents.
pub async fn agents(args: &Agents) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let mut query: Vec<_> = args.at.query().into_iter().collect();
    query.extend(args.sort.iter().map(|sort| ("sort", sort.clone())));
    let rows = client
        .rows("/reveille/v1/agents", &query, args.limit.or(usize::MAX))
        .await?;
    print(&rows, args.listing.output, table::AGENTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_that_is_offered_is_read_and_none_is_missing() {
        for sort in LLM_SORTS {
            assert!(sort.parse::<Sort<LlmSort>>().is_ok(), "{sort}");
        }
        assert_eq!(LLM_SORTS.join(", "), Sort::<LlmSort>::legal());
        assert_eq!(WAKE_SORTS.join(", "), Sort::<WakeSort>::legal());
        let said = "x".parse::<StatusName>().unwrap_err();
        for status in STATUSES {
            assert!(
                status.parse::<StatusName>().is_ok() && said.contains(status),
                "{status}"
            );
        }
        assert_eq!(said.matches(',').count() + 2, STATUSES.len());
        let said = "x".parse::<WakeOutcomeFilter>().unwrap_err();
        for outcome in OUTCOMES {
            assert!(
                outcome.parse::<WakeOutcomeFilter>().is_ok() && said.contains(outcome),
                "{outcome}"
            );
        }
        assert_eq!(said.matches(',').count() + 2, OUTCOMES.len());
    }
}
