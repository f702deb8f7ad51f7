//! Runs one program for a test and sees to its end.
//!
//! A test can be killed at any moment, and values in statics are never dropped, so cleaning up cannot be the test's
//! own work. The guard watches its standard input, a pipe from the test. At its end, it kills the program and all that
//! descends from it, in whichever process groups and sessions they are, and removes the folder it was told to remove.
//!
//! It prints `started <pid>`, and when the program ends `code <n>` or `signal <n>`.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};

/// How long a program that is asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long killing, reaping and removing may take before it is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Parser)]
struct Options {
    /// Where the program's output is appended.
    #[arg(long, required_unless_present = "remove")]
    log: Option<PathBuf>,
    /// Ask the program to end by this signal first: INT, QUIT or TERM.
    #[arg(long)]
    end_with: Option<String>,
    /// The user that it runs as.
    #[arg(long, requires = "group")]
    user: Option<u32>,
    /// The group that it runs as.
    #[arg(long, requires = "user")]
    group: Option<u32>,
    /// A folder to remove at the end.
    #[arg(long)]
    remove: Option<PathBuf>,
    /// The program and its arguments; none when only a folder is to be removed.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, requires = "log")]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("failed {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    // Descendants whose parent is gone become our children, so none escapes by forking twice.
    set_child_subreaper(Some(getpid())).context("cannot adopt orphans")?;
    let program = start(options)?;
    if let Some(program) = program {
        say(format_args!("started {}", program.as_raw_nonzero()));
        thread::spawn(move || reap(program));
    }
    read_to_the_end(io::stdin());
    if let Some(program) = program {
        end(options, program);
    }
    if let Some(folder) = &options.remove {
        remove(folder)?;
    }
    Ok(())
}

/// Nobody may be left to read it.
fn say(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{what}");
}

fn start(options: &Options) -> Result<Option<Pid>> {
    let (Some(log), Some((program, args))) = (&options.log, options.command.split_first()) else {
        return Ok(None);
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .context("cannot open the log")?;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    if let (Some(user), Some(group)) = (options.user, options.group) {
        command.uid(user).gid(group);
    }
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

/// Reaps the program and every adopted descendant for as long as this process lives.
fn reap(program: Pid) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == program => say_how_it_ended(status),
            Ok(_) => {}
            // No child is left now; the end of a pause is soon enough to see one that is adopted later.
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    }
}

fn say_how_it_ended(status: WaitStatus) {
    if let Some(code) = status.exit_status() {
        say(format_args!("code {code}"));
    } else if let Some(signal) = status.terminating_signal() {
        say(format_args!("signal {signal}"));
    }
}

fn read_to_the_end(mut input: impl Read) {
    let mut buffer = [0; 64];
    while !matches!(input.read(&mut buffer), Ok(0) | Err(_)) {}
}

fn end(options: &Options, program: Pid) {
    let signal = match options.end_with.as_deref() {
        Some("INT") => Some(Signal::INT),
        Some("QUIT") => Some(Signal::QUIT),
        Some("TERM") => Some(Signal::TERM),
        _ => None,
    };
    if let Some(signal) = signal
        && descendants().contains(&program)
    {
        let _ = kill_process(program, signal);
        wait_while(GRACE, || descendants().contains(&program));
    }
    wait_while(GIVE_UP_AFTER, || {
        let left = descendants();
        for pid in &left {
            let _ = kill_process(*pid, Signal::KILL);
        }
        !left.is_empty()
    });
}

fn wait_while(at_most: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while condition() && started.elapsed() < at_most {
        thread::sleep(LOOK_EVERY);
    }
}

/// All processes that descend from this one, ended ones that are not yet reaped included.
fn descendants() -> Vec<Pid> {
    let parents: Vec<(Pid, Pid)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((Pid::from_raw(pid)?, parent_of(pid)?))
        })
        .collect();
    let mut family = vec![getpid()];
    let mut seen = 0;
    while seen < family.len() {
        let parent = family[seen];
        family.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        seen += 1;
    }
    family.split_off(1)
}

/// The fourth field of `/proc/<pid>/stat`; the second is a name in parentheses that may hold anything.
fn parent_of(pid: i32) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    Pid::from_raw(after_name.split_whitespace().nth(1)?.parse().ok()?)
}

/// Other guards may still be ending programs that write into the folder, so it is tried for a while.
fn remove(folder: &Path) -> Result<()> {
    let mut last = Ok(());
    wait_while(GIVE_UP_AFTER, || {
        last = match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        last.is_err()
    });
    last.with_context(|| format!("cannot remove {}", folder.display()))
}
