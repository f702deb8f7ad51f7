//! The keys of a hub, in a folder, and the part of a server's config that names them. A process needs only its own keys:
//! the folder of an API replica holds `api.nk`, `issuer.nk` and `system.nk`.

use super::{
    jwt::ACCOUNT,
    nats_key::{NatsKey, NatsKeyError},
    role::Role,
};
use crate::private_file;
use std::{
    fmt::Write,
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The key that signs who may connect. Its holder can connect as any party.
const ISSUER: &str = "issuer.nk";
/// How long a server waits for the answer to an authorization request, in seconds.
const AUTH_TIMEOUT_SECONDS: u32 = 5;

/// A folder of keys.
#[derive(Debug, Clone)]
pub struct HubKeys {
    folder: PathBuf,
}

/// Why a hub's keys can't be used.
#[derive(Debug, Error)]
pub enum HubKeysError {
    /// The folder can't be created.
    #[error("{}: {source}", folder.display())]
    Folder {
        /// The folder's path.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A key can't be used.
    #[error(transparent)]
    Key(#[from] NatsKeyError),
}

impl HubKeys {
    /// The keys in this folder; some may be missing.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Creates the folder and every key that is missing in it.
    ///
    /// # Errors
    /// When a key can't be created, or an existing one can't be used.
    pub fn make(folder: &Path) -> Result<Self, HubKeysError> {
        let failed = |source| HubKeysError::Folder {
            folder: folder.to_owned(),
            source,
        };
        private_file::make_folder(folder).map_err(failed)?;
        let keys = Self::of(folder);
        for role in Role::OF_THE_HUB.iter().chain([&Role::System]) {
            NatsKey::read_or_make(&keys.file(role), NatsKey::fresh_user)?;
        }
        NatsKey::read_or_make(&folder.join(ISSUER), NatsKey::fresh_account)?;
        Ok(keys)
    }

    fn file(&self, role: &Role) -> PathBuf {
        self.folder.join(format!("{role}.nk"))
    }

    /// Reads the key of a role.
    ///
    /// # Errors
    /// When it is missing or can't be used.
    pub fn role(&self, role: &Role) -> Result<NatsKey, NatsKeyError> {
        NatsKey::read(&self.file(role))
    }

    /// The key that signs who may connect; `None` when this folder has none.
    ///
    /// # Errors
    /// When it exists and can't be used.
    pub fn issuer(&self) -> Result<Option<NatsKey>, NatsKeyError> {
        if_there(&self.folder.join(ISSUER))
    }

    /// The key that may end connections; `None` when this folder has none.
    ///
    /// # Errors
    /// When it exists and can't be used.
    pub fn system(&self) -> Result<Option<NatsKey>, NatsKeyError> {
        if_there(&self.file(&Role::System))
    }

    /// The part of a server's config that admits these keys, each with its role's permissions, and asks the API about all
    /// others. It holds only public keys.
    ///
    /// # Errors
    /// When a key is missing or can't be used.
    pub fn server_config(&self) -> Result<String, HubKeysError> {
        let mut users = String::new();
        let mut known = vec![];
        for role in &Role::OF_THE_HUB {
            let key = self.role(role)?.public();
            users += &user(role, &key);
            known.push(key);
        }
        let issuer = NatsKey::read(&self.folder.join(ISSUER))?.public();
        let system = self.role(&Role::System)?.public();
        let system_user = user(&Role::System, &system);
        known.push(system);
        Ok(format!(
            "authorization {{\n  timeout: {AUTH_TIMEOUT_SECONDS}\n  users: [\n{users}  ]\n  \
             # The server asks the API replicas about all other keys: they know the agents.\n  \
             auth_callout {{ issuer: {issuer}, account: \"{ACCOUNT}\", auth_users: [{}] }}\n}}\n\
             accounts {{\n  \"$SYS\": {{ users: [\n{system_user}  ] }}\n}}\nsystem_account: \"$SYS\"\n",
            known.join(", "),
        ))
    }
}

fn if_there(path: &Path) -> Result<Option<NatsKey>, NatsKeyError> {
    path.exists().then(|| NatsKey::read(path)).transpose()
}

fn user(role: &Role, key: &str) -> String {
    let rights = role.permissions();
    let mut text = format!("    # {role}\n    {{ nkey: {key}, permissions: {{\n");
    for (verb, subjects) in [("publish", &rights.publish), ("subscribe", &rights.subscribe)] {
        let (rule, subjects) = match subjects.as_slice() {
            [] => ("deny", &[">".to_owned()][..]),
            subjects => ("allow", subjects),
        };
        let quoted: Vec<_> = subjects.iter().map(|subject| format!("\"{subject}\"")).collect();
        let _ = writeln!(text, "      {verb}: {{ {rule}: [{}] }}", quoted.join(", "));
    }
    text + "    } }\n"
}
