//! What an I/O error shows of a server, and how people would put it.

use std::{error::Error, io};

/// A kind of I/O error while connecting, as people would put it.
pub(crate) fn io_reason(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::NotFound => "the socket doesn't exist".to_owned(),
        io::ErrorKind::PermissionDenied => "the agent may not connect to it (permission denied)".to_owned(),
        kind => kind.to_string(),
    }
}

/// Whether the connection ended because the backend's machine no longer acknowledges what it gets, or has no route.
pub(crate) fn is_gone(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        // By the kernel: a time-out of ours has no number.
        if io.is_some_and(|io| {
            io.raw_os_error().is_some()
                && matches!(io.kind(), TimedOut | HostUnreachable | NetworkUnreachable)
        }) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The underlying I/O error, if it is one that helps people.
pub(crate) fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound, PermissionDenied};
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if let Some(
            kind @ (ConnectionRefused | HostUnreachable | NetworkUnreachable | NotFound | PermissionDenied),
        ) = kind
        {
            return Some(kind);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_machine_is_gone_if_the_kernel_says_so_and_not_by_a_time_out_of_ours() {
        let of_kernel = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for errno in [Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH] {
            assert!(is_gone(&of_kernel(errno)), "{errno}");
        }
        for errno in [Errno::CONNRESET, Errno::PIPE, Errno::CONNREFUSED] {
            assert!(!is_gone(&of_kernel(errno)), "{errno}");
        }
        assert!(!is_gone(&io::Error::from(io::ErrorKind::TimedOut)));
    }
}
