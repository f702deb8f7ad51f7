//! Writes a file whole or not at all, with `.partial` at the end of its name until it is complete and on disk.

use std::{
    fs::{File, Permissions},
    io::{self, Write},
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
    file.tempfile_in(folder_of(path))
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
