//! What is generated from the command line for shells and for `man`. The packages contain both.

use crate::failure::Failure;
use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use std::{
    collections::BTreeSet,
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
    write_pages(command, &args.folder, &mut BTreeSet::new())
        .with_context(|| format!("cannot write to {folder}"))?;
    Ok(())
}

/// Writes the page of a command, and those of the commands below it.
fn write_pages(command: Command, folder: &Path, written: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below.clone(), folder, written)?;
    }
    let only_groups = command.has_subcommands();
    let page = Man::new(command).source(concat!("Reveille ", env!("CARGO_PKG_VERSION")));
    let mut text = vec![];
    page.render(&mut text)?;
    // The examples come as they are laid out for the help.
    let text = String::from_utf8_lossy(&text)
        .replace(".SH EXTRA\n", ".SH NOTES\n.nf\n")
        .replace(".SH VERSION\n", ".fi\n.SH VERSION\n");
    let file = folder.join(page.get_filename());
    // `agent token`, which has options, and `agent-token`, which groups commands, have a page of the same name.
    if written.contains(&file) && only_groups {
        return Ok(());
    }
    fs::write(&file, text)?;
    written.insert(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    fn has_its_options(command: &Command, folder: &Path) {
        let page = folder.join(Man::new(command.clone()).get_filename());
        let name = page.display().to_string();
        let text = fs::read_to_string(page).expect(&name).replace('\\', "");
        let options = command.get_arguments().filter(|option| !option.is_hide_set());
        for option in options.filter_map(|option| option.get_long()) {
            assert!(text.contains(&format!("--{option}")), "{name}: {option}");
        }
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            has_its_options(below, folder);
        }
    }

    #[test]
    fn every_command_has_a_page_with_its_options() {
        let made = tempfile::tempdir().unwrap();
        let folder = made.path().to_owned();
        // Of an earlier version.
        let old = folder.join("reveille-agent.1");
        fs::write(&old, "old").unwrap();
        man_pages(
            &ManPages {
                folder: folder.clone(),
            },
            Cli::command(),
        )
        .unwrap();
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        has_its_options(&command, &folder);
        assert_ne!(fs::read_to_string(old).unwrap(), "old");
    }
}
