//! What to do next: only commands that can work.

use super::{
    Init, OUTPUT,
    found::{Server, usual_at},
    recipe::Trial,
    text,
    text::WrittenConfig,
};
use crate::{
    data_dir::{self, RunningUp},
    logging::notice,
};
use reveille_agent::shell;
use std::path::Path;

/// Says what to do with the file that was `written`, in which there may be no provider; `tried` work already.
pub fn say(args: &Init, written: &WrittenConfig, has_providers: bool, tried: &[&str]) {
    let data_dir = args.data_dir.path().ok();
    let running = data_dir.and_then(|path| data_dir::running_up(&path));
    for line in lines(args, written, has_providers, tried, running.as_ref()) {
        notice(line);
    }
}

fn lines(
    args: &Init,
    written: &WrittenConfig,
    has_providers: bool,
    tried: &[&str],
    running: Option<&RunningUp>,
) -> Vec<String> {
    let (file, word) = (args.output.display(), shell::path(&args.output));
    if !has_providers {
        return nothing(args, written);
    }
    let mut lines: Vec<_> = written
        .trials
        .iter()
        .filter(|(provider, _)| !tried.contains(&provider.as_str()))
        .map(|(provider, trial)| {
            let first = match trial {
                Trial::Now | Trial::Stopped => "run".to_owned(),
                Trial::AfterStopping { pid, .. } => {
                    let pid = pid.as_raw_pid();
                    format!("stop process {pid} (`kill {pid}`), and run")
                }
            };
            format!("To try `{provider}` first: {first} `reveille recipe test {provider} --config {word}`")
        })
        .collect();
    let models = written.without_models.iter().map(|(provider, server)| {
        let first = match server {
            Server::Ollama => format!(
                "run `ollama pull qwen2.5:7b` or take another one, and then `{}`, which writes how it is woken",
                again(args)
            ),
            Server::LmStudio => "download one in LM Studio".to_owned(),
            Server::Vllm | Server::LlamaCpp | Server::Other => "load one into it".to_owned(),
        };
        format!("`{provider}` has no model yet, so it can answer nothing: {first}.")
    });
    let models: Vec<_> = models.collect();
    let next = if models.is_empty() { "Next" } else { "Then" };
    lines.insert(0, format!("{next}: {}", start(args, running)));
    lines.splice(0..0, models);
    if written.trials.is_empty() {
        lines.push(format!(
            "Nothing in it can be woken yet: see the comments in {file}."
        ));
    }
    lines
}

/// The command that uses the file. A running `up` is in the way of another one.
fn start(args: &Init, running: Option<&RunningUp>) -> String {
    let up = format!("reveille up --config {}", shell::path(&args.output));
    let Some(running) = running else { return up };
    let data_dir = args.data_dir.data_dir.as_deref();
    let data_dir = data_dir.map_or_else(String::new, |path| format!(" --data-dir {}", shell::path(path)));
    let is_its_own = running.config.is_some() && running.config == args.output.canonicalize().ok();
    match is_its_own {
        true => format!(
            "reveille agent reload{data_dir}\nThe `reveille up` that runs with this file uses it as it is now then."
        ),
        false => format!(
            "reveille down{data_dir} && {up}{data_dir}\nA `reveille up` is running without this file, so it has to stop first."
        ),
    }
}

/// The command that writes the same file again.
fn again(args: &Init) -> String {
    match args.output == Path::new(OUTPUT) {
        true => "reveille init --force".to_owned(),
        false => format!("reveille init --force --config {}", shell::path(&args.output)),
    }
}

/// What was looked for, and how to add a backend.
fn nothing(args: &Init, written: &WrittenConfig) -> Vec<String> {
    let (file, again) = (args.output.display(), again(args));
    let complete = format!(
        "complete what is in {file} and run `reveille config check {}`",
        shell::path(&args.output)
    );
    if !written.reasons.is_empty() {
        return vec![format!(
            "Nothing in it can be woken yet. To change that, {complete}."
        )];
    }
    let ports = args.ports.ports.iter().map(|port| match usual_at(*port) {
        Some(server) => format!("{port} ({})", server.label()),
        None => port.to_string(),
    });
    let ports: Vec<_> = ports.collect();
    let template = match text::installed() {
        Some(program) => format!("for `{program}`, which is installed"),
        None => "for Ollama".to_owned(),
    };
    vec![
        format!(
            "No backend was found on this machine: looked for servers on the ports {}, and for {} in PATH. The file is a template {template}.",
            ports.join(", "),
            text::PROGRAMS,
        ),
        format!(
            "To add a backend, start it and run `{again}` (with --ports PORT for another port), or name a model file \
             (`{again} MODEL.gguf`), or {complete}."
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::DataDirArg, init::Ports};
    use rustix::process::getpid;
    use std::net::{Ipv4Addr, SocketAddr};

    fn init(output: &str, ports: &[u16]) -> Init {
        Init {
            files: vec![],
            output: output.into(),
            force: false,
            yes: false,
            try_running: false,
            ports: Ports {
                ports: ports.to_vec(),
            },
            data_dir: DataDirArg { data_dir: None },
        }
    }

    fn written(reasons: &[&str], trials: &[(&str, Trial)]) -> WrittenConfig {
        WrittenConfig {
            text: String::new(),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            trials: trials
                .iter()
                .map(|(name, trial)| ((*name).to_owned(), *trial))
                .collect(),
            without_models: vec![],
        }
    }

    #[test]
    fn each_command_names_a_provider_whose_recipe_can_be_tested_and_what_has_to_be_so_first() {
        let pid = getpid();
        let running = Trial::AfterStopping {
            pid,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
        };
        let trials = [
            ("ollama", Trial::Stopped),
            ("llama-cpp", running),
            ("vllm", Trial::Now),
        ];
        let written = written(&["", "", "", "lm-studio has no recipe"], &trials);
        let pid = pid.as_raw_pid();
        assert_eq!(
            lines(&init("my.toml", &[]), &written, true, &["ollama"], None),
            [
                "Next: reveille up --config my.toml".to_owned(),
                format!(
                    "To try `llama-cpp` first: stop process {pid} (`kill {pid}`), and run `reveille recipe test llama-cpp \
                     --config my.toml`"
                ),
                "To try `vllm` first: run `reveille recipe test vllm --config my.toml`".to_owned(),
            ]
        );
    }

    #[test]
    fn each_command_names_any_file_as_one_word() {
        for (file, word) in [
            ("my llms.toml", "'my llms.toml'"),
            ("x;touch PWNED.toml", "'x;touch PWNED.toml'"),
            ("-f.toml", "./-f.toml"),
        ] {
            let init = init(file, &[9]);
            let tried = written(&[], &[("vllm", Trial::Now)]);
            let said = lines(&init, &tried, true, &[], None);
            assert_eq!(said[0], format!("Next: reveille up --config {word}"));
            assert!(
                said[1].ends_with(&format!("`reveille recipe test vllm --config {word}`")),
                "{said:?}"
            );
            let said = lines(&init, &written(&[], &[]), false, &[], None);
            for command in ["init --force --config", "config check"] {
                assert!(
                    said[1].contains(&format!("`reveille {command} {word}")),
                    "{said:?}"
                );
            }
        }
    }

    #[test]
    fn beside_a_running_up_the_next_command_is_one_that_works() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reveille.toml");
        std::fs::write(&file, "").unwrap();
        let mut init = init(file.to_str().unwrap(), &[9]);
        let written = written(&[], &[("vllm", Trial::Now)]);
        let next = |init: &Init, config: Option<&Path>| {
            let running = RunningUp {
                api: "http://127.0.0.1:8420".parse().unwrap(),
                nats: None,
                ca: None,
                config: config.map(|file| file.canonicalize().unwrap()),
            };
            lines(init, &written, true, &[], Some(&running)).remove(0)
        };
        let up = format!("reveille up --config {}", file.display());
        for config in [None, Some(folder.path())] {
            let said = next(&init, config);
            assert!(
                said.starts_with(&format!("Next: reveille down && {up}\n")),
                "{said}"
            );
        }
        assert!(next(&init, Some(&file)).starts_with("Next: reveille agent reload\n"));
        init.data_dir.data_dir = Some("my data".into());
        let said = next(&init, Some(&file));
        assert!(
            said.starts_with("Next: reveille agent reload --data-dir 'my data'\n"),
            "{said}"
        );
    }

    #[test]
    fn a_server_without_a_model_gets_one_first() {
        let mut written = written(&["it has no recipe"], &[]);
        written.without_models = vec![
            ("ollama".to_owned(), Server::Ollama),
            ("lm-studio".to_owned(), Server::LmStudio),
        ];
        let said = lines(&init("my.toml", &[]), &written, true, &[], None);
        assert!(
            said[0].contains("`ollama pull qwen2.5:7b`")
                && said[0].contains("`reveille init --force --config my.toml`"),
            "{said:?}"
        );
        assert!(
            said[1].contains("`lm-studio` has no model yet") && said[1].contains("LM Studio"),
            "{said:?}"
        );
        assert_eq!(said[2], "Then: reveille up --config my.toml");
    }

    #[test]
    fn with_nothing_to_wake_no_start_is_suggested_but_how_to_add_a_backend() {
        let said = lines(
            &init("reveille.toml", &[11434, 9]),
            &written(&[], &[]),
            false,
            &[],
            None,
        );
        assert!(
            said[0].contains("on the ports 11434 (Ollama), 9, and for `ollama`,"),
            "{said:?}"
        );
        assert!(said[1].contains("run `reveille init --force` (with"), "{said:?}");
        let said = lines(&init("my.toml", &[9]), &written(&[], &[]), false, &[], None);
        assert!(
            said[1].contains("`reveille init --force --config my.toml MODEL.gguf`"),
            "{said:?}"
        );
        let comment = lines(
            &init("my.toml", &[9]),
            &written(&["it lacks a model"], &[]),
            false,
            &[],
            None,
        );
        assert!(
            comment.len() == 1 && comment[0].contains("`reveille config check my.toml`"),
            "{comment:?}"
        );
        for said in [&said, &comment] {
            assert!(!said.concat().contains("reveille up"), "{said:?}");
        }
        let no_recipe = lines(
            &init("my.toml", &[9]),
            &written(&["in a container"], &[]),
            true,
            &[],
            None,
        );
        assert!(no_recipe[1].contains("see the comments"), "{no_recipe:?}");
    }
}
