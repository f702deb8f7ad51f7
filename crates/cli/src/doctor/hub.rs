//! The hub: NATS, its streams, whether it flushes what it acknowledges, and its time.

use super::{Doctor, Findings};
use crate::{
    data_dir::{self, HUB_KEYS},
    failure::Failure,
    hub::{HubNats, nats_for_agent},
};
use reveille_agent::config::{Config, NatsUrl};
use reveille_bus::{
    BusError, Connection, JOURNAL_STREAM, StreamHealth,
    access::{HubKeys, Role},
    inspect_streams,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// How long NATS may take to be reached.
const REACHED_WITHIN: Duration = Duration::from_secs(10);
/// By how much clocks may differ before it is worth a word.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);
/// The line of a server's config with which it flushes each message before it acknowledges it.
const FLUSHES: &str = "sync_interval: always";

/// Where the hub is.
pub enum Place {
    /// Somebody's server, named by the command line or the config.
    Named(HubNats),
    /// The server of an `up` with this data directory, which runs.
    Ours {
        /// Where it is, and its keys.
        nats: HubNats,
        /// Its config.
        config: PathBuf,
    },
    /// No server was named, and no `up` runs with this data directory.
    None,
}

/// Where the hub is: as the command line says, else the config, else the data directory.
///
/// # Errors
/// When it would be spoken to in plaintext, and neither of the two allows that.
pub fn place(args: &Doctor, config: Option<&Config>, data_dir: &Path) -> Result<Place, Failure> {
    let configured = config.and_then(|config| config.agent.nats.as_ref());
    if let Some(url) = args.nats.as_deref().or(configured.map(NatsUrl::as_str)) {
        return Ok(Place::Named(HubNats::named(url, &args.hub.allowed_by(config))?));
    }
    let port = fs::read_to_string(data_dir.join("nats-port")).ok();
    Ok(match port.and_then(|text| text.trim().parse::<u16>().ok()) {
        Some(port) if data_dir::is_locked(data_dir) => Place::Ours {
            nats: HubNats::ours(
                format!("nats://127.0.0.1:{port}"),
                HubKeys::of(&data_dir.join(HUB_KEYS)),
            ),
            config: data_dir.join("nats.conf"),
        },
        _ => Place::None,
    })
}

/// Looks at the hub; tells the journal's last commit, if it could be seen.
pub async fn look(place: &Place, config: Option<&Config>, findings: &mut Findings) -> Option<u64> {
    let hub = match place {
        Place::Named(nats) | Place::Ours { nats, .. } => nats,
        Place::None => {
            findings.warning(
                "NATS",
                "no server was named, and no `reveille up` runs with this data directory",
                "start `reveille up`, or name a server with --nats URL",
            );
            return None;
        }
    };
    if let Some(config) = config
        && let Err(failure) = nats_for_agent(&hub.server().url, config)
    {
        findings.problem(
            "NATS address",
            format!("this config's agent refuses it: {failure}"),
            "use a tls:// address without user and password, or set allow_plaintext = true for a network that you trust",
        );
    }
    let connection = connect(hub, findings).await?;
    durability(place, findings);
    streams(&connection, findings).await
}

async fn connect(hub: &HubNats, findings: &mut Findings) -> Option<Connection> {
    let shown = without_credentials(&hub.server().url);
    let access = match hub.access(Role::Admin) {
        Ok(access) => access,
        Err(failure) => {
            let remedy = "name the hub's folder of keys with --nats-keys DIR, as its owner";
            findings.problem("NATS keys", failure.to_string(), remedy);
            return None;
        }
    };
    let options = access.named("reveille doctor");
    let opened = timeout(REACHED_WITHIN, Connection::try_open(&options)).await;
    let connection = match opened {
        Ok(Ok(connection)) => connection,
        Ok(Err(error @ BusError::ServerTooOld { .. })) => {
            findings.problem(
                "NATS",
                error.to_string(),
                "install a nats-server 2.12 or newer on the hub's machine and start it again: its data stays",
            );
            return None;
        }
        Ok(Err(error)) => {
            findings.problem("NATS", format!("{shown}: {error}"), UNREACHABLE);
            return None;
        }
        Err(_) => {
            let seconds = REACHED_WITHIN.as_secs();
            findings.problem(
                "NATS",
                format!("{shown}: no answer within {seconds} s"),
                UNREACHABLE,
            );
            return None;
        }
    };
    let server = connection.client().server_info();
    let clustered = server
        .cluster
        .map_or_else(String::new, |name| format!(", in the cluster {name}"));
    findings.ok(
        "NATS",
        format!("nats-server {} at {shown}{clustered}", server.version),
    );
    if !server.jetstream {
        findings.problem(
            "JetStream",
            "the server has no JetStream, so it can't keep the journal",
            "add `jetstream { store_dir: \"/var/lib/nats\", sync_interval: always }` to the server's config and restart it",
        );
        return None;
    }
    Some(connection)
}

const UNREACHABLE: &str = "start the server (`reveille up` runs one by itself), correct the address with --nats URL, and see \
                           that no firewall stands between";

fn durability(place: &Place, findings: &mut Findings) {
    let remedy = "write `sync_interval: always` into the jetstream block of the server's config and restart it: without \
                  it a power cut may lose commits that were acknowledged";
    match place {
        Place::Ours { config, .. } => match fs::read_to_string(config) {
            Ok(text) if text.contains(FLUSHES) => findings.ok(
                "durability",
                "each commit is on disk before it is acknowledged (sync_interval: always)",
            ),
            _ => findings.problem(
                "durability",
                format!("{} does not say `{FLUSHES}`", config.display()),
                "restart `reveille up`, which writes it anew",
            ),
        },
        Place::Named(_) | Place::None => findings.warning(
            "durability",
            "unknown: a client can't see whether this server flushes each commit before it acknowledges it",
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
                format!("it doesn't answer: {error}"),
                "see the server's log: its disk may be full, or its cluster without a majority",
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
                "it isn't there yet",
                "none is needed: the first `reveille up` or `reveille api` on this server makes it",
            ),
            StreamHealth::Differs(difference) => findings.problem(
                check,
                format!("it has settings that Reveille can't rely on: {difference}"),
                format!(
                    "give it the settings named here (`nats stream edit {name}`); if nothing of worth is in it, delete it \
                     (`nats stream rm {name}`) and the next start makes it anew"
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
                        format!("it is sound, with {replicas} {copies} where {usual} are usual in a cluster"),
                        format!("`nats stream edit {name} --replicas {usual}`"),
                    );
                } else {
                    findings.ok(check, format!("it is sound: {replicas} {copies}, last message {last_sequence}"));
                }
            }
        }
    }
    clock(connection, findings).await;
    last
}

/// Compares the wall clocks: each answer about a stream says when the server gave it.
async fn clock(connection: &Connection, findings: &mut Findings) {
    let sent = Instant::now();
    let sent_at = jiff::Timestamp::now();
    let subject = format!("$JS.API.STREAM.INFO.{JOURNAL_STREAM}");
    let Ok(answer) = connection.client().request(subject, Vec::new().into()).await else {
        return;
    };
    let round_trip = sent.elapsed();
    let said: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
    let theirs = said["ts"]
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let Some(theirs) = theirs else {
        findings.ok(
            "clock",
            "not compared with the server's: it tells its time once the journal is there",
        );
        return;
    };
    let (what, worth_a_word) = compared(sent_at, theirs, round_trip);
    if worth_a_word {
        findings.warning(
            "clock",
            what,
            "let both machines keep time by NTP (`timedatectl set-ntp true`); Reveille counts in the server's time, so \
             only logs and lists are off",
        );
    } else {
        findings.ok("clock", what);
    }
}

/// What is to be said of two clocks, and whether they differ by more than the way of the answer explains.
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
        let said = format!(
            "this machine's clock is {:.1} s {direction} the NATS server's",
            apart.as_secs_f64()
        );
        return (said, true);
    }
    (
        format!(
            "this machine's clock and the NATS server's differ by {} ms",
            apart.as_millis()
        ),
        false,
    )
}

fn without_credentials(url: &str) -> String {
    let hosts = url.split(',').map(|one| one.rsplit('@').next().unwrap_or(one));
    hosts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_in_the_middle_of_the_round_trip() {
        let now = jiff::Timestamp::now();
        let after = |seconds: i64| now + jiff::SignedDuration::from_secs(seconds);
        let said = |theirs, round_trip| compared(now, theirs, Duration::from_secs(round_trip));
        assert!(!said(after(1), 0).1);
        assert!(!said(after(5), 8).1, "a slow answer explains it");
        assert_eq!(
            said(after(5), 0),
            (
                "this machine's clock is 5.0 s behind the NATS server's".to_owned(),
                true
            )
        );
        assert!(said(after(-5), 0).0.contains("5.0 s ahead of"));
    }

    #[test]
    fn no_password_is_shown() {
        assert_eq!(without_credentials("nats://u:secret@a:1,tls://b"), "a:1,tls://b");
    }
}
