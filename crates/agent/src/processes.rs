//! The processes of this machine, as `/proc` shows them. Other systems have no `/proc`, so nothing is found there.

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::{fmt, fs, path::Path};

/// A process as people are told about it: its number, and the kernel's short name of its program (15 bytes on Linux).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    pub program: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (process {})", self.program, self.pid)
    }
}

/// The most processes that a sentence names.
const NAMED: usize = 3;

/// A list for a sentence, such as "`a` (process 1) and 2 more".
pub(crate) fn listed(processes: &[Process]) -> String {
    let named: Vec<_> = processes.iter().take(NAMED).map(Process::to_string).collect();
    match processes.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// A living process and its place among the others.
pub(crate) struct Running {
    pub(crate) pid: Pid,
    pub(crate) group: i32,
    pub(crate) parent: i32,
    program: String,
}

impl Running {
    pub(crate) fn process(&self) -> Process {
        Process {
            pid: self.pid.as_raw_pid(),
            program: self.program.clone(),
        }
    }

    /// Reads `/proc/<pid>/stat`: `pid (name) state parent group …`, where the name may contain anything.
    fn read(folder: &Path) -> Option<(Self, bool)> {
        let pid = folder.file_name()?.to_str()?.parse().ok()?;
        let stat = fs::read(folder.join("stat")).ok()?;
        let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
        let name_begins = stat.iter().position(|byte| *byte == b'(')? + 1;
        let mut fields = std::str::from_utf8(&stat[name_ends + 1..])
            .ok()?
            .split_ascii_whitespace();
        let alive = !matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let running = Self {
            pid: Pid::from_raw(pid)?,
            group,
            program: printable(stat.get(name_begins..name_ends)?),
            parent,
        };
        Some((running, alive))
    }
}

/// Every living process that can be read.
pub(crate) fn living() -> impl Iterator<Item = Running> {
    all().filter_map(|(process, alive)| alive.then_some(process))
}

/// Every process, and whether it lives.
fn all() -> impl Iterator<Item = (Running, bool)> {
    let folders = fs::read_dir("/proc").into_iter().flatten();
    folders.filter_map(|folder| Running::read(&folder.ok()?.path()))
}

/// The living descendants of a process. Orphans are among them if it is their reaper.
pub(crate) fn descendants(of: i32) -> Vec<Running> {
    let mut others: Vec<_> = all().collect();
    let mut found = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        let children = others.extract_if(.., |(process, _)| process.parent == parent);
        for (process, alive) in children.collect::<Vec<_>>() {
            parents.push(process.pid.as_raw_pid());
            if alive {
                found.push(process);
            }
        }
    }
    found
}

/// The processes above a process, its parent first.
pub(crate) fn ancestors(of: i32) -> Vec<i32> {
    let parents: std::collections::HashMap<_, _> = all()
        .map(|(process, _)| (process.pid.as_raw_pid(), process.parent))
        .collect();
    let above = std::iter::successors(parents.get(&of), |pid| parents.get(pid));
    // What changes while it is read may look like a circle.
    above.copied().take(parents.len()).collect()
}

fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_three_processes_and_counts_the_rest() {
        let all: Vec<_> = (1..=5)
            .map(|pid| Process {
                pid,
                program: format!("p{pid}"),
            })
            .collect();
        assert_eq!(listed(&all[..1]), "`p1` (process 1)");
        assert_eq!(
            listed(&all),
            "`p1` (process 1), `p2` (process 2), `p3` (process 3) and 2 more"
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_child_is_found_below_its_parent_by_its_name() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("a child");
        let pid = i32::try_from(child.id()).expect("a pid");
        let found = descendants(rustix::process::getpid().as_raw_pid());
        let found: Vec<_> = found.iter().map(Running::process).collect();
        let own = rustix::process::getpid().as_raw_pid();
        assert_eq!(ancestors(pid).first(), Some(&own));
        child.kill().expect("ended");
        child.wait().expect("ended");
        let expected = Process {
            pid,
            program: "sleep".to_owned(),
        };
        assert!(found.contains(&expected), "{found:?}");
    }
}
