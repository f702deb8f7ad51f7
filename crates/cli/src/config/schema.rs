//! `reveille config schema`: the JSON Schema of config files, for editors that check TOML while it is written. It says of
//! each key what it is; what a schema can't say, such as that names are unique, `config check` does.

use crate::{client::line, failure::Failure};

/// The schema, kept by hand beside this: the agent's reader is written by hand too, for the sake of its complaints.
pub(crate) const SCHEMA: &str = include_str!("schema.json");

/// Prints the schema.
pub fn run() -> Result<(), Failure> {
    line(SCHEMA.trim_end())
}
