//! Looks through folders of models, of which somebody may have a hundred thousand files, or may not let others look.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The most entries that are looked at in one folder and all below it.
const MAX_ENTRIES: usize = 20_000;

/// What was left out, each a sentence for a person.
#[derive(Debug, Default)]
pub struct Skipped(pub Vec<String>);

impl Skipped {
    fn unreadable(&mut self, folder: &Path, error: &std::io::Error) {
        // What doesn't exist has no models either.
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
            self.0.push(format!("{} was skipped: {error}", folder.display()));
        }
    }
}

/// The files below a folder, sorted, down to `depth` folders in it. Links are followed.
pub fn files(folder: &Path, depth: usize, skipped: &mut Skipped) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut left = MAX_ENTRIES;
    walk(folder, depth, &mut left, &mut found, skipped);
    if left == 0 {
        skipped.0.push(format!(
            "{} has more files than are looked at: models beyond the first {MAX_ENTRIES} entries were left out",
            folder.display()
        ));
    }
    found.sort();
    found
}

fn walk(folder: &Path, depth: usize, left: &mut usize, found: &mut Vec<PathBuf>, skipped: &mut Skipped) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return skipped.unreadable(folder, &error),
    };
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(kind) if kind.is_file() => found.push(path),
            Ok(kind) if kind.is_dir() && depth > 0 => walk(&path, depth - 1, left, found, skipped),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_folder_with_more_files_than_are_looked_at_is_left_with_a_word() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..=MAX_ENTRIES {
            fs::write(folder.path().join(number.to_string()), "").unwrap();
        }
        let mut skipped = Skipped::default();
        assert_eq!(files(folder.path(), 0, &mut skipped).len(), MAX_ENTRIES);
        assert!(
            skipped.0.len() == 1 && skipped.0[0].contains("more files"),
            "{skipped:?}"
        );
    }

    #[test]
    fn links_that_lead_back_end_and_missing_folders_are_no_word_worth() {
        let folder = tempfile::tempdir().unwrap();
        symlink(folder.path(), folder.path().join("back")).unwrap();
        fs::write(folder.path().join("a.gguf"), "").unwrap();
        let mut skipped = Skipped::default();
        assert_eq!(files(folder.path(), 3, &mut skipped).len(), 4);
        assert!(files(&folder.path().join("none"), 3, &mut skipped).is_empty());
        assert!(files(&folder.path().join("a.gguf"), 3, &mut skipped).is_empty());
        assert!(skipped.0.is_empty(), "{skipped:?}");
    }
}
