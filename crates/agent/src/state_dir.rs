//! The folder with what an agent must still know after a restart.
//!
//! Only their owner can read its files. Each is replaced as a whole, so that a crash leaves either the old or the new one.

use reveille_bus::private_file;
use reveille_domain::{AgentName, ProviderId};
use rustix::fs::OFlags;
use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

/// Each agent that uses the folder holds a shared lock on this file.
const IN_USE: &str = "in-use";
/// The name, after the agent's, of the file that a running agent holds a lock on. It has the number of its process.
const RUNNING: &str = "running";
/// The subfolder in which commands run unless their config names another.
const WORK: &str = "work";
/// The largest file lists the models of 64 providers.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;

/// The file name for one provider. Agents may share the folder, and their providers may have the same names.
pub(crate) fn provider_file(id: &ProviderId, what: &str) -> String {
    format!("{}.{}.{what}", id.agent, id.provider)
}

/// The file name for one agent.
pub(crate) fn agent_file(agent: &AgentName, what: &str) -> String {
    format!("{agent}.{what}")
}

/// Whether another process holds a lock on a file.
pub(crate) fn is_locked(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn if_found<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

/// The folder of one or several agents. It may not exist yet.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// While this lives, other processes can see that an agent uses the folder.
#[derive(Debug)]
pub struct InUse(#[expect(dead_code, reason = "the lock ends with it")] File);

/// Which process runs an agent.
#[derive(Debug)]
pub(crate) enum Running {
    Here(InUse),
    /// Another one, and its number if that is known.
    Elsewhere(Option<u32>),
}

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

    /// The folder in which commands run unless their config names another; creates it if it is missing.
    ///
    /// # Errors
    /// When it can't be created.
    pub fn work(&self) -> io::Result<PathBuf> {
        self.make()?;
        let work = self.0.join(WORK);
        private_file::make_folder(&work)?;
        self.give_to_owner(&File::open(&work)?)?;
        Ok(work)
    }

    /// Marks the folder as in use; creates it if it is missing.
    ///
    /// # Errors
    /// When it can't be created or written to.
    pub fn use_it(&self) -> io::Result<InUse> {
        self.make()?;
        let file = self.open_empty(IN_USE)?;
        // A process that checks the lock holds it for an instant.
        file.lock_shared()?;
        Ok(InUse(file))
    }

    /// Whether an agent uses the folder now; `None` if none ever has.
    ///
    /// # Errors
    /// When the lock can't be checked.
    pub fn is_in_use(&self) -> io::Result<Option<bool>> {
        let file = if_found(File::open(self.0.join(IN_USE)))?;
        file.map(|file| is_locked(&file)).transpose()
    }

    /// Makes this process the one that runs the agent with this folder, until what is returned is dropped; creates the folder if it is
    /// missing. The lock ends with its process, however that ends.
    ///
    /// # Errors
    /// When the file can't be created, read or written to.
    pub(crate) fn run_here(&self, agent: &AgentName) -> io::Result<Running> {
        self.make()?;
        let mut file = self.open_empty(&agent_file(agent, RUNNING))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                file.read_to_string(&mut process)?;
                return Ok(Running::Elsewhere(process.trim().parse().ok()));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Running::Here(InUse(file)))
    }

    /// Creates an empty file if it is missing: for its lock, or as a marker. It may be lost when the machine crashes.
    ///
    /// # Errors
    /// When it can't be created.
    pub fn mark(&self, name: &str) -> io::Result<PathBuf> {
        self.make()?;
        self.open_empty(name)?;
        Ok(self.0.join(name))
    }

    /// Whether a file exists.
    ///
    /// # Errors
    /// When that can't be checked.
    pub fn has(&self, name: &str) -> io::Result<bool> {
        self.0.join(name).try_exists()
    }

    /// The content of a file; `None` if it doesn't exist.
    ///
    /// # Errors
    /// When it can't be read, or is larger than any file of ours.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = if_found(File::open(self.0.join(name)))? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::new(ErrorKind::InvalidData, "it is too large"));
        }
        Ok(Some(content))
    }

    /// Creates or replaces a file, and syncs it to the disk. It belongs to the owner of the folder, so that the agent can read
    /// what root writes.
    ///
    /// # Errors
    /// When it can't be written; the old file is kept then.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.make()?;
        // A crash may have left one. Only a new file is written to: the folder may belong to somebody else, and a link in it
        // could lead root anywhere.
        let temporary = format!("{name}.new");
        self.remove(&temporary)?;
        let new = self.0.join(temporary);
        let mut file = private_file::create(&new)?;
        self.give_to_owner(&file)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(new, self.0.join(name))
    }

    /// Opens a file to add to its end; creates it if it is missing. It belongs to the owner of the folder, and isn't a link: that could
    /// lead root anywhere.
    ///
    /// # Errors
    /// When it can't be opened, or isn't a file.
    pub(crate) fn open_to_append(&self, name: &str) -> io::Result<File> {
        self.make()?;
        // A pipe must not be waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::options()
            .append(true)
            .create(true)
            .mode(private_file::FILE_MODE)
            .custom_flags(flags.bits().cast_signed())
            .open(self.0.join(name))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it isn't a file"));
        }
        self.give_to_owner(&file)?;
        Ok(file)
    }

    /// Removes a file, if it exists.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        if_found(fs::remove_file(self.0.join(name))).map(drop)
    }

    /// Makes something in the folder belong to the owner of the folder.
    fn give_to_owner(&self, file: &File) -> io::Result<()> {
        let folder = fs::metadata(&self.0)?;
        if file.metadata()?.uid() != folder.uid() {
            fchown(file, Some(folder.uid()), Some(folder.gid()))?;
        }
        Ok(())
    }

    fn open_empty(&self, name: &str) -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(private_file::FILE_MODE)
            .open(self.0.join(name))
    }

    fn make(&self) -> io::Result<()> {
        private_file::make_folder(&self.0)
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
    fn one_process_at_a_time_runs_an_agent_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        let agent = |name| AgentName::parse(name).unwrap();
        // What a killed one has left holds nobody up.
        fs::create_dir(state.path()).unwrap();
        fs::write(state.path().join("box.running"), "4294967295").unwrap();
        for _ in 0..2 {
            let Running::Here(_first) = state.run_here(&agent("box")).unwrap() else {
                panic!("it runs nowhere");
            };
            let second = state.run_here(&agent("box")).unwrap();
            assert!(matches!(second, Running::Elsewhere(Some(process)) if process == std::process::id()));
            assert!(matches!(
                state.run_here(&agent("other")).unwrap(),
                Running::Here(_)
            ));
        }
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
