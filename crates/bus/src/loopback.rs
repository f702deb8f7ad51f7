//! Which addresses are this machine's own: plaintext and requests without a key are accepted there.

use std::net::IpAddr;

/// Whether only this machine reaches `ip`. An IPv4 address in its IPv6 form (`::ffff:127.0.0.1`) counts as itself.
#[must_use]
pub fn is_loopback_ip(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Whether `host`, a name or an address as it appears in a URL, is this machine.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(is_loopback_ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_spellings_and_no_lookalikes() {
        for host in [
            "localhost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "localhost.example",
            "127.evil.example",
            "0.0.0.0",
            "::",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
