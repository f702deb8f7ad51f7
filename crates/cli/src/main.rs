//! The `reveille` program: everything on one machine (`up`), each service by itself, and what a person asks them.
//!
//! `main` only wires: it reads the command line, starts a runtime and turns the outcome into an exit code.

mod admission;
mod args;
mod client;
mod config_check;
mod config_schema;
mod config_show;
mod doctor;
#[cfg(test)]
mod documented;
mod enrol;
mod failure;
mod hub;
mod hub_init;
mod init;
mod journal;
mod keys;
mod listen;
mod logging;
mod pause;
mod recipe_test;
mod replica;
mod rows_rebuild;
mod services;
mod signals;
mod supervisor;
mod tls;
mod up;

use crate::{
    args::{
        AgentCommand, AgentTokenCommand, Cli, Command, ConfigCommand, HubCommand, RecipeCommand, RowsCommand,
    },
    failure::Failure,
};
use clap::Parser;
use reveille_agent::child::{SHIM, shim_main};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    // Nobody types it: the agent starts it.
    if words.next().is_some_and(|word| word == SHIM) {
        return shim_main();
    }
    let cli = Cli::parse();
    // Only a library that was faster could have installed another one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Api(args) => services::api(args).await,
        Command::Agent(args) => match args.command {
            Some(AgentCommand::Revoke(args)) => enrol::revoke(&args).await,
            Some(AgentCommand::Pause(args)) => pause::pause(&args),
            Some(AgentCommand::Resume(args)) => pause::resume(&args),
            None => services::agent(args).await,
        },
        Command::Agents(args) => enrol::list(&args).await,
        Command::AgentToken(AgentTokenCommand::Create(args)) => enrol::create_token(&args).await,
        Command::Join(args) => enrol::join(args).await,
        Command::Hub(HubCommand::Init(args)) => hub_init::run(&args),
        Command::Projector(args) => services::projector(args).await,
        Command::Health(args) => client::health(&args).await,
        Command::Llms(args) => client::llms(&args).await,
        Command::Providers(args) => client::providers(&args).await,
        Command::Wakes(args) => client::wakes(&args).await,
        Command::Wake(args) => client::wake(&args).await,
        Command::Sleep(args) => client::sleep(&args).await,
        Command::Events(args) => client::events(&args).await,
        Command::Key(command) => keys::run(command).await,
        Command::Journal(command) => journal::run(command).await,
        Command::Rows(RowsCommand::Rebuild(args)) => rows_rebuild::run(args).await,
        Command::Init(args) => init::run(args).await,
        Command::Recipe(RecipeCommand::Test(args)) => recipe_test::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Config(ConfigCommand::Check { file }) => config_check::run(&file),
        Command::Config(ConfigCommand::Show(args)) => config_show::run(&args),
        Command::Config(ConfigCommand::Schema) => config_schema::run(),
    }
}
