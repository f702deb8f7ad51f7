//! The hub: NATS, its streams, their durability, and the clock.

use super::{Doctor, Findings};
use crate::{
    failure::Failure,
    hub::{HubNats, UpNats, agent_key, nats_for_agent},
};
use reveille_agent::config::{Config, NatsUrl};
use reveille_bus::{
    BusError, Connection, HubId, JETSTREAM_OFF, JOIN_ANEW, JOURNAL_STREAM, NatsAccess, StreamHealth,
    TURN_JETSTREAM_ON, access::Role, hub_id, inspect_streams,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// How long connecting to NATS may take.
const REACHED_WITHIN: Duration = Duration::from_secs(10);
/// How much clocks may differ before it is a warning.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);
/// The setting with which a server flushes each message to disk before it acknowledges it.
const FLUSHES: &str = "sync_interval: always";

/// The hub to check.
pub enum CheckedHub {
    /// A server named on the command line or in the config.
    Named(HubNats),
    /// The server of a running `up` with this data directory.
    Ours {
        /// Its address and keys.
        nats: HubNats,
        /// Its config.
        config: PathBuf,
    },
    /// The server that a running `up` with this data directory was given.
    Given(String),
    /// No server was named, and no `up` is running with this data directory.
    None,
}

/// The hub: from the command line, or else the config, or else the data directory.
///
/// # Errors
/// When the connection would leave this machine without TLS, and neither of the two allows that.
pub fn checked(args: &Doctor, config: Option<&Config>, data_dir: &Path) -> Result<CheckedHub, Failure> {
    let configured = config.and_then(|config| config.agent.nats.as_ref());
    if let Some(url) = args.nats.as_deref().or(configured.map(NatsUrl::as_str)) {
        let mut hub = args.hub.allowed_by(config);
        hub.nats_ca = hub.nats_ca.or_else(|| config?.agent.ca.clone());
        return Ok(CheckedHub::Named(HubNats::named(url, &hub)?));
    }
    Ok(match UpNats::of(data_dir) {
        Some(UpNats::Ours(nats)) => CheckedHub::Ours {
            nats,
            config: data_dir.join("nats.conf"),
        },
        Some(UpNats::Given(given)) => CheckedHub::Given(given),
        None => CheckedHub::None,
    })
}

/// What is known of the hub's journal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Journal {
    /// Its last commit, if it could be read.
    pub last: Option<u64>,
    /// The id of its hub.
    pub hub: Option<HubId>,
}

/// Checks the hub.
pub async fn look(checked: &CheckedHub, config: Option<&Config>, findings: &mut Findings) -> Journal {
    let hub = match checked {
        CheckedHub::Named(nats) | CheckedHub::Ours { nats, .. } => nats,
        CheckedHub::Given(shown) => {
            findings.warning(
                "NATS",
                format!("not checked: the running `reveille up` uses {shown}"),
                "use --nats URL, with the same --nats-keys and --nats-ca as `up`, to check it",
            );
            return Journal::default();
        }
        CheckedHub::None => {
            findings.warning(
                "NATS",
                "no server was named, and no `reveille up` is running with this data directory",
                "start `reveille up`, or use --nats URL",
            );
            return Journal::default();
        }
    };
    if let Some(config) = config
        && let Err(failure) = nats_for_agent(&hub.server().url, config)
    {
        findings.problem(
            "NATS address",
            format!("the agent's config doesn't allow it: {failure}"),
            "use a tls:// address without user and password, or set allow_plaintext = true on a network you trust",
        );
    }
    // A machine that has joined has only the key of its agent.
    let agent = config.filter(|config| !hub.has_keys() && config.agent.credentials.is_some());
    let Some(connection) = connect(hub, agent, findings).await else {
        return Journal::default();
    };
    if agent.is_some() {
        findings.ok(
            "streams",
            "not checked: the agent's key may not see them; `reveille doctor` on the hub's machine checks them",
        );
        return Journal::default();
    }
    durability(checked, findings);
    Journal {
        last: streams(&connection, findings).await,
        hub: hub_id(&connection.jetstream()).await.ok().flatten(),
    }
}

/// Connects as an operator, or as this agent.
async fn connect(hub: &HubNats, agent: Option<&Config>, findings: &mut Findings) -> Option<Connection> {
    let shown = hub.shown();
    let access = match agent {
        None => hub.access(Role::Admin),
        Some(config) => agent_key(config).map(|key| NatsAccess {
            server: hub.server().clone(),
            role: Role::Agent(config.agent.name.clone()),
            key,
        }),
    };
    let access = match access {
        Ok(access) => access,
        Err(failure) => {
            let remedy = match agent {
                None => "use --nats-keys DIR with the hub's folder of keys, as its owner",
                Some(_) => "run it as the agent's user; if the file is gone, join again",
            };
            findings.problem("NATS keys", failure.to_string(), remedy);
            return None;
        }
    };
    let options = access.named("reveille doctor");
    let opened = timeout(REACHED_WITHIN, Connection::try_open(&options)).await;
    let (found, remedy) = match opened {
        Ok(Ok(connection)) => return usable(connection, &shown, findings),
        Ok(Err(error @ BusError::ServerTooOld { .. })) => (
            error.to_string(),
            "install nats-server 2.12 or newer on the hub's machine and restart it; its data is kept",
        ),
        Ok(Err(error @ BusError::Revoked)) => (
            format!("{shown}: {error}"),
            "create a token on the hub (`reveille agent token`) and join again with it (`reveille join`)",
        ),
        Ok(Err(error @ BusError::OtherHub { .. })) => (
            format!("{shown}: {error}"),
            match agent {
                Some(_) => JOIN_ANEW,
                None => "name the authority of that hub with --nats-ca, or correct --nats",
            },
        ),
        Ok(Err(error)) => (format!("{shown}: {error}"), UNREACHABLE),
        Err(_) => (
            format!("{shown}: no answer within {} s", REACHED_WITHIN.as_secs()),
            UNREACHABLE,
        ),
    };
    findings.problem("NATS", found, remedy);
    None
}

/// The connection, if its server has JetStream.
fn usable(connection: Connection, shown: &str, findings: &mut Findings) -> Option<Connection> {
    let server = connection.client().server_info();
    let clustered = server
        .cluster
        .map_or_else(String::new, |name| format!(", in the cluster {name}"));
    findings.ok(
        "NATS",
        format!("nats-server {} at {shown}{clustered}", server.version),
    );
    if !server.jetstream {
        findings.problem("JetStream", JETSTREAM_OFF, TURN_JETSTREAM_ON);
        return None;
    }
    Some(connection)
}

const UNREACHABLE: &str = "start the server (`reveille up` runs its own), correct --nats, and check for a firewall \
 in between";

fn durability(checked: &CheckedHub, findings: &mut Findings) {
    let remedy = "set `sync_interval: always` in the jetstream block of the server's config and restart it; without \
     it a power cut can lose acknowledged commits";
    match checked {
        CheckedHub::Ours { config, .. } => match fs::read_to_string(config) {
            Ok(text) if text.contains(FLUSHES) => findings.ok(
                "durability",
                "commits are on disk before they are acknowledged (sync_interval: always)",
            ),
            _ => findings.problem(
                "durability",
                format!("{} lacks `{FLUSHES}`", config.display()),
                "restart `reveille up`, which rewrites the file",
            ),
        },
        CheckedHub::Named(_) | CheckedHub::Given(_) | CheckedHub::None => findings.warning(
            "durability",
            "unknown: a client can't see whether this server flushes commits to disk before it acknowledges them",
            remedy,
        ),
    }
}

async fn streams(connection: &Connection, findings: &mut Findings) -> Option<u64> {
    let looks = match inspect_streams(&connection.jetstream()).await {
        Ok(looks) => looks,
        Err(error) => {
            findings.problem(
                "JetStream",
                format!("no answer: {error}"),
                "check the server's log: its disk may be full, or its cluster may lack a majority",
            );
            return None;
        }
    };
    let mut last = None;
    for (name, look) in looks {
        let check = format!("stream {name}");
        match look {
            StreamHealth::Missing => findings.warning(
                check,
                "doesn't exist",
                "none needed before the first start, which creates it; if there was one, restore it with `reveille \
                 journal import`",
            ),
            StreamHealth::Differs(difference) => findings.problem(
                check,
                format!("has settings that Reveille can't work with: {difference}"),
                format!(
                    "correct them with `nats stream edit {name}`; or, if its data can go, delete the stream with \
                     `nats stream rm {name}` and start once with --new-journal"
                ),
            ),
            StreamHealth::Sound {
                replicas,
                usual,
                last_sequence,
            } => {
                if name == JOURNAL_STREAM {
                    last = Some(last_sequence);
                }
                let copies = if replicas == 1 { "copy" } else { "copies" };
                if replicas < usual {
                    findings.warning(
                        check,
                        format!("sound, but with {replicas} {copies}; {usual} are usual in a cluster"),
                        format!("`nats stream edit {name} --replicas {usual}`"),
                    );
                } else {
                    findings.ok(check, format!("sound: {replicas} {copies}, last message {last_sequence}"));
                }
            }
        }
    }
    clock(connection, findings).await;
    last
}

/// Compares the wall clocks: a response about a stream contains the server's time.
async fn clock(connection: &Connection, findings: &mut Findings) {
    let sent = Instant::now();
    let sent_at = jiff::Timestamp::now();
    let subject = format!("$JS.API.STREAM.INFO.{JOURNAL_STREAM}");
    let Ok(answer) = connection.client().request(subject, Vec::new().into()).await else {
        return;
    };
    let round_trip = sent.elapsed();
    let info: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
    let theirs = info["ts"]
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let Some(theirs) = theirs else {
        findings.ok(
            "clock",
            "not compared: the server reports its time once the journal exists",
        );
        return;
    };
    let (what, differ) = compared(sent_at, theirs, round_trip);
    if differ {
        findings.warning(
            "clock",
            what,
            "turn on NTP on both machines (`timedatectl set-ntp true`); Reveille goes by the server's time, so only \
             logs and lists are wrong",
        );
    } else {
        findings.ok("clock", what);
    }
}

/// How two clocks compare, and whether they differ by more than the round trip explains.
fn compared(sent_at: jiff::Timestamp, theirs: jiff::Timestamp, round_trip: Duration) -> (String, bool) {
    let way = round_trip / 2;
    let ours = sent_at + jiff::SignedDuration::try_from(way).unwrap_or_default();
    let offset = theirs.duration_since(ours);
    let apart = offset.unsigned_abs();
    let direction = if offset.is_negative() {
        "ahead of"
    } else {
        "behind"
    };
    if apart.saturating_sub(way) > CLOCKS_DIFFER {
        let text = format!("{:.1} s {direction} the NATS server's", apart.as_secs_f64());
        return (text, true);
    }
    (
        format!("differs from the NATS server's by {} ms", apart.as_millis()),
        false,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_in_the_middle_of_the_round_trip() {
        let now = jiff::Timestamp::now();
        let after = |seconds: i64| now + jiff::SignedDuration::from_secs(seconds);
        let comparison = |theirs, round_trip| compared(now, theirs, Duration::from_secs(round_trip));
        assert!(!comparison(after(1), 0).1);
        assert!(!comparison(after(5), 8).1, "a slow answer explains it");
        assert_eq!(
            comparison(after(5), 0),
            ("5.0 s behind the NATS server's".to_owned(), true)
        );
        assert!(comparison(after(-5), 0).0.contains("5.0 s ahead of"));
    }
}
