//! `cargo xtask dist`: what people install. A Python wheel, an archive with an installer, and a Debian package, each with the
//! program, nats-server and their licences.
//!
//! The same commit gives the same bytes: times come from the commit, archives are sorted, owners and modes are fixed, and
//! paths of this machine are kept out of the program.

mod archive;
mod debian;
mod go_modules;
mod licences;
mod tree;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    command::{output_of, root, run, starting_cargo},
    install::apt_install,
    pip,
    tools::{self, path_with},
};
use tree::Tree;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Makes all packages from a release build, in `dist/`.
pub fn command() -> Result<()> {
    let folder = root().join("dist");
    eprintln!("building for release (the first time takes several minutes)");
    let packages = Packages::of("release", &folder)?.make()?;
    for package in packages {
        let megabytes = fs::metadata(&package)?.len() as f64 / 1e6;
        let shown = package.strip_prefix(root()).unwrap_or(&package);
        println!("{megabytes:>6.1} MB  {}", shown.display());
    }
    Ok(())
}

/// Makes all packages from a debug build, for tests of how they install, and returns their folder. It takes seconds where a
/// release build takes minutes.
pub fn for_tests() -> Result<PathBuf> {
    let folder = build::target_folder()?.join("dist-of-debug");
    if output_of(Command::new("python3").args(["-c", "import ensurepip"])).is_none() {
        apt_install("Python's virtual environments", &["python3-venv"])?;
    }
    eprintln!("making the packages (the first time builds for a minute)");
    Packages::of("dev", &folder)?.make()?;
    Ok(folder)
}

/// The packages of one build.
struct Packages {
    /// Cargo's profile.
    profile: &'static str,
    folder: PathBuf,
    /// Where they are put together.
    scratch: PathBuf,
    /// The commit's time, in seconds since 1970: that of every file.
    time: String,
}

impl Packages {
    fn of(profile: &'static str, folder: &Path) -> Result<Self> {
        let scratch = build::target_folder()?.join("packages").join(profile);
        for folder in [folder, &scratch] {
            if folder.exists() {
                fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
            }
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Self {
            profile,
            folder: folder.to_owned(),
            scratch,
            time: time()?,
        })
    }

    fn is_release(&self) -> bool {
        self.profile == "release"
    }

    /// The finished packages.
    fn make(&self) -> Result<Vec<PathBuf>> {
        let nats = pip::wheel(tools::NATS)?;
        let wheel = self.wheel()?;
        // Beside ours, so that pip needs no index: `pip install dist/*.whl`.
        let beside = self.folder.join(nats.file_name().context("a wheel has a name")?);
        fs::copy(&nats, &beside).with_context(|| format!("cannot write {}", beside.display()))?;
        let tree = self.tree(&nats)?;
        let archive = self.archive(&tree)?;
        let debian = self.debian(&tree, &oldest_glibc(&wheel))?;
        Ok(vec![wheel, beside, archive, debian])
    }

    /// The wheel, which also builds the program.
    fn wheel(&self) -> Result<PathBuf> {
        let maturin = tools::maturin()?;
        let mut command = starting_cargo(&maturin);
        command.args(["build", "--quiet", "--locked", "--profile", self.profile, "--out"]);
        command.arg(&self.folder);
        // It asks itself for metadata by its name.
        command.env("PATH", path_with(maturin.parent()));
        if self.is_release() {
            command.env("CARGO_ENCODED_RUSTFLAGS", without_paths_of_this_machine());
        }
        run(&mut command)?;
        self.only_file("whl")
    }

    fn program(&self) -> Result<PathBuf> {
        let folder = if self.is_release() { "release" } else { "debug" };
        Ok(build::target_folder()?.join(folder).join("reveille"))
    }

    fn only_file(&self, ending: &str) -> Result<PathBuf> {
        let files = fs::read_dir(&self.folder)?.filter_map(|file| Some(file.ok()?.path()));
        let mut files = files.filter(|path| path.extension().is_some_and(|found| found == ending));
        files
            .next()
            .with_context(|| format!("no .{ending} was made in {}", self.folder.display()))
    }

    /// What is installed, below a folder such as `/usr/local`.
    fn tree(&self, nats: &Path) -> Result<Tree> {
        let program = self.program()?;
        let unpacked = self.scratch.join("nats-server");
        run(Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(nats)
            .arg(&unpacked))?;
        let name = format!("{}-{}", tools::NATS.0.replace('-', "_"), tools::NATS.1);
        let pages = self.scratch.join("man");
        run(Command::new(&program).arg("man-pages").arg(&pages))?;

        let tree = Tree::new(self.scratch.join(archive::name()))?;
        tree.program("bin/reveille", &program)?;
        let server = unpacked.join(format!("{name}.data/scripts/nats-server"));
        tree.program("lib/reveille/nats-server", &server)?;
        for (shell, place) in [
            ("bash", "share/bash-completion/completions/reveille"),
            ("fish", "share/fish/vendor_completions.d/reveille.fish"),
            ("zsh", "share/zsh/site-functions/_reveille"),
        ] {
            let script = output_of(Command::new(&program).args(["completions", shell]));
            tree.text(
                place,
                &script.with_context(|| format!("no completions for {shell}"))?,
            )?;
        }
        tree.folder("share/man/man1", &pages)?;
        let units = root().join("packaging/systemd");
        tree.folder("lib/systemd/system", &units)?;
        tree.folder("lib/systemd/user", &units.join("user"))?;
        let docs = "share/doc/reveille";
        for file in ["LICENSE", "CHANGELOG.md"] {
            tree.file(&format!("{docs}/{file}"), &root().join(file))?;
        }
        // For reveille-nats.service.
        for config in ["single.conf", "locked.conf"] {
            tree.file(
                &format!("{docs}/nats/{config}"),
                &root().join("nats").join(config),
            )?;
        }
        let licence = unpacked.join(format!("{name}.dist-info/licenses/LICENSE"));
        tree.file(&format!("{docs}/LICENSE.nats-server"), &licence)?;
        let modules = go_modules::notice(&fs::read(&server).context("cannot read nats-server")?)?;
        tree.text(&format!("{docs}/NOTICE.nats-server"), &modules)?;
        tree.text(&format!("{docs}/LICENSES.crates"), &licences::of_crates()?)?;
        Ok(tree)
    }
}

/// `SOURCE_DATE_EPOCH`, or when the commit was made.
fn time() -> Result<String> {
    let of_commit = || {
        output_of(
            Command::new("git")
                .args(["log", "-1", "--format=%ct"])
                .current_dir(root()),
        )
    };
    let time = env::var("SOURCE_DATE_EPOCH").ok().or_else(of_commit);
    let time = time.unwrap_or_default().trim().to_owned();
    if time.parse::<u64>().is_err() {
        bail!(
            "there is no commit here: set SOURCE_DATE_EPOCH to the time of the source, in seconds since 1970"
        );
    }
    Ok(time)
}

/// Flags for rustc that keep the folders of sources out of the program. They are separated as cargo wants it.
fn without_paths_of_this_machine() -> OsString {
    let home = |variable: &str, folder: &str| {
        let default = || Some(PathBuf::from(env::var_os("HOME")?).join(folder));
        env::var_os(variable).map(PathBuf::from).or_else(default)
    };
    let folders = [
        (Some(root().to_owned()), "reveille"),
        (home("CARGO_HOME", ".cargo"), "cargo"),
    ];
    let flags = folders
        .into_iter()
        .filter_map(|(folder, name)| Some(format!("--remap-path-prefix={}={name}", folder?.display())));
    flags.collect::<Vec<_>>().join("\u{1f}").into()
}

/// The oldest glibc that the program runs with, such as `2.34`, from a name such as `…-manylinux_2_34_x86_64.whl`; empty if
/// maturin found none.
fn oldest_glibc(wheel: &Path) -> String {
    let name = wheel.file_name().unwrap_or_default().to_string_lossy();
    let mut numbers = name.split("manylinux_").nth(1).unwrap_or_default().split('_');
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => format!("{major}.{minor}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wheels_name_tells_the_oldest_glibc() {
        let of = |name: &str| oldest_glibc(Path::new(name));
        assert_eq!(
            of("dist/reveille-0.1.0-py3-none-manylinux_2_34_x86_64.whl"),
            "2.34"
        );
        assert_eq!(of("dist/reveille-0.1.0-py3-none-linux_x86_64.whl"), "");
    }
}
