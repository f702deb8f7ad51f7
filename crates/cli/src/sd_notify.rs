//! What a supervisor such as systemd is told: that the service is ready, and that it stops.
//!
//! The protocol is `sd_notify`'s: a datagram to the socket that `NOTIFY_SOCKET` names. Without that variable there is
//! nobody to tell.

use std::{
    env, io,
    os::unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram},
    },
};
use tracing::warn;

/// The variable by which a supervisor says where it listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From now on requests are answered, or wakes carried out.
    Ready,
    /// The service ends in order.
    Stopping,
}

impl Phase {
    const fn message(self) -> &'static [u8] {
        match self {
            Self::Ready => b"READY=1",
            Self::Stopping => b"STOPPING=1",
        }
    }
}

/// Tells the supervisor, if there is one. One that doesn't listen is no reason to end.
pub fn tell(phase: Phase) {
    if let Some(socket) = env::var_os(SOCKET)
        && let Err(error) = send(socket.as_bytes(), phase)
    {
        warn!(%error, "the supervisor can't be told about {phase:?}");
    }
}

fn send(socket: &[u8], phase: Phase) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(phase.message(), &address(socket)?).map(drop)
}

/// A path, or with an `@` in front a name that is in no file system.
fn address(socket: &[u8]) -> io::Result<SocketAddr> {
    match socket.strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)
        }
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> Vec<u8> {
        let mut buffer = [0; 64];
        let length = listener.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn a_supervisor_is_told_at_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_bytes(), Phase::Ready).unwrap();
        assert_eq!(heard(&listener), b"READY=1");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_supervisor_is_told_at_an_abstract_name() {
        let name = format!("@reveille-test-notify-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&address(name.as_bytes()).unwrap()).unwrap();
        send(name.as_bytes(), Phase::Stopping).unwrap();
        assert_eq!(heard(&listener), b"STOPPING=1");
    }
}
