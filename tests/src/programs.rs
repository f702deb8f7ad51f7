//! Where the programs are: ours beside the test that runs, the others where `cargo xtask test` says or puts them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest PostgreSQL folder that is looked at when nobody says where the programs are.
const DEBIAN_POSTGRES: &str = "/usr/lib/postgresql";
/// Where Debian has the browser.
const DEBIAN_CHROMIUM: &str = "/usr/bin/chromium";
/// Where Debian has PgBouncer.
const DEBIAN_PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// One of the workspace's own programs, from the same build as the running test.
pub fn program(name: &str) -> PathBuf {
    let this = env::current_exe().expect("the running program has a path");
    let mut folder = this
        .parent()
        .expect("the running program is in a folder")
        .to_owned();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --workspace --bins --examples`, or the tests by `cargo xtask test`",
        path.display()
    );
    path
}

/// The NATS server to run.
pub fn nats_server() -> PathBuf {
    told("REVEILLE_TEST_NATS_SERVER")
        .or_else(|| Some(tools().join("nats/bin/nats-server")).filter(|path| path.exists()))
        .expect("no nats-server: run `cargo xtask test`, which installs it")
}

/// The folder of PostgreSQL's server programs.
pub(crate) fn postgres_bin() -> PathBuf {
    told("REVEILLE_TEST_POSTGRES_BIN")
        .or_else(|| {
            let versions = std::fs::read_dir(DEBIAN_POSTGRES).ok()?;
            let folders = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
            folders.filter(|folder| folder.join("initdb").exists()).max()
        })
        .expect("no PostgreSQL server: run `cargo xtask test`, which installs it")
}

/// The browser.
pub fn chromium() -> PathBuf {
    told("REVEILLE_TEST_CHROMIUM")
        .or_else(|| Some(PathBuf::from(DEBIAN_CHROMIUM)).filter(|path| path.exists()))
        .expect("no Chromium: run `cargo xtask test --all`, which installs it")
}

/// PgBouncer.
pub(crate) fn pgbouncer() -> PathBuf {
    told("REVEILLE_TEST_PGBOUNCER")
        .or_else(|| Some(PathBuf::from(DEBIAN_PGBOUNCER)).filter(|path| path.exists()))
        .expect("no PgBouncer: run `cargo xtask test --all`, which installs it")
}

/// The folder of what people install, made of a debug build.
pub fn packages() -> PathBuf {
    told("REVEILLE_TEST_PACKAGES")
        .expect("no packages: run `cargo xtask test --all`, which makes them, or name their folder in REVEILLE_TEST_PACKAGES")
}

/// The folder that makes `import openai` work.
pub fn openai_path() -> PathBuf {
    told("REVEILLE_TEST_OPENAI_PATH")
        .or_else(|| Some(tools().join("openai")).filter(|path| path.exists()))
        .expect("no openai package: run `cargo xtask test`, which installs it")
}

/// The folder that makes Python's `import nats` work.
pub(crate) fn nats_py_path() -> PathBuf {
    told("REVEILLE_TEST_NATS_PY_PATH")
        .or_else(|| Some(tools().join("nats-py")).filter(|path| path.exists()))
        .expect("no nats-py package: run `cargo xtask test`, which installs it")
}

/// The folder that makes `import llama_cpp` and `import gguf` work. It isn't among what the tests need.
pub fn llama_cpp_path() -> PathBuf {
    told("REVEILLE_TEST_LLAMA_CPP_PATH")
        .or_else(|| Some(tools().join("llama-cpp")).filter(|path| path.exists()))
        .expect("no llama.cpp: run `cargo xtask backends`, which installs it")
}

fn told(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools")
}

/// Makes `file` a program that is a script. Another process writes it: a child that this one is just starting would have a file that it
/// writes open as well for a moment, and nobody can run a program then.
pub fn write_script(file: &Path, text: &str) {
    let write = "printf '%s' \"$2\" > \"$1\" && chmod 755 \"$1\"";
    let status = Command::new("sh")
        .args(["-c", write, "sh"])
        .arg(file)
        .arg(text)
        .status();
    assert!(
        status.expect("a shell").success(),
        "{} is written",
        file.display()
    );
}
