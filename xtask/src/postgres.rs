//! The PostgreSQL server programs, of which the tests start private clusters. The machine's own server, if it has
//! one, is never touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    command::{output_of, run},
    install::{apt_install, as_root},
};

/// Where Debian keeps the server programs of each major version.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";

/// Read by Debian's package scripts when they would create and start a cluster for the whole machine.
const NO_MAIN_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/reveille.conf";

/// The folder with `initdb` and `postgres`, installed when it is missing.
pub fn programs() -> Result<PathBuf> {
    if let Some(folder) = find() {
        return Ok(folder);
    }
    // Debian is told to create no cluster while the package is installed; then that setting is removed.
    let script = r#"mkdir -p "$(dirname "$1")" && echo 'create_main_cluster = false' > "$1""#;
    run(as_root("sh").args(["-c", script, "sh", NO_MAIN_CLUSTER]))?;
    let installed = apt_install("PostgreSQL", &["postgresql"]);
    installed.and(run(as_root("rm").args(["-f", NO_MAIN_CLUSTER])))?;
    find()
        .with_context(|| format!("PostgreSQL was installed, but {DEBIAN_VERSIONS}/*/bin/initdb is not there"))
}

fn find() -> Option<PathBuf> {
    newest_of_debian().or_else(|| {
        let folder = output_of(Command::new("pg_config").arg("--bindir"))?;
        Some(PathBuf::from(folder.trim())).filter(|folder| has_server(folder))
    })
}

fn newest_of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir(DEBIAN_VERSIONS).ok()?;
    versions
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path().join("bin");
            has_server(&folder).then_some((version, folder))
        })
        .max()
        .map(|(_, folder)| folder)
}

fn has_server(folder: &Path) -> bool {
    folder.join("initdb").exists() && folder.join("postgres").exists()
}
