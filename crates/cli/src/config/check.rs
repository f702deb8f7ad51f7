//! `reveille config check`: checks a file as the agent would.

use super::load;
use crate::failure::Failure;
use std::path::Path;

/// Prints what the file publishes, or fails with the line and the reason why it can't be used.
pub fn run(file: &Path) -> Result<(), Failure> {
    let config = load(file)?;
    println!(
        "ok: agent {} with {} provider{}",
        config.agent.name,
        config.providers.len(),
        if config.providers.len() == 1 { "" } else { "s" }
    );
    for provider in &config.providers {
        let wake = provider.wake.as_ref().map_or_else(
            || "never woken".to_owned(),
            |wake| format!("woken within {} s", wake.budget().as_secs()),
        );
        println!("  {}  {}  {wake}", provider.name, provider.base_url);
    }
    Ok(())
}
