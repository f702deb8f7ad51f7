//! NATS's key pairs (nkeys): the holder of the seed can prove that the public key is its own. The seed never crosses the
//! network.

use crate::private_file;
use nkeys::{KeyPair, KeyPairType};
use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;

/// The largest key file that is read; a seed is 58 characters.
const MAX_FILE_BYTES: u64 = 1024;

/// A key pair. Cheap to clone; its seed is never printed.
#[derive(Clone)]
pub struct NatsKey {
    pair: Arc<KeyPair>,
}

/// Why a key can't be used.
#[derive(Debug, Error)]
pub enum NatsKeyError {
    /// The file can't be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file's path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Users other than its owner may read the file.
    #[error("{} is readable by users other than its owner: chmod 600 it", path.display())]
    Exposed {
        /// The file's path.
        path: PathBuf,
    },
    /// The file holds no key.
    #[error("{} holds no NATS key: expected a line that begins with S", path.display())]
    Malformed {
        /// The file's path.
        path: PathBuf,
    },
}

impl fmt::Debug for NatsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsKey({})", self.public())
    }
}

impl PartialEq for NatsKey {
    fn eq(&self, other: &Self) -> bool {
        self.public() == other.public()
    }
}

impl NatsKey {
    /// Generates the key of a party that connects.
    #[must_use]
    pub fn fresh_user() -> Self {
        Self {
            pair: Arc::new(KeyPair::new_user()),
        }
    }

    /// Generates a key that signs who may connect.
    #[must_use]
    pub fn fresh_account() -> Self {
        Self {
            pair: Arc::new(KeyPair::new_account()),
        }
    }

    /// Reads a file that holds a seed, and perhaps lines around it that begin with `#` or `-`.
    ///
    /// # Errors
    /// When it can't be read, other users may read it, or it holds no key.
    pub fn read(path: &Path) -> Result<Self, NatsKeyError> {
        let failed = |source| NatsKeyError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if private_file::is_exposed(&meta) {
            return Err(NatsKeyError::Exposed {
                path: path.to_owned(),
            });
        }
        let malformed = || NatsKeyError::Malformed {
            path: path.to_owned(),
        };
        let mut text = String::new();
        let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
        if read.map_err(failed)? as u64 > MAX_FILE_BYTES {
            return Err(malformed());
        }
        let mut lines = text.lines().map(str::trim);
        let seed = lines.find(|line| !line.is_empty() && !line.starts_with(['#', '-']));
        let pair = seed.and_then(|seed| KeyPair::from_seed(seed).ok());
        pair.map(|pair| Self { pair: Arc::new(pair) })
            .ok_or_else(malformed)
    }

    /// Reads the file, or creates it with a key from `fresh` when it is missing.
    ///
    /// # Errors
    /// As [`NatsKey::read`] and [`NatsKey::write`].
    pub fn read_or_make(path: &Path, fresh: impl FnOnce() -> Self) -> Result<Self, NatsKeyError> {
        match Self::read(path) {
            Err(NatsKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let key = fresh();
                key.write(path)?;
                Ok(key)
            }
            read => read,
        }
    }

    /// Writes a new file that only its owner can read. Never overwrites one.
    ///
    /// # Errors
    /// When it exists or can't be written.
    pub fn write(&self, path: &Path) -> Result<(), NatsKeyError> {
        let failed = |source| NatsKeyError::Io {
            path: path.to_owned(),
            source,
        };
        let seed = self
            .pair
            .seed()
            .map_err(|error| failed(io::Error::other(error)))?;
        let mut file = private_file::create(path).map_err(failed)?;
        writeln!(file, "{seed}")
            .and_then(|()| file.sync_all())
            .map_err(failed)
    }

    /// The public key: 56 characters, `U…` for a user, `A…` for an account.
    #[must_use]
    pub fn public(&self) -> String {
        self.pair.public_key()
    }

    /// The private key, for NATS's client only.
    pub(crate) fn seed(&self) -> Option<String> {
        self.pair.seed().ok()
    }

    pub(crate) fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.pair.sign(text).ok()
    }

    /// Whether `public` is a well-formed public key of a user.
    #[must_use]
    pub fn is_public_user_key(public: &str) -> bool {
        KeyPair::from_public_key(public).is_ok_and(|pair| matches!(pair.key_pair_type(), KeyPairType::User))
    }
}

/// Whether `signature` is by the holder of the seed of `public`.
pub(super) fn has_signed(public: &str, text: &[u8], signature: &[u8]) -> bool {
    KeyPair::from_public_key(public).is_ok_and(|pair| pair.verify(text, signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn a_key_file_is_private_and_reads_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("api.nk");
        let key = NatsKey::read_or_make(&path, NatsKey::fresh_user).expect("made");
        assert_eq!(
            NatsKey::read_or_make(&path, NatsKey::fresh_user).expect("read"),
            key
        );
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, private_file::FILE_MODE);
        assert!(NatsKey::is_public_user_key(&key.public()));
        assert!(key.write(&path).is_err(), "an existing key was overwritten");
    }

    #[test]
    fn a_key_file_that_others_read_or_that_holds_none_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("api.nk");
        NatsKey::fresh_user().write(&path).expect("written");
        let seed = fs::read_to_string(&path).expect("there");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
        let error = NatsKey::read(&path).expect_err("exposed");
        assert!(matches!(error, NatsKeyError::Exposed { .. }), "{error}");
        assert!(!error.to_string().contains(seed.trim()));
        for text in ["", "hello", "SUAX", &seed[1..]] {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
            let error = NatsKey::read(&path).expect_err(text);
            assert!(matches!(error, NatsKeyError::Malformed { .. }), "{error}");
        }
    }
}
