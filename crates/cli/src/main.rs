//! The `reveille` program: everything on one machine (`up`), each service by itself, and the commands for people.
//!
//! `main` reads the command line, starts a runtime and turns the outcome into an exit code.

// Names and reasons come from other machines, so what is printed passes `terminal`: by `client::line` or `logging::notice`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod addresses;
mod api_auth;
mod args;
mod audit;
mod cli;
mod client;
mod command_line_files;
mod config;
mod config_file;
mod data_dir;
mod doctor;
mod down;
mod enroll;
mod export;
mod failure;
#[cfg(test)]
mod generated_docs;
mod hub;
mod hub_init;
mod init;
mod journal;
mod keys;
mod listen;
mod logging;
mod logs;
mod meant;
mod past;
mod pause;
mod progress;
mod recipe_test;
mod reload;
mod replica;
mod rows_rebuild;
mod sd_notify;
mod services;
mod signals;
mod status;
mod terminal;
mod tls;
mod trial;
mod up;
mod whole_file;

use crate::failure::Failure;
use reveille_agent::child::{SHIM, shim_main};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    // The agent starts these for itself.
    if words.next().is_some_and(|word| word == SHIM) {
        return shim_main();
    }
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(unused) => return unused,
    };
    // This fails only if a library has installed one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(cli.run()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            logging::notice(format_args!("error: {failure}"));
            failure.exit_code()
        }
    }
}
