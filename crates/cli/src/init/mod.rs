//! `reveille init`: finds backends on this machine's usual ports, writes a config for them, and explains each choice.

mod folders;
mod found;
mod gguf;
mod installed;
mod process;
mod recipe;
#[cfg(test)]
mod tests;
mod text;

use crate::{failure::Failure, logging::notice, whole_file};
use anyhow::Context;
use clap::{Args, value_parser};
pub use found::Found;
use gguf::Gguf;
use installed::Places;
use recipe::Trial;
use reveille_agent::{
    config::{Config, machine_name},
    fetch,
};
use reveille_bus::private_file;
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};
use text::Written;

const EXAMPLES: &str = "\
Examples:
  reveille init                             looks for Ollama, vLLM, llama.cpp and LM Studio, and writes reveille.toml
  reveille init Qwen3-8B-Q4_K_M.gguf        has llama.cpp serve this model
  reveille init --ports 8000,8001           looks on these ports";

/// `reveille init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Init {
    /// Model files for llama.cpp's server, `llama-server`.
    #[arg(value_name = "GGUF")]
    pub files: Vec<PathBuf>,
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "reveille.toml")]
    pub output: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub ports: Ports,
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

/// Finds backends, explains on standard error, and writes the file.
pub async fn run(args: &Init) -> Result<(), Failure> {
    let output = &args.output;
    if !args.force && output.exists() {
        return Err(exists(output));
    }
    let files = args.files.iter().map(|file| model_file(file));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let backends = look_for(&args.ports.ports, &files).await?;
    let written = write_config(output, machine_name().as_str(), None, &backends, args.force)?;
    let file = output.display();
    if backends.is_empty() {
        let installed = text::installed().map(|program| format!(", for `{program}`, which is installed"));
        notice(format_args!(
            "No running backend was found, so the file is a template{}. Start your backend and run `reveille init \
             --force` again (with --ports PORT for another port), or fill in the template and run `reveille config \
             check {file}`.",
            installed.unwrap_or_default()
        ));
        return Ok(());
    }
    notice(format_args!("Next: reveille up --config {file}"));
    if written.trials.is_empty() {
        notice(format_args!(
            "No provider has an active recipe: see the comments in {file}."
        ));
    }
    for (provider, trial) in &written.trials {
        let first = match trial {
            Trial::Now | Trial::Stopped => "run".to_owned(),
            Trial::AfterStopping(pid) => format!(
                "stop process {pid} (`kill {pid}`), and run",
                pid = pid.as_raw_pid()
            ),
        };
        notice(format_args!(
            "To try `{provider}` first: {first} `reveille recipe test {provider} --config {file}`"
        ));
    }
    Ok(())
}

fn model_file(file: &Path) -> Result<Gguf, Failure> {
    Gguf::read(file).map_err(|reason| Failure::Config(format!("{} {reason}", file.display())))
}

/// Looks for backends on these ports of this machine and for programs that are installed, and prints what it finds.
pub async fn look(ports: &[u16]) -> Result<Vec<Found>, Failure> {
    look_for(ports, &[]).await
}

/// The same with these model files for llama.cpp.
async fn look_for(ports: &[u16], files: &[Gguf]) -> Result<Vec<Found>, Failure> {
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
        notice(format_args!("installed: {}", backend.described()));
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
) -> Result<Written, Failure> {
    let written = text::config(agent, hub, backends);
    // Whatever a backend lists, only a valid config is written.
    Config::parse(&written.text, &output.display().to_string(), &|_| None)
        .map_err(|error| anyhow::anyhow!("the backends found don't make a valid config: {error}"))?;
    write(output, &written.text, force)?;
    for reason in &written.reasons {
        notice(reason);
    }
    notice(format_args!("wrote {}", output.display()));
    Ok(written)
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
