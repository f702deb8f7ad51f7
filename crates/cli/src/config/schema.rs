//! `reveille config schema`: the JSON Schema of config files, for editors that check TOML while it is written. What a
//! schema can't express, such as unique names, `config check` finds.

use crate::{client::line, failure::Failure};

/// The schema, written by hand like the agent's reader, which is for the sake of its error messages. Tests compare the
/// two.
pub(crate) const SCHEMA: &str = include_str!("schema.json");

/// Prints the schema.
pub fn run() -> Result<(), Failure> {
    line(SCHEMA.trim_end())
}
