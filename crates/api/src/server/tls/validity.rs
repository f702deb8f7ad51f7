//! The validity period of a certificate.

use std::time::SystemTime;
use x509_cert::{
    Certificate,
    der::{DateTime, Decode},
};

/// A certificate's validity period, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Validity {
    /// The period of a certificate in DER; `None` if it is no certificate.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let validity = certificate.tbs_certificate().validity();
        Some(Self {
            not_before: validity.not_before.to_system_time(),
            not_after: validity.not_after.to_system_time(),
        })
    }

    /// The first second as text, in UTC.
    #[must_use]
    pub fn first_second(&self) -> String {
        text(self.not_before)
    }

    /// The last second as text, in UTC.
    #[must_use]
    pub fn last_second(&self) -> String {
        text(self.not_after)
    }
}

fn text(time: SystemTime) -> String {
    DateTime::from_system_time(time)
        .map_or_else(|_| "a time without a name".to_owned(), |time| time.to_string())
}
