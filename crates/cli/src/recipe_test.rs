//! `reveille recipe test`: runs a provider's recipes without a hub and times each step, to find mistakes before a
//! request waits for them.

use crate::{
    args::{DataDirArg, Format, OutputArg},
    client::{line, print_one},
    config,
    config_file::{CONFIG_FILE, default_file},
    failure::Failure,
    signals::Signals,
    trial::{self, Before, Said, TrialOptions, TriedWake, seconds},
};
use clap::{Args, Subcommand};
use reveille_agent::config::{Config, ProviderConfig, nearest};
use serde_json::json;
use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    time::Duration,
};

/// `reveille recipe …`.
#[derive(Debug, Subcommand)]
pub enum RecipeCommand {
    /// Put a backend to sleep and wake it without a hub, timing each step.
    Test(RecipeTest),
}

/// `reveille recipe test`.
#[derive(Debug, Args)]
pub struct RecipeTest {
    /// The provider's name in the config, or AGENT/PROVIDER of the config's own agent.
    #[arg(value_name = "PROVIDER")]
    pub provider: String,
    /// The config file [default: reveille.toml in this folder, or else in the data directory].
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub data_dir: DataDirArg,
    /// Skip the sleep recipe.
    #[arg(long)]
    pub no_sleep: bool,
    /// Run the wake recipe even if the backend is already available.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub format: OutputArg,
}

/// Puts the backend to sleep if it can, wakes it, and prints the time of each step.
pub async fn run(args: RecipeTest) -> Result<(), Failure> {
    let data_dir = args.data_dir.path()?;
    let file = args.config.or_else(|| default_file(Some(&data_dir)));
    let file = file.ok_or_else(|| {
        Failure::Config(format!(
            "there is no {CONFIG_FILE} here or in {}: use --config FILE, or make one with `reveille init`",
            data_dir.display()
        ))
    })?;
    let config = config::load(&file)?;
    let provider = provider(&config, &file, &args.provider)?;
    let format = args.format.output;
    let (stages, printed) = (RefCell::new(vec![]), RefCell::new(vec![]));
    let say = |said: Said<'_>| -> Result<(), Failure> {
        match (format, said) {
            (Format::Table, _) => line(&said.to_string())?,
            (_, Said::Headings) => {}
            (_, Said::Printed(line)) => printed.borrow_mut().push(line.to_owned()),
            (
                _,
                Said::Stage {
                    phase,
                    stage,
                    took,
                    result,
                },
            ) => {
                let took_ms = took.map(millis);
                let row = json!({"phase": phase, "stage": stage, "took_ms": took_ms, "result": result});
                stages.borrow_mut().push(row);
            }
        }
        Ok(())
    };
    let options = TrialOptions {
        no_sleep: args.no_sleep,
        wake_anyway: args.yes,
        say: &say,
    };
    let signals = Signals::listen()?;
    let result = trial::run(&config, provider, &data_dir, options, &signals).await;
    if format == Format::Table {
        return line(&ended(provider, &result?));
    }
    let (outcome, tried) = match &result {
        Ok(tried) if tried.before == Before::Available => ("untested", Ok(tried)),
        Ok(tried) => ("ok", Ok(tried)),
        Err(failure) => ("failed", Err(failure.to_string())),
    };
    let row = json!({
        "provider": provider.name,
        "outcome": outcome,
        "took_ms": tried.as_ref().ok().map(|tried| millis(tried.took)),
        "budget_ms": tried.as_ref().ok().map(|tried| millis(tried.budget)),
        "left_awake": tried.as_ref().ok().map(|tried| !tried.ended),
        "stages": stages.into_inner(),
        "printed": printed.into_inner(),
        "failure": tried.err(),
    });
    print_one(&row, format, "")?;
    result.map(drop)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What has come of the trial.
fn ended(provider: &ProviderConfig, tried: &TriedWake) -> String {
    let left = if tried.ended {
        "nothing is left running"
    } else {
        "the backend is left awake"
    };
    if tried.before == Before::Available {
        return format!(
            "ok: the recipe of {} ran, but wasn't tested: the backend was available before it; {left}",
            provider.name
        );
    }
    format!(
        "ok: {} was awake after {} (budget {}); {left}",
        provider.name,
        seconds(tried.took),
        seconds(tried.budget)
    )
}

fn provider<'a>(config: &'a Config, file: &Path, given: &str) -> Result<&'a ProviderConfig, Failure> {
    let own = format!("{}/", config.agent.name);
    let name = given.strip_prefix(&own).unwrap_or(given);
    let mut providers = config.providers.iter();
    if let Some(found) = providers.find(|provider| provider.name.as_str() == name) {
        return Ok(found);
    }
    Err(Failure::Config(format!(
        "{} has no provider `{given}`{}",
        file.display(),
        meant(config, name)
    )))
}

/// Which provider was probably meant, and those that there are.
fn meant(config: &Config, name: &str) -> String {
    let publishes = |provider: &&ProviderConfig| {
        let mut models = provider.models.iter().flatten();
        models.any(|model| [model.id.as_str(), model.public.as_str()].contains(&name))
    };
    if let Some(provider) = config.providers.iter().find(publishes) {
        return format!(": that is a model of `{}`", provider.name);
    }
    let names: Vec<_> = config
        .providers
        .iter()
        .map(|provider| provider.name.as_str())
        .collect();
    let listed = names.join(", ");
    match nearest(name, names.iter().copied()) {
        Some(nearest) => format!(", did you mean `{nearest}`? It has: {listed}"),
        None if names.is_empty() => "; it has none: add a [[provider]]".to_owned(),
        None => format!("; it has: {listed}"),
    }
}
