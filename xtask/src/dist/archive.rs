//! The archive for any Linux: what is installed, and its installer.

use std::{env::consts::ARCH, path::PathBuf, process::Command};

use anyhow::Result;

use super::{Packages, Tree, VERSION};
use crate::command::{root, run};

/// The folder in the archive, and the archive without its ending.
pub fn name() -> String {
    format!("reveille-{VERSION}-linux-{ARCH}")
}

impl Packages {
    pub(super) fn archive(&self, tree: &Tree) -> Result<PathBuf> {
        let archive = self.folder.join(format!("{}.tar.gz", name()));
        tree.program("install.sh", &root().join("packaging/install.sh"))?;
        tree.set_modes()?;
        let mut tar = Command::new("tar");
        tar.args([
            "--create",
            "--sort=name",
            "--format=gnu",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
        ]);
        tar.arg(format!("--mtime=@{}", self.time));
        tar.args([
            "--use-compress-program",
            if self.is_release() { "gzip -9n" } else { "gzip -1n" },
        ]);
        tar.arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&self.scratch);
        run(tar.arg(name()))?;
        Ok(archive)
    }
}
