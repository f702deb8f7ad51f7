//! The API's certificate, and the refusal to serve other machines without one.

use crate::{args::TlsArgs, failure::Failure, signals::Hangups};
use reveille_api::server::tls::{Tls, TlsFiles};
use reveille_bus::is_loopback_ip;
use std::{convert::Infallible, net::SocketAddr};
use tracing::warn;

/// Reads the certificate that the command line names, if any, and refuses to serve other machines without one. Runs
/// before a port is bound.
pub fn load(args: &TlsArgs, listens: SocketAddr, allow_plaintext: bool) -> Result<Option<Tls>, Failure> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        plaintext(allow_plaintext, listens)?;
        return Ok(None);
    };
    let files = TlsFiles {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    let (tls, warnings) =
        Tls::load(files).map_err(|error| Failure::Config(format!("--tls-cert, --tls-key: {error}")))?;
    for warning in warnings {
        warn!("{warning}");
    }
    Ok(Some(tls))
}

fn plaintext(allowed: bool, listens: SocketAddr) -> Result<(), Failure> {
    if is_loopback_ip(listens.ip()) {
        return Ok(());
    }
    if !allowed {
        return Err(Failure::Config(format!(
            "--listen {listens}: other machines aren't served without TLS, because anyone on the network could read \
             the traffic. Use --tls-cert FILE and --tls-key FILE, or --allow-plaintext behind a TLS proxy or on a \
             network you trust"
        )));
    }
    warn!(
        api.listen = %listens,
        "the API is served without TLS on {listens} (--allow-plaintext): anyone on the network path can read and \
         change prompts, answers and keys, unless a proxy in front encrypts them"
    );
    Ok(())
}

/// Reloads the certificate at each SIGHUP, if there is one.
pub async fn reload_on_hangup(tls: Option<Tls>, mut hangups: Hangups) -> Infallible {
    loop {
        hangups.next().await;
        if let Some(tls) = &tls {
            tls.reload();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_leaves_loopback_only_with_the_flag() {
        let refused = |listens: &str, allowed| match plaintext(allowed, listens.parse().unwrap()) {
            Ok(()) => false,
            Err(Failure::Config(said)) => {
                for flag in ["--tls-cert", "--tls-key", "--allow-plaintext", listens] {
                    assert!(said.contains(flag), "{said}");
                }
                true
            }
            Err(other) => panic!("{other}"),
        };
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(!refused(loopback, false), "{loopback}");
        }
        for beyond in [
            "0.0.0.0:1",
            "[::]:1",
            "192.0.2.1:1",
            "[2001:db8::1]:1",
            "[::ffff:192.0.2.1]:1",
        ] {
            assert!(refused(beyond, false), "{beyond}");
            assert!(!refused(beyond, true), "{beyond}");
        }
    }
}
