//! The project's own commands, as `cargo xtask …`: they install the tools that are missing, build with one set of
//! features so that dependencies compile once, and run the demo, the tests, the whole of CI or a benchmark.
//!
//! It depends on almost nothing, because a person who types the first command of the README waits for it.

mod build;
mod ci;
mod clients;
mod command;
mod dist;
mod fuzz;
mod install;
mod pip;
mod postgres;
mod test;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
The project's own commands. What they need and is missing is installed under .tools/.

Usage: cargo xtask <command>

  demo [--once]         build, start everything on this machine with a sleeping stand-in LLM, send it a request
                        and print how it was woken; stays up until Ctrl-C, or ends after that with --once
  test [filter…]        the tests, or those whose name contains a filter; `--all` adds the slow ones and those that
                        need a browser, `--no-run` only builds, `-- <args>` go to the test programs
  ci                    formatting, clippy, licences and bans, the bill of materials, documentation, the quick part of
                        `clients`, a short fuzz run, all tests
  fuzz [seconds]        feed bytes to the HTTP/1 guard and hyper until they disagree, for an hour or the given seconds
  backends              build, then wakes, sleeps and deaths of a real llama.cpp server, which is compiled for it the
                        first time (about 4 minutes); not part of `ci`
  clients [client…]     build, then the clients that people use, each against models that have to be woken; installs them
                        the first time (about 5 minutes and 3 GB), and writes the table of docs/clients.md when all of them
                        pass; `--quick` plays the cells that take less than a minute together
  bench audit [args…]   release build, then an audit of an archive of 1,000,000 commits
  bench relay [args…]   release build, then requests and streams per second through the relay
  bench wake [args…]    release build, then how long 20 wakes (or `--wakes N`) take beside the backend's own boot
  bench rebuild [args…] release build, then a rebuild of the rows from 100,000 commits while requests go on
  dist [--debug]        release build, then what people install, in dist/: a Python wheel with nats-server's beside it, an
                        archive with an installer, and a Debian package; `--debug` packs a debug build into
                        target/dist-of-debug, for tests of how they install
  sbom [FILE]           what the programs consist of, as CycloneDX [default: target/reveille.cdx.json]
";

/// Exit code for a command line that is not understood.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["demo", rest @ ..] => build::demo(rest),
        ["test", rest @ ..] => test::command(rest),
        ["ci"] => ci::command(),
        ["fuzz", rest @ ..] => fuzz::command(rest),
        ["backends"] => build::backends(),
        ["clients", rest @ ..] => clients::command(rest),
        ["dist"] => dist::command(),
        ["dist", "--debug"] => dist::for_tests().map(drop),
        ["sbom", rest @ ..] => build::sbom(rest),
        [
            "bench",
            name @ ("audit" | "relay" | "rebuild" | "wake"),
            rest @ ..,
        ] => build::bench(&format!("bench-{name}"), rest),
        [] | ["help" | "-h" | "--help"] => {
            print!("{HELP}");
            Ok(())
        }
        other => {
            eprint!("not a command: {}\n\n{HELP}", other.join(" "));
            return ExitCode::from(USAGE);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
