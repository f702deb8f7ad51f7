//! Reads the steps that reach a machine rather than a service: `wol`, and `tcp`, which waits for it.

use super::table::{Table, Value};
use crate::{
    config::ConfigError,
    wol::{Mac, WakeOnLan},
};
use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    time::Duration,
};
use url::Host;

pub(super) const WOL_KEYS: [&str; 7] = [
    "mac",
    "address",
    "port",
    "interface",
    "source",
    "repeats",
    "interval",
];
pub(super) const TCP_KEYS: [&str; 1] = ["address"];
/// The default time-out of a `wol` step.
pub(super) const DEFAULT_WOL_TIMEOUT: Duration = Duration::from_secs(5);
/// The port of the `discard` service (RFC 863), the customary port for magic packets.
const DISCARD_PORT: u32 = 9;
/// The default of `repeats`: broadcasts aren't acknowledged, and may be lost.
const DEFAULT_REPEATS: u32 = 3;
const DEFAULT_INTERVAL: Duration = Duration::from_millis(100);
const PORTS: RangeInclusive<u32> = 1..=65_535;
const REPEATS: RangeInclusive<u32> = 1..=100;

/// Reads a `wol` step, whose time-out may be one that couldn't be read.
pub(super) fn wol(table: &mut Table<'_>, timeout: Option<Duration>) -> Option<WakeOnLan> {
    let mac = table.required("mac", |value| value.parsed(str::parse::<Mac>));
    let address = table.or_default("address", IpAddr::V4(Ipv4Addr::BROADCAST), address_of);
    let port = table.optional("port", |value| value.integer(PORTS));
    let (interface, source) = (table.take("interface"), table.take("source"));
    let repeats = table.or_default("repeats", DEFAULT_REPEATS, |value| value.integer(REPEATS));
    let interval = table.or_default("interval", DEFAULT_INTERVAL, Value::duration);
    let from = interface.as_ref().map(|value| value.note(value.string()));
    let own = source.as_ref().map(|value| value.note(address_of(value)));
    let wol = WakeOnLan {
        mac: mac.unwrap_or(Mac::STAND_IN),
        address: address.unwrap_or(IpAddr::V4(Ipv4Addr::BROADCAST)),
        port: u16::try_from(port.unwrap_or(DISCARD_PORT)).unwrap_or_default(),
        interface: from.clone().flatten(),
        source: own.flatten(),
        repeats: repeats.unwrap_or(DEFAULT_REPEATS),
        interval: interval.unwrap_or(DEFAULT_INTERVAL),
    };
    if let (Some(timeout), Some(_), Some(_)) = (timeout, repeats, interval)
        && wol.takes() >= timeout
    {
        table.wrong("`repeats` times `interval` is longer than the step's `timeout`");
    }
    let is_known = address.is_some() && from != Some(None) && own != Some(None);
    match (&source, wol.source) {
        (Some(value), Some(source)) if address.is_some() && source.is_ipv4() != wol.address.is_ipv4() => {
            value.wrong("is of another version of IP than `address`");
        }
        _ if is_known => {
            // Checked now rather than at the first wake.
            if let Err(error) = wol.socket() {
                let reason = format!("can't be used for sending: {}", error.kind());
                let from = source.as_ref().or(interface.as_ref());
                from.map_or_else(
                    || table.wrong("no packet can be sent"),
                    |value| value.wrong(reason),
                );
            }
        }
        _ => {}
    }
    mac.map(|_| wol)
}

fn address_of(value: &Value<'_>) -> Result<IpAddr, ConfigError> {
    value.parsed(|raw| raw.parse().map_err(|_| "is not an IP address"))
}

/// Reads the address of a `tcp` step: `host:port`.
pub(super) fn tcp(table: &mut Table<'_>) -> Option<String> {
    table.required("address", |value| {
        value.parsed(|raw| {
            let (host, port) = raw.rsplit_once(':').ok_or("is not written host:port")?;
            Host::parse(host).map_err(|_| "names no host")?;
            port.parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or("has no port between 1 and 65535")?;
            Ok::<_, &str>(raw.to_owned())
        })
    })
}
