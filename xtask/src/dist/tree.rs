//! A folder that becomes a package. It is read-only for everybody but its owner, whatever the umask is here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::command::run;

pub struct Tree {
    pub path: PathBuf,
}

impl Tree {
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn text(&self, place: &str, text: &str) -> Result<()> {
        let path = self.place(place)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        self.chmod(place, "644")
    }

    pub fn file(&self, place: &str, from: &Path) -> Result<()> {
        self.copy(place, from)?;
        self.chmod(place, "644")
    }

    pub fn program(&self, place: &str, from: &Path) -> Result<()> {
        self.copy(place, from)?;
        self.chmod(place, "755")
    }

    /// The files of a folder, without those of folders in it.
    pub fn folder(&self, place: &str, from: &Path) -> Result<()> {
        for file in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
            let file = file?;
            if file.file_type()?.is_dir() {
                continue;
            }
            let name = file.file_name();
            self.file(&format!("{place}/{}", name.to_string_lossy()), &file.path())?;
        }
        Ok(())
    }

    /// Its folders and files as they are to be packed: all may read them, and only their owner writes.
    pub fn set_modes(&self) -> Result<()> {
        self.chmod(".", "u=rwX,go=rX")
    }

    fn copy(&self, place: &str, from: &Path) -> Result<()> {
        let to = self.place(place)?;
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    /// The path of a file, in a folder that exists.
    fn place(&self, place: &str) -> Result<PathBuf> {
        let path = self.path.join(place);
        let folder = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(path)
    }

    fn chmod(&self, place: &str, mode: &str) -> Result<()> {
        let mut chmod = Command::new("chmod");
        run(chmod.args(["-R", mode]).arg(self.path.join(place)))
    }
}
