//! `reveille why`.

use super::{
    ApiClient, Row,
    format::{exact, field, printable},
    output::print_one,
};
use crate::{args::Listing, failure::Failure};
use clap::Args;
use jiff::tz::TimeZone;
use reqwest::Method;

/// `reveille why`.
#[derive(Debug, Args)]
pub struct Why {
    /// The id of a request (`x-request-id`) or of a wake, a model, or a provider.
    #[arg(value_name = "REQUEST|WAKE|MODEL|PROVIDER")]
    pub id: String,
    #[command(flatten)]
    pub listing: Listing,
}

/// Prints what led to something, and what can be done.
pub async fn why(args: &Why) -> Result<(), Failure> {
    let client = ApiClient::new(&args.listing.api)?;
    let path = format!("/reveille/v1/why/{}", escaped(&args.id));
    let row: Row = client.json(client.request(Method::GET, &path)).await?;
    print_one(&row, args.listing.output, &text(&row, &TimeZone::system()))
}

/// A name as a path has it; its slashes stay.
fn escaped(name: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    name.bytes().map(escape).collect()
}

fn text(row: &Row, zone: &TimeZone) -> String {
    let chain = row["chain"].as_array().into_iter().flatten();
    let lines = chain.map(|cause| {
        let at = if cause["at_ms"].is_null() {
            "now".to_owned()
        } else {
            exact(&cause["at_ms"], zone)
        };
        format!("{at:<23}   {}", printable(field(cause, "what")))
    });
    let head = format!(
        "{} {}: {}",
        field(row, "about"),
        printable(field(row, "id")),
        printable(field(row, "summary"))
    );
    let mut parts = vec![head, String::new()];
    parts.extend(lines);
    if let Some(advice) = row["advice"].as_str() {
        parts.extend([String::new(), format!("-> {}", printable(advice))]);
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_chain_is_printed_line_by_line_with_times_and_what_to_do() {
        let row = json!({"about": "request", "id": "r-1\u{1b}", "summary": "it failed", "chain": [
            {"at_ms": 1_795_449_600_123_u64, "what": "key k7mq2v9x asked for `m`"},
            {"at_ms": null, "what": "its owner has paused it"}], "advice": "resume it"});
        assert_eq!(
            text(&row, &TimeZone::UTC),
            "request r-1\\u001b: it failed\n\n\
             2026-11-23 16:00:00.123   key k7mq2v9x asked for `m`\n\
             now                       its owner has paused it\n\n\
             -> resume it"
        );
    }

    #[test]
    fn a_name_stays_one_path() {
        assert_eq!(escaped("gpu-box/llama3:8b?x y%"), "gpu-box/llama3:8b%3Fx%20y%25");
    }
}
