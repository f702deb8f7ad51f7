//! The keys of a hub, in a folder, and the part of a server's config that names them. A process needs its own file only:
//! the folder of an API replica holds `api.nk`, `issuer.nk` and `system.nk`.

use super::{
    jwt::ACCOUNT,
    nats_key::{NatsKey, NatsKeyError},
    role::Role,
};
use std::{
    fmt::Write,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Signs who may connect. Whoever has it can be anybody.
const ISSUER: &str = "issuer.nk";
/// How long a server waits until somebody has said who a newcomer is, in seconds.
const AUTH_TIMEOUT_SECONDS: u32 = 5;
/// A folder of keys.
#[derive(Debug, Clone)]
pub struct HubKeys {
    folder: PathBuf,
}

/// Why a hub's keys can't be used.
#[derive(Debug, Error)]
pub enum HubKeysError {
    /// The folder can't be made.
    #[error("{}: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key can't be used.
    #[error(transparent)]
    Key(#[from] NatsKeyError),
}

impl HubKeys {
    /// The keys in this folder, whichever are there.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Makes the folder and every key that is missing in it.
    ///
    /// # Errors
    /// When one can't be made, or one that is there can't be used.
    pub fn make(folder: &Path) -> Result<Self, HubKeysError> {
        let failed = |source| HubKeysError::Folder {
            folder: folder.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
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

    /// The key of a role.
    ///
    /// # Errors
    /// When it isn't there or can't be used.
    pub fn role(&self, role: &Role) -> Result<NatsKey, NatsKeyError> {
        NatsKey::read(&self.file(role))
    }

    /// The key that signs who may connect; `None` when this folder has none.
    ///
    /// # Errors
    /// When it is there and can't be used.
    pub fn issuer(&self) -> Result<Option<NatsKey>, NatsKeyError> {
        if_there(&self.folder.join(ISSUER))
    }

    /// The key that may end connections; `None` when this folder has none.
    ///
    /// # Errors
    /// When it is there and can't be used.
    pub fn system(&self) -> Result<Option<NatsKey>, NatsKeyError> {
        if_there(&self.file(&Role::System))
    }

    /// The part of a server's config that lets these keys in, each with its role's rights, and has agents asked about.
    /// It holds public keys only.
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
             # Everybody else is asked about: API replicas know the agents.\n  \
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
