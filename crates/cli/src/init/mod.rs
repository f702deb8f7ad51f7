//! `reveille init`: looks for backends on this machine's usual ports and writes a config for them, saying why it chose
//! what it wrote.

mod found;
mod text;

use crate::failure::Failure;
use anyhow::Context;
use clap::Args;
pub use found::Found;
use reveille_agent::{
    config::{Config, machine_name},
    fetch,
};
use std::{
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

const EXAMPLES: &str = "\
Examples:
  reveille init                             looks for Ollama, vLLM, llama.cpp and LM Studio, and writes reveille.toml
  reveille init --ports 8000,8001           looks at these ports";

/// `reveille init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Init {
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "reveille.toml")]
    pub output: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub ports: Ports,
}

/// Where backends are looked for.
#[derive(Debug, Args)]
pub struct Ports {
    /// The ports of this machine to look for backends at: those of Ollama, vLLM, llama.cpp and LM Studio.
    #[arg(
        long,
        value_name = "PORT,…",
        value_delimiter = ',',
        default_value = "11434,8000,8080,1234"
    )]
    pub ports: Vec<u16>,
}

/// Looks, explains on standard error, and writes the file.
pub async fn run(args: &Init) -> Result<(), Failure> {
    let output = &args.output;
    if !args.force && output.exists() {
        return Err(exists(output));
    }
    let backends = look(&args.ports.ports).await?;
    write_config(output, machine_name().as_str(), None, &backends, args.force)?;
    if backends.is_empty() {
        eprintln!(
            "No backend was found, so the file is a template. Start your backend and run `reveille init --force` again \
             (--ports PORT for another port), or fill in the template and run `reveille config check {}`.",
            output.display()
        );
    } else {
        eprintln!(
            "Next: reveille recipe test {} --config {file}, then reveille up --config {file}",
            backends[0].name,
            file = output.display()
        );
    }
    Ok(())
}

/// Looks for backends on these ports of this machine; says what it finds.
pub async fn look(ports: &[u16]) -> Result<Vec<Found>, Failure> {
    let client = fetch::client()?;
    let mut backends: Vec<Found> = vec![];
    for port in ports.iter().copied() {
        let usual = found::usual_at(port).map(|server| format!(" ({}'s usual port)", server.label()));
        let usual = usual.unwrap_or_default();
        match found::look(&client, port).await {
            Ok(mut backend) => {
                let taken = |name: &str| backends.iter().any(|other| other.name == name);
                if taken(&backend.name) {
                    backend.name = format!("{}-{port}", backend.name);
                }
                eprintln!("127.0.0.1:{port}{usual}: {}", backend.described());
                backends.push(backend);
            }
            Err(reason) => eprintln!("127.0.0.1:{port}{usual}: {reason}"),
        }
    }
    Ok(backends)
}

/// Writes the config of this machine as `agent`, with these backends; `hub` is what `[agent]` says of the hub. Says why
/// it is as it is, and returns its text.
pub fn write_config(
    output: &Path,
    agent: &str,
    hub: Option<&str>,
    backends: &[Found],
    force: bool,
) -> Result<String, Failure> {
    let written = text::config(agent, hub, backends);
    // Whatever a backend is called or lists: what is written is legal, or nothing is.
    Config::parse(&written.text, &output.display().to_string(), &|_| None)
        .map_err(|error| anyhow::anyhow!("what was found makes no legal config: {error}"))?;
    write(output, &written.text, force)?;
    for reason in &written.reasons {
        eprintln!("{reason}");
    }
    eprintln!("wrote {}", output.display());
    Ok(written.text)
}

/// Says that there is a file already, and what to do.
pub fn exists(output: &Path) -> Failure {
    Failure::Config(format!(
        "{} exists already: give --force to replace it, or --output FILE for another one",
        output.display()
    ))
}

/// Writes the file for its owner alone, whole or not at all; an existing one is replaced only with `force`.
fn write(output: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let cannot = || format!("cannot write {}", output.display());
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut whole = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).with_context(cannot)?;
    whole.write_all(text.as_bytes()).with_context(cannot)?;
    let placed = if force {
        whole.persist(output)
    } else {
        whole.persist_noclobber(output)
    };
    match placed {
        Ok(_) => Ok(()),
        Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => Err(exists(output)),
        Err(failed) => Err(failed.error).with_context(cannot)?,
    }
}
