//! Finds a program before it is started, so that a missing program isn't mistaken for one that fails.

use crate::shell;
use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Why a program can't be used. The text is without the program's name: it may leave this machine in a wake's outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("the program was not found in PATH")]
    NotInPath,
    #[error("the program does not exist")]
    Missing,
    #[error("the program's directory may not be entered")]
    Closed,
    #[error("the program is not a file")]
    NotAFile,
    #[error("the program is not executable")]
    NotExecutable(PathBuf),
}

impl Unusable {
    /// What the owner of this machine does about `program`, which was looked up in `path`.
    #[must_use]
    pub fn remedy(&self, program: &str, path: Option<&OsStr>) -> String {
        match self {
            Self::NotExecutable(file) => format!("run `chmod +x {}`", shell::path(file)),
            Self::NotInPath => format!(
                "install `{program}`, put its folder into the agent's PATH, or write its absolute path as `command`"
            ),
            Self::Closed => {
                "let the agent's user enter that directory (`chmod o+x` on each of its parents)".to_owned()
            }
            Self::NotAFile => "name the program in it as `command`".to_owned(),
            Self::Missing => match program.split_once(char::is_whitespace) {
                Some((first, _)) if find(first, path).is_ok() => {
                    format!("write command = \"{first}\", and put the words after it into `args`")
                }
                _ => format!("correct `command`, or install `{program}`"),
            },
        }
    }
}

/// The file of `program`, which is an absolute path or a name to look up in `path`.
///
/// # Errors
/// Why there is none that can be started.
pub fn find(program: &str, path: Option<&OsStr>) -> Result<PathBuf, Unusable> {
    if Path::new(program).is_absolute() {
        return executable(Path::new(program)).map(|()| PathBuf::from(program));
    }
    let own = env::var_os("PATH");
    let path = path.or(own.as_deref()).unwrap_or_default();
    // Relative entries of PATH depend on the directory that the agent was started in, so they are skipped.
    let candidates = env::split_paths(path).filter(|directory| directory.is_absolute());
    let mut worst = Unusable::NotInPath;
    for candidate in candidates.map(|directory| directory.join(program)) {
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Unusable::Missing) => {}
            Err(reason) => worst = reason,
        }
    }
    Err(worst)
}

/// What the first line of a script names as its interpreter, with a carriage return if the line has one.
pub(super) fn interpreter(file: &Path) -> Option<String> {
    const MOST_BYTES: u64 = 256;
    let mut begin = Vec::new();
    File::open(file)
        .ok()?
        .take(MOST_BYTES)
        .read_to_end(&mut begin)
        .ok()?;
    let text = String::from_utf8_lossy(&begin);
    let line = text.strip_prefix("#!")?.split('\n').next()?;
    Some(line.trim_matches([' ', '\t']).to_owned())
}

fn executable(file: &Path) -> Result<(), Unusable> {
    let found = file.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Unusable::Closed,
        _ => Unusable::Missing,
    })?;
    if !found.is_file() {
        return Err(Unusable::NotAFile);
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err(Unusable::NotExecutable(file.to_owned()));
    }
    Ok(())
}
