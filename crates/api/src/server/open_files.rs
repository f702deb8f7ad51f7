//! Connections are open files, and the usual limit of those is lower than that of connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// The process's other files: NATS, Postgres, logs, its children's pipes.
const OTHER_FILES: u64 = 256;

/// Lets the process open as many files as `connections` need, and returns for how many connections there is room.
///
/// The usual soft limit of 1,024 exists for programs that use `select`; we don't.
pub(super) fn room_for(connections: usize) -> usize {
    let wanted = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHER_FILES);
    let limit = getrlimit(Resource::Nofile);
    let Some(soft) = limit.current.filter(|soft| *soft < wanted) else {
        return connections;
    };
    let raised = limit.maximum.map_or(wanted, |hard| hard.min(wanted));
    let wish = Rlimit {
        current: Some(raised),
        maximum: limit.maximum,
    };
    let files = setrlimit(Resource::Nofile, wish).map_or(soft, |()| raised);
    let room = room_within(files, connections);
    if room < connections {
        warn!(
            "the limit of {files} open files (ulimit -n) leaves room for {room} connections instead of {connections}"
        );
    }
    room
}

fn room_within(files: u64, connections: usize) -> usize {
    // Under a very low limit, half of the files.
    let room = files.saturating_sub(OTHER_FILES).max(files / 2).max(1);
    usize::try_from(room).unwrap_or(usize::MAX).min(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        assert_eq!(room_within(20_000, 10_000), 10_000);
        assert_eq!(room_within(1_024, 10_000), 768);
        assert_eq!(room_within(100, 10_000), 50);
        assert_eq!(room_within(0, 10_000), 1);
    }
}
