//! `ca` and `insecure_skip_verify`: which certificates of servers are trusted.

use super::regular_file;
use rustls::pki_types::{
    CertificateDer,
    pem::{self, PemObject},
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The largest file of certificates.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Which servers a provider's requests trust over HTTPS, besides those that the system trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Where the certificates are from.
    pub file: Option<PathBuf>,
    /// Authorities, and servers' own certificates.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Whether any certificate will do.
    pub skip_verify: bool,
}

impl Trust {
    /// The certificates of a PEM file.
    ///
    /// # Errors
    /// Why it can't be used, without its content.
    pub(super) fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
        let text = regular_file::read(file, MAX_FILE_BYTES)
            .map_err(|error| format!("{} can't be read: {}", file.display(), words(&error)))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(format!("is larger than {MAX_FILE_BYTES} bytes"));
        }
        let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
        match certificates {
            Ok(certificates) if certificates.is_empty() => {
                Err("has no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned())
            }
            Ok(certificates) => Ok(certificates),
            Err(_) => Err("isn't a PEM file".to_owned()),
        }
    }

    /// Whether nothing but the system decides.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.certificates.is_empty() && !self.skip_verify
    }

    /// The same for another server, whose certificate is verified in any case.
    #[must_use]
    pub fn verifying(&self) -> Self {
        Self {
            skip_verify: false,
            ..self.clone()
        }
    }
}

/// The system's own words for an error, without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error ").next();
    words.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pem_file_with_a_certificate_will_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ca.pem");
        let read = |content: &[u8]| {
            std::fs::write(&file, content).expect("written");
            Trust::read(&file).map(|certificates| certificates.len())
        };
        let block = |kind: &str| format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
        let (certificate, key) = (block("CERTIFICATE"), block("PRIVATE KEY"));
        assert_eq!(read(certificate.as_bytes()), Ok(1));
        assert_eq!(
            read(format!("a comment\n{certificate}{key}{certificate}").as_bytes()),
            Ok(2)
        );
        for (content, reason) in [
            (b"".to_vec(), "has no certificate"),
            (key.into_bytes(), "has no certificate"),
            (
                b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n".to_vec(),
                "isn't a PEM file",
            ),
            (vec![b' '; 1024 * 1024 + 1], "is larger than"),
        ] {
            let refused = read(&content).expect_err(reason);
            assert!(refused.contains(reason), "{refused}");
        }
        let missing = Trust::read(&directory.path().join("none")).expect_err("missing");
        assert!(
            missing.ends_with("/none can't be read: No such file or directory"),
            "{missing}"
        );
    }
}
