//! Files and folders for their owner alone: keys, journals, configs with secrets.

use std::{
    fs::{DirBuilder, File, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

/// The mode of a file that only its owner reads and writes.
pub const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
const OTHERS: u32 = 0o077;

/// Whether the mode lets anyone but the owner use a file or folder.
#[must_use]
pub fn is_exposed(metadata: &Metadata) -> bool {
    metadata.mode() & OTHERS != 0
}

/// Makes a folder for its owner alone, and those above it, where they are missing.
///
/// # Errors
/// When one can't be made.
pub fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

/// Creates a file for its owner alone.
///
/// # Errors
/// When it exists or can't be made.
pub fn create(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
}
