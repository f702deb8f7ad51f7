//! The documentation says what is so: every snippet is run or held against what is real, and its links lead somewhere.

mod blocks;
mod covered;
mod operations;
mod readme;
mod subscribers;

pub use covered::blocks_of;

use blocks::{blocks, pages};
use reveille_tests::{Folder, program};
use std::{fs, path::Path, process::Command};

/// Variables that the documented configs fill in.
const VARIABLES: [&str; 2] = ["VLLM_KEY", "START_KEY"];

pub fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are in the workspace's folder")
}

fn assert_agent_takes(what: &str, config: &str) {
    let folder = Folder::new();
    let file = folder.path().join("reveille.toml");
    fs::write(&file, config).expect("the config is written");
    let mut check = Command::new(program("reveille"));
    check.args(["config", "check"]).arg(&file);
    check.envs(VARIABLES.map(|variable| (variable, "x")));
    let checked = check.output().expect("the program runs");
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{what}: {said}\n{config}");
}

#[test]
fn every_config_in_the_documentation_is_one_that_the_agent_takes() {
    let configs: Vec<_> = blocks()
        .into_iter()
        .filter(|block| block.language == "toml")
        .collect();
    for block in &configs {
        assert_agent_takes(&block.place(), &block.text);
    }
    assert!(configs.len() >= 8, "only {} configs were found", configs.len());
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut followed = 0;
    for (path, page) in pages() {
        let path = root().join(path);
        let folder = path.parent().expect("a page is in a folder");
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(
                folder.join(file).exists(),
                "{}: {link} leads nowhere",
                path.display()
            );
            followed += 1;
        }
    }
    assert!(followed >= 20, "only {followed} links were found");
}
