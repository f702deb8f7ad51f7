//! Debian's package, by Debian's own `dpkg-deb`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::{Packages, Tree, VERSION};
use crate::{
    command::{output_of, root, run},
    install::apt_install,
};

impl Packages {
    /// Made of the archive's files, for systems with this glibc or a newer one.
    pub(super) fn debian(&self, files: &Tree, glibc: &str) -> Result<PathBuf> {
        let architecture = || output_of(Command::new("dpkg").arg("--print-architecture"));
        if architecture().is_none() {
            apt_install("dpkg, which makes Debian's package", &["dpkg"])?;
        }
        let architecture = architecture().context("dpkg doesn't run")?.trim().to_owned();
        let package = self.folder.join(format!("reveille_{VERSION}_{architecture}.deb"));
        let libc = match glibc {
            "" => "libc6".to_owned(),
            version => format!("libc6 (>= {version})"),
        };
        let mut make = Command::new("sh");
        make.arg(root().join("packaging/debian/make.sh"))
            .arg(&files.path)
            .arg(self.scratch.join("debian"))
            .arg(&package);
        make.env("VERSION", VERSION)
            .env("ARCHITECTURE", architecture)
            .env("LIBC", libc)
            .env("COMPRESSION", if self.is_release() { "xz" } else { "gzip" })
            .env("SOURCE_DATE_EPOCH", &self.time);
        run(&mut make)?;
        Ok(package)
    }
}
