//! The file of one provider, and its predecessor.
//!
//! Several shims may write to it: a served backend prints while its sleep recipe runs, and what a detached command has left prints
//! for as long as it lives. So each write holds a lock on the file, and the file that is found under its name then is the one that is
//! written to.

use crate::state_dir::{StateDir, provider_file};
use jiff::Timestamp;
use reveille_domain::{AgentName, ProviderId, ProviderName};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// The most bytes of the file, and of its predecessor.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// How the names of the files end.
const CURRENT: &str = "output";
const OLDER: &str = "output.old";
/// How long others may write.
const LOCKED_WITHIN: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Sets a line of a command apart from one about it.
pub(super) const PRINTED: char = '|';
pub(super) const ABOUT: char = '*';

/// What stands before each line: when, and what printed it or what it is about.
pub(super) fn heading(at: Timestamp, source: &str, mark: char) -> String {
    format!("{at:.3} {source} {mark} ")
}

/// Adds a line.
pub(super) fn add(lines: &mut Vec<u8>, heading: &str, text: &str) {
    lines.extend_from_slice(heading.as_bytes());
    lines.extend_from_slice(text.as_bytes());
    lines.push(b'\n');
}

/// Where the output of one provider's commands is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    folder: PathBuf,
    current: String,
    older: String,
}

impl OutputFile {
    /// The file of a provider in the state directory of its agent.
    #[must_use]
    pub fn of(state: &StateDir, provider: &ProviderId) -> Self {
        Self {
            folder: state.path().to_owned(),
            current: provider_file(provider, CURRENT),
            older: provider_file(provider, OLDER),
        }
    }

    /// The file that is written to. It may not exist yet.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.current)
    }

    /// The file that was written to before.
    pub(super) fn older(&self) -> PathBuf {
        self.folder.join(&self.older)
    }

    /// Adds whole lines. If that fails, nothing is added.
    ///
    /// # Errors
    /// When they can't be written: the disk may be full.
    pub(super) fn append(&self, lines: &[u8]) -> io::Result<()> {
        let until = Instant::now() + LOCKED_WITHIN;
        loop {
            if let Some(mut file) = self.lock(self.open()?)? {
                let bytes = file.metadata()?.len();
                if bytes == 0 || bytes.saturating_add(lines.len() as u64) <= MAX_FILE_BYTES {
                    let written = file.write_all(lines);
                    if written.is_err() {
                        // What part of it was written is of no use.
                        let _ = file.set_len(bytes);
                    }
                    return written;
                }
                fs::rename(self.path(), self.older())?;
                continue;
            }
            if Instant::now() >= until {
                return Err(ErrorKind::TimedOut.into());
            }
            thread::sleep(LOCK_PAUSE);
        }
    }

    /// Adds lines about `source`, as of now.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn note(&self, source: &str, notes: &[String]) -> io::Result<()> {
        let (mut lines, heading) = (vec![], heading(Timestamp::now(), source, ABOUT));
        for note in notes {
            add(&mut lines, &heading, note);
        }
        self.append(&lines)
    }

    fn open(&self) -> io::Result<File> {
        StateDir::new(self.folder.clone()).open_to_append(&self.current)
    }

    /// The opened file, locked; `None` while others write, or if they have replaced it since.
    fn lock(&self, file: File) -> io::Result<Option<File>> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let is_current = fs::metadata(self.path()).is_ok_and(|found| {
            file.metadata()
                .is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
        });
        Ok(is_current.then_some(file))
    }
}

/// The providers of which something is kept, in order.
///
/// # Errors
/// When the folder can't be read, except if it doesn't exist.
pub fn kept(state: &StateDir) -> io::Result<Vec<ProviderId>> {
    let entries = match fs::read_dir(state.path()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut providers = vec![];
    for entry in entries {
        let name = entry?.file_name();
        providers.extend(name.to_str().and_then(provider_of));
    }
    providers.sort();
    providers.dedup();
    Ok(providers)
}

fn provider_of(file: &str) -> Option<ProviderId> {
    let mut parts = file.splitn(3, '.');
    let (agent, provider, what) = (parts.next()?, parts.next()?, parts.next()?);
    let ours = what == CURRENT || what == OLDER;
    let (agent, provider) = (AgentName::parse(agent).ok()?, ProviderName::parse(provider).ok()?);
    ours.then(|| ProviderId::new(agent, provider))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn file(state: &StateDir) -> OutputFile {
        let (agent, provider) = (
            AgentName::parse("box").unwrap(),
            ProviderName::parse("p-1").unwrap(),
        );
        OutputFile::of(state, &ProviderId::new(agent, provider))
    }

    #[test]
    fn several_writers_fill_two_bounded_files_that_only_their_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("agent"));
        let file = file(&state);
        assert_eq!(kept(&state).unwrap(), []);
        let line = format!("{}\n", "x".repeat(999)).repeat(200);
        thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..100 {
                        file.append(line.as_bytes()).unwrap();
                    }
                });
            }
        });
        for path in [file.path(), file.older()] {
            let found = fs::metadata(&path).unwrap();
            assert!(
                found.len() > 0 && found.len() <= MAX_FILE_BYTES,
                "{}",
                found.len()
            );
            assert_eq!(found.permissions().mode() & 0o777, 0o600);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.lines().all(|line| line.len() == 999), "lines stay whole");
        }
        let names: Vec<_> = kept(&state).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["box/p-1"]);
    }

    #[test]
    fn a_file_that_others_lock_or_have_replaced_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&StateDir::new(folder.path().to_owned()));
        let locked = file.lock(file.open().unwrap()).unwrap().expect("nobody has it");
        assert!(file.lock(file.open().unwrap()).unwrap().is_none());
        drop(locked);
        let opened = file.open().unwrap();
        fs::rename(file.path(), file.older()).unwrap();
        file.append(b"line\n").unwrap();
        assert!(file.lock(opened).unwrap().is_none());
        assert_eq!(fs::read(file.path()).unwrap(), b"line\n");
        assert_eq!(fs::read(file.older()).unwrap(), b"");
    }

    #[test]
    fn a_link_leads_nobody_who_writes_to_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&StateDir::new(folder.path().to_owned()));
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        symlink(&elsewhere, file.path()).unwrap();
        file.append(b"line\n").unwrap_err();
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), "precious");
    }
}
