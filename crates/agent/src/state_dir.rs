//! The folder in which an agent keeps what it must still know after a restart.
//!
//! Its files are for their owner alone, and each is replaced as a whole: a crash leaves the old one or the new one.

use reveille_domain::{AgentName, ProviderId};
use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

/// Whoever may look at the folder and its files.
const OWNER_ONLY_DIR: u32 = 0o700;
const OWNER_ONLY: u32 = 0o600;
/// Each agent that uses the folder has a share of this file's lock.
const IN_USE: &str = "in-use";
/// No file is larger: the largest lists the models of 64 providers.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// The name of a file about one provider: agents may share the folder, and their providers may have the same name.
pub(crate) fn provider_file(id: &ProviderId, what: &str) -> String {
    format!("{}.{}.{what}", id.agent, id.provider)
}

/// The name of a file of one agent.
pub(crate) fn agent_file(agent: &AgentName, what: &str) -> String {
    format!("{agent}.{what}")
}

/// The folder of one agent, or of several, which need not exist.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// As long as this lives, others can tell that an agent uses the folder.
#[derive(Debug)]
pub struct InUse(#[expect(dead_code, reason = "the lock ends with it")] File);

impl StateDir {
    /// The folder at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Lets others see that an agent uses the folder, which is made if it is missing.
    ///
    /// # Errors
    /// When it can't be made, or nothing can be written in it.
    pub fn use_it(&self) -> io::Result<InUse> {
        self.make()?;
        let file = self.open_empty(IN_USE)?;
        // Somebody who looks has it for an instant.
        file.lock_shared()?;
        Ok(InUse(file))
    }

    /// Whether an agent uses the folder now, for those who only look; `None` when none ever has.
    ///
    /// # Errors
    /// When that can't be found out.
    pub fn is_in_use(&self) -> io::Result<Option<bool>> {
        let file = match File::open(self.0.join(IN_USE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(false)),
            Err(TryLockError::WouldBlock) => Ok(Some(true)),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Makes an empty file of the folder if it is missing, which is there for its lock, or to be there. It may be lost when
    /// the machine itself stops.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn mark(&self, name: &str) -> io::Result<PathBuf> {
        self.make()?;
        self.open_empty(name)?;
        Ok(self.0.join(name))
    }

    /// Whether the folder has a file.
    ///
    /// # Errors
    /// When that can't be found out.
    pub fn has(&self, name: &str) -> io::Result<bool> {
        self.0.join(name).try_exists()
    }

    /// What a file of the folder holds; `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read, or is too large to be one of ours.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.0.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut content = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::new(ErrorKind::InvalidData, "it is too large"));
        }
        Ok(Some(content))
    }

    /// Replaces a file of the folder, or makes it; it is on the disk afterwards. It belongs to whom the folder belongs
    /// to: what root writes, the agent can read.
    ///
    /// # Errors
    /// When it can't be written; it is as it was then.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.make()?;
        // What a crash has left goes first. Only a file of our own making is written: the folder may be another's, and
        // a link in it would lead root anywhere.
        let temporary = format!("{name}.new");
        self.remove(&temporary)?;
        let new = self.0.join(temporary);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(OWNER_ONLY)
            .open(&new)?;
        let folder = fs::metadata(&self.0)?;
        if file.metadata()?.uid() != folder.uid() {
            fchown(&file, Some(folder.uid()), Some(folder.gid()))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(new, self.0.join(name))
    }

    /// Removes a file of the folder, if there is one.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn open_empty(&self, name: &str) -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(OWNER_ONLY)
            .open(self.0.join(name))
    }

    fn make(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(OWNER_ONLY_DIR)
            .create(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_replaced_as_a_whole_and_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("a/b"));
        assert_eq!(state.read("f").unwrap(), None);
        state.remove("f").unwrap();
        for content in [&b"first"[..], b"2nd"] {
            state.write("f", content).unwrap();
            assert_eq!(state.read("f").unwrap().as_deref(), Some(content));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(state.path()), mode(&state.path().join("f"))),
            (0o700, 0o600)
        );
        state.remove("f").unwrap();
        assert_eq!(
            fs::read_dir(state.path()).unwrap().count(),
            0,
            "nothing is left behind"
        );
        let large = vec![b'x'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1];
        fs::write(state.path().join("f"), large).unwrap();
        assert!(state.read("f").is_err());
    }

    #[test]
    fn what_a_crash_or_a_stranger_has_left_in_the_way_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("f.new")).unwrap();
        for content in [&b"ours"[..], b"left behind"] {
            state.write("f", content).unwrap();
            fs::write(folder.path().join("f.new"), "half").unwrap();
        }
        assert_eq!(state.read("f").unwrap().as_deref(), Some(&b"left behind"[..]));
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), "precious");
    }

    #[test]
    fn what_root_writes_belongs_to_whom_the_folder_belongs_to() {
        let folder = tempfile::tempdir().unwrap();
        let own = fs::metadata(folder.path()).unwrap().uid();
        if own != 0 {
            eprintln!("skipped: only root can give a folder away");
            return;
        }
        std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_534)).unwrap();
        StateDir::new(folder.path().to_owned()).write("f", b"x").unwrap();
        assert_eq!(fs::metadata(folder.path().join("f")).unwrap().uid(), 65_534);
    }

    #[test]
    fn it_can_be_told_whether_an_agent_uses_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        assert_eq!(state.is_in_use().unwrap(), None);
        let agents = [state.use_it().unwrap(), state.use_it().unwrap()];
        for agent in agents {
            assert_eq!(state.is_in_use().unwrap(), Some(true));
            drop(agent);
        }
        assert_eq!(state.is_in_use().unwrap(), Some(false));
    }
}
