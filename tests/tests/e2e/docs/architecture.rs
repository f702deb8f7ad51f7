//! What ARCHITECTURE.md names is there: modules, files and functions.

use super::root;
use std::{fs, path::Path};

/// The folders that it describes.
const DESCRIBED: [&str; 7] = ["crates", "docs", "fuzz", "nats", "packaging", "tests", "xtask"];

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page")
}

/// The chapter under a heading.
fn chapter<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("\n## {heading}\n"))
        .expect("the chapter");
    rest.split("\n## ").next().unwrap_or_default()
}

/// Every file and folder below the project's folder. A folder ends with a slash.
fn paths() -> Vec<String> {
    let mut found = vec![];
    for folder in DESCRIBED {
        find(&root().join(folder), &mut found);
    }
    assert!(found.len() > 300, "only {} paths were found", found.len());
    found
}

fn find(path: &Path, found: &mut Vec<String>) {
    let name = path
        .strip_prefix(root())
        .expect("a path of the project")
        .display()
        .to_string();
    if !path.is_dir() {
        found.push(name);
        return;
    }
    found.push(format!("{name}/"));
    for entry in fs::read_dir(path).expect("a folder") {
        find(&entry.expect("an entry").path(), found);
    }
}

/// Whether a path is `short`, or ends with it.
fn is(path: &str, short: &str) -> bool {
    path.strip_suffix(short)
        .is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_path_in_the_architecture_exists() {
    let (page, paths) = (architecture(), paths());
    let is_path = |name: &&str| {
        let plain = !name.contains(['<', ' ', ':', '$']) && !name.starts_with('/');
        plain && (name.ends_with('/') || Path::new(name).extension().is_some_and(|it| it == "rs"))
    };
    let text: String = page.split("```").step_by(2).collect();
    let named: Vec<_> = quoted(&text).filter(is_path).collect();
    assert!(named.len() >= 40, "only {named:?} were found");
    for name in named {
        assert!(paths.iter().any(|path| is(path, name)), "there is no {name}");
    }
}

#[test]
fn every_module_in_the_code_map_exists() {
    let (page, paths) = (architecture(), paths());
    let mut folder = "";
    let mut modules = 0;
    for row in chapter(&page, "Code map")
        .lines()
        .filter(|line| line.starts_with("| `") || line.starts_with("| |"))
    {
        let cells: Vec<_> = row.split('|').collect();
        folder = quoted(cells[1]).next().unwrap_or(folder);
        for name in quoted(cells[2]) {
            let name = name.trim_end_matches('/');
            let is_there = |path: &String| {
                let below = path.starts_with(folder.trim_end_matches('/'));
                below && (is(path, &format!("{name}.rs")) || is(path, &format!("{name}/")))
            };
            assert!(paths.iter().any(is_there), "{folder} has no {name}");
            modules += 1;
        }
    }
    assert!(modules >= 60, "only {modules} modules were found");
}

#[test]
fn the_functions_to_start_with_are_where_they_are_said_to_be() {
    let (page, paths) = (architecture(), paths());
    let mut functions = 0;
    for line in chapter(&page, "Start reading here")
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
    {
        let mut names = quoted(line);
        let (function, file) = (names.next().expect("a function"), names.next().expect("a file"));
        let name = function.rsplit("::").next().expect("its name");
        let path = paths
            .iter()
            .find(|path| is(path, file))
            .unwrap_or_else(|| panic!("there is no {file}"));
        let source = fs::read_to_string(root().join(path)).expect("a source file");
        let is_there = ["(", "<"]
            .iter()
            .any(|next| source.contains(&format!("fn {name}{next}")));
        assert!(is_there, "{path} has no {name}");
        functions += 1;
    }
    assert_eq!(functions, 5);
}
