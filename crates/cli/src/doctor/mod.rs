//! `reveille doctor`: checks everything Reveille needs, changes nothing, and explains how to fix what is wrong.

mod api;
mod backends;
mod database;
mod hub;
mod machine;
pub mod published;

use crate::{
    args::{DataDirArg, DatabaseUrl, Format, HubArgs, api_url},
    client,
    config_file::default_file,
    data_dir::AGENT_STATE,
    failure::Failure,
};
use anyhow::anyhow;
use clap::Args;
use reveille_agent::{
    BackendClient, OwnHub, config::Config, fetch, models::Memory, owner_policy::OwnerPolicy,
    state_dir::StateDir,
};
use reveille_domain::{ProviderId, counted};
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};
use url::Url;

/// `reveille doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The agent's config file [default: reveille.toml in this folder, or else in the data directory]; without one no backends
    /// are checked.
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The hub's NATS servers [default: those in the config, or else the one of a running `up`].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    #[command(flatten)]
    pub hub: HubArgs,
    #[command(flatten)]
    pub database: DatabaseUrl,
    #[command(flatten)]
    pub data_dir: DataDirArg,
    /// URL of the API [default: that of the `up` that uses the data directory, or else http://127.0.0.1:8420, which needn't be
    /// running].
    #[arg(long, env = "REVEILLE_API_URL", value_name = "URL", value_parser = api_url)]
    pub api: Option<Url>,
    /// PEM file of the certificate authorities to trust for the API instead of the system's.
    #[arg(long, env = "REVEILLE_CA_FILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Output format.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but not as well as it should.
    Warning,
    /// Doesn't work.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        })
    }
}

/// The result of one check.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// How serious it is.
    pub level: Level,
    /// The name of the check.
    pub check: String,
    /// What was found, in a sentence.
    pub found: String,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The findings, in the order of the checks.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a finding that all is well.
    pub fn ok(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.add(Level::Ok, check.into(), found.into(), None);
    }

    /// Adds a finding that something could be better.
    pub fn warning(&mut self, check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Warning, check.into(), found.into(), Some(remedy.into()));
    }

    /// Adds a finding that something doesn't work.
    pub fn problem(&mut self, check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Problem, check.into(), found.into(), Some(remedy.into()));
    }

    fn add(&mut self, level: Level, check: String, found: String, remedy: Option<String>) {
        self.0.push(Finding {
            level,
            check,
            found,
            remedy,
        });
    }

    /// All of them.
    pub fn all(&self) -> &[Finding] {
        &self.0
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }
}

/// Runs all checks, prints the findings, and fails if there is a problem.
pub async fn run(mut args: Doctor) -> Result<(), Failure> {
    let data_dir = args.data_dir.path()?;
    args.config = args.config.or_else(|| default_file(Some(&data_dir)));
    let mut findings = Findings::default();
    let config = args
        .config
        .as_deref()
        .and_then(|file| machine::config(file, &mut findings));
    let checked = hub::checked(&args, config.as_ref(), &data_dir)?;
    machine::data_dir(&data_dir, &checked, &mut findings).await;
    let journal = hub::look(&checked, config.as_ref(), &mut findings).await;
    if let Some(url) = &args.database.database_url {
        database::look(url, journal.last, &mut findings).await;
    }
    if let Some(config) = &config {
        let hub = match journal.hub {
            Some(hub) => Some(hub),
            None => api::hub(args.api.as_ref(), args.ca.clone(), &data_dir).await?,
        };
        providers(config, &data_dir, &OwnHub::of(hub), &mut findings).await?;
    }
    api::look(args.api.as_ref(), args.ca, data_dir, &mut findings).await?;
    print(&findings, args.output)?;
    match findings.count(Level::Problem) {
        0 => Ok(()),
        problems => Err(anyhow!("found {}", counted(problems, "problem")).into()),
    }
}

async fn providers(
    config: &Config,
    data_dir: &Path,
    own_hub: &OwnHub,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let state = StateDir::new(data_dir.join(AGENT_STATE));
    let owner_policy = OwnerPolicy::new(Some(state.clone()), config.agent.quiet_hours.clone());
    machine::owner(&owner_policy, &state, findings);
    let memory = Memory::open(Some(state), &config.agent.name);
    for provider in &config.providers {
        let client = fetch::client_for(&provider.trust, provider.base_url.socket())?;
        let client = BackendClient::new(client, own_hub.clone());
        backends::look(&client, provider, &memory, findings).await;
        let id = ProviderId::new(config.agent.name.clone(), provider.name.clone());
        let most = provider.wake.as_ref().and_then(|wake| wake.max_per_day);
        if let Some(used_up) = owner_policy.used_up(&id, most) {
            findings.warning(
                format!("provider {}", provider.name),
                format!("its wakes are refused: {used_up}"),
                "none needed if this is intended; otherwise raise provider.wake.max_per_day",
            );
        }
    }
    Ok(())
}

fn print(findings: &Findings, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => client::line(&serde_json::to_string_pretty(&findings.0)?),
        Format::Jsonl => findings
            .0
            .iter()
            .try_for_each(|finding| client::line(&serde_json::to_string(finding)?)),
        Format::Table => {
            let width = findings.0.iter().map(|finding| finding.check.len()).max();
            let width = width.unwrap_or_default();
            for Finding {
                level,
                check,
                found,
                remedy,
            } in &findings.0
            {
                client::line(&format!("{level:<8} {check:<width$}  {found}"))?;
                if let Some(remedy) = remedy {
                    client::line(&format!("{:<8} {:<width$}  -> {remedy}", "", ""))?;
                }
            }
            client::line(&format!(
                "{} ok, {}, {}",
                findings.count(Level::Ok),
                counted(findings.count(Level::Warning), "warning"),
                counted(findings.count(Level::Problem), "problem")
            ))
        }
    }
}
