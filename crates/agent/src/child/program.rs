//! Finds a program before it is started, so that a missing program isn't mistaken for one that fails.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The file of `program`, which is an absolute path or a name to look up in `path`.
///
/// # Errors
/// The reason, without the program's name: it may leave this machine in a wake's outcome.
pub fn find(program: &str, path: Option<&OsStr>) -> Result<PathBuf, &'static str> {
    if Path::new(program).is_absolute() {
        return executable(Path::new(program)).map(|()| PathBuf::from(program));
    }
    let own = env::var_os("PATH");
    let path = path.or(own.as_deref()).unwrap_or_default();
    // Relative entries of PATH depend on the directory that the agent was started in, so they are skipped.
    let candidates = env::split_paths(path).filter(|directory| directory.is_absolute());
    let mut worst = "the program was not found in PATH";
    for candidate in candidates.map(|directory| directory.join(program)) {
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(MISSING) => {}
            Err(reason) => worst = reason,
        }
    }
    Err(worst)
}

pub(super) const NOT_EXECUTABLE: &str = "the program is not executable";
const MISSING: &str = "the program does not exist";

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

fn executable(file: &Path) -> Result<(), &'static str> {
    let found = file.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => "the program's directory may not be entered",
        _ => MISSING,
    })?;
    if !found.is_file() {
        return Err("the program is not a file");
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err(NOT_EXECUTABLE);
    }
    Ok(())
}
