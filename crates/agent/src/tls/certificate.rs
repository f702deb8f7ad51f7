//! What a certificate says of itself, for people.

use rustls::pki_types::{CertificateDer, UnixTime};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, UNIX_EPOCH},
};
use x509_cert::{
    Certificate as X509,
    der::{DateTime, Decode},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// How many names are shown, and how much of each.
const NAMES: usize = 8;
const MAX_NAME_CHARS: usize = 100;

/// A certificate that could be read.
pub(super) struct Certificate {
    subject: String,
    issuer: String,
    self_signed: bool,
    names: Vec<String>,
    not_before: Duration,
    not_after: Duration,
}

impl Certificate {
    /// Reads a certificate; `None` if it isn't one.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = X509::from_der(certificate).ok()?;
        let tbs = certificate.tbs_certificate();
        let names = tbs.get_extension::<SubjectAltName>().ok().flatten();
        let names = names.iter().flat_map(|(_, names)| &names.0).filter_map(name);
        let validity = tbs.validity();
        let since_1970 = |time: x509_cert::time::Time| time.to_unix_duration();
        Some(Self {
            subject: common_name(&tbs.subject().to_string()),
            issuer: common_name(&tbs.issuer().to_string()),
            self_signed: tbs.subject() == tbs.issuer(),
            names: names.collect(),
            not_before: since_1970(validity.not_before),
            not_after: since_1970(validity.not_after),
        })
    }

    /// What to call it: its subject, or else its first name.
    pub fn label(&self) -> &str {
        let first = self.names.first().map_or("without a name", String::as_str);
        if self.subject.is_empty() {
            first
        } else {
            &self.subject
        }
    }

    pub fn issuer(&self) -> &str {
        if self.issuer.is_empty() {
            "an authority without a name"
        } else {
            &self.issuer
        }
    }

    pub const fn is_self_signed(&self) -> bool {
        self.self_signed
    }

    /// The hosts that it is for, such as `box.lan and 10.0.0.7`; `None` if there are none.
    pub fn hosts(&self) -> Option<String> {
        let more = self.names.len().saturating_sub(NAMES);
        let mut shown: Vec<String> = self.names.iter().take(NAMES).cloned().collect();
        if more > 0 {
            shown.push(format!("{more} more"));
        }
        let last = shown.pop()?;
        Some(match shown.as_slice() {
            [] => last,
            others => format!("{} and {last}", others.join(", ")),
        })
    }

    /// When it is valid, as text in UTC: from, to.
    pub fn validity(&self) -> (String, String) {
        (text(self.not_before), text(self.not_after))
    }

    pub const fn is_expired(&self, now: UnixTime) -> bool {
        now.as_secs() > self.not_after.as_secs()
    }

    pub const fn is_early(&self, now: UnixTime) -> bool {
        now.as_secs() < self.not_before.as_secs()
    }
}

fn text(since_1970: Duration) -> String {
    DateTime::from_system_time(UNIX_EPOCH + since_1970)
        .map_or_else(|_| "a time without a name".to_owned(), |time| time.to_string())
}

/// The common name of a distinguished name, or else all of it.
fn common_name(name: &str) -> String {
    let common = name.split(',').find_map(|part| part.trim().strip_prefix("CN="));
    shown(common.unwrap_or(name))
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(shown(name.as_str())),
        GeneralName::IpAddress(address) => match address.as_bytes() {
            bytes if bytes.len() == 4 => {
                let bytes: [u8; 4] = bytes.try_into().ok()?;
                Some(IpAddr::V4(Ipv4Addr::from(bytes)).to_string())
            }
            bytes => {
                let bytes: [u8; 16] = bytes.try_into().ok()?;
                Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_string())
            }
        },
        _ => None,
    }
}

/// Text of a certificate, of which anybody may have written anything into it.
fn shown(raw: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    raw.chars().take(MAX_NAME_CHARS).map(plain).collect()
}
