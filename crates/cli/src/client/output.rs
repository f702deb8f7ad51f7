//! Prints rows on standard output. A closed pipe (`| head`) ends the command quietly.

use super::{
    format::Row,
    table::{Columns, table},
};
use crate::{args::Format, failure::Failure, terminal};
use std::io::{self, ErrorKind, Write};

/// Prints rows in the given format.
pub fn print(rows: &[Row], format: Format, columns: Columns) -> Result<(), Failure> {
    match format {
        Format::Table => line(&table(columns, rows)),
        Format::Json => line(&serde_json::to_string_pretty(rows)?),
        Format::Jsonl => rows.iter().try_for_each(|row| line(&row.to_string())),
    }
}

/// Prints one object, for people as `text`.
pub fn print_one(row: &Row, format: Format, text: &str) -> Result<(), Failure> {
    match format {
        Format::Table => line(text),
        Format::Json => line(&serde_json::to_string_pretty(row)?),
        Format::Jsonl => line(&row.to_string()),
    }
}

/// Prints a line, or several, unbuffered.
pub fn line(text: &str) -> Result<(), Failure> {
    screen("", text)
}

/// Prints lines after a control sequence of ours, which may be empty.
pub fn screen(control: &str, text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{control}{}", terminal::lines(text)).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        done => Ok(done?),
    }
}
