//! Reads a certificate and its key, and reports what is wrong with them.

use super::Validity;
use rustix::process::geteuid;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use thiserror::Error;

/// The largest file that is read, in bytes; a long chain has a few thousand.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// What everybody but the owner may do with a file.
const OTHERS: u32 = 0o077;
/// A certificate that expires sooner gets a warning: the usual renewal leaves a fortnight for a person to react.
pub const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Where a certificate and its key are.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// PEM: the server's own certificate first, then those between it and a root.
    pub certificate: PathBuf,
    /// PEM: its private key, in PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// Why a certificate can't be used.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("{}: {what}", file.display())]
    Unusable { file: PathBuf, what: String },
    #[error("{}: mode {mode:04o} lets others read this private key; `chmod 600` it", file.display())]
    Exposed { file: PathBuf, mode: u32 },
    #[error("{}: this is not the private key of the certificate in {}", key.display(), certificate.display())]
    Mismatch { certificate: PathBuf, key: PathBuf },
    /// The TLS library refuses its own settings.
    #[error("TLS can't be set up: {0}")]
    Provider(rustls::Error),
}

/// What is not well about a certificate that is used all the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlsWarning {
    #[error("{}: this certificate has expired ({not_after}): clients refuse it", certificate.display())]
    Expired { certificate: PathBuf, not_after: String },
    #[error("{}: this certificate expires soon ({not_after}): renew it", certificate.display())]
    ExpiresSoon { certificate: PathBuf, not_after: String },
    /// It is not valid yet, or this machine's clock is wrong.
    #[error("{}: this certificate is not valid before {not_before}: clients refuse it", certificate.display())]
    NotYetValid {
        certificate: PathBuf,
        not_before: String,
    },
    /// Others may read a key that isn't ours, so that it isn't for us to forbid it.
    #[error("{}: mode {mode:04o} lets everybody on this machine read this private key", key.display())]
    Exposed { key: PathBuf, mode: u32 },
}

/// A certificate with its key, and what is not well about them.
#[derive(Debug)]
pub(super) struct Pair {
    pub key: CertifiedKey,
    pub warnings: Vec<TlsWarning>,
}

/// By what a change of the two files is noticed; none for one that isn't there.
pub(super) type Stamps = [Option<Stamp>; 2];

/// By what a change of a file is noticed. The inode tells of a file that was put in the place of another, such as by the
/// links of a mounted secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: (i64, i64),
    bytes: u64,
    inode: u64,
}

impl TlsFiles {
    /// How the files are now.
    pub(super) fn stamps(&self) -> Stamps {
        [&self.certificate, &self.key].map(|file| {
            let metadata = fs::metadata(file).ok()?;
            Some(Stamp {
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                bytes: metadata.len(),
                inode: metadata.ino(),
            })
        })
    }

    /// Reads and checks both.
    pub(super) fn read(&self) -> Result<Pair, TlsError> {
        let mut warnings = vec![];
        let chain = certificates(&self.certificate)?;
        warnings.extend(self.age(&chain[0], SystemTime::now())?);
        let (pem, metadata) = read(&self.key)?;
        warnings.extend(self.exposure(&metadata)?);
        let key = private_key(&self.key, &pem)?;
        let key =
            CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
                    certificate: self.certificate.clone(),
                    key: self.key.clone(),
                },
                error => unusable(&self.key, format!("this private key can't be used: {error}")),
            })?;
        Ok(Pair { key, warnings })
    }

    fn age(&self, certificate: &CertificateDer<'_>, now: SystemTime) -> Result<Option<TlsWarning>, TlsError> {
        let validity = Validity::of(certificate)
            .ok_or_else(|| unusable(&self.certificate, "this is no X.509 certificate"))?;
        let certificate = self.certificate.clone();
        Ok(if now > validity.not_after {
            let not_after = validity.last_second();
            Some(TlsWarning::Expired {
                certificate,
                not_after,
            })
        } else if now < validity.not_before {
            let not_before = validity.first_second();
            Some(TlsWarning::NotYetValid {
                certificate,
                not_before,
            })
        } else if now + EXPIRES_SOON > validity.not_after {
            let not_after = validity.last_second();
            Some(TlsWarning::ExpiresSoon {
                certificate,
                not_after,
            })
        } else {
            None
        })
    }

    /// As OpenSSH treats its keys: a file of our own must be closed to others, since only we could have opened it. A file
    /// of another user, such as a secret that a container engine has mounted, is theirs to close.
    fn exposure(&self, metadata: &Metadata) -> Result<Option<TlsWarning>, TlsError> {
        let mode = metadata.mode() & 0o7777;
        let is_ours = metadata.uid() == geteuid().as_raw();
        let key = self.key.clone();
        match (is_ours, mode & OTHERS) {
            (true, 1..) => Err(TlsError::Exposed { file: key, mode }),
            // The group of a foreign file is what gives us the right to read it.
            (false, others) if others & 0o007 != 0 => Ok(Some(TlsWarning::Exposed { key, mode })),
            (true | false, _) => Ok(None),
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (pem, _) = read(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| unusable(file, format!("this is not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(unusable(
            file,
            "there is no certificate in it (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(chain)
}

fn private_key(file: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let text = String::from_utf8_lossy(pem);
        let what = if text.contains("ENCRYPTED") {
            "this private key is encrypted: decrypt it, since a service can't type the password".to_owned()
        } else if matches!(error, rustls::pki_types::pem::Error::NoItemsFound) {
            "there is no private key in it (-----BEGIN PRIVATE KEY-----)".to_owned()
        } else {
            // The library's text may quote the file.
            "this is not a private key in PEM".to_owned()
        };
        unusable(file, what)
    })
}

fn read(file: &Path) -> Result<(Vec<u8>, Metadata), TlsError> {
    let unreadable = |error| TlsError::Unreadable {
        file: file.to_owned(),
        error,
    };
    let opened = File::open(file).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unusable(file, "this is not a file"));
    }
    let mut bytes = vec![];
    let limited = opened.take(MAX_FILE_BYTES + 1);
    { limited }.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(unusable(
            file,
            format!("it is larger than {MAX_FILE_BYTES} bytes"),
        ));
    }
    Ok((bytes, metadata))
}

fn unusable(file: &Path, what: impl Into<String>) -> TlsError {
    TlsError::Unusable {
        file: file.to_owned(),
        what: what.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    const NO_PEM: &str = "hello";

    /// Writes what is given where a certificate and its key are looked for.
    fn files(folder: &TempDir, certificate: &str, key: &str) -> TlsFiles {
        let files = TlsFiles {
            certificate: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
        };
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.key, key).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    fn pair(from: i32, until: i32) -> (String, String) {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn error(files: &TlsFiles) -> String {
        files.read().expect_err("it is refused").to_string()
    }

    #[test]
    fn what_is_wrong_is_said_of_the_file_in_which_it_is() {
        let folder = TempDir::new().unwrap();
        let (certificate, key) = pair(2020, 2090);
        let (_, other) = pair(2020, 2090);
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (certificate, key, file, said) in [
            (NO_PEM, key.as_str(), "cert.pem", "there is no certificate"),
            (key.as_str(), key.as_str(), "cert.pem", "there is no certificate"),
            (no_certificate, key.as_str(), "cert.pem", "no X.509 certificate"),
            (certificate.as_str(), NO_PEM, "key.pem", "there is no private key"),
            (
                certificate.as_str(),
                certificate.as_str(),
                "key.pem",
                "there is no private key",
            ),
            (certificate.as_str(), encrypted, "key.pem", "is encrypted"),
            (
                certificate.as_str(),
                other.as_str(),
                "key.pem",
                "not the private key of the certificate in",
            ),
        ] {
            let error = error(&files(&folder, certificate, key));
            let path = folder.path().join(file).display().to_string();
            assert!(error.starts_with(&path) && error.contains(said), "{error}");
            assert!(!error.contains("AAAA"), "{error}");
        }
        let sound = files(&folder, &certificate, &key);
        assert_eq!(sound.read().ok().map(|pair| pair.warnings), Some(vec![]));
        fs::remove_file(&sound.key).unwrap();
        assert!(
            error(&sound).contains("key.pem: No such file"),
            "{}",
            error(&sound)
        );
        fs::create_dir(&sound.key).unwrap();
        assert!(
            error(&sound).contains("key.pem: this is not a file"),
            "{}",
            error(&sound)
        );
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_remedy() {
        let folder = TempDir::new().unwrap();
        let (certificate, key) = pair(2020, 2090);
        let files = files(&folder, &certificate, &key);
        for mode in [0o640, 0o604, 0o644, 0o660] {
            fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
            let said = error(&files);
            assert!(
                said.contains(&format!("{mode:04o}")) && said.contains("chmod 600"),
                "{said}"
            );
        }
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(files.read().is_ok());
    }

    #[test]
    fn a_certificate_out_of_its_time_is_used_with_a_warning() {
        let folder = TempDir::new().unwrap();
        let warning = |from, until| {
            let (certificate, key) = pair(from, until);
            let read = files(&folder, &certificate, &key).read();
            let mut warnings = read.expect("it is used").warnings;
            assert_eq!(warnings.len(), 1);
            warnings.remove(0).to_string()
        };
        assert!(
            warning(2020, 2021).contains("expired (2021-01-01"),
            "{}",
            warning(2020, 2021)
        );
        assert!(
            warning(2090, 2091).contains("not valid before 2090-01-01"),
            "{}",
            warning(2090, 2091)
        );
    }

    #[test]
    fn a_certificate_that_ends_within_a_fortnight_is_worth_a_word() {
        let folder = TempDir::new().unwrap();
        let (certificate, key) = pair(2020, 2090);
        let files = files(&folder, &certificate, &key);
        let der = &certificates(&files.certificate).unwrap()[0];
        let end = Validity::of(der).unwrap().not_after;
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(files.age(der, end - day * 15).unwrap(), None);
        let soon = files.age(der, end - day * 13).unwrap();
        assert!(matches!(soon, Some(TlsWarning::ExpiresSoon { .. })), "{soon:?}");
    }
}
