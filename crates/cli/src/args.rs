//! The arguments that several commands share, each flattened into theirs.
//!
//! A flag overrides its variable, which overrides the config file, which overrides the default.

use crate::{data_dir, failure::Failure};
use clap::{
    Args, ValueEnum,
    builder::{FalseyValueParser, PossibleValuesParser, RangedU64ValueParser, TypedValueParser},
};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use reveille_agent::config::{Config, parse_duration};
use reveille_api::origin::{Host, Origin};
use reveille_bus::{is_loopback_ip, relay::MAX_BODY_BYTES};
use reveille_domain::{
    AgentName, ModelName,
    as_of::{InvalidMoment, Moment},
};
use std::{error::Error, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};
use url::Url;

/// Where the API listens by default: reachable from this machine only.
const DEFAULT_LISTEN: &str = "127.0.0.1:8420";
/// The largest body of an inference request by default.
const DEFAULT_BODY: &str = "32MiB";
/// What `--max-body` may be, in bytes.
const BODY_BYTES: RangeInclusive<u64> = 1024..=MAX_BODY_BYTES;
/// Where the paths of an API begin.
const OWN_PATHS: &[&str] = &["/v1", "/reveille", "/livez", "/readyz", "/metrics"];
/// The port of the API by default.
pub const API_PORT: u16 = 8420;
/// Where clients look for the API by default.
const DEFAULT_API: &str = "http://127.0.0.1:8420";

/// How a process of the hub reaches its NATS servers and other machines.
#[derive(Debug, Clone, Default, Args)]
pub struct HubArgs {
    /// Folder of the hub's NATS keys, from `reveille hub init`; a process reads only its own.
    #[arg(long, env = "REVEILLE_NATS_KEYS", value_name = "DIR")]
    pub nats_keys: Option<PathBuf>,
    /// PEM file of certificate authorities to trust for tls:// and wss://, in addition to the system's.
    #[arg(long, env = "REVEILLE_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Serve and reach other machines without TLS: only on a network you trust, or behind a TLS proxy.
    #[arg(long, env = "REVEILLE_ALLOW_PLAINTEXT", value_parser = FalseyValueParser::new())]
    pub allow_plaintext: bool,
}

impl HubArgs {
    /// The same arguments, with plaintext allowed if the agent's config allows it.
    pub fn allowed_by(&self, config: Option<&Config>) -> Self {
        let configured = config.is_some_and(|config| config.agent.allow_plaintext);
        Self {
            allow_plaintext: self.allow_plaintext || configured,
            ..self.clone()
        }
    }
}

/// The hub's NATS servers, which are required.
#[derive(Debug, Args)]
pub struct NatsUrl {
    /// The hub's NATS servers.
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: String,
    #[command(flatten)]
    pub hub: HubArgs,
}

/// An optional Postgres database.
#[derive(Debug, Args)]
pub struct DatabaseUrl {
    /// Postgres database for lists and history; without it they are kept in memory.
    #[arg(
        long,
        env = "REVEILLE_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub database_url: Option<String>,
}

/// The data directory.
#[derive(Debug, Args)]
pub struct DataDirArg {
    /// Reveille's data directory [default: reveille/ in the user's data directory].
    #[arg(long, env = "REVEILLE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl DataDirArg {
    /// The given folder, or else the default one.
    pub fn path(&self) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(path) => Ok(path.clone()),
            None => Ok(data_dir::default_path()?),
        }
    }
}

/// How an API is served: its address, its protection, and what it announces to agents.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address the API listens on.
    #[arg(long, env = "REVEILLE_LISTEN", value_name = "ADDRESS", default_value = DEFAULT_LISTEN, value_parser = listen_address)]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub auth: AuthArgs,
    #[command(flatten)]
    pub origin: OriginArgs,
    #[command(flatten)]
    pub requests: RequestArgs,
    /// NATS URL for agents that join [default: the one this process uses].
    #[arg(long, env = "REVEILLE_AGENTS_NATS_URL", value_name = "URL")]
    pub agents_nats: Option<String>,
    /// Begin an empty journal in the place of one that is gone, instead of waiting until it is restored.
    #[arg(long)]
    pub new_journal: bool,
    #[command(flatten)]
    pub database: DatabaseUrl,
}

/// The API's certificate.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Serve HTTPS with this PEM certificate chain; it is reloaded when it changes.
    #[arg(long, env = "REVEILLE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM private key of the certificate.
    #[arg(long, env = "REVEILLE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// The given files, or else these for a listener that other machines reach.
    pub fn or_own(self, own: (PathBuf, PathBuf), listens: SocketAddr) -> Self {
        if self.tls_cert.is_some() || is_loopback_ip(listens.ip()) {
            return self;
        }
        let (certificate, key) = own;
        Self {
            tls_cert: Some(certificate),
            tls_key: Some(key),
        }
    }
}

/// Who needs a key. By default everyone does, except on loopback.
#[derive(Debug, Clone, Copy, Args)]
pub struct AuthArgs {
    /// Require a key from everyone, even on loopback.
    #[arg(long, env = "REVEILLE_REQUIRE_KEYS", value_parser = FalseyValueParser::new())]
    pub require_keys: bool,
    /// Require no key even beyond loopback: anyone who can reach the API may use and wake everything.
    #[arg(long, env = "REVEILLE_INSECURE_NO_KEYS", value_parser = FalseyValueParser::new())]
    pub insecure_no_keys: bool,
}

/// The hosts that the API answers to, and the pages that may use it.
#[derive(Debug, Args)]
pub struct OriginArgs {
    /// A host name or address of the API, besides loopback, the listener's address and the certificate's names; may be
    /// repeated.
    #[arg(
        long = "host",
        env = "REVEILLE_HOST",
        value_name = "HOST,…",
        value_delimiter = ','
    )]
    pub hosts: Vec<Host>,
    /// An origin whose pages may use the API from a browser, such as `https://chat.example`; may be repeated.
    #[arg(
        long = "cors-origin",
        env = "REVEILLE_CORS_ORIGIN",
        value_name = "ORIGIN,…",
        value_delimiter = ','
    )]
    pub cors_origins: Vec<Origin>,
}

/// What inference requests may bring, and what they get if they leave it out.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// The largest body of an inference request, up to 256MiB; a larger one gets status 413.
    #[arg(long, env = "REVEILLE_MAX_BODY", value_name = "SIZE", default_value = DEFAULT_BODY, value_parser = body_bytes)]
    pub max_body: usize,
    /// The model of requests that name none.
    #[arg(long, env = "REVEILLE_DEFAULT_MODEL", value_name = "MODEL")]
    pub default_model: Option<ModelName>,
}

/// How to reach the API.
#[derive(Debug, Args)]
pub struct ApiAddress {
    /// URL of the API [default: that of the `up` that uses the data directory, or else http://127.0.0.1:8420].
    #[arg(long, env = "REVEILLE_API_URL", value_name = "URL", value_parser = api_url)]
    pub api: Option<Url>,
    /// PEM file of the certificate authorities to trust instead of the system's.
    #[arg(long, env = "REVEILLE_CA_FILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// API key [default: the root key of `up`, if an API on this machine requires a key].
    #[arg(long, env = "REVEILLE_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub key: Option<String>,
    #[command(flatten)]
    pub data_dir: DataDirArg,
}

impl ApiAddress {
    /// An API to call without a key.
    pub const fn keyless(api: Url) -> Self {
        Self {
            api: Some(api),
            ca: None,
            key: None,
            data_dir: DataDirArg { data_dir: None },
        }
    }

    /// The given URL, or else that of the running `up`, or else the default one.
    pub fn url(&self) -> Result<Url, Failure> {
        if let Some(api) = &self.api {
            return Ok(api.clone());
        }
        let running = self
            .data_dir
            .path()
            .ok()
            .and_then(|path| data_dir::running_up(&path));
        Ok(running.map_or_else(|| Url::parse(DEFAULT_API), |up| Ok(up.api))?)
    }
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people.
    Table,
    /// JSON: an array of what is listed, or one object.
    Json,
    /// One JSON object per line.
    Jsonl,
}

/// How a command that asks no API prints what it has done.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArg {
    /// Output format.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// A request to the API, and how to print the response.
#[derive(Debug, Args)]
pub struct Listing {
    #[command(flatten)]
    pub api: ApiAddress,
    /// Output format.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// Which part of a list is wanted.
#[derive(Debug, Args)]
pub struct Filter {
    /// Only what is of this agent.
    #[arg(long, value_name = "AGENT")]
    pub agent: Option<AgentName>,
    /// Only what is of this provider; its name alone will do if only one agent has it.
    #[arg(long, value_name = "AGENT/PROVIDER")]
    pub provider: Option<String>,
    /// Only what is from this time, such as 12h or 2d: wakes requested in it, events, and providers whose status has changed.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub since: Option<Duration>,
    #[command(flatten)]
    pub limit: Limit,
}

impl Filter {
    /// When the wanted time begins, in milliseconds.
    pub fn begins_ms(&self) -> Result<Option<i64>, Failure> {
        let begins = |since: Duration| Timestamp::now().checked_sub(SignedDuration::try_from(since)?);
        Ok(self.since.map(begins).transpose()?.map(Timestamp::as_millisecond))
    }
}

/// A moment of the past, and where it is looked up.
#[derive(Debug, Args)]
pub struct At {
    /// As it was at this moment: a commit's sequence, or a time such as 2026-11-28T10:00:00Z or '2026-11-28 10:00'.
    #[arg(long, value_name = "TIME|SEQ", value_parser = moment)]
    pub at: Option<Moment>,
    /// Look it up in a file that `journal export` wrote, instead of asking an API.
    #[arg(long, value_name = "FILE", requires = "at")]
    pub archive: Option<PathBuf>,
    /// Look it up in the archive of a projector's database, instead of asking an API.
    #[arg(long, value_name = "URL", requires = "at", conflicts_with = "archive")]
    pub from_postgres: Option<String>,
}

impl At {
    /// The parameter of the API's lists.
    pub fn query(&self) -> Option<(&'static str, String)> {
        self.at.map(|at| ("at", at.to_string()))
    }
}

/// How much of a list is wanted.
#[derive(Debug, Args)]
pub struct Limit {
    /// How many to list at most [default: 20 wakes; without a limit all of what else is listed].
    #[arg(long = "limit", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rows: Option<u32>,
}

impl Limit {
    /// The number of rows, `unless` another is given.
    pub fn or(&self, unless: usize) -> usize {
        self.rows
            .map_or(unless, |rows| usize::try_from(rows).unwrap_or(usize::MAX))
    }
}

/// One of a few words, which help and completions offer.
pub fn one_of<T>(words: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| word.parse::<T>())
}

/// A number of one or more.
pub fn some() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// An address and a port, such as `127.0.0.1:8420`.
fn listen_address(raw: &str) -> Result<SocketAddr, String> {
    raw.parse()
        .map_err(|_| format!("an IP address and a port are needed, such as {DEFAULT_LISTEN} or 0.0.0.0:8420"))
}

/// The URL of an API. The error for anything else has the URL that was probably meant.
pub fn api_url(raw: &str) -> Result<Url, String> {
    let Some((scheme, rest)) = raw.split_once("://") else {
        return Err(format!("it must begin with http:// or https://{}", meant(raw)));
    };
    if !matches!(scheme, "http" | "https") {
        return Err(format!("it must begin with http:// or https://{}", meant(rest)));
    }
    let url = Url::parse(raw).map_err(|error| format!("{error}; a URL is needed, such as {DEFAULT_API}"))?;
    let tail = &rest[rest.find(['/', '?', '#']).unwrap_or(rest.len())..];
    let is_whole = |at: &usize, own: &str| {
        let after = tail[at + own.len()..].chars().next();
        after.is_none_or(|next| "/?#".contains(next))
    };
    // A proxy may have the API below a path of its own.
    let own = OWN_PATHS.iter().filter_map(|&own| {
        let mut found = tail.match_indices(own).map(|(at, _)| at);
        found.find(|at| is_whole(at, own))
    });
    match own.chain(tail.find(['?', '#'])).min() {
        None => Ok(url),
        Some(at) => {
            let (meant, path) = raw.split_at(raw.len() - tail.len() + at);
            let meant = meant.trim_end_matches('/');
            Err(format!("leave out `{path}`: did you mean {meant}?"))
        }
    }
}

/// The URL that is meant by a host, a port or both, as a question; empty if it can't be told.
fn meant(raw: &str) -> String {
    let raw = raw.trim_matches('/');
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let meant = match raw.trim_start_matches(':') {
        port if is_port(port) => format!("http://127.0.0.1:{port}"),
        host if host.rsplit_once(':').is_some_and(|(_, port)| is_port(port)) => format!("http://{host}"),
        host => format!("http://{host}:{API_PORT}"),
    };
    match Url::parse(&meant) {
        Ok(url) if url.host().is_some() && url.path() == "/" => format!(": did you mean {meant}?"),
        _ => format!(", such as {DEFAULT_API}"),
    }
}

/// The size of a body, such as `64MiB`.
fn body_bytes(raw: &str) -> Result<usize, String> {
    let digits = raw.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match raw[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1024,
        "mib" => 1024 * 1024,
        "gib" => 1024 * 1024 * 1024,
        _ => {
            return Err("a size is a whole number with the unit KiB, MiB or GiB, such as 64MiB, or without one for bytes".to_owned());
        }
    };
    let number = digits
        .parse::<u64>()
        .map_err(|_| "a size is a whole number with a unit, such as 64MiB".to_owned())?;
    let bytes = number
        .checked_mul(unit)
        .filter(|bytes| BODY_BYTES.contains(bytes));
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| {
        format!(
            "must be at least 1KiB and at most {}MiB",
            BODY_BYTES.end() / 1024 / 1024
        )
    })
}

/// A moment of the journal: a sequence, or a time with a zone or in that of this machine.
pub fn moment(raw: &str) -> Result<Moment, String> {
    raw.parse().or_else(|error: InvalidMoment| {
        let local: DateTime = raw.parse().map_err(|_| error.to_string())?;
        let local = local.to_zoned(TimeZone::system());
        let local = local.map_err(|error| error.to_string())?.timestamp();
        let millis = u64::try_from(local.as_millisecond()).map_err(|_| error.to_string())?;
        Ok(Moment::Time(reveille_domain::Timestamp::from_millis(millis)))
    })
}

/// A duration of a second or more, such as `30d`, `12h` or `90s`.
pub fn duration(raw: &str) -> Result<Duration, String> {
    let duration = parse_duration(raw)?;
    if duration < Duration::from_secs(1) {
        return Err("must be at least 1s".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_bounded() {
        const MIB: usize = 1024 * 1024;
        assert_eq!(body_bytes(DEFAULT_BODY), Ok(reveille_api::DEFAULT_BODY_BYTES));
        for (raw, bytes) in [
            ("64MiB", 64 * MIB),
            ("64 mib", 64 * MIB),
            ("1KiB", 1024),
            ("2048", 2048),
            ("2048B", 2048),
            ("256MiB", 256 * MIB),
        ] {
            assert_eq!(body_bytes(raw), Ok(bytes), "{raw}");
        }
        for wrong in [
            "",
            "MiB",
            "64MB",
            "-1",
            "1.5MiB",
            "1023",
            "257MiB",
            "1GiB",
            "99999999999999GiB",
            "64 Mi B",
        ] {
            assert!(body_bytes(wrong).is_err(), "{wrong}");
        }
        for wrong in ["MiB", "lots", "64MB"] {
            let said = body_bytes(wrong).unwrap_err();
            assert!(said.contains("whole number") && said.contains("64MiB"), "{said}");
        }
    }

    #[test]
    fn a_url_of_an_api_that_is_none_is_told_with_the_one_that_was_meant() {
        for url in [
            "http://127.0.0.1:8420",
            "https://hub.example/",
            "http://[::1]:1",
            "https://proxy/llm/",
        ] {
            assert_eq!(
                api_url(url).map(|url| url.to_string().starts_with("http")),
                Ok(true),
                "{url}"
            );
        }
        for (wrong, meant) in [
            ("localhost", "did you mean http://localhost:8420?"),
            ("localhost:8421", "did you mean http://localhost:8421?"),
            ("8421", "did you mean http://127.0.0.1:8421?"),
            (":8421", "did you mean http://127.0.0.1:8421?"),
            ("nats://gpu-box:4222", "did you mean http://gpu-box:4222?"),
            ("[::1]", "did you mean http://[::1]:8420?"),
            ("no host", "such as http://127.0.0.1:8420"),
            ("http://", "such as http://127.0.0.1:8420"),
            (
                "http://127.0.0.1:8420/v1",
                "leave out `/v1`: did you mean http://127.0.0.1:8420?",
            ),
            (
                "https://proxy/llm/v1/",
                "leave out `/v1/`: did you mean https://proxy/llm?",
            ),
            (
                "http://a:1/reveille/v1/status",
                "leave out `/reveille/v1/status`: did you mean http://a:1?",
            ),
            ("http://a:1?x", "leave out `?x`: did you mean http://a:1?"),
        ] {
            let said = api_url(wrong).unwrap_err();
            assert!(said.contains(meant), "{wrong}: {said}");
        }
    }

    #[test]
    fn an_address_to_listen_on_has_a_port() {
        assert!(listen_address(DEFAULT_LISTEN).is_ok() && listen_address("[::1]:1").is_ok());
        for wrong in ["localhost:8420", "127.0.0.1", "8420"] {
            let said = listen_address(wrong).unwrap_err();
            assert!(said.contains("such as 127.0.0.1:8420"), "{said}");
        }
    }
}
