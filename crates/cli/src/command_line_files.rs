//! What is generated from the command line for shells and for `man`. The packages contain both.

use crate::failure::Failure;
use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use std::{
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

const LOADING: &str = "\
Reveille's packages install these scripts. Without a package:
  bash   source <(reveille completions bash)   in ~/.bashrc
  zsh    source <(reveille completions zsh)    in ~/.zshrc, below compinit
  fish   reveille completions fish | source    in ~/.config/fish/config.fish";

/// The command `completions`.
#[derive(Debug, Args)]
#[command(after_help = LOADING)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

/// The command `man-pages`, with which the packages are made.
#[derive(Debug, Args)]
pub struct ManPages {
    /// The folder for the pages, one for each command.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints the script of a shell. A closed pipe (`| head`) is no failure.
pub fn completions(args: &Completions, mut command: Command) -> Result<(), Failure> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut command, "reveille", &mut script);
    match io::stdout().write_all(&script) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// Writes the man pages.
pub fn man_pages(args: &ManPages, command: Command) -> Result<(), Failure> {
    let folder = args.folder.display();
    fs::create_dir_all(&args.folder).with_context(|| format!("cannot create {folder}"))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_pages(command, &args.folder).with_context(|| format!("cannot write to {folder}"))?;
    Ok(())
}

/// Writes the page of a command, and those of the commands below it.
fn write_pages(command: Command, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below.clone(), folder)?;
    }
    let page = Man::new(command).source(concat!("Reveille ", env!("CARGO_PKG_VERSION")));
    let mut text = vec![];
    page.render(&mut text)?;
    // The examples come as they are laid out for the help.
    let text = String::from_utf8_lossy(&text)
        .replace(".SH EXTRA\n", ".SH NOTES\n.nf\n")
        .replace(".SH VERSION\n", ".fi\n.SH VERSION\n");
    fs::write(folder.join(page.get_filename()), text)
}
