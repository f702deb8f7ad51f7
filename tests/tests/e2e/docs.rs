//! The documentation says what is so: its configs are legal, and its links lead somewhere.

use reveille_tests::{Folder, program};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Variables that the documented configs fill in.
const VARIABLES: [&str; 2] = ["VLLM_KEY", "START_KEY"];

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are in the workspace's folder")
}

/// Every page: those of the top folder, of `docs` and of `nats`.
fn pages() -> Vec<(PathBuf, String)> {
    let folders = ["", "docs", "docs/adr", "nats"].map(|folder| root().join(folder));
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("a folder of pages"));
    let pages: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a page");
            (path, text)
        })
        .collect();
    assert!(pages.len() > 10, "the pages were not found: {pages:?}");
    pages
}

/// The text of each fenced block that is marked with `language`.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("\n```{language}\n");
    let begun = page.split(fence.as_str()).skip(1);
    begun
        .map(|block| block.split("\n```").next().unwrap_or_default())
        .collect()
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
    let mut checked = 0;
    for (path, page) in pages() {
        for block in blocks(&page, "toml") {
            assert_agent_takes(&path.display().to_string(), block);
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} configs were found");
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut followed = 0;
    for (path, page) in pages() {
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
