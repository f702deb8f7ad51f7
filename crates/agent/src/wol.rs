//! Wake-on-LAN: the magic packet, and the socket that sends it.
//!
//! The packet, defined by AMD, is six bytes of `ff` and the card's MAC address sixteen times, in any frame that reaches the
//! card; everybody uses UDP. The crates for it can neither bind an interface nor repeat the packet, which is one line, so it
//! is made here.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};
use tokio::{net::UdpSocket, time::sleep};

pub const PACKET_BYTES: usize = 102;

/// The MAC address of one network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = &'static str;
    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        const WRITTEN: &str = "is not a MAC address such as 00:11:22:33:44:55";
        let separator = if raw.contains('-') { '-' } else { ':' };
        let byte = |pair: &str| {
            let digits = pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(pair, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = raw.split(separator).map(byte).collect();
        let bytes: [u8; 6] = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(WRITTEN)?;
        // The lowest bit of the first byte marks a group of cards (IEEE 802).
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err("is not the MAC address of a single network card");
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Mac {
    /// In the place of an address that can't be read.
    pub(crate) const STAND_IN: Self = Self([2, 0, 0, 0, 0, 0]);

    /// The packet that wakes the machine with this card.
    #[must_use]
    pub fn magic_packet(self) -> [u8; PACKET_BYTES] {
        std::array::from_fn(|at| if at < 6 { 0xff } else { self.0[at % 6] })
    }
}

/// A `wol` step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeOnLan {
    /// The card of the machine to wake.
    pub mac: Mac,
    /// A broadcast address, or the machine's own.
    pub address: IpAddr,
    /// The UDP port. Nothing listens there, so any will do.
    pub port: u16,
    /// The network interface to send from; chosen by the routing table if absent.
    pub interface: Option<String>,
    /// The address to send from.
    pub source: Option<IpAddr>,
    pub repeats: u32,
    /// The pause between two packets.
    pub interval: Duration,
}

impl WakeOnLan {
    /// The socket to send from.
    ///
    /// # Errors
    /// When this machine has no such interface or address.
    pub fn socket(&self) -> io::Result<std::net::UdpSocket> {
        let socket = Socket::new(Domain::for_address(self.to()), Type::DGRAM, Some(Protocol::UDP))?;
        if let Some(interface) = &self.interface {
            bind_to(&socket, interface)?;
        }
        let any = match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        socket.bind(&SocketAddr::new(self.source.unwrap_or(any), 0).into())?;
        if self.address.is_ipv4() {
            socket.set_broadcast(true)?;
        }
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    /// Sends the packets.
    ///
    /// # Errors
    /// When a packet can't be sent. Whether one arrived isn't known.
    pub async fn send(&self) -> io::Result<()> {
        let (socket, packet) = (UdpSocket::from_std(self.socket()?)?, self.mac.magic_packet());
        for number in 0..self.repeats {
            if number > 0 {
                sleep(self.interval).await;
            }
            socket.send_to(&packet, self.to()).await?;
        }
        Ok(())
    }

    /// How long sending takes.
    #[must_use]
    pub fn takes(&self) -> Duration {
        self.interval.saturating_mul(self.repeats.saturating_sub(1))
    }

    const fn to(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

#[cfg(target_os = "linux")]
fn bind_to(socket: &Socket, interface: &str) -> io::Result<()> {
    socket.bind_device(Some(interface.as_bytes()))
}

#[cfg(not(target_os = "linux"))]
fn bind_to(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "only Linux binds a socket to an interface; name its address as `source`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_in_both_spellings_and_what_is_no_cards_is_refused() {
        for raw in ["00:11:22:AA:bb:cc", "00-11-22-aa-BB-CC"] {
            assert_eq!(
                raw.parse::<Mac>().map(|mac| mac.to_string()),
                Ok("00:11:22:aa:bb:cc".to_owned())
            );
        }
        for raw in [
            "",
            "00:11:22:33:44",
            "00:11:22:33:44:55:66",
            "00:11:22:33:44:5",
            "00:11:22:33:44:+5",
            "00:11-22:33:44:55",
            "001122334455",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
        ] {
            assert!(raw.parse::<Mac>().is_err(), "{raw}");
        }
    }

    #[test]
    fn a_packet_is_six_ff_and_the_mac_sixteen_times() {
        let packet = "00:11:22:33:44:55".parse::<Mac>().expect("legal").magic_packet();
        assert_eq!(packet[..6], [0xff; 6]);
        assert!(
            packet[6..]
                .chunks(6)
                .all(|mac| mac == [0x00, 0x11, 0x22, 0x33, 0x44, 0x55])
        );
        assert_eq!(packet.len(), 6 + 16 * 6);
    }
}
