//! Writes a file whole or not at all, with `.partial` at the end of its name until it is complete and on disk.

use std::{
    fs::{File, Permissions},
    io::{self, ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};
use tempfile::NamedTempFile;

/// The folder of a file.
pub fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// A new file beside `path`, for [`place`]; it is removed if it is never placed.
pub fn begin(path: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new();
    file.suffix(".partial").permissions(Permissions::from_mode(mode));
    // The system's words would name the temporary file.
    folder_exists(path)?;
    file.tempfile_in(folder_of(path))
}

/// Fails unless there is a folder for the file.
pub fn folder_exists(path: &Path) -> io::Result<()> {
    let folder = folder_of(path);
    match folder.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let why = format!("the folder {} doesn't exist: create it first", folder.display());
            Err(io::Error::new(ErrorKind::NotFound, why))
        }
        found => found.map(drop),
    }
}

/// Gives a complete file its name. An existing file is an error unless `replace` is set.
pub fn place(file: NamedTempFile, path: &Path, replace: bool) -> io::Result<()> {
    file.as_file().sync_all()?;
    if replace {
        file.persist(path)?;
    } else {
        file.persist_noclobber(path)?;
    }
    File::open(folder_of(path))?.sync_all()
}

/// Writes a file with this text.
pub fn write(path: &Path, text: &str, mode: u32, replace: bool) -> io::Result<()> {
    let mut file = begin(path, mode)?;
    file.write_all(text.as_bytes())?;
    place(file, path, replace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_is_named_instead_of_a_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("nope");
        let said = write(&missing.join("x.toml"), "", 0o600, true)
            .unwrap_err()
            .to_string();
        let expected = format!("the folder {} doesn't exist: create it first", missing.display());
        assert_eq!(said, expected);
        write(&folder.path().join("x.toml"), "", 0o600, true).unwrap();
    }
}
