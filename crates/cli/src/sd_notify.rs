//! Notifies a service manager such as systemd that the service is ready, and that it is stopping.
//!
//! The protocol is that of `sd_notify`: a datagram to the socket named by `NOTIFY_SOCKET`. Without the variable nothing
//! is sent.

use std::{
    env, io,
    os::unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram},
    },
};
use tracing::warn;

/// The variable that names the service manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// The service answers requests, or carries out wakes.
pub fn ready() {
    notify("READY=1");
}

/// The service is shutting down.
pub fn stopping() {
    notify("STOPPING=1");
}

/// Sends a message, if there is a service manager. A failure to do so is only logged.
fn notify(message: &str) {
    if let Some(socket) = env::var_os(SOCKET)
        && let Err(error) = send(socket.as_bytes(), message)
    {
        warn!(%error, "cannot send {message} to the service manager");
    }
}

fn send(socket: &[u8], message: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender
        .send_to_addr(message.as_bytes(), &address(socket)?)
        .map(drop)
}

/// A path, or an abstract name with `@` in front.
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
    fn a_notification_reaches_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_bytes(), "READY=1").unwrap();
        assert_eq!(heard(&listener), b"READY=1");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_notification_reaches_an_abstract_name() {
        let name = format!("@reveille-test-notify-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&address(name.as_bytes()).unwrap()).unwrap();
        send(name.as_bytes(), "STOPPING=1").unwrap();
        assert_eq!(heard(&listener), b"STOPPING=1");
    }
}
