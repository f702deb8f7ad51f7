//! `reveille events`: the journal's events, one line each, up to now or as they happen.

use super::{
    ApiClient,
    api::{PAGE_ROWS, Page},
    format::{Row, exact, field, printable, word},
    named,
    output::line,
    sse::Blocks,
};
use crate::{
    args::{Filter, Format, Listing, one_of},
    failure::Failure,
    logging::notice,
    signals::Signals,
};
use anyhow::{Context, anyhow};
use clap::Args;
use jiff::tz::TimeZone;
use reqwest::{Method, RequestBuilder};
use reveille_domain::{
    AgentName,
    rows::{EventSort, Sort},
};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const PATH: &str = "/reveille/v1/events";
const SORTS: [&str; 2] = ["seq", "-seq"];
/// The API sends keep-alives more often than this.
const SILENT_AT_MOST: Duration = Duration::from_secs(35);
/// How long to wait before reconnecting.
const PAUSE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  reveille events --follow
  reveille events --limit 20
  reveille events --after 120 --provider gpu-box/vllm -o jsonl";

/// `reveille events`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Events {
    #[command(flatten)]
    pub listing: Listing,
    /// Keep printing events as they happen, until Ctrl-C.
    #[arg(long)]
    pub follow: bool,
    /// What to sort by; -seq has the newest first [default: seq].
    #[arg(
        long,
        allow_hyphen_values = true,
        conflicts_with_all = ["follow", "since"],
        value_parser = one_of::<Sort<EventSort>>(SORTS)
    )]
    pub sort: Option<Sort<EventSort>>,
    /// Only events after this commit of the journal.
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
    #[command(flatten)]
    pub filter: Filter,
}

/// Prints the events.
pub async fn events(args: &Events) -> Result<(), Failure> {
    let filter = &args.filter;
    let is_part = filter.since.is_some() || filter.limit.rows.is_some();
    if args.follow && is_part {
        return Err(Failure::Config(
            "--follow prints what comes: leave out --since and --limit, or --follow".to_owned(),
        ));
    }
    let client = ApiClient::new(&args.listing.api)?;
    let mut reader = Reader {
        filters: filters(args, &client).await?,
        agent: filter.agent.clone(),
        client,
        format: args.listing.output,
        zone: TimeZone::system(),
        after: None,
    };
    if is_part {
        return reader.part(args).await;
    }
    if !args.follow {
        return reader.list().await;
    }
    if reader.format == Format::Json {
        return Err(Failure::Config(
            "--follow never ends, and -o json prints one array: use -o jsonl".to_owned(),
        ));
    }
    if let Err(unknown) = named::check_agent(&reader.client, reader.agent.as_ref(), 0).await {
        notice(format_args!("{unknown}\nwaiting until there is one"));
    }
    let signals = Signals::quiet()?;
    tokio::select! {
        done = reader.follow() => done,
        () = signals.stop.cancelled() => Ok(()),
    }
}

async fn filters(args: &Events, client: &ApiClient) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut filters = vec![];
    if let Some(given) = &args.filter.provider {
        let id = named::provider(client, given).await?;
        filters.push(("aggregate_type", "provider".to_owned()));
        filters.push(("aggregate_id", format!("{}.{}", id.agent, id.provider)));
    }
    filters.extend(args.after.map(|seq| ("after_seq", seq.to_string())));
    filters.extend(args.sort.map(|sort| ("sort", sort.to_string())));
    Ok(filters)
}

struct Reader {
    client: ApiClient,
    filters: Vec<(&'static str, String)>,
    /// The agent whose events, and whose providers' events, are wanted.
    agent: Option<AgentName>,
    format: Format,
    zone: TimeZone,
    /// The last event that was printed.
    after: Option<String>,
}

impl Reader {
    /// A part of the events. Without an order or a beginning it is the latest, the oldest of them first.
    async fn part(&self, args: &Events) -> Result<(), Failure> {
        let most = args.filter.limit.or(usize::MAX);
        let begins_ms = args.filter.begins_ms()?;
        let is_latest = args.sort.is_none() && (args.after.is_none() || begins_ms.is_some());
        let mut filters = self.filters.clone();
        if is_latest {
            filters.push(("sort", "-seq".to_owned()));
        }
        let past = |row: &Row| row["at_ms"].as_i64() < begins_ms;
        let wanted = |row: &Row| self.wants(row);
        let mut rows = self.client.rows_until(PATH, &filters, most, wanted, past).await?;
        named::check_agent(&self.client, self.agent.as_ref(), rows.len()).await?;
        if is_latest {
            rows.reverse();
        }
        if self.format == Format::Json {
            return line(&serde_json::to_string_pretty(&rows)?);
        }
        rows.iter().try_for_each(|row| self.print(row))
    }

    fn wants(&self, row: &Row) -> bool {
        let agent = field(row, "aggregate_id").split('.').next();
        self.agent
            .as_ref()
            .is_none_or(|wanted| row["aggregate_type"] != "key" && agent == Some(wanted.as_str()))
    }

    async fn list(&mut self) -> Result<(), Failure> {
        let (mut all, mut found) = (vec![], 0);
        loop {
            let request = self.request().query(&[("limit", PAGE_ROWS)]);
            let page: Page = self.client.json(request).await?;
            found += page.data.iter().filter(|row| self.wants(row)).count();
            if self.format == Format::Json {
                all.extend(page.data.into_iter().filter(|row| self.wants(row)));
            } else {
                page.data.iter().try_for_each(|row| self.print(row))?;
            }
            self.after = page.next;
            if self.after.is_none() {
                break;
            }
        }
        named::check_agent(&self.client, self.agent.as_ref(), found).await?;
        if self.format == Format::Json {
            line(&serde_json::to_string_pretty(&all)?)?;
        }
        Ok(())
    }

    /// Only the first attempt may fail; later failures mean that the API is away for a while.
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut body = self.open().await?;
        loop {
            let ended = self.read(body).await?;
            notice(format_args!("{ended}; trying again"));
            body = loop {
                sleep(PAUSE).await;
                if let Ok(body) = self.open().await {
                    break body;
                }
            };
        }
    }

    async fn open(&self) -> Result<reqwest::Response, Failure> {
        let request = self.request().query(&[("follow", true)]);
        timeout(SILENT_AT_MOST, self.client.send(request))
            .await
            .map_err(|_| anyhow!("the API did not answer in time"))?
    }

    /// Prints events until the stream ends, and returns why it ended.
    async fn read(&mut self, mut body: reqwest::Response) -> Result<&'static str, Failure> {
        let mut blocks = Blocks::default();
        loop {
            let bytes = match timeout(SILENT_AT_MOST, body.chunk()).await {
                Err(_) => return Ok("the API went silent"),
                Ok(Err(_) | Ok(None)) => return Ok("the API closed the stream"),
                Ok(Ok(Some(bytes))) => bytes,
            };
            let Ok(blocks) = blocks.take_in(&bytes) else {
                return Ok("the API sent something other than an event");
            };
            for block in blocks {
                let row: Row =
                    serde_json::from_str(&block).context("the API sent an event that is not JSON")?;
                if !row["error"].is_null() {
                    return Ok("the API can't read the journal");
                }
                self.print(&row)?;
                self.after = Some(format!("{}.{}", row["stream_seq"], row["index"]));
            }
        }
    }

    fn request(&self) -> RequestBuilder {
        let request = self.client.request(Method::GET, PATH).query(&self.filters);
        let after: Vec<_> = self.after.iter().map(|after| ("after", after)).collect();
        request.query(&after)
    }

    fn print(&self, row: &Row) -> Result<(), Failure> {
        if !self.wants(row) {
            return Ok(());
        }
        match self.format {
            Format::Table => line(&text(row, &self.zone)),
            Format::Json | Format::Jsonl => line(&row.to_string()),
        }
    }
}

/// An event as a line: time, commit, aggregate, type, cause.
fn text(row: &Row, zone: &TimeZone) -> String {
    let of = field(row, "aggregate_id").replacen('.', "/", 1);
    let mut text = format!(
        "{}  {:>6}  {}  {}",
        exact(&row["at_ms"], zone),
        word(&row["stream_seq"]),
        printable(&of),
        word(&row["event_type"])
    );
    let data = &row["data"];
    if let Some(wake) = row["wake_id"].as_str() {
        text += &format!("  wake {}", printable(wake));
    }
    if let Some(reason) = data["failure"]["reason"].as_str().or(data["reason"].as_str()) {
        text += &format!("  ({})", printable(reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_has_time_commit_aggregate_type_and_reason() {
        let row = |event: &str, data: Row, wake: Option<&str>| {
            json!({"stream_seq": 42, "index": 0, "aggregate_type": "provider", "aggregate_id": "gpu-box.vllm",
                "event_type": event, "at_ms": 1_795_449_600_123_i64, "data": data, "wake_id": wake})
        };
        let lines = [
            row("WakeRequested", json!({}), Some("019a")),
            row(
                "WakeFailed",
                json!({"failure": {"reason": "exit code 1"}}),
                Some("019a"),
            ),
            row("BackendSlept", json!({"reason": "idle"}), None),
        ]
        .map(|row| text(&row, &TimeZone::UTC));
        insta::assert_snapshot!(lines.join("\n"));
    }
}
