//! The test programs of the workspace: built by cargo, and found in the list that it prints.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::command::{cargo, root};

/// A built test program.
#[derive(Debug, PartialEq, Eq)]
pub struct TestProgram {
    /// Its source file, below the workspace's folder.
    pub source: String,
    /// The program.
    pub path: PathBuf,
    /// Its package's folder, in which cargo runs it.
    pub folder: PathBuf,
}

/// Builds all test programs and the programs that the tests start. The largest comes first: it has the most below it,
/// and so the slowest tests.
pub fn build() -> Result<Vec<TestProgram>> {
    eprintln!("building (the first time takes a few minutes)");
    let mut command = cargo();
    command.args(["test", "--locked", "--workspace", "--no-run", "--quiet"]);
    // Warnings and errors still appear as text, on the standard error output.
    command.arg("--message-format=json-render-diagnostics");
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.context("cannot run `cargo test`")?;
    if !output.status.success() {
        bail!("the tests don't build");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut programs: Vec<_> = messages.lines().filter_map(test_program).collect();
    if programs.is_empty() {
        bail!("cargo named no test program");
    }
    programs.sort_by_cached_key(|program| {
        let size = fs::metadata(&program.path).map_or(0, |metadata| metadata.len());
        std::cmp::Reverse(size)
    });
    Ok(programs)
}

/// The test program in one of cargo's messages, if the message is about one.
fn test_program(message: &str) -> Option<TestProgram> {
    let (_, profile) = message.split_once(r#""profile":{"#)?;
    let (profile, _) = profile.split_once('}')?;
    if !profile.contains(r#""test":true"#) {
        return None;
    }
    let source = Path::new(string(message, "src_path")?);
    Some(TestProgram {
        source: source
            .strip_prefix(root())
            .unwrap_or(source)
            .display()
            .to_string(),
        path: string(message, "executable")?.into(),
        folder: Path::new(string(message, "manifest_path")?).parent()?.to_owned(),
    })
}

/// The first string of this name. Paths with quotes or backslashes aren't supported; a JSON parser would be this
/// program's largest dependency.
fn string<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!(r#""{name}":""#))?;
    rest.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(profile_test: bool, executable: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"x","manifest_path":"/w/crates/bus/Cargo.toml","target":{{"kind":["test"],"name":"relay","src_path":"{}/crates/bus/tests/relay/main.rs","test":true}},"profile":{{"opt_level":"0","test":{profile_test}}},"features":[],"filenames":["/w/a"],"executable":{executable},"fresh":true}}"#,
            root().display()
        )
    }

    #[test]
    fn a_test_program_is_found_with_its_source_and_folder() {
        let found = test_program(&message(true, r#""/w/target/debug/deps/relay-1""#));
        let expected = TestProgram {
            source: "crates/bus/tests/relay/main.rs".to_owned(),
            path: "/w/target/debug/deps/relay-1".into(),
            folder: "/w/crates/bus".into(),
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn other_programs_and_libraries_are_none() {
        assert_eq!(
            test_program(&message(false, r#""/w/target/debug/reveille""#)),
            None
        );
        assert_eq!(test_program(&message(true, "null")), None);
        assert_eq!(
            test_program(r#"{"reason":"build-finished","success":true}"#),
            None
        );
    }
}
