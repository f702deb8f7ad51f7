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

pub(super) fn wol(table: &mut Table<'_>, timeout: Duration) -> Result<WakeOnLan, ConfigError> {
    let mac = table.require("mac")?.parsed(str::parse::<Mac>)?;
    let address = table.optional("address", |value| address_of(&value))?;
    let port = table.optional("port", |value| value.integer(PORTS))?;
    let interface = table.take("interface");
    let source = table.take("source");
    let repeats = table.optional("repeats", |value| value.integer(REPEATS))?;
    let interval = table.duration("interval")?;
    let wol = WakeOnLan {
        mac,
        address: address.unwrap_or(IpAddr::V4(Ipv4Addr::BROADCAST)),
        port: u16::try_from(port.unwrap_or(DISCARD_PORT)).unwrap_or_default(),
        interface: interface.as_ref().map(Value::string).transpose()?,
        source: source.as_ref().map(address_of).transpose()?,
        repeats: repeats.unwrap_or(DEFAULT_REPEATS),
        interval: interval.unwrap_or(DEFAULT_INTERVAL),
    };
    if let (Some(value), Some(source)) = (&source, wol.source)
        && source.is_ipv4() != wol.address.is_ipv4()
    {
        return Err(value.error("is of another version of IP than `address`"));
    }
    if wol.takes() >= timeout {
        return Err(table.error("`repeats` times `interval` is longer than the step's `timeout`"));
    }
    // Checked now rather than at the first wake.
    wol.socket().map_err(|error| {
        let reason = format!("can't be used for sending: {}", error.kind());
        let from = source.as_ref().or(interface.as_ref());
        from.map_or_else(
            || table.error("no packet can be sent"),
            |value| value.error(reason),
        )
    })?;
    Ok(wol)
}

fn address_of(value: &Value<'_>) -> Result<IpAddr, ConfigError> {
    value.parsed(|raw| raw.parse().map_err(|_| "is not an IP address"))
}

/// Reads the address of a `tcp` step: `host:port`.
pub(super) fn tcp(table: &mut Table<'_>) -> Result<String, ConfigError> {
    table.require("address")?.parsed(|raw| {
        let (host, port) = raw.rsplit_once(':').ok_or("is not written host:port")?;
        Host::parse(host).map_err(|_| "names no host")?;
        port.parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or("has no port between 1 and 65535")?;
        Ok::<_, &str>(raw.to_owned())
    })
}
