//! Reveille's data directory. One `reveille up` at a time has it: its lock, journal, root key, and the server's log
//! and port.

use crate::{logging::notice, whole_file};
use anyhow::{Context, Result, anyhow, bail};
use reveille_agent::shell;
use reveille_bus::private_file;
use rustix::{
    fs::{Access, access},
    process::{Pid, test_kill_process},
};
use serde::{Deserialize, Serialize};
use std::{
    env,
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use url::Url;

/// The subfolder of an agent's state.
pub const AGENT_STATE: &str = "agent";
/// The subfolder of the keys of `up`'s own NATS server.
pub const HUB_KEYS: &str = "hub-keys";
/// The file of `up`'s root key.
pub const ROOT_KEY: &str = "root.key";
/// The file of the port of `up`'s own NATS server.
pub const PORT_FILE: &str = "nats-port";
/// The file that tells other commands of the run that has the folder.
const RUN_FILE: &str = "up.json";
/// The subfolder of the certificates for the port on which `up` listens for agents.
pub const AGENTS_TLS: &str = "agents-tls";
/// The file of the URL of `up`'s own NATS server.
pub const URL_FILE: &str = "nats-url";
/// The process that holds this file's lock has the folder.
const LOCK_FILE: &str = "lock";
/// How long the processes of a killed run may take to end: a bit more than the longest grace period they have.
const LAST_RUN_ENDS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A run of `reveille up`, as other commands need to know it.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunningUp {
    /// The URL at which this machine reaches its API.
    pub api: Url,
    /// The NATS server that it was given, without a password; `None` if it runs its own.
    pub nats: Option<String>,
    /// The authority of the API's certificate, if that is of the run's own making.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The config of its agent, if it has one.
    #[serde(default)]
    pub config: Option<PathBuf>,
}

/// A locked data folder.
///
/// The NATS server that writes here is given a share of the lock, and so holds it for as long as it runs: the run after a
/// killed one never starts a second server on a journal that the first still writes. No other program has it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Locks the folder, creating it if it is missing.
    ///
    /// # Errors
    /// When another run holds the lock.
    pub async fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot use {} as the data directory", path.display());
        private_file::make_folder(path).with_context(cannot)?;
        let path = path.canonicalize().with_context(cannot)?;
        let file = path.join(LOCK_FILE);
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .with_context(cannot)?;
        lock_for_us(&mut lock, &path, LAST_RUN_ENDS_WITHIN).await?;
        lock.set_len(0).with_context(cannot)?;
        fs::write(&file, std::process::id().to_string()).with_context(cannot)?;
        Ok(Self { path, lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A share of its lock, for a program that writes in the folder.
    ///
    /// # Errors
    /// When this process has too many open files.
    pub fn share(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// Tells other commands of this run.
    ///
    /// # Errors
    /// When the folder can't be written to.
    pub fn announce(&self, run: &RunningUp) -> Result<()> {
        let file = self.join(RUN_FILE);
        let text = serde_json::to_string(run)?;
        let written = whole_file::write(&file, &text, private_file::FILE_MODE, true);
        written.with_context(|| format!("cannot write {}", file.display()))
    }

    /// A file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

async fn lock_for_us(lock: &mut File, path: &Path, patience: Duration) -> Result<()> {
    let started = Instant::now();
    let mut announced = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
            Err(TryLockError::WouldBlock) => {}
        }
        let mut holder = String::new();
        // A half-written file is read again in the next round.
        let _ = File::open(path.join(LOCK_FILE)).and_then(|mut file| file.read_to_string(&mut holder));
        let holder = holder.trim();
        if is_alive(holder) || started.elapsed() >= patience {
            return Err(refused(path, holder));
        }
        if !announced {
            notice("waiting for the last run's processes to end");
            announced = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn refused(path: &Path, holder: &str) -> anyhow::Error {
    let serves = running_up(path).map(|up| format!(" and serves {}", up.api.as_str().trim_end_matches('/')));
    let (path, word) = (path.display(), shell::path(path));
    anyhow!(
        "another `reveille up` (process {holder}) is using the data directory {path}{}: stop it with `reveille down \
         --data-dir {word}`, or give this one both --data-dir and --listen",
        serves.unwrap_or_default()
    )
}

/// Checks that no other run has a folder, and that it can be written to, before anything else is tried.
///
/// # Errors
/// When it can't be used.
pub fn usable(path: &Path) -> Result<()> {
    let holder = holder(path).unwrap_or_default();
    if let Some(holder) = holder.filter(|holder| is_locked(path) && is_alive(holder)) {
        return Err(refused(path, &holder));
    }
    match unusable(path) {
        None => Ok(()),
        Some(problem) => Err(anyhow!("{problem}: {USE_ANOTHER}")),
    }
}

/// What to do about a folder that isn't usable.
pub const USE_ANOTHER: &str = "use --data-dir for a folder that this user may write to";

/// Why the folder can't be made or written to, if so.
pub fn unusable(path: &Path) -> Option<String> {
    let is_here = |folder: &&Path| fs::symlink_metadata(folder).is_ok() && !folder.as_os_str().is_empty();
    let there = path.ancestors().find(is_here).unwrap_or(Path::new("."));
    let shown = path.display();
    let what = match there == path {
        true => format!("cannot use the data directory {shown}"),
        false => format!("cannot create the data directory {shown} in {}", there.display()),
    };
    if let Ok(target) = fs::read_link(there)
        && !there.exists()
    {
        let what = format!("{what}: {} is a link to {}", there.display(), target.display());
        return Some(format!("{what}, which isn't there"));
    }
    if !there.is_dir() {
        return Some(format!("{what}: {} is not a directory", there.display()));
    }
    let mut needed = Access::WRITE_OK | Access::EXEC_OK;
    needed.set(Access::READ_OK, there == path);
    let denied = access(there, needed).err()?;
    Some(format!("{what}: {denied}"))
}

/// Whether a run holds this folder. Tries the lock for an instant and releases it.
pub fn is_locked(path: &Path) -> bool {
    let file = File::open(path.join(LOCK_FILE));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The process that last held this folder.
///
/// # Errors
/// When that can't be read, as that of another user.
pub fn holder(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path.join(LOCK_FILE)) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|pid| !pid.is_empty())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The port of the NATS server of the run that last held this folder.
pub fn nats_port(path: &Path) -> Option<u16> {
    fs::read_to_string(path.join(PORT_FILE)).ok()?.trim().parse().ok()
}

/// The run that holds this folder.
pub fn running_up(path: &Path) -> Option<RunningUp> {
    let text = fs::read_to_string(path.join(RUN_FILE)).ok()?;
    serde_json::from_str(&text).ok().filter(|_| is_locked(path))
}

/// The URL of the NATS server of the run that last held this folder.
pub fn nats_url(path: &Path) -> Option<String> {
    let url = fs::read_to_string(path.join(URL_FILE)).ok();
    url.map(|url| url.trim().to_owned()).filter(|url| !url.is_empty())
}

/// The certificate authority of the port on which `up` listens for agents, if it has ever done so.
pub fn authority(path: &Path) -> Option<PathBuf> {
    let file = path.join(AGENTS_TLS).join("ca.pem");
    file.exists().then_some(file)
}

/// Writes one of the folder's small files.
pub fn note(data: &DataDir, name: &str, text: &str) -> Result<()> {
    let file = data.join(name);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Whether a process with this id is running.
pub fn is_alive(pid: &str) -> bool {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    // Another user's process can't be signalled, but it is running.
    pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// The default data directory, in the user's data folder according to the XDG specification.
///
/// # Errors
/// When the user has no home directory.
pub fn default_path() -> Result<PathBuf> {
    let absolute = |variable: &str| {
        env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(data) = absolute("XDG_DATA_HOME") {
        return Ok(data.join("reveille"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".local/share/reveille")),
        None => bail!("there is no home directory to keep the journal in: use --data-dir"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tokio::time::{sleep, timeout};

    #[tokio::test]
    async fn a_folder_held_by_a_running_process_is_refused_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDir::open(&path).await.unwrap();
        let said = DataDir::open(&path).await.unwrap_err().to_string();
        assert!(
            said.contains(&format!("process {}", std::process::id())) && said.contains("--data-dir"),
            "{said}"
        );
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        drop(first);
        // A program that another test starts has it until it is replaced by what it is to be.
        let reopened = timeout(Duration::from_secs(20), async {
            while let Err(error) = DataDir::open(&path).await {
                assert!(error.to_string().contains("is using"), "{error}");
                sleep(Duration::from_millis(10)).await;
            }
        });
        let reopened = reopened.await;
        child.kill().unwrap();
        child.wait().unwrap();
        reopened.expect("no child keeps the lock that wasn't given it");
    }

    #[test]
    fn what_is_no_directory_is_found_before_anything_is_made_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "").unwrap();
        symlink(at("nowhere"), at("link")).unwrap();
        symlink(folder.path(), at("good")).unwrap();
        for (name, why) in [
            ("file", "is not a directory"),
            ("file/data", "is not a directory"),
            ("link", "which isn't there"),
            ("link/data", "which isn't there"),
        ] {
            let found = unusable(&at(name)).unwrap();
            assert!(found.contains(why), "{name}: {found}");
            let refused = usable(&at(name)).unwrap_err().to_string();
            assert!(refused.starts_with(&found), "{refused}");
        }
        for name in ["new", "new/data", "good", "good/data"] {
            assert_eq!(unusable(&at(name)), None, "{name}");
        }
    }

    #[tokio::test]
    async fn a_lock_held_only_by_a_dead_runs_children_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).await.unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("1")
            .stdin(first.share().unwrap())
            .spawn()
            .unwrap();
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        fs::write(first.join(LOCK_FILE), dead.id().to_string()).unwrap();
        drop(first);
        let second = DataDir::open(folder.path()).await.unwrap();
        assert!(
            child.try_wait().unwrap().is_some(),
            "the lock was given while the child had it"
        );
        drop(second);
    }
}
