//! Where the clients are installed, and how a script is started so that nothing of this machine's settings reaches it.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use reveille_tests::{Launch, openai_path};

use crate::{clients::Client, scene::Scene};

/// What `cargo xtask clients` tells.
const INSTALLED: &str = "REVEILLE_TEST_CLIENTS_PATH";
/// Some libraries would otherwise ask the network for news, report what they are used for, or both.
const QUIET: [&str; 5] = [
    "LITELLM_LOCAL_MODEL_COST_MAP=True",
    "HAYSTACK_TELEMETRY_ENABLED=False",
    "PYTHONDONTWRITEBYTECODE=1",
    "DO_NOT_TRACK=1",
    "NO_COLOR=1",
];

/// What a script runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Python with the libraries of `requirements.txt`.
    Python,
    /// Python with the libraries of `sdks.txt`: few, and part of a quick run.
    Sdk,
    /// Python with the newest `openai`, with which some of those libraries don't work.
    NewestOpenai,
    /// Python with aider, which wants older libraries than the others.
    Aider,
    /// Node.js with the libraries of `node/package.json`.
    Node,
    /// Python that starts a program of `programs/package.json`.
    Program,
}

/// The folders of the installed clients.
#[derive(Debug)]
pub struct Runtime {
    installed: PathBuf,
    node_scripts: PathBuf,
    work: PathBuf,
}

impl Runtime {
    /// Finds them; `work` is where scripts may write.
    pub fn new(work: &Path) -> Result<Self> {
        let installed = env::var_os(INSTALLED).map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/clients"),
            PathBuf::from,
        );
        ensure!(
            installed.exists(),
            "no clients in {}: run `cargo xtask clients`, which installs them",
            installed.display()
        );
        // Node.js looks for libraries beside the script alone.
        let node_scripts = work.join("node");
        fs::create_dir(&node_scripts)?;
        for file in fs::read_dir(scripts())? {
            let file = file?.path();
            if let (Some(name), true) = (
                file.file_name(),
                file.extension().is_some_and(|ending| ending == "mjs"),
            ) {
                fs::copy(&file, node_scripts.join(name))?;
            }
        }
        symlink(
            installed.join("node/node_modules"),
            node_scripts.join("node_modules"),
        )
        .context("cannot link the libraries of Node.js")?;
        Ok(Self {
            installed,
            node_scripts,
            work: work.to_owned(),
        })
    }

    /// A script for a scene, not started yet.
    pub fn script(&self, client: &Client, scene: Scene, url: &str, model: &str) -> Result<Launch> {
        let home = self.work.join(format!("home-{model}"));
        fs::create_dir(&home)?;
        let python_path = match client.language {
            Language::NewestOpenai => openai_path(),
            Language::Sdk => self.installed.join("sdks"),
            Language::Aider => self.installed.join("aider"),
            Language::Python | Language::Node | Language::Program => self.installed.join("python"),
        };
        let programs = self.installed.join("programs/node_modules/.bin");
        let path = env::var("PATH").unwrap_or_default();
        let launch = Launch::new("env", self.work.join(format!("{model}.out")))
            .folder(&home)
            .arg("-i")
            .arg(format!("PATH={}:{path}", programs.display()))
            .arg(format!("HOME={}", home.display()))
            .arg(format!("PYTHONPATH={}", python_path.display()))
            .args(QUIET);
        let launch = if client.language == Language::Node {
            launch.arg("node").arg(self.node_scripts.join(client.script))
        } else {
            launch.arg("python3").arg(scripts().join(client.script))
        };
        Ok(launch.args([scene.name(), url, model]))
    }
}

/// The folder of the scripts and of the versions.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}
