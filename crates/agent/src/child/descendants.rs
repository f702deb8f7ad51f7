//! Finds and signals all descendants of this process, detached ones included.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Sends `signal` to the group and to every descendant outside it.
pub(super) fn signal_all(group: Pid, signal: Signal) {
    // A group or process that has just ended is what we want; other errors can't be helped.
    let _ = kill_process_group(group, signal);
    for (pid, its_group) in descendants() {
        if its_group != group.as_raw_pid() {
            let _ = kill_process(pid, signal);
        }
    }
}

/// The living descendants of this process, with their groups. Orphans are among them, since this process is their reaper.
#[cfg(target_os = "linux")]
pub(super) fn descendants() -> Vec<(Pid, i32)> {
    let processes: Vec<Process> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| Process::read(&entry.ok()?.path()))
        .collect();
    let mut found: Vec<(Pid, i32)> = Vec::new();
    let mut parents = vec![rustix::process::getpid().as_raw_pid()];
    while let Some(parent) = parents.pop() {
        for process in processes.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid.as_raw_pid());
            if process.alive {
                found.push((process.pid, process.group));
            }
        }
    }
    found
}

/// On other systems only the first process can be a reaper, so only the group can be signalled.
#[cfg(not(target_os = "linux"))]
pub(super) fn descendants() -> Vec<(Pid, i32)> {
    Vec::new()
}

#[cfg(target_os = "linux")]
struct Process {
    pid: Pid,
    parent: i32,
    group: i32,
    alive: bool,
}

#[cfg(target_os = "linux")]
impl Process {
    /// Reads `/proc/<pid>/stat`: `pid (name) state parent group …`, where the name may contain anything.
    fn read(directory: &std::path::Path) -> Option<Self> {
        let pid = directory.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read(directory.join("stat")).ok()?;
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let mut fields = std::str::from_utf8(&stat[after_name..])
            .ok()?
            .split_ascii_whitespace();
        let alive = !matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        Some(Self {
            pid: Pid::from_raw(pid)?,
            parent,
            group,
            alive,
        })
    }
}
