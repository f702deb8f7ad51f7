//! The table of flags and variables, from the command line.

use super::markdown;
use crate::cli::Cli;
use clap::{Arg, Command, CommandFactory};

/// How a help text names a default that clap doesn't know.
const DEFAULT_IN_HELP: &str = " [default: ";

/// A flag, which several commands may share.
#[derive(Debug, PartialEq, Eq)]
struct Flag {
    name: String,
    variable: String,
    default: String,
    what: String,
}

/// Each flag with its commands, in the order of `reveille help`.
pub(super) fn table() -> String {
    let mut flags: Vec<(Flag, Vec<String>)> = vec![];
    let mut command = Cli::command();
    command.build();
    collect(&command, "", &mut flags);
    let rows = flags.into_iter().map(|(flag, of)| {
        let of: Vec<_> = of.iter().map(|command| format!("`{command}`")).collect();
        vec![flag.name, flag.variable, of.join(", "), flag.default, flag.what]
    });
    markdown(&["flag", "variable", "of", "default", "what it is"], rows)
}

fn collect(command: &Command, path: &str, flags: &mut Vec<(Flag, Vec<String>)>) {
    for argument in command.get_arguments() {
        if ["help", "version"].contains(&argument.get_id().as_str()) {
            continue;
        }
        let flag = Flag::of(argument);
        match flags.iter_mut().find(|(known, _)| *known == flag) {
            Some((_, of)) => of.push(path.to_owned()),
            None => flags.push((flag, vec![path.to_owned()])),
        }
    }
    for command in command
        .get_subcommands()
        .filter(|command| command.get_name() != "help" && !command.is_hide_set())
    {
        let path = format!("{path} {}", command.get_name());
        collect(command, path.trim(), flags);
    }
}

impl Flag {
    fn of(argument: &Arg) -> Self {
        let value = argument.get_value_names().and_then(<[_]>::first);
        let value = value.map(ToString::to_string).unwrap_or_default();
        let name = match (argument.get_long(), argument.get_action().takes_values()) {
            (None, _) => value,
            (Some(long), false) => format!("--{long}"),
            (Some(long), true) => match argument.get_short() {
                None => format!("--{long} {value}"),
                Some(short) => format!("-{short}, --{long} {value}"),
            },
        };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let (what, in_help) = match help.split_once(DEFAULT_IN_HELP) {
            None => (help.as_str(), None),
            Some((what, default)) => (what, Some(default.trim_end_matches(']').to_owned())),
        };
        let defaults: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| format!("`{}`", value.to_string_lossy()))
            .collect();
        let default = match in_help {
            _ if argument.is_required_set() => "required".to_owned(),
            Some(default) => default,
            None if defaults.is_empty() || !argument.get_action().takes_values() => "none".to_owned(),
            None => defaults.join(", "),
        };
        let variable = argument.get_env().map(|variable| variable.to_string_lossy());
        Self {
            name: format!("`{name}`"),
            variable: variable
                .map(|variable| format!("`{variable}`"))
                .unwrap_or_default(),
            default,
            what: what.trim_end_matches('.').to_owned(),
        }
    }
}
