//! Why TLS with a server failed, for people.

use super::verifier::Refused;
use rustls::{AlertDescription, CertificateError, Error as TlsError, OtherError};
use std::{
    error::Error,
    io::{self, ErrorKind},
};

/// Why TLS failed, if that is what an error is about: no URL, and of what the server sent only the words of its certificate.
pub(crate) fn reason(error: &(dyn Error + 'static)) -> Option<String> {
    causes(error).find_map(|error| match of_tls(error) {
        Some(error) => Some(text(error)),
        None if is_cut_handshake(error) => {
            Some("the server closed the connection during the TLS handshake".to_owned())
        }
        None => None,
    })
}

/// Whether the server seems not to know that this is TLS.
pub(crate) fn is_garbled(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .any(|error| matches!(of_tls(error), Some(TlsError::InvalidMessage(_))) || is_cut_handshake(error))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// The TLS error that this one is, or that it wraps.
fn of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    if let Some(error) = error.downcast_ref::<TlsError>() {
        return Some(error);
    }
    let io = error.downcast_ref::<io::Error>()?;
    of_tls(io.get_ref()?)
}

/// Whether tokio-rustls says that the connection was closed in the middle of a handshake.
fn is_cut_handshake(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|io| io.kind() == ErrorKind::UnexpectedEof && io.to_string().contains("tls handshake"))
}

/// Whether the other end answered with an alert of TLS.
pub(super) fn is_alert(error: &io::Error) -> bool {
    matches!(of_tls(error), Some(TlsError::AlertReceived(_)))
}

fn text(error: &TlsError) -> String {
    match error {
        TlsError::InvalidCertificate(CertificateError::Other(OtherError(other)))
            if other.downcast_ref::<Refused>().is_some() =>
        {
            other.to_string()
        }
        TlsError::InvalidCertificate(wrong) => format!("the server's certificate is refused: {wrong}"),
        TlsError::InvalidMessage(_) => "the server doesn't speak TLS there".to_owned(),
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server asks for a certificate of the agent's, which it doesn't have (TLS)".to_owned()
        }
        TlsError::AlertReceived(alert) => format!("the server refused the TLS handshake ({alert:?})"),
        TlsError::PeerIncompatible(_) => {
            "the server supports neither TLS 1.2 nor 1.3 as the agent does".to_owned()
        }
        TlsError::PeerMisbehaved(_) => "the server broke the rules of TLS".to_owned(),
        other => format!("TLS failed: {other}"),
    }
}
