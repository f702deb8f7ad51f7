//! Verifies the certificates of servers, and says what is wrong with one.

use super::certificate::Certificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use std::sync::{Arc, OnceLock};
use thiserror::Error;

/// What is wrong with a certificate, in a sentence without its end.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Refused(pub String);

/// Trusts what the system trusts, and more authorities and certificates. A server's own certificate may be among either, also if it
/// is marked as an authority, as those that `openssl req -x509` makes.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None` on a machine without any authorities, such as an empty container.
    authorities: Option<rustls_platform_verifier::Verifier>,
    more: Vec<CertificateDer<'static>>,
    /// Those of the system, once they are needed one by one.
    system: OnceLock<Vec<CertificateDer<'static>>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub fn new(more: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Self {
        let authorities = |more: &[CertificateDer<'static>]| {
            let more = more.iter().cloned();
            rustls_platform_verifier::Verifier::new_with_extra_roots(more, provider.clone()).ok()
        };
        Self {
            // One that can be no authority may still be a server's own.
            authorities: authorities(more).or_else(|| authorities(&[])),
            more: more.to_vec(),
            system: OnceLock::new(),
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn is_trusted_itself(&self, certificate: &CertificateDer<'_>) -> bool {
        let system = || {
            self.system
                .get_or_init(|| rustls_native_certs::load_native_certs().certs)
        };
        self.more.iter().any(|own| own == certificate) || system().iter().any(|own| own == certificate)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authorized = match &self.authorities {
            None => Err(CertificateError::UnknownIssuer.into()),
            Some(authorities) => {
                authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
        };
        authorized
            .or_else(|error| {
                if !self.is_trusted_itself(end_entity) {
                    return Err(error);
                }
                let certificate = Certificate::of(end_entity).ok_or(CertificateError::BadEncoding)?;
                if certificate.is_expired(now) {
                    return Err(CertificateError::Expired.into());
                }
                if certificate.is_early(now) {
                    return Err(CertificateError::NotValidYet.into());
                }
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            })
            .map_err(|error| explained(error, end_entity, server_name))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The error with what people need to know of the certificate.
fn explained(error: Error, certificate: &CertificateDer<'_>, server_name: &ServerName<'_>) -> Error {
    let Error::InvalidCertificate(wrong) = &error else {
        return error;
    };
    let Some(read) = Certificate::of(certificate) else {
        return refused("the server's certificate can't be read".to_owned());
    };
    let its = format!("the server's certificate ({})", read.label());
    let (from, to) = read.validity();
    refused(match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("{its} expired at {to}")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("{its} isn't valid before {from}: is this machine's clock right?")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let asked = server_name.to_str();
            match read.hosts() {
                Some(hosts) => format!("{its} is for {hosts}, not for {asked}"),
                None => format!("{its} names no host (no subjectAltName), so it isn't for {asked}"),
            }
        }
        CertificateError::Revoked => format!("{its} was revoked"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("{its} isn't made for a server (extendedKeyUsage)")
        }
        CertificateError::Other(other) if is_named(other, "EkuError") => {
            format!("{its} isn't made for a server (extendedKeyUsage)")
        }
        _ if read.is_self_signed() => format!("{its} is self-signed and not trusted: name its file in `ca`"),
        CertificateError::UnknownIssuer => format!(
            "{its} was issued by {}, which isn't trusted: name that authority's file in `ca`",
            read.issuer()
        ),
        CertificateError::BadSignature => {
            format!(
                "{its} wasn't signed by the trusted authority {}, but by another of that name",
                read.issuer()
            )
        }
        CertificateError::Other(other) if is_named(other, "CaUsedAsEndEntity") => {
            format!("{its} is an authority's, not a server's (basicConstraints): name its file in `ca`")
        }
        other => format!("{its} is refused: {other}"),
    })
}

/// Whether this is an error that its crate keeps to itself.
fn is_named(error: &OtherError, name: &str) -> bool {
    format!("{:?}", error.0) == name
}

fn refused(why: String) -> Error {
    CertificateError::Other(OtherError(Arc::new(Refused(why)))).into()
}

/// Trusts any certificate, and so anybody.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl AnyCertificate {
    pub fn new(provider: &CryptoProvider) -> Self {
        Self {
            schemes: provider.signature_verification_algorithms.supported_schemes(),
        }
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
