//! The documentation is true: every snippet is run or compared with what is real, and links and paths lead somewhere.

mod architecture;
mod blocks;
mod clients;
mod covered;
mod one_pc;
mod operations;
mod readme;
mod subscribers;

pub use blocks::{assert_says, commands};
pub use covered::blocks_of;

use blocks::{blocks, pages};
use reveille_tests::{Folder, program};
use std::{fs, path::Path, process::Command};

/// Variables that the documented configs fill in.
const VARIABLES: [&str; 2] = ["VLLM_KEY", "START_KEY"];

/// A file of certificates as far as a config needs it.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

pub fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are in the workspace's folder")
}

fn assert_agent_takes(what: &str, config: &str) {
    let folder = Folder::new();
    let file = folder.path().join("reveille.toml");
    fs::write(&file, config).expect("the config is written");
    fs::write(folder.path().join("nas.pem"), CERTIFICATE).expect("what a config names as `ca` is written");
    fs::write(folder.path().join("reviewer.md"), "Review code.\n").expect("what a preset names is written");
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

/// The anchors of a page's headings, as they are made for links.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        text.chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut followed = 0;
    for (path, page) in pages() {
        let path = root().join(path);
        let folder = path.parent().expect("a page is in a folder");
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                folder.join(file)
            };
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            if !anchor.is_empty() {
                let headings = anchors(&fs::read_to_string(&target).expect("a page"));
                let found = headings.iter().any(|heading| heading == anchor);
                assert!(found, "{}: {link} has no heading", path.display());
            }
            followed += 1;
        }
    }
    assert!(followed >= 20, "only {followed} links were found");
}

#[test]
fn every_decision_has_a_status_and_a_date_and_is_listed() {
    let list = fs::read_to_string(root().join("docs/adr/README.md")).expect("the list");
    let mut decisions = 0;
    for (path, page) in pages() {
        let Some(name) = path.strip_prefix("docs/adr/").filter(|name| *name != "README.md") else {
            continue;
        };
        let status = page
            .lines()
            .nth(2)
            .and_then(|line| line.strip_prefix("**Status.** "));
        let (status, date) = status.and_then(|it| it.split_once(", ")).unwrap_or_default();
        let is_date = date.len() == 11 && date.starts_with("20") && date.ends_with('.');
        assert!(
            !status.is_empty() && is_date,
            "{path}: its third line is no `**Status.** Accepted, 2026-11-23.`"
        );
        let title = page
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches(|c: char| !c.is_alphabetic());
        assert!(
            list.contains(&format!("({name}) | {title} | {}", &date[..10])),
            "docs/adr/README.md has no {title}"
        );
        decisions += 1;
    }
    assert!(decisions >= 18, "only {decisions} decisions were found");
}
