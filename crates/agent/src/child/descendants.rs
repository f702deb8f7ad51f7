//! Signals the descendants of this process, detached ones included.

use crate::processes;
use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

/// Sends `signal` to the group and to every descendant outside it.
pub(super) fn signal_all(group: Pid, signal: Signal) {
    // A group or process that has just ended is what we want; other errors can't be helped.
    let _ = kill_process_group(group, signal);
    for descendant in descendants() {
        if descendant.group != group.as_raw_pid() {
            let _ = kill_process(descendant.pid, signal);
        }
    }
}

/// The living descendants of this process. Orphans are among them on Linux, where this process is their reaper; on other
/// systems none is found, so only the group can be signalled.
pub(super) fn descendants() -> Vec<processes::Running> {
    processes::descendants(getpid().as_raw_pid())
}
