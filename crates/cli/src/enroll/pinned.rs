//! Recognises the hub's NATS server by its token: connects to each address that the token names, and accepts only a server whose
//! certificate comes from the authority with the token's fingerprint.

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use parking_lot::Mutex;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sha2::{Digest, Sha256};
use std::{fmt, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// How long one address may take to connect.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// How long a server may take to greet, and then for the handshake.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// The longest greeting that is read.
const MAX_GREETING: usize = 64 * 1024;

/// Why an address leads to no hub.
#[derive(Debug)]
pub enum Unreachable {
    /// Nothing answers there.
    Connect(io::Error),
    /// Nothing answered in time.
    Silent,
    /// The address names no host.
    Name,
    /// Something answers that is no NATS server.
    NotNats,
    /// Its server has no TLS.
    NoTls,
    /// Its certificate isn't from the token's authority.
    OtherHub,
    /// Its certificate is from the token's authority, but isn't valid here and now.
    Certificate(rustls::Error),
    /// The handshake failed.
    Handshake(io::Error),
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => f.write_str("nothing listens there (connection refused)"),
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                    f.write_str("there is no way to this network or machine (unreachable)")
                }
                _ => write!(f, "{error}"),
            },
            Self::Silent => {
                f.write_str("no answer in time: the machine is off or busy, or a firewall drops the packets")
            }
            Self::Name => f.write_str("this is no name or address of a machine"),
            Self::NotNats => f.write_str("something else than a hub answers there"),
            Self::NoTls => f.write_str("the server there has no TLS, so it isn't this hub"),
            Self::OtherHub => f.write_str("the server's certificate isn't from the token's hub"),
            Self::Certificate(rustls::Error::InvalidCertificate(error)) => match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    f.write_str("by this machine's clock, the hub's certificate has expired")
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    f.write_str("by this machine's clock, the hub's certificate isn't valid yet")
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    f.write_str("the hub's certificate isn't for this address")
                }
                error => write!(f, "the hub's certificate can't be used: {error}"),
            },
            Self::Certificate(error) => write!(f, "the hub's certificate can't be used: {error}"),
            Self::Handshake(error) => write!(f, "the TLS handshake failed: {error}"),
        }
    }
}

impl Unreachable {
    /// What to do about it, as a sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Silent => {
                "Check that `reveille up --agents` is running on the hub, that this machine is in the same network, and that \
                 no firewall blocks the port."
            }
            Self::Name => "Create a new token on the hub: `reveille agent token NAME`.",
            Self::NotNats | Self::NoTls | Self::OtherHub => {
                "The token is for another hub than the one that answers, or somebody is in between. Create a new token on the \
                 hub: `reveille agent token NAME`."
            }
            Self::Certificate(rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            )) => "Set the clocks of both machines (`timedatectl set-ntp true`), and try again.",
            Self::Certificate(_) | Self::Handshake(_) => {
                "Start `reveille up --agents` on the hub with `--host` and the name or address that this machine uses, and \
                 create a new token."
            }
        }
    }

    /// How much it says about what is wrong: the reason of an address that answers counts more than that of one that doesn't.
    pub const fn weight(&self) -> u8 {
        match self {
            Self::Silent => 0,
            Self::Connect(_) | Self::Name => 1,
            Self::NotNats | Self::NoTls => 2,
            Self::OtherHub => 3,
            Self::Handshake(_) => 4,
            Self::Certificate(_) => 5,
        }
    }
}

/// The certificate of the hub's authority, in PEM, if the server at `address` is the hub with this fingerprint.
pub async fn authority(address: &str, fingerprint: &str) -> Result<String, Unreachable> {
    let stream = match timeout(CONNECTS_WITHIN, TcpStream::connect(address)).await {
        Ok(stream) => stream.map_err(Unreachable::Connect)?,
        Err(_) => return Err(Unreachable::Silent),
    };
    let mut stream = BufReader::new(stream);
    let greeting = timeout(ANSWERS_WITHIN, greeting(&mut stream)).await;
    let greeting = greeting.map_err(|_| Unreachable::Silent)?;
    let greeting = greeting.ok_or(Unreachable::NotNats)?;
    if greeting["tls_required"] != true && greeting["tls_available"] != true {
        return Err(Unreachable::NoTls);
    }
    let verifier = Arc::new(Pinned {
        fingerprint: fingerprint.to_owned(),
        provider: Arc::new(ring::default_provider()),
        outcome: Mutex::default(),
    });
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| Unreachable::Name)?;
    let connector = TlsConnector::from(Arc::new(config));
    let handshake = timeout(ANSWERS_WITHIN, connector.connect(name, stream.into_inner())).await;
    match (handshake, verifier.outcome.lock().take()) {
        (_, Some(Err(unreachable))) => Err(unreachable),
        (Ok(Ok(_)), Some(Ok(authority))) => Ok(pem(&authority)),
        (Ok(Err(error)), _) => Err(Unreachable::Handshake(error)),
        (Ok(Ok(_)), None) => Err(Unreachable::OtherHub),
        (Err(_), _) => Err(Unreachable::Silent),
    }
}

/// The line with which a NATS server greets. Nothing behind it is read, because the handshake comes next.
async fn greeting(stream: &mut BufReader<TcpStream>) -> Option<serde_json::Value> {
    let mut line = vec![];
    loop {
        match stream.read_u8().await.ok()? {
            b'\n' => break,
            byte if line.len() < MAX_GREETING => line.push(byte),
            _ => return None,
        }
    }
    serde_json::from_slice(line.strip_prefix(b"INFO ")?).ok()
}

/// A certificate, as a PEM file has it.
fn pem(certificate: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// Accepts a certificate if it comes from the authority with the fingerprint, which the server sends too.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
    /// The authority's certificate, or what is wrong.
    outcome: Mutex<Option<Result<Vec<u8>, Unreachable>>>,
}

impl Pinned {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Vec<u8>, Unreachable> {
        let is_known = |certificate: &&CertificateDer<'_>| {
            BASE64.encode(Sha256::digest(certificate)) == self.fingerprint
        };
        let authority = sent.iter().find(is_known).ok_or(Unreachable::OtherHub)?;
        let mut roots = RootCertStore::empty();
        roots
            .add(authority.clone().into_owned())
            .map_err(Unreachable::Certificate)?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|_| Unreachable::OtherHub)?;
        match verifier.verify_server_cert(end_entity, sent, name, &[], now) {
            Ok(_) => Ok(authority.to_vec()),
            // Another server may send a copy of the authority's certificate beside its own.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => Err(Unreachable::OtherHub),
            Err(error) => Err(Unreachable::Certificate(error)),
        }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let outcome = self.check(end_entity, intermediates, server_name, now);
        let accepted = outcome.is_ok();
        *self.outcome.lock() = Some(outcome);
        if accepted {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub_init::certificates;
    use reveille_bus::private_file;
    use rustls::pki_types::pem::PemObject;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// What a hub's server sends: its own certificate, and its authority's.
    fn sent(hosts: &[&str]) -> (Vec<CertificateDer<'static>>, String) {
        let folder = tempfile::tempdir().unwrap();
        private_file::make_folder(folder.path()).unwrap();
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        certificates::make(folder.path(), &hosts).unwrap();
        let file = folder.path().join(certificates::SERVER_FILES[0]);
        let chain: Vec<_> = CertificateDer::pem_file_iter(file)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(chain.len(), 2);
        let fingerprint = BASE64.encode(Sha256::digest(&chain[1]));
        (chain, fingerprint)
    }

    fn checked(
        chain: &[CertificateDer<'static>],
        fingerprint: &str,
        host: &str,
        now: Duration,
    ) -> Result<Vec<u8>, String> {
        let pinned = Pinned {
            fingerprint: fingerprint.to_owned(),
            provider: Arc::new(ring::default_provider()),
            outcome: Mutex::default(),
        };
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(now);
        let outcome = pinned.check(&chain[0], &chain[1..], &name, now);
        outcome.map_err(|unreachable| format!("{unreachable}. {}", unreachable.remedy()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_says_nothing_is_no_other_hub() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let unreachable = authority(&address, "AAAA").await.unwrap_err();
        assert!(matches!(unreachable, Unreachable::Silent), "{unreachable}");
    }

    #[test]
    fn a_server_is_the_hub_only_by_a_certificate_of_the_tokens_authority() {
        let now = Duration::from_secs(UnixTime::now().as_secs());
        let (chain, fingerprint) = sent(&["192.0.2.1", "hub.example"]);
        for host in ["192.0.2.1", "hub.example"] {
            assert_eq!(
                checked(&chain, &fingerprint, host, now).unwrap(),
                chain[1].to_vec()
            );
        }
        let (others, other) = sent(&["192.0.2.1"]);
        let copied = [others[0].clone(), chain[1].clone()];
        for (chain, fingerprint, host, now, says) in [
            (
                &chain[..],
                &*other,
                "192.0.2.1",
                now,
                "isn't from the token's hub",
            ),
            (
                &copied,
                &fingerprint,
                "192.0.2.1",
                now,
                "isn't from the token's hub",
            ),
            (
                &chain[..1],
                &fingerprint,
                "192.0.2.1",
                now,
                "isn't from the token's hub",
            ),
            (&chain, &fingerprint, "192.0.2.9", now, "isn't for this address"),
            (
                &chain,
                &fingerprint,
                "192.0.2.1",
                now - 30 * DAY,
                "isn't valid yet. Set the clocks",
            ),
            (
                &chain,
                &fingerprint,
                "192.0.2.1",
                now + 500 * DAY,
                "has expired. Set the clocks",
            ),
        ] {
            let said = checked(chain, fingerprint, host, now).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
    }
}
