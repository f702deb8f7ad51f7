//! `reveille export`: lists as files for other programs, as a stream, however long they are.

use crate::{
    args::ApiAddress,
    client::{self, ApiClient, Row, timestamp},
    failure::Failure,
};
use clap::{Args, Subcommand};
use reveille_domain::ProviderId;

const EXAMPLES: &str = "\
Examples:
  reveille export wakes --csv > wakes.csv
  reveille export wakes --jsonl --provider gpu-box/ollama | jq .outcome

The oldest come first. Without Postgres an API has the last 1,000 wakes only.";

/// The name of a column, and a row's value in it.
type Column = (&'static str, fn(&Row) -> String);

/// The columns of wakes in CSV.
const WAKE_COLUMNS: [Column; 15] = [
    ("wake_id", |row| text(&row["wake_id"])),
    ("provider", |row| text(&row["provider"])),
    ("requested_at", |row| time(&row["requested_at_ms"])),
    ("ended_at", |row| time(&row["ended_at_ms"])),
    ("took_ms", took_ms),
    ("outcome", |row| text(&row["outcome"])),
    ("failure_kind", |row| text(&row["failure"]["kind"])),
    ("failure_stage", |row| text(&row["failure"]["stage"])),
    ("failure_reason", |row| text(&row["failure"]["reason"])),
    ("caused_by", |row| text(&row["cause"]["by"])),
    ("request_id", |row| text(&row["cause"]["request_id"])),
    ("model", |row| text(&row["cause"]["model"])),
    ("key", |row| text(&row["cause"]["key"])),
    ("requested_seq", |row| text(&row["requested_seq"])),
    ("ended_seq", |row| text(&row["ended_seq"])),
];
/// What a cell may not begin with: a spreadsheet would take it for a formula.
const FORMULAS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// `reveille export …`.
#[derive(Debug, Subcommand)]
pub enum ExportCommand {
    /// Export the wakes.
    #[command(after_help = EXAMPLES)]
    Wakes(Wakes),
}

/// `reveille export wakes`.
#[derive(Debug, Args)]
pub struct Wakes {
    #[command(flatten)]
    pub api: ApiAddress,
    #[command(flatten)]
    pub form: Form,
    /// Only those of this provider.
    #[arg(long, value_name = "AGENT/PROVIDER")]
    pub provider: Option<ProviderId>,
}

/// The form of a file.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Form {
    /// As CSV with a heading, times in RFC 3339.
    #[arg(long)]
    pub csv: bool,
    /// As one JSON object per line, as the API has it.
    #[arg(long)]
    pub jsonl: bool,
}

/// Runs the command.
pub async fn run(command: ExportCommand) -> Result<(), Failure> {
    let ExportCommand::Wakes(args) = command;
    let client = ApiClient::new(&args.api)?;
    let mut query = vec![("sort", "requested".to_owned())];
    query.extend(args.provider.map(|id| ("provider", id.to_string())));
    if args.form.csv {
        client::line(&WAKE_COLUMNS.map(|(name, _)| name).join(","))?;
    }
    let print = |rows: Vec<Row>| {
        let lines: Vec<String> = match args.form.csv {
            true => rows.iter().map(csv).collect(),
            false => rows.iter().map(Row::to_string).collect(),
        };
        match lines.is_empty() {
            true => Ok(()),
            false => client::line(&lines.join("\n")),
        }
    };
    client.each_page("/reveille/v1/wakes", &query, print).await
}

fn csv(row: &Row) -> String {
    WAKE_COLUMNS.map(|(_, cell)| cell_of(&cell(row))).join(",")
}

/// A cell as RFC 4180 has it.
fn cell_of(text: &str) -> String {
    let text = match text.starts_with(FORMULAS) {
        true => format!("'{text}"),
        false => text.to_owned(),
    };
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

fn text(value: &Row) -> String {
    match value {
        Row::Null => String::new(),
        Row::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn time(value: &Row) -> String {
    timestamp(value).map_or_else(String::new, |at| at.to_string())
}

fn took_ms(row: &Row) -> String {
    let at = |name: &str| row[name].as_u64();
    match (at("requested_at_ms"), at("ended_at_ms")) {
        (Some(requested), Some(ended)) => ended.saturating_sub(requested).to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wake_is_a_line_of_csv_whose_cells_are_quoted_and_never_formulas() {
        let row = json!({"wake_id": "0199", "provider": "gpu-box/vllm", "requested_at_ms": 1_764_000_000_000_u64,
            "ended_at_ms": 1_764_000_001_500_u64, "outcome": "failed", "requested_seq": 7, "ended_seq": 8,
            "failure": {"kind": "recipe", "stage": "step 1 http", "reason": "it said \"no\", twice"},
            "cause": {"by": "request", "request_id": "=HYPERLINK(1)", "model": "a,b"}});
        assert_eq!(
            csv(&row),
            "0199,gpu-box/vllm,2025-11-24T16:00:00Z,2025-11-24T16:00:01.5Z,1500,failed,recipe,step 1 http,\
             \"it said \"\"no\"\", twice\",request,'=HYPERLINK(1),\"a,b\",,7,8"
        );
    }
}
