//! The command line: every command, and where it is run.

use crate::{
    args::Listing,
    audit::{self, Audit},
    client::{self, Agents, Events, Published, Requests, Sleep, UsageByHour, Wake, Wakes, Why},
    command_line_files::{self, Completions, ManPages},
    config::{self, ConfigCommand},
    doctor::{self, Doctor},
    down::{self, Down},
    enroll::{self, AgentTokenCommand, Join},
    export::{self, ExportCommand},
    failure::Failure,
    hub_init::{self, HubCommand},
    init::{self, Init},
    journal::{self, JournalCommand},
    keys::{self, KeyCommand},
    logs::{self, Logs},
    meant,
    past::{self, Diff},
    recipe_test::{self, RecipeCommand},
    rows_rebuild::{self, RowsCommand},
    services::{
        agent::{self, Agent},
        api::{self, Api},
        projector::{self, Projector},
    },
    signals::Hangups,
    status::{self, Status},
    terminal,
    up::{self, Up},
};
use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use std::{
    borrow::Cow,
    env,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

/// What the names of our environment variables begin with.
const VARIABLES: &str = "REVEILLE_";

const EXAMPLES: &str = "\
Examples:
  reveille up --config reveille.toml        run everything on this machine; Ctrl-C stops it
  reveille llms                             list the models and their status
  reveille wake gpu-box/vllm --wait         wake a backend by hand
  reveille logs ollama -f                   what a backend's command prints
  reveille events --follow                  watch events as they happen

Environment variables (a flag overrides its variable):
  REVEILLE_CONFIG, REVEILLE_DATA_DIR, REVEILLE_NATS_URL, REVEILLE_DATABASE_URL, REVEILLE_LISTEN,
  REVEILLE_API_URL, REVEILLE_CA_FILE, REVEILLE_TLS_CERT, REVEILLE_TLS_KEY, REVEILLE_ALLOW_PLAINTEXT
  REVEILLE_API_KEY      the API key to use
  REVEILLE_REQUIRE_KEYS, REVEILLE_INSECURE_NO_KEYS, REVEILLE_ROOT_KEY_FILE, REVEILLE_HOST,
  REVEILLE_CORS_ORIGIN
  REVEILLE_LOG          what services log, such as `info` or `reveille_agent=debug,warn`
  REVEILLE_LOG_FORMAT   text or json
  REVEILLE_NATS_SERVER  the nats-server program that `up` starts

Exit codes: 0 success, 1 failure, 2 wrong usage or config, 3 another agent took over this name,
4 this agent was revoked.";

/// LLM backends that wake when a request arrives.
#[derive(Debug, Parser)]
#[command(name = "reveille", version, disable_version_flag = true, after_help = EXAMPLES)]
pub struct Cli {
    /// Print the version.
    #[arg(short = 'V', short_alias = 'v', long, action = ArgAction::Version)]
    pub version: Option<bool>,
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The command line as it was given, or the exit code once the help or the error is printed.
pub fn parse() -> Result<Cli, ExitCode> {
    let words = meant::plain(env::args_os().collect());
    Cli::try_parse_from(words).map_err(|mut unused| {
        meant::add_tip(&mut unused);
        let variables = env::vars_os().filter_map(|(name, value)| {
            let is_ours = name.to_str().is_some_and(|name| name.starts_with(VARIABLES));
            is_ours.then_some(value)
        });
        let acts = |given: OsString| matches!(terminal::word(&given.to_string_lossy()), Cow::Owned(_));
        if !env::args_os().chain(variables).any(acts) {
            unused.exit()
        }
        // What was given may be part of the text, which has colours only beside it.
        let text = unused.render().to_string();
        let text = terminal::lines(&text);
        // Nobody may be reading.
        let _ = match unused.use_stderr() {
            true => io::stderr().write_all(text.as_bytes()),
            false => io::stdout().write_all(text.as_bytes()),
        };
        u8::try_from(unused.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine: NATS, the API and the providers of a config.
    Up(Up),
    /// Stop the `up` that runs with a data directory.
    Down(Down),
    /// Show what runs, what waits, and what is wrong, on one screen.
    Status(Status),
    /// Run an API replica.
    Api(Api),
    /// Run, reload, pause or resume this machine's agent, or manage the agents of a hub.
    Agent(Agent),
    /// List the agents, as `agent list` does.
    Agents(Agents),
    /// Create the tokens with which agents join, as `agent token` does.
    #[command(subcommand)]
    AgentToken(AgentTokenCommand),
    /// Join a hub with a token.
    Join(Join),
    /// Create the keys and certificates of a hub.
    #[command(subcommand)]
    Hub(HubCommand),
    /// Run the projector, which fills Postgres from the journal.
    Projector(Projector),
    /// Exit with 0 if an API is ready.
    Health(Listing),
    /// List the models.
    Llms(Published),
    /// List the providers.
    Providers(Published),
    /// Show what has changed between two moments, field by field, and by which commit.
    Diff(Diff),
    /// List the latest wakes.
    Wakes(Wakes),
    /// List the latest requests.
    Requests(Requests),
    /// List what keys, models and providers used, by the hour.
    Usage(UsageByHour),
    /// Tell why a request, a wake, a model or a provider is as it is.
    Why(Why),
    /// Wake a provider.
    Wake(Wake),
    /// Put a provider to sleep.
    Sleep(Sleep),
    /// Print the journal's events.
    Events(Events),
    /// Export lists for other programs, as CSV or JSON.
    #[command(subcommand)]
    Export(ExportCommand),
    /// Create, list, rotate and revoke API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Export, restore and check the journal.
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Check that a journal keeps every published rule, and that the rows in Postgres follow from it.
    Audit(Audit),
    /// Manage the rows in Postgres.
    #[command(subcommand)]
    Rows(RowsCommand),
    /// Find this machine's backends and write a config for them.
    Init(Init),
    /// Test wake and sleep recipes.
    #[command(subcommand)]
    Recipe(RecipeCommand),
    /// Print what the commands of this machine's recipes have printed, and why recipes failed. Needs no hub or key.
    Logs(Logs),
    /// Check everything Reveille needs, and explain how to fix what is wrong.
    Doctor(Doctor),
    /// Check and show config files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the script with which a shell completes commands and flags.
    Completions(Completions),
    #[command(hide = true)]
    ManPages(ManPages),
    /// Print the version.
    #[command(hide = true)]
    Version,
}

impl Cli {
    /// Runs the command. A service listens for SIGHUP before it does anything else, so that none ends by it.
    pub async fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Up(args) => up::run(args, Hangups::listen()?).await,
            Command::Down(args) => down::run(&args).await,
            Command::Status(args) => status::run(&args).await,
            Command::Api(args) => api::run(args, Hangups::listen()?).await,
            Command::Agent(args) => agent::run(args).await,
            Command::Agents(args) => past::agents(&args).await,
            Command::AgentToken(AgentTokenCommand::Create(args)) => enroll::create_token(&args).await,
            Command::Join(args) => match enroll::join(args).await? {
                Some(joined) => agent::run(Agent::of(joined)).await,
                None => Ok(()),
            },
            Command::Hub(HubCommand::Init(args)) => hub_init::run(&args),
            Command::Projector(args) => projector::run(args, Hangups::listen()?).await,
            Command::Health(args) => client::health(&args).await,
            Command::Llms(args) => past::llms(&args).await,
            Command::Providers(args) => past::providers(&args).await,
            Command::Diff(args) => past::diff(args).await,
            Command::Wakes(args) => client::wakes(&args).await,
            Command::Requests(args) => client::requests(&args).await,
            Command::Usage(args) => client::usage(&args).await,
            Command::Why(args) => client::why(&args).await,
            Command::Wake(args) => client::wake(&args).await,
            Command::Sleep(args) => client::sleep(&args).await,
            Command::Events(args) => client::events(&args).await,
            Command::Export(command) => export::run(command).await,
            Command::Key(command) => keys::run(command).await,
            Command::Journal(command) => journal::run(command).await,
            Command::Audit(args) => audit::run(args).await,
            Command::Rows(RowsCommand::Rebuild(args)) => rows_rebuild::run(args).await,
            Command::Init(args) => init::run(&args).await,
            Command::Recipe(RecipeCommand::Test(args)) => recipe_test::run(args).await,
            Command::Logs(args) => logs::run(args).await,
            Command::Doctor(args) => doctor::run(args).await,
            Command::Config(command) => config::run(&command),
            Command::Completions(args) => command_line_files::completions(&args, Cli::command()),
            Command::Version => client::line(concat!("reveille ", env!("CARGO_PKG_VERSION"))),
            Command::ManPages(args) => command_line_files::man_pages(&args, Cli::command()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// What the program says of a command line that it refuses.
    fn refused(line: &str) -> String {
        let refused = Cli::try_parse_from(line.split_whitespace());
        refused.map(|_| ()).expect_err(line).to_string()
    }

    #[test]
    fn a_word_that_is_none_of_a_few_is_refused_with_those() {
        for (line, words) in [
            (
                "reveille key create --name k --scope query --priority urgent",
                "high, normal, low",
            ),
            (
                "reveille key create --name k --scope query --progress some",
                "comment, delta, reasoning, off",
            ),
            (
                "reveille llms --status up",
                "active, waking, hibernating, down, inactive",
            ),
            ("reveille wakes --outcome ended", "in_flight, succeeded, failed"),
            ("reveille llms --sort age", "name, -name, status"),
            ("reveille llms --output yaml", "table, json"),
        ] {
            let said = refused(line);
            assert!(said.contains(&format!("possible values: {words}")), "{said}");
        }
    }

    #[test]
    fn a_limit_that_would_let_nobody_in_is_refused() {
        for flag in ["--max-waiting", "--max-connections"] {
            let said = refused(&format!("reveille api --nats nats://127.0.0.1 {flag} 0"));
            assert!(said.contains(flag) && said.contains("1.."), "{said}");
        }
        for flag in ["--max-body", "--limit"] {
            let command = if flag == "--limit" {
                "llms"
            } else {
                "api --nats nats://127.0.0.1"
            };
            assert!(refused(&format!("reveille {command} {flag} 0")).contains(flag));
        }
    }
}
