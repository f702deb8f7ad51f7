//! `reveille init`: finds backends on this machine's usual ports, writes a config for them, and explains each choice.

mod answers;
mod folders;
mod found;
mod gguf;
mod installed;
mod next;
mod process;
mod recipe;
#[cfg(test)]
mod tests;
mod text;
mod trials;

use crate::{args::DataDirArg, failure::Failure, logging::notice, whole_file};
use answers::Answers;
use anyhow::Context;
use clap::{Args, value_parser};
pub use found::Found;
use gguf::Gguf;
use installed::Places;
use reveille_agent::{
    config::{Config, machine_name},
    fetch, shell,
};
use reveille_bus::private_file;
use std::{
    io::{BufRead, ErrorKind},
    path::{Path, PathBuf},
};
use text::WrittenConfig;

/// The file that is written by default.
const OUTPUT: &str = "reveille.toml";
const EXAMPLES: &str = "\
Examples:
  reveille init                             looks for Ollama, vLLM, llama.cpp and LM Studio, and writes reveille.toml
  reveille init Qwen3-8B-Q4_K_M.gguf        has llama.cpp serve this model
  reveille init --yes                       asks nothing, and tries what doesn't run
  reveille init --ports 8000,8001           looks on these ports";

/// `reveille init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Init {
    /// Model files for llama.cpp's server, `llama-server`.
    #[arg(value_name = "GGUF")]
    pub files: Vec<PathBuf>,
    /// The file to write.
    #[arg(long = "config", alias = "output", value_name = "FILE", default_value = OUTPUT)]
    pub output: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub force: bool,
    /// Ask nothing: write the file, and try the recipes of what doesn't run yet, each by starting it. What runs is left alone.
    /// Without a terminal and without this nothing is asked and nothing is tried.
    #[arg(long)]
    pub yes: bool,
    /// Try the recipes of running backends too: they are put to sleep and woken, or stopped. Requests that they are answering
    /// may fail.
    #[arg(long = "try", requires = "yes")]
    pub try_running: bool,
    #[command(flatten)]
    pub ports: Ports,
    #[command(flatten)]
    pub data_dir: DataDirArg,
}

/// Where to look for backends.
#[derive(Debug, Args)]
pub struct Ports {
    /// Ports of this machine to look for backends on, and to give to those that don't run; by default those of Ollama, vLLM,
    /// llama.cpp and LM Studio.
    #[arg(
        long,
        value_name = "PORT,…",
        value_delimiter = ',',
        value_parser = value_parser!(u16).range(1..),
        default_value = "11434,8000,8080,1234"
    )]
    pub ports: Vec<u16>,
}

/// Finds backends, explains and asks on standard error, writes the file, and tries what it has leave to.
pub async fn run(args: &Init) -> Result<(), Failure> {
    let output = &args.output;
    if !args.force && output.exists() {
        return Err(exists(output));
    }
    // Before anybody is asked anything.
    let cannot = |error| Failure::Config(format!("cannot write {}: {error}", output.display()));
    whole_file::folder_exists(output).map_err(cannot)?;
    let mut files: Vec<Gguf> = vec![];
    for file in &args.files {
        let file = model_file(file)?;
        if !files.contains(&file) {
            files.push(file);
        }
    }
    let mut answers = Answers::of(args.yes, args.try_running);
    let found = look_for(&args.ports.ports, &files).await?;
    let something = !found.is_empty();
    let backends = wanted(found, &mut answers)?;
    if backends.is_empty() && something {
        notice("Nothing was added, so nothing was written.");
        return Ok(());
    }
    let (written, config) = made(output, machine_name().as_str(), None, &backends)?;
    for reason in &written.reasons {
        notice(reason);
    }
    let file = output.display();
    if !answers.writes(&format!("Write {file}?"))? {
        notice("Nothing was written.");
        return Ok(());
    }
    let chosen = trials::chosen(&written, &mut answers)?;
    write(output, &written.text, args.force)?;
    notice(format_args!("wrote {file}"));
    let failed = trials::run(&config, &chosen, &args.data_dir).await?;
    match failed.as_slice() {
        [] => {
            let tried: Vec<_> = chosen.iter().map(|(name, _)| *name).collect();
            next::say(args, &written, !config.providers.is_empty(), &tried);
            Ok(())
        }
        [first, ..] => Err(anyhow::anyhow!(
            "{file} was written, but doesn't work yet: {}. Correct it, and run `reveille recipe test {first} --config {}`",
            failed.join(", "),
            shell::path(output),
        )
        .into()),
    }
}

/// The backends that are to be written.
fn wanted<I: BufRead>(found: Vec<Found>, answers: &mut Answers<I>) -> Result<Vec<Found>, Failure> {
    let mut wanted = vec![];
    for backend in found {
        let question = format!("Add `{}` ({})?", backend.name, backend.server.label());
        // What lacks something only becomes a comment.
        if backend.lacks_something() || answers.writes(&question)? {
            wanted.push(backend);
        }
    }
    Ok(wanted)
}

/// What `join` adds to the config of an agent that starts right after: what is found and a person wants. Without a person to ask,
/// that is what runs; the hub could have anything else started.
pub fn choose(found: Vec<Found>, yes: bool) -> Result<Vec<Found>, Failure> {
    let mut answers = Answers::of(yes, false);
    let (found, left_out) = match answers {
        Answers::Nobody => found.into_iter().partition(|found| !found.is_startable()),
        Answers::Person(_) | Answers::Flags { .. } => (found, vec![]),
    };
    let chosen = wanted(found, &mut answers)?;
    if !left_out.is_empty() {
        let names: Vec<_> = left_out.iter().map(|found| format!("`{}`", found.name)).collect();
        notice(format_args!(
            "Not added, because nobody was asked and it doesn't run: {}. The same command with --yes --force adds it.",
            names.join(", ")
        ));
    }
    Ok(chosen)
}

fn model_file(file: &Path) -> Result<Gguf, Failure> {
    Gguf::read(file).map_err(|reason| Failure::Config(format!("{} {reason}", file.display())))
}

/// Looks for backends on these ports of this machine and for programs that are installed, with these model files for llama.cpp, and
/// prints what it finds.
pub async fn look_for(ports: &[u16], files: &[Gguf]) -> Result<Vec<Found>, Failure> {
    let client = fetch::client()?;
    let mut backends: Vec<Found> = vec![];
    for (index, port) in ports.iter().copied().enumerate() {
        if ports[..index].contains(&port) {
            continue;
        }
        let usual = found::usual_at(port).map(|server| format!(" ({}'s usual port)", server.label()));
        let usual = usual.unwrap_or_default();
        match found::look(&client, port).await {
            Ok(mut backend) => {
                let taken = |name: &str| backends.iter().any(|other| other.name == name);
                if taken(&backend.name) {
                    backend.name = format!("{}-{port}", backend.name);
                }
                notice(format_args!(
                    "{}{usual}: {}",
                    backend.address,
                    backend.described()
                ));
                backends.push(backend);
            }
            Err(reason) => notice(format_args!("127.0.0.1:{port}{usual}: {reason}")),
        }
    }
    let stopped = installed::look(&Places::own(), &backends, ports, files);
    for backend in &stopped.backends {
        notice(backend.described());
    }
    for remark in &stopped.remarks {
        notice(remark);
    }
    backends.extend(stopped.backends);
    Ok(backends)
}

/// Writes the config of `agent` with these backends; `hub` is the hub's part of `[agent]`. Prints the reasons for its
/// choices.
pub fn write_config(
    output: &Path,
    agent: &str,
    hub: Option<&str>,
    backends: &[Found],
    force: bool,
) -> Result<WrittenConfig, Failure> {
    let (written, _) = made(output, agent, hub, backends)?;
    write(output, &written.text, force)?;
    for reason in &written.reasons {
        notice(reason);
    }
    notice(format_args!("wrote {}", output.display()));
    Ok(written)
}

/// The config of `agent` with these backends, as text and as the agent reads it.
fn made(
    output: &Path,
    agent: &str,
    hub: Option<&str>,
    backends: &[Found],
) -> Result<(WrittenConfig, Config), Failure> {
    let written = text::config(agent, hub, backends);
    // Whatever a backend lists, only a valid config is written.
    let config = Config::parse(&written.text, &output.display().to_string(), &|_| None)
        .map_err(|error| anyhow::anyhow!("the backends found don't make a valid config: {error}"))?;
    Ok((written, config))
}

/// The error for a file that exists.
pub fn exists(output: &Path) -> Failure {
    Failure::Config(format!(
        "{} already exists: use --force to replace it, or name another file",
        output.display()
    ))
}

/// Writes the file for its owner alone; an existing one is replaced only with `force`.
fn write(output: &Path, text: &str, force: bool) -> Result<(), Failure> {
    match whole_file::write(output, text, private_file::FILE_MODE, force) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists(output)),
        written => Ok(written.with_context(|| format!("cannot write {}", output.display()))?),
    }
}
