//! What can be seen on this machine, without a hub or a backend, of whether a provider's config can work: `reveille config
//! check`, `reveille doctor` and the start of an agent say it.

use crate::{
    child::find_program,
    config::{BaseUrl, CommandAction, ProviderConfig, Step},
    shell,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

/// The most bytes of a script's first line that are read, as many as Linux reads.
const MAX_FIRST_LINE: u64 = 256;
/// What clients ask for below a base URL. A base URL that ends with one has a path too much.
const ENDPOINTS: [&str; 7] = [
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/models",
    "/api/chat",
    "/api/generate",
    "/api/tags",
];

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalCheck {
    /// As it should be.
    Ok(String),
    /// A mistake, most probably.
    Mistake { found: String, remedy: String },
}

/// The mistakes in a provider's config, each with its remedy.
#[must_use]
pub fn mistakes(provider: &ProviderConfig) -> Vec<String> {
    let mistake = |check| match check {
        LocalCheck::Ok(_) => None,
        LocalCheck::Mistake { found, remedy } => Some(format!("{found} -> {remedy}")),
    };
    local_checks(provider).into_iter().filter_map(mistake).collect()
}

/// Checks one provider.
#[must_use]
pub fn local_checks(provider: &ProviderConfig) -> Vec<LocalCheck> {
    let mut checks: Vec<_> = base_url(&provider.base_url).into_iter().collect();
    let wake = provider.wake.iter().flat_map(|wake| &wake.steps);
    let sleep = provider.sleep.iter().flat_map(|sleep| &sleep.steps);
    checks.extend(programs("wake", wake));
    checks.extend(programs("sleep", sleep));
    checks
}

fn base_url(url: &BaseUrl) -> Option<LocalCheck> {
    let shown = url.to_string();
    let (root, path) = shown
        .match_indices("/v1/")
        .next()
        .map(|(at, _)| shown.split_at(at))
        .or_else(|| {
            let endpoint = ENDPOINTS.iter().find(|endpoint| shown.ends_with(**endpoint))?;
            Some(shown.split_at(shown.len() - endpoint.len()))
        })?;
    Some(LocalCheck::Mistake {
        found: format!("base_url ends with `{path}`, which requests have in addition"),
        remedy: format!("write base_url = \"{root}\""),
    })
}

fn programs<'a>(recipe: &str, steps: impl Iterator<Item = &'a Step>) -> Vec<LocalCheck> {
    let mut checks = Vec::new();
    for (index, step) in steps.enumerate() {
        let of_step = format!("step {} of [provider.{recipe}]", index + 1);
        for command in step.action.commands() {
            checks.push(program(command, &of_step));
            checks.extend(folder(command, &of_step));
        }
    }
    checks
}

fn program(command: &CommandAction, of_step: &str) -> LocalCheck {
    let program = &command.program;
    let path = path_of(command).map(OsStr::new);
    let found = match find_program(program, path) {
        Ok(file) => interpreter(&file, path),
        Err(reason) => Some((reason.to_string(), reason.remedy(program, path))),
    };
    match found {
        None => LocalCheck::Ok(format!("found `{program}` of {of_step}")),
        Some((reason, remedy)) => LocalCheck::Mistake {
            found: format!("{of_step} can't run `{program}`: {reason}"),
            remedy,
        },
    }
}

/// What is wrong with the interpreter of a script, and what to do.
fn interpreter(file: &Path, path: Option<&OsStr>) -> Option<(String, String)> {
    let mut line = Vec::new();
    let mut head = BufReader::new(File::open(file).ok()?.take(MAX_FIRST_LINE));
    head.read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8(line).ok()?;
    let words = line.strip_prefix("#!")?.trim_end_matches('\n');
    if words.ends_with('\r') {
        return Some((
            "its first line ends as lines do on Windows".to_owned(),
            format!("run `sed -i 's/\\r$//' {}`", shell::path(file)),
        ));
    }
    let mut words = words.split_ascii_whitespace();
    let mut wanted = words.next()?;
    if find_program(wanted, None).is_ok() && Path::new(wanted).file_name()? == "env" {
        wanted = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
    }
    let reason = find_program(wanted, path).err()?;
    Some((
        format!("its first line names `{wanted}`, but {reason}"),
        format!(
            "install `{wanted}`, or correct the first line of {}",
            file.display()
        ),
    ))
}

fn folder(command: &CommandAction, of_step: &str) -> Option<LocalCheck> {
    let folder = command.cwd.as_ref().filter(|folder| !folder.is_dir())?;
    Some(LocalCheck::Mistake {
        found: format!(
            "{of_step} can't run in {}: there is no such directory",
            folder.display()
        ),
        remedy: "create the directory, or correct `cwd`".to_owned(),
    })
}

/// The `PATH` that the step sets.
fn path_of(command: &CommandAction) -> Option<&str> {
    let path = command.env.iter().find(|(name, _)| name == "PATH");
    path.map(|(_, value)| value.reveal())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn said(base_url: &str, command: &str) -> String {
        let text = format!(
            "[[provider]]\nname = \"p\"\nbase_url = \"{base_url}\"\n[provider.wake]\ntype = \"command\"\ncommand = \
             {command:?}\nrun = \"serve\"\n"
        );
        let config = Config::parse(&text, "test.toml", &|_| None).expect("a config");
        mistakes(&config.providers[0]).join("\n")
    }

    #[test]
    fn a_program_that_cannot_run_is_named_with_its_own_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str, mode: u32| {
            let file = folder.path().join(name);
            fs::write(&file, text).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
            file.display().to_string()
        };
        let good = file("good", "#!/bin/sh\n", 0o755);
        for (command, reason, remedy) in [
            (good.clone(), "", ""),
            (file("env", "#!/usr/bin/env -S FOO=1 sh -e\n", 0o755), "", ""),
            (file("binary", "\u{7f}ELF", 0o755), "", ""),
            ("sh".to_owned(), "", ""),
            (
                "no-such-program".to_owned(),
                "can't run `no-such-program`: the program was not found in PATH",
                "put its folder into the agent's PATH",
            ),
            (
                file("plain", "#!/bin/sh\n", 0o644),
                "the program is not executable",
                "run `chmod +x ",
            ),
            (
                file("odd", "#!/opt/no/python\n", 0o755),
                "its first line names `/opt/no/python`, but the program does not exist",
                "install `/opt/no/python`",
            ),
            (
                file("lost", "#!/usr/bin/env no-such-python\n", 0o755),
                "`no-such-python`, but the program was not found in PATH",
                "install `no-such-python`",
            ),
            (
                file("dos", "#!/bin/sh\r\n", 0o755),
                "as lines do on Windows",
                "run `sed -i",
            ),
            (
                format!("{good} serve"),
                "the program does not exist",
                "and put the words after it into `args`",
            ),
            (
                folder.path().display().to_string(),
                "the program is not a file",
                "name the program in it",
            ),
        ] {
            let said = said("http://127.0.0.1:1", &command);
            assert_eq!(said.is_empty(), reason.is_empty(), "{command}: {said}");
            assert!(
                said.contains(reason) && said.contains(remedy),
                "{command}: {said}"
            );
        }
    }

    #[test]
    fn a_base_url_with_a_path_too_much_is_told_the_right_one() {
        for (url, right) in [
            ("http://127.0.0.1:8000", None),
            ("http://127.0.0.1:8000/v1", None),
            ("https://example.com/api/v1", None),
            ("http://127.0.0.1:8000/v1/chat", Some("http://127.0.0.1:8000")),
            (
                "http://127.0.0.1:8000/proxy/v1/chat/completions",
                Some("http://127.0.0.1:8000/proxy"),
            ),
            ("http://127.0.0.1:11434/api/chat", Some("http://127.0.0.1:11434")),
            (
                "http://127.0.0.1:8000/chat/completions",
                Some("http://127.0.0.1:8000"),
            ),
        ] {
            let said = said(url, "sh");
            match right {
                Some(right) => assert!(said.ends_with(&format!("write base_url = \"{right}\"")), "{said}"),
                None => assert_eq!(said, "", "{url}"),
            }
        }
    }
}
