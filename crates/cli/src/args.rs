//! The command line. A flag wins over its variable, which wins over the config file, which wins over the default.

use crate::{
    journal::JournalCommand,
    keys::{KeyCommand, length},
};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::FalseyValueParser};
use jiff::SignedDuration;
use reveille_agent::config::Config;
use reveille_domain::{
    AgentName, MAX_TOKEN_LIFETIME, ProviderId,
    rows::{EventSort, LlmSort, Sort, WakeSort},
};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use url::Url;

/// Where the API listens unless it is told otherwise: this machine only.
const DEFAULT_LISTEN: &str = "127.0.0.1:8420";
/// Where the API is looked for unless it is told otherwise.
pub const DEFAULT_API: &str = "http://127.0.0.1:8420";
/// How many wakes are listed unless it is told otherwise.
const DEFAULT_WAKES: &str = "20";

const EXAMPLES: &str = "\
Examples:
  reveille up --config reveille.toml        all of it on this machine; Ctrl-C stops it
  reveille llms                             what can be asked, and what sleeps
  reveille wake gpu-box/vllm --wait         wake a backend by hand
  reveille events --follow                  what happens, as it happens

Variables (a flag wins over its variable):
  REVEILLE_CONFIG, REVEILLE_NATS_URL, REVEILLE_DATABASE_URL, REVEILLE_LISTEN, REVEILLE_DATA_DIR, REVEILLE_API_URL,
  REVEILLE_TLS_CERT, REVEILLE_TLS_KEY, REVEILLE_ALLOW_PLAINTEXT, REVEILLE_CA_FILE
  REVEILLE_API_KEY      the key with which the API is asked
  REVEILLE_REQUIRE_KEYS, REVEILLE_INSECURE_NO_KEYS, REVEILLE_ROOT_KEY_FILE
  REVEILLE_LOG          what services log, such as `info` or `reveille_agent=debug,warn`
  REVEILLE_LOG_FORMAT   text or json
  REVEILLE_NATS_SERVER  the nats-server program that `up` runs

Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 another agent took this agent's name.";

const UP_EXAMPLES: &str = "\
Examples:
  reveille up                               API, control and a NATS server of its own; agents may join
  reveille up --config reveille.toml        the same, and the providers of the file
  reveille up --listen 0.0.0.0:8420 --tls-cert cert.pem --tls-key key.pem
                                            reachable from other machines, for those who have a key
  reveille up --nats nats://127.0.0.1:4222  with a NATS server that runs already

The journal is kept in the data directory, so that a second run goes on where the first one stopped.";

const INIT_EXAMPLES: &str = "\
Examples:
  reveille init                             looks for Ollama, vLLM, llama.cpp and LM Studio, and writes reveille.toml
  reveille init --ports 8000,8001           looks at these ports";

const HUB_INIT_EXAMPLES: &str = "\
Examples:
  reveille hub init hub                                     keys only: for servers on loopback
  reveille hub init hub --host hub.example --host 192.0.2.1  keys, an authority, and a certificate of the servers

`up` with a NATS server of its own needs none of it.";

const JOIN_EXAMPLES: &str = "\
Examples:
  reveille agent-token create gpu-box     on the hub: prints the command for the machine
  reveille join rvt_…                     on the machine: makes a key that never leaves it, and writes agent.toml

If it is broken off, run it again: the key that it has made is kept.";

const PAUSE_EXAMPLES: &str = "\
Examples:
  reveille agent pause                      until `reveille agent resume`
  reveille agent pause --for 2h --sleep     for two hours, and the GPU is freed now

It holds over restarts of the agent and of the machine.";

const EVENTS_EXAMPLES: &str = "\
Examples:
  reveille events --follow
  reveille events --after 120 --provider gpu-box/vllm -o jsonl";

/// LLM backends that wake when a request arrives.
#[derive(Debug, Parser)]
#[command(name = "reveille", version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all of it on this machine: NATS, API and control, and the config's providers.
    #[command(after_help = UP_EXAMPLES)]
    Up(Up),
    /// Run an API and control replica.
    Api(Api),
    /// Run the agent of this machine, pause and resume it; or revoke any.
    Agent(Agent),
    /// List the agents.
    Agents(Listing),
    /// Work with the tokens by which agents join.
    #[command(subcommand)]
    AgentToken(AgentTokenCommand),
    /// Join a hub as the agent that a token is for.
    #[command(after_help = JOIN_EXAMPLES)]
    Join(Join),
    /// Set up the keys and certificates of a hub.
    #[command(subcommand)]
    Hub(HubCommand),
    /// Run the projector, which keeps the rows in Postgres.
    Projector(Projector),
    /// Say by the exit code whether an API is ready.
    Health(ApiAddress),
    /// List the LLMs.
    Llms(Published),
    /// List the providers.
    Providers(Published),
    /// List the latest wakes.
    Wakes(Wakes),
    /// Wake a provider.
    Wake(Wake),
    /// Put a provider to sleep.
    Sleep(Sleep),
    /// Print the journal's events.
    #[command(after_help = EVENTS_EXAMPLES)]
    Events(Events),
    /// Make, list, rotate and revoke the keys with which the API is used.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Export, restore and check the journal.
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Work with the rows in Postgres.
    #[command(subcommand)]
    Rows(RowsCommand),
    /// Look for backends on this machine and write a config for them.
    #[command(after_help = INIT_EXAMPLES)]
    Init(Init),
    /// Try recipes.
    #[command(subcommand)]
    Recipe(RecipeCommand),
    /// Look at everything that Reveille needs, and say what is wrong and what to do about it.
    Doctor(Doctor),
    /// Work with config files.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// How the hub's processes speak to its NATS servers and to other machines.
#[derive(Debug, Clone, Default, Args)]
pub struct HubArgs {
    /// The folder of the hub's keys, as `reveille hub init` makes it; only this process's own are read.
    #[arg(long, env = "REVEILLE_NATS_KEYS", value_name = "DIR")]
    pub nats_keys: Option<PathBuf>,
    /// A PEM file of the certificate authorities that are trusted for tls://, beside the system's own.
    #[arg(long, env = "REVEILLE_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Serve and reach other machines without TLS: for a network that you trust, or behind a proxy that speaks it.
    #[arg(long, env = "REVEILLE_ALLOW_PLAINTEXT", value_parser = FalseyValueParser::new())]
    pub allow_plaintext: bool,
}

impl HubArgs {
    /// The same, and plaintext also where the agent's config allows it.
    pub fn allowed_by(&self, config: Option<&Config>) -> Self {
        let configured = config.is_some_and(|config| config.agent.allow_plaintext);
        Self {
            allow_plaintext: self.allow_plaintext || configured,
            ..self.clone()
        }
    }
}

/// `reveille up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The agent's config file; without it no provider of this machine is published.
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the journal is kept [default: reveille/ in the user's data directory].
    #[arg(long, env = "REVEILLE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the API listens.
    #[arg(long, env = "REVEILLE_LISTEN", value_name = "ADDRESS", default_value = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub admission: Admission,
    /// A NATS server that runs already, instead of one of our own.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    #[command(flatten)]
    pub hub: HubArgs,
    /// Where agents reach the hub's NATS servers, for those that join [default: as this process does].
    #[arg(long, env = "REVEILLE_AGENTS_NATS_URL", value_name = "URL")]
    pub agents_nats: Option<String>,
    /// A Postgres database for the rows; without it they are kept in memory.
    #[arg(
        long,
        env = "REVEILLE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: Option<String>,
}

/// Whom the API answers. On loopback everybody, anywhere else those who have a key, unless it is told otherwise.
#[derive(Debug, Clone, Copy, Args)]
pub struct Admission {
    /// Answer nobody without a key, not on loopback either.
    #[arg(long, env = "REVEILLE_REQUIRE_KEYS", value_parser = FalseyValueParser::new())]
    pub require_keys: bool,
    /// Answer everybody although the API listens beyond loopback: whoever reaches it may use and wake everything.
    #[arg(long, env = "REVEILLE_INSECURE_NO_KEYS", value_parser = FalseyValueParser::new())]
    pub insecure_no_keys: bool,
}

/// `reveille api`.
#[derive(Debug, Args)]
pub struct Api {
    /// The hub's NATS servers.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: String,
    #[command(flatten)]
    pub hub: HubArgs,
    /// Where the API listens.
    #[arg(long, env = "REVEILLE_LISTEN", value_name = "ADDRESS", default_value = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub admission: Admission,
    /// The file of a key that may do everything, the one that makes the others; made with a new key when it is missing.
    #[arg(long, env = "REVEILLE_ROOT_KEY_FILE", value_name = "FILE")]
    pub root_key_file: Option<PathBuf>,
    /// The Postgres database that a projector fills; without it rows are kept in memory.
    #[arg(
        long,
        env = "REVEILLE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: Option<String>,
    /// Where agents reach the hub's NATS servers, for those that join [default: as this replica does].
    #[arg(long, env = "REVEILLE_AGENTS_NATS_URL", value_name = "URL")]
    pub agents_nats: Option<String>,
    /// How many requests may wait for one provider; the next ones are answered 429.
    #[arg(long, env = "REVEILLE_MAX_WAITING", value_name = "REQUESTS", default_value_t = reveille_api::wakes::MAX_WAITING)]
    pub max_waiting: usize,
}

/// How the API is protected on its way.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Serve HTTPS with this certificate and its chain, in PEM; taken up again when it changes.
    #[arg(long, env = "REVEILLE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, env = "REVEILLE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// `reveille agent`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Agent {
    /// Something else than running it.
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
    /// The config file.
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    /// The hub's NATS servers, instead of the file's.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// Where it keeps what it must know after a restart [default: reveille/ in the user's data directory].
    #[arg(long, env = "REVEILLE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `reveille agent …`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Let an agent in no more: its key and its tokens are good for nothing, and its connections are ended.
    Revoke(AgentRevoke),
    /// Begin no more wakes on this machine, whoever asks for them; what is awake goes on. Needs no hub and no key.
    #[command(after_help = PAUSE_EXAMPLES)]
    Pause(AgentPause),
    /// Let wakes begin again on this machine.
    Resume(AgentDir),
}

/// `reveille agent pause`.
#[derive(Debug, Args)]
pub struct AgentPause {
    /// For how long, such as 2h or 3d; without it, until `reveille agent resume`.
    #[arg(long = "for", value_name = "TIME", value_parser = length)]
    pub lasts: Option<Duration>,
    /// Put to sleep what is awake, as `reveille sleep` does: requests that are there have 30 s to finish.
    #[arg(long)]
    pub sleep: bool,
    #[command(flatten)]
    pub agent: AgentDir,
}

/// The agent of this machine, running or not.
#[derive(Debug, Args)]
pub struct AgentDir {
    /// The data directory of the agent, or of `up` [default: reveille/ in the user's data directory].
    #[arg(long, env = "REVEILLE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `reveille agent revoke`.
#[derive(Debug, Args)]
pub struct AgentRevoke {
    /// The agent.
    #[arg(value_name = "AGENT")]
    pub agent: AgentName,
    #[command(flatten)]
    pub api: ApiAddress,
}

/// `reveille agent-token …`.
#[derive(Debug, Subcommand)]
pub enum AgentTokenCommand {
    /// Make a token by which one machine joins as this agent, once; it is shown once.
    Create(AgentTokenCreate),
}

/// `reveille agent-token create`.
#[derive(Debug, Args)]
pub struct AgentTokenCreate {
    /// The agent.
    #[arg(value_name = "AGENT")]
    pub agent: AgentName,
    /// How long it is good, 15 minutes at most.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = token_lifetime)]
    pub expires: Duration,
    /// Where the machine reaches the API [default: where this command does].
    #[arg(long, env = "REVEILLE_HUB_URL", value_name = "URL")]
    pub hub: Option<Url>,
    #[command(flatten)]
    pub api: ApiAddress,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `reveille join`.
#[derive(Debug, Args)]
pub struct Join {
    /// What `reveille agent-token create` has printed.
    #[arg(env = "REVEILLE_AGENT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: String,
    /// The agent that this machine is meant to be; another one's token is refused then.
    #[arg(long, value_name = "AGENT")]
    pub name: Option<AgentName>,
    /// The config to write; the key is written beside it.
    #[arg(long, value_name = "FILE", default_value = "agent.toml")]
    pub config: PathBuf,
    /// Replace the config if it exists.
    #[arg(long)]
    pub force: bool,
    /// Where this machine reaches the hub's NATS servers [default: what the hub says].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// For the hub's API, trust the certificates in this file, in PEM, instead of the system's.
    #[arg(long, env = "REVEILLE_CA_FILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Speak to the hub without TLS: for a network that you trust.
    #[arg(long)]
    pub allow_plaintext: bool,
    /// The ports of this machine to look for backends at: those of Ollama, vLLM, llama.cpp and LM Studio.
    #[arg(
        long,
        value_name = "PORT,…",
        value_delimiter = ',',
        default_value = "11434,8000,8080,1234"
    )]
    pub ports: Vec<u16>,
}

fn token_lifetime(raw: &str) -> Result<Duration, String> {
    let span: SignedDuration = raw.parse().map_err(|error| format!("{error}"))?;
    let lifetime = Duration::try_from(span).map_err(|_| "must be more than zero".to_owned())?;
    if lifetime < Duration::from_secs(1) || lifetime > MAX_TOKEN_LIFETIME {
        return Err("must be between 1 second and 15 minutes".to_owned());
    }
    Ok(lifetime)
}

/// `reveille hub …`.
#[derive(Debug, Subcommand)]
pub enum HubCommand {
    /// Make the keys of a hub, and what its NATS servers' configs include; make what is missing when it is run again.
    #[command(after_help = HUB_INIT_EXAMPLES)]
    Init(HubInit),
}

/// `reveille hub init`.
#[derive(Debug, Args)]
pub struct HubInit {
    /// The folder to make them in.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// A name or an address by which the servers are reached: makes certificates for TLS. May be given several times.
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
}

/// `reveille projector`.
#[derive(Debug, Args)]
pub struct Projector {
    /// The hub's NATS servers.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: String,
    #[command(flatten)]
    pub hub: HubArgs,
    /// The Postgres database to fill.
    #[arg(
        long,
        env = "REVEILLE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: String,
}

/// Where the API is.
#[derive(Debug, Args)]
pub struct ApiAddress {
    /// The API to ask.
    #[arg(long, env = "REVEILLE_API_URL", value_name = "URL", default_value = DEFAULT_API)]
    pub api: Url,
    /// Trust the certificates in this file, in PEM, instead of the system's.
    #[arg(long, env = "REVEILLE_CA_FILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The key to ask with [default: `up`'s root key, when an API on this machine wants one].
    #[arg(long, env = "REVEILLE_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Where `up` keeps its root key [default: reveille/ in the user's data directory].
    #[arg(long, env = "REVEILLE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl ApiAddress {
    /// An API that is asked without a key.
    pub const fn keyless(api: Url) -> Self {
        Self {
            api,
            ca: None,
            key: None,
            data_dir: None,
        }
    }
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON array.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// A list.
#[derive(Debug, Args)]
pub struct Listing {
    #[command(flatten)]
    pub api: ApiAddress,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `reveille llms` and `reveille providers`.
#[derive(Debug, Args)]
pub struct Published {
    #[command(flatten)]
    pub listing: Listing,
    /// In which order: name, status or since, and with - in front the other way round [default: name].
    #[arg(long, allow_hyphen_values = true)]
    pub sort: Option<Sort<LlmSort>>,
}

/// `reveille wakes`.
#[derive(Debug, Args)]
pub struct Wakes {
    #[command(flatten)]
    pub listing: Listing,
    /// In which order: requested or took, and with - in front the other way round [default: -requested].
    #[arg(long, allow_hyphen_values = true)]
    pub sort: Option<Sort<WakeSort>>,
    /// Of this provider only.
    #[arg(long, value_name = "AGENT/PROVIDER")]
    pub provider: Option<ProviderId>,
    /// How many.
    #[arg(long, value_name = "N", default_value = DEFAULT_WAKES, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}

/// `reveille wake`.
#[derive(Debug, Args)]
pub struct Wake {
    /// The provider.
    #[arg(value_name = "AGENT/PROVIDER")]
    pub provider: ProviderId,
    /// Wait until it is awake or the wake has failed.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub api: ApiAddress,
}

/// `reveille sleep`.
#[derive(Debug, Args)]
pub struct Sleep {
    /// The provider.
    #[arg(value_name = "AGENT/PROVIDER")]
    pub provider: ProviderId,
    #[command(flatten)]
    pub api: ApiAddress,
}

/// `reveille events`.
#[derive(Debug, Args)]
pub struct Events {
    #[command(flatten)]
    pub listing: Listing,
    /// Go on with what happens from now on, until Ctrl-C.
    #[arg(long)]
    pub follow: bool,
    /// In which order: seq, or -seq for the newest first [default: seq].
    #[arg(long, allow_hyphen_values = true, conflicts_with = "follow")]
    pub sort: Option<Sort<EventSort>>,
    /// Only after this commit of the journal.
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
    /// Of this provider only.
    #[arg(long, value_name = "AGENT/PROVIDER")]
    pub provider: Option<ProviderId>,
}

/// `reveille rows …`.
#[derive(Debug, Subcommand)]
pub enum RowsCommand {
    /// Rebuild the rows from the journal while everything goes on, and put them in the place of the current ones.
    ///
    /// The current rows stay as they are until the switch, which is one transaction. A rebuild that is interrupted
    /// changes nothing; the next one goes on from where it stopped.
    Rebuild(Projector),
}

/// `reveille init`.
#[derive(Debug, Args)]
pub struct Init {
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "reveille.toml")]
    pub output: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub force: bool,
    /// The ports of this machine to look at: those of Ollama, vLLM, llama.cpp and LM Studio.
    #[arg(
        long,
        value_name = "PORT,…",
        value_delimiter = ',',
        default_value = "11434,8000,8080,1234"
    )]
    pub ports: Vec<u16>,
}

/// `reveille recipe …`.
#[derive(Debug, Subcommand)]
pub enum RecipeCommand {
    /// Put a backend to sleep and wake it, without any hub, and say how long each step took.
    Test(RecipeTest),
}

/// `reveille recipe test`.
#[derive(Debug, Args)]
pub struct RecipeTest {
    /// The provider, as the file names it.
    #[arg(value_name = "PROVIDER")]
    pub provider: String,
    /// The config file.
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Don't run the sleep recipe first.
    #[arg(long)]
    pub no_sleep: bool,
    /// Run the wake although the backend is available and nothing puts it to sleep first.
    #[arg(long)]
    pub yes: bool,
}

/// `reveille doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The agent's config file; without it no backend is looked at.
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The hub's NATS servers [default: the file's, else the one that `up` runs].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    #[command(flatten)]
    pub hub: HubArgs,
    /// The Postgres database of the rows; without it none is looked at.
    #[arg(
        long,
        env = "REVEILLE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: Option<String>,
    /// Where `up` keeps its journal [default: reveille/ in the user's data directory].
    #[arg(long, env = "REVEILLE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The API [default: http://127.0.0.1:8420, which need not run].
    #[arg(long, env = "REVEILLE_API_URL", value_name = "URL")]
    pub api: Option<Url>,
    /// For the API, trust the certificates in this file, in PEM, instead of the system's.
    #[arg(long, env = "REVEILLE_CA_FILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `reveille config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read a config file as the agent would, and say what is wrong with it.
    Check {
        /// The config file.
        #[arg(env = "REVEILLE_CONFIG")]
        file: PathBuf,
    },
    /// Print what a config file comes to, with the defaults; secrets are not shown.
    Show(ConfigShow),
    /// Print the JSON Schema of config files, for editors.
    Schema,
}

/// `reveille config show`.
#[derive(Debug, Args)]
pub struct ConfigShow {
    /// The config file.
    #[arg(env = "REVEILLE_CONFIG")]
    pub file: PathBuf,
    /// Say where each value comes from.
    #[arg(long)]
    pub origin: bool,
    /// The hub's NATS servers, instead of the file's.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_provider_that_is_no_id_is_refused_before_anything_is_asked() {
        for id in ["gpu-box", "gpu-box/", "GPU/vllm", "a/b/c", "a/*"] {
            assert!(Cli::try_parse_from(["reveille", "wake", id]).is_err(), "{id}");
        }
        assert!(Cli::try_parse_from(["reveille", "wake", "gpu-box/vllm"]).is_ok());
    }
}
