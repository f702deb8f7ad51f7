//! `reveille config`: checks and shows config files without an agent.

mod show;

use crate::{
    args::{Format, OutputArg},
    client::{Row, line, print_one},
    config_file::{CONFIG_FILE, default_file},
    failure::Failure,
};
use clap::{Args, Subcommand};
use reveille_agent::{
    config::{Config, ConfigError, ProviderConfig},
    local_checks::mistakes,
};
use reveille_domain::counted;
use serde_json::json;
use show::ConfigShow;
use std::path::{Path, PathBuf};
use tracing::warn;

/// The JSON Schema of config files, for editors that check TOML while it is written. Tests compare it with the agent's
/// reader; what a schema can't express, such as unique names, only the reader checks.
pub const SCHEMA: &str = include_str!("schema.json");

/// `reveille config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a config file as the agent would, and tell all that is wrong with it.
    Check(ConfigCheck),
    /// Print the effective config, defaults included; secrets are hidden.
    Show(ConfigShow),
    /// Print the JSON Schema of config files, for editors.
    Schema,
}

/// `reveille config check`.
#[derive(Debug, Args)]
pub struct ConfigCheck {
    #[command(flatten)]
    pub file: FileArg,
    #[command(flatten)]
    pub format: OutputArg,
}

/// The config file, with `--config` as for all commands, or without.
#[derive(Debug, Args)]
pub struct FileArg {
    /// The config file [default: reveille.toml in this folder, or else in the data directory].
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The same, as for other commands.
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl FileArg {
    fn path(&self) -> Result<PathBuf, Failure> {
        let named = self.file.clone().or_else(|| self.config.clone());
        named.or_else(|| default_file(None)).ok_or_else(|| {
            Failure::Config(format!(
                "there is no {CONFIG_FILE} here or in the data directory: name the file, or make one with `reveille init`"
            ))
        })
    }
}

/// Runs the command.
pub fn run(command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(args) => check(args),
        ConfigCommand::Show(args) => show::run(args),
        ConfigCommand::Schema => line(SCHEMA.trim_end()),
    }
}

/// Prints what the file publishes and what on this machine doesn't fit it, or fails with the lines and the reasons why it can't
/// be used. What doesn't fit is no failure: the file may be for another machine.
fn check(args: &ConfigCheck) -> Result<(), Failure> {
    let (file, format) = (args.file.path()?, args.format.output);
    let (config, usable) = Config::load_in_part(&file);
    let config = match config {
        Ok(config) => config,
        Err(error) => return unusable(&file, format, &error, &usable),
    };
    let mut text = format!(
        "ok: agent {} with {}",
        config.agent.name,
        counted(config.providers.len(), "provider")
    );
    let mut providers = vec![];
    for provider in &config.providers {
        let budget = provider.wake.as_ref().map(|wake| wake.budget().as_secs());
        let wake = budget.map_or_else(
            || "never woken".to_owned(),
            |seconds| format!("woken within {seconds} s"),
        );
        text += &format!("\n  {}  {}  {wake}", provider.name, provider.base_url);
        for preset in &provider.presets {
            text += &format!("\n    preset {} of {}", preset.name, preset.model);
        }
        let presets: Vec<_> = provider.presets.iter().map(|preset| &preset.name).collect();
        let mistakes = mistakes(provider);
        for mistake in &mistakes {
            text += &format!("\n    warning: {mistake}");
        }
        providers.push(
            json!({"name": provider.name, "base_url": provider.base_url.to_string(), "wake_budget_s": budget,
            "presets": presets, "warnings": mistakes}),
        );
    }
    let row = json!({"file": file, "ok": true, "agent": config.agent.name, "providers": providers});
    print_one(&row, format, &text)
}

/// Says all that is wrong with a file, and what on this machine doesn't fit the providers that could be read.
fn unusable(
    file: &Path,
    format: Format,
    error: &ConfigError,
    usable: &[ProviderConfig],
) -> Result<(), Failure> {
    if format != Format::Table {
        let errors: Vec<_> = std::iter::once(error).chain(&error.others).map(wrong).collect();
        let providers: Vec<_> = usable
            .iter()
            .map(|provider| json!({"name": provider.name, "warnings": mistakes(provider)}))
            .collect();
        let row = json!({"file": file, "ok": false, "errors": errors, "providers": providers});
        print_one(&row, format, "")?;
    }
    let warnings = usable.iter().flat_map(|provider| {
        let name = &provider.name;
        let mistakes = mistakes(provider).into_iter();
        mistakes.map(move |mistake| format!("\nwarning: {name}: {mistake}"))
    });
    let warnings: String = warnings.collect();
    Err(Failure::Config(format!("{error}{warnings}")))
}

fn wrong(error: &ConfigError) -> Row {
    json!({"line": error.line, "key": error.key, "reason": error.reason})
}

/// Logs what on this machine doesn't fit the config of the agent that starts.
pub fn warn_of_mistakes(config: &Config) {
    for provider in &config.providers {
        for mistake in mistakes(provider) {
            warn!(provider.name = %provider.name, "{}: {mistake}", provider.name);
        }
    }
}

/// Loads a config file; an unusable one means exit code 2.
pub fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|error| Failure::Config(error.to_string()))
}
