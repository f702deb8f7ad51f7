//! Whether the API requires keys, and the root key, which creates the others.

use crate::{args::AuthArgs, failure::Failure, whole_file};
use anyhow::anyhow;
use reveille_api::keys::{AuthMode, SecretKey};
use reveille_bus::{is_loopback_ip, private_file};
use std::{fs, io::ErrorKind, net::SocketAddr, path::Path};
use tracing::{info, warn};

/// The largest file that is read as a root key.
const MAX_BYTES: u64 = 1024;

/// Whether an API on `address` requires keys. Logs a line unless it listens on loopback.
pub fn mode(address: SocketAddr, args: AuthArgs) -> AuthMode {
    if args.require_keys {
        return AuthMode::Required;
    }
    if is_loopback_ip(address.ip()) {
        return AuthMode::Open;
    }
    if args.insecure_no_keys {
        warn!(
            api.listen = %address,
            "--insecure-no-keys: anyone who can reach {address} may use and wake every model and read all events"
        );
        return AuthMode::Open;
    }
    info!(api.listen = %address, "the API listens beyond loopback, so it requires a key");
    AuthMode::Required
}

/// The key in `file`. A missing file is created with a new key, for its owner alone.
///
/// # Errors
/// When others can read the file, or it holds no key.
pub fn root_key(file: &Path) -> Result<SecretKey, Failure> {
    if let Some(key) = read(file)? {
        return Ok(key);
    }
    let key = SecretKey::generate().map_err(|error| anyhow!("cannot create a root key: {error}"))?;
    match write(file, &key) {
        Ok(()) => {
            info!(key.id = %key.id(), "created the root key {} in {}", key.id(), file.display());
            Ok(key)
        }
        // Another replica was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            read(file)?.ok_or_else(|| anyhow!("{} keeps disappearing", file.display()).into())
        }
        Err(error) => Err(anyhow!("cannot write the root key to {}: {error}", file.display()).into()),
    }
}

/// The key in `file`; `None` when there is no such file.
///
/// # Errors
/// When others can read the file, or it holds no key.
pub fn read(file: &Path) -> Result<Option<SecretKey>, Failure> {
    let shown = file.display();
    let unusable = |why: &str| Err(Failure::Config(format!("the root key file {shown} {why}")));
    let found = match fs::metadata(file) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return unusable(&format!("can't be read: {error}")),
    };
    if private_file::is_exposed(&found) {
        return unusable(
            "is readable by others: run `chmod 600` on it, or delete it to get a new key if someone may have read it",
        );
    }
    if !found.is_file() || found.len() > MAX_BYTES {
        return unusable("is not a key file");
    }
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return unusable(&format!("can't be read: {error}")),
    };
    match SecretKey::parse(text.trim()) {
        Ok(key) => Ok(Some(key)),
        Err(error) => unusable(&format!("holds no key: {error}")),
    }
}

/// Never replaces an existing file.
fn write(file: &Path, key: &SecretKey) -> std::io::Result<()> {
    private_file::make_folder(whole_file::folder_of(file))?;
    whole_file::write(
        file,
        &format!("{}\n", key.expose()),
        private_file::FILE_MODE,
        false,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::Permissions,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    #[test]
    fn a_missing_root_key_is_created_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/root.key");
        assert!(read(&file).unwrap().is_none());
        let made = root_key(&file).unwrap();
        assert_eq!(root_key(&file).unwrap().expose(), made.expose());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_root_key_that_others_can_read_or_that_is_malformed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root.key");
        let key = root_key(&file).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let said = root_key(&file).unwrap_err().to_string();
            assert!(
                said.contains("chmod 600") && !said.contains(key.expose()),
                "{said}"
            );
        }
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        for text in ["", "hello", &key.expose()[1..], &"a".repeat(5_000)] {
            fs::write(&file, text).unwrap();
            let said = root_key(&file).unwrap_err().to_string();
            assert!(
                said.contains("root.key") && (text.is_empty() || !said.contains(text)),
                "{said}"
            );
        }
    }

    #[test]
    fn beyond_loopback_keys_are_required_unless_a_flag_gives_that_up() {
        let mode_of = |address: &str, require_keys, insecure_no_keys| {
            let args = AuthArgs {
                require_keys,
                insecure_no_keys,
            };
            mode(address.parse().unwrap(), args)
        };
        for address in ["127.0.0.1:1", "[::1]:1"] {
            assert_eq!(mode_of(address, false, false), AuthMode::Open);
            assert_eq!(mode_of(address, true, false), AuthMode::Required);
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.7:1"] {
            assert_eq!(mode_of(address, false, false), AuthMode::Required);
            assert_eq!(mode_of(address, false, true), AuthMode::Open);
            assert_eq!(mode_of(address, true, true), AuthMode::Required);
        }
    }
}
