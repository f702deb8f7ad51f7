//! The small process between the agent and one of its children: `reveille shim`.
//!
//! The agent may be killed by a signal that it can't catch, and a child may detach its own children. So the shim reads from a
//! pipe whose other end only the agent has, and is the reaper of everything below it: when the pipe closes, it ends the child
//! and all of its descendants, and exits only when all have ended.
//!
//! Standard input is that pipe. The shim waits for one line, the [`Launch`]. On standard output it writes its [`Report`]s: that
//! the child has started, or why not, and then how it has ended, with the end of what it has printed. The shim's exit code is
//! the child's.
//!
//! What is printed also goes to a file of the agent's, if the launch names one. The shim writes it, on a thread of its own, because it
//! lives as long as those who print.
//!
//! A child that should detach is the exception: once it has succeeded, what it has left behind lives on. The shim then goes on
//! only to read what is printed, for as long as anything holds the child's output open: it would be ended by writing to a pipe
//! that nobody reads.

use super::{
    descendants::{descendants, signal_all},
    launch::{Launch, Program},
    printed::Printed,
    report::{Exit, INTERPRETER_MISSING, MAX_LEFT, Report},
};
use crate::{output::Writer, processes::Running};
use reveille_bus::open_files;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};
use std::{
    io::{self, Write},
    os::fd::AsFd,
    process::{ExitCode, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::unix::pipe,
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    time::{Instant, sleep, timeout, timeout_at},
};

/// The exit code of a shim that was called wrongly or couldn't start its child.
const FAILED: u8 = 125;
/// What a shell adds to a signal's number to make it an exit code.
const SIGNAL_BASE: i32 = 128;
/// How often KILL is repeated while descendants live, since they may be forking.
const KILL_INTERVAL: Duration = Duration::from_millis(20);

/// Between TERM and KILL for the program that runs when the child has ended.
const END_GRACE: Duration = Duration::from_secs(1);
/// How long what a child leaves behind has to end by itself: many programs end a moment after their parent.
const SETTLES_WITHIN: Duration = Duration::from_millis(250);

/// `reveille shim`, from start to exit.
pub fn shim_main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(live())) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!(
                "reveille shim: only the agent can start this, through a pipe: {}",
                error.kind()
            );
            ExitCode::from(FAILED)
        }
    }
}

/// Reports to the agent. If nobody reads, the end of the pipe will tell.
fn say(report: &Report) {
    let line = serde_json::to_string(report).unwrap_or_default();
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn live() -> io::Result<u8> {
    become_reaper()?;
    // Subscribed before there is a child, whose end would be missed otherwise.
    let ends = signal(SignalKind::child())?;
    let mut agent = Agent::new()?;
    let Some(launch) = agent.launch().await? else {
        return Ok(0);
    };
    if let Some(limit) = launch.open_files {
        open_files::lower_to(limit);
    }
    // Released by the end of this process. The child runs even without it.
    let lock = launch.lock.as_ref().and_then(|lock| lock.share().ok());
    let (mut printed, output) = Printed::new(launch.writer())?;
    let input = if launch.held {
        io::stderr().as_fd().try_clone_to_owned()?.into()
    } else {
        Stdio::null()
    };
    let child = match launch.program.start(input, output) {
        Ok(child) => child,
        Err(error) => {
            let why = match error.kind() {
                io::ErrorKind::NotFound => INTERPRETER_MISSING.to_owned(),
                kind => kind.to_string(),
            };
            printed.note(format_args!("could not be started: {why}"));
            say(&Report::Failed(why));
            printed.close();
            return Ok(FAILED);
        }
    };
    say(&Report::Started(child.as_raw_pid()));
    printed.note(format_args!("started as process {child}"));

    let mut family = Family {
        child,
        status: None,
        ends,
        printed,
    };
    tokio::select! {
        () = family.child_ended() => {}
        () = agent.stop() => {
            family.printed.note("is stopped by the agent, or because the agent has ended");
            // The child may have succeeded before.
            family.reap();
        }
    }
    if family.has_succeeded() {
        if launch.detach {
            family.report();
            drop(lock);
            tokio::select! {
                () = family.nobody_prints() => {}
                () = signalled(&mut agent.signals) => {}
            }
            family.printed.close();
            return Ok(0);
        }
        // Either way the report says what is left.
        let _ = timeout(SETTLES_WITHIN, family.all_ended()).await;
    }
    // The agent hears of the end at once; the descendants may take longer.
    let told = family.report();
    family.end_all(launch.grace).await;
    if !told {
        family.report();
    }
    let code = family.exit_code();
    family.printed.close();
    if let Some((end, limit)) = &launch.end {
        family.run(end, *limit, launch.end_writer()).await;
    }
    Ok(code)
}

/// Makes orphans below us our children instead of the first process's.
fn become_reaper() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// The agent's pipe, and the signals that end a process.
struct Agent {
    pipe: BufReader<pipe::Receiver>,
    signals: [SignalStream; 3],
}

impl Agent {
    fn new() -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ];
        let [term, int, hup] = kinds.map(signal);
        Ok(Self {
            pipe: BufReader::new(pipe),
            signals: [term?, int?, hup?],
        })
    }

    /// What to start; `None` when the end comes first.
    async fn launch(&mut self) -> io::Result<Option<Launch>> {
        let mut line = Vec::new();
        tokio::select! {
            read = self.pipe.read_until(b'\n', &mut line) => read?,
            () = signalled(&mut self.signals) => return Ok(None),
        };
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Waits until the shim should end.
    async fn stop(&mut self) {
        tokio::select! {
            // The agent writes nothing but the launch, so any byte, like the end of the pipe, means stop.
            _ = self.pipe.read_u8() => {}
            () = signalled(&mut self.signals) => {}
        }
    }
}

async fn signalled([term, int, hup]: &mut [SignalStream; 3]) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hup.recv() => {}
    }
}

/// The child and its descendants.
struct Family {
    child: Pid,
    status: Option<WaitStatus>,
    ends: SignalStream,
    printed: Printed,
}

impl Family {
    /// Reaps ended processes; returns whether none is left. Orphans below us are our children, so with no child left there
    /// is no descendant left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.child => self.status = Some(status),
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Waits until some process may have ended, or some have printed something. Cancel-safe.
    async fn something(&mut self) {
        tokio::select! {
            _ = self.ends.recv() => {}
            () = self.printed.more() => {}
        }
    }

    async fn child_ended(&mut self) {
        loop {
            self.reap();
            if self.status.is_some() {
                return;
            }
            self.something().await;
        }
    }

    async fn all_ended(&mut self) {
        while !self.reap() {
            self.something().await;
        }
    }

    async fn nobody_prints(&mut self) {
        while !self.printed.has_ended() {
            self.something().await;
            self.reap();
        }
    }

    /// TERM, the grace, then KILL until none is left.
    async fn end_all(&mut self, grace: Duration) {
        if self.reap() {
            return;
        }
        signal_all(self.child, Signal::TERM);
        let patience = Instant::now() + grace;
        if timeout_at(patience, self.all_ended()).await.is_ok() {
            return;
        }
        loop {
            signal_all(self.child, Signal::KILL);
            tokio::select! {
                () = self.all_ended() => return,
                () = sleep(KILL_INTERVAL) => {}
            }
        }
    }

    /// Runs another program when all have ended.
    async fn run(&mut self, program: &Program, limit: Duration, writer: Option<Writer>) {
        let Ok((mut printed, output)) = Printed::new(writer) else {
            return;
        };
        match program.start(Stdio::null(), output) {
            Ok(child) => {
                printed.note(format_args!("started as process {child}"));
                (self.child, self.status, self.printed) = (child, None, printed);
            }
            Err(error) => {
                printed.note(format_args!("could not be started: {}", error.kind()));
                return printed.close();
            }
        }
        // The agent has been told how the child has ended, and isn't told about this.
        let in_time = timeout(limit, self.child_ended()).await.is_ok();
        self.end_all(END_GRACE).await;
        self.printed.catch_up();
        match self.exit() {
            Some(exit) if in_time => self.printed.note(exit),
            Some(_) | None => self
                .printed
                .note(format_args!("was ended: not done within {limit:?}")),
        }
        self.printed.close();
    }

    /// How the child ended, once it has.
    fn exit(&self) -> Option<Exit> {
        let status = self.status?;
        Some(match status.exit_status() {
            Some(code) => Exit::Code(code),
            None => Exit::Signal(status.terminating_signal().unwrap_or_default()),
        })
    }

    fn has_succeeded(&self) -> bool {
        self.status.and_then(WaitStatus::exit_status) == Some(0)
    }

    /// Reports how the child ended; returns whether it has.
    fn report(&mut self) -> bool {
        let Some(exit) = self.exit() else { return false };
        let left = descendants();
        let left = left.iter().take(MAX_LEFT).map(Running::process).collect();
        self.printed.catch_up();
        self.printed.note(exit);
        let printed = self.printed.text();
        say(&Report::Exited { exit, left, printed });
        true
    }

    fn exit_code(&self) -> u8 {
        let Some(status) = self.status else { return FAILED };
        let code = status
            .exit_status()
            .or(status.terminating_signal().map(|signal| SIGNAL_BASE + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
    }
}
