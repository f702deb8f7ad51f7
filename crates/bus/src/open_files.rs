//! The limit of open files (`ulimit -n`), which the connections of a process reach first, and the errors of a process that has
//! reached it: they say nothing about whoever it wanted to reach.

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{error::Error, fs::File, io, sync::OnceLock};

/// The process's other files: NATS, Postgres, logs, its children's pipes.
const OTHER_FILES: u64 = 256;
/// What is tried in turn where the hard limit can't be the soft one, as on macOS.
const LARGE_LIMITS: [u64; 3] = [1 << 20, 65_536, 10_240];

/// The soft limit with which the process was started.
static FIRST: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit to the hard one, and returns it; `None` if there is none.
///
/// The usual soft limit of 1,024 exists for programs that use `select`; we don't. Commands may, so they get the first one back
/// ([`lower_to`]).
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    FIRST.get_or_init(|| limit.current);
    let soft = limit.current?;
    let wishes = limit.maximum.into_iter().chain(LARGE_LIMITS);
    let mut wishes = wishes.filter(|wish| *wish > soft && limit.maximum.is_none_or(|hard| *wish <= hard));
    let raised = wishes.find(|wish| {
        let wish = Rlimit {
            current: Some(*wish),
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, wish).is_ok()
    });
    raised.or(Some(soft))
}

/// The soft limit from before [`raise_limit`], if there was one.
#[must_use]
pub fn first_limit() -> Option<u64> {
    FIRST.get().copied().flatten()
}

/// Lowers the soft limit again, for the commands that this process starts.
pub fn lower_to(soft: u64) {
    let limit = Rlimit {
        current: Some(soft),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    // It is only lowered, which is always allowed.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// For how many of `connections` a limit has room.
#[must_use]
pub fn room_within(limit: Option<u64>, connections: usize) -> usize {
    let Some(files) = limit else { return connections };
    // Under a very low limit, half of the files.
    let room = files.saturating_sub(OTHER_FILES).max(files / 2).max(1);
    usize::try_from(room).unwrap_or(usize::MAX).min(connections)
}

/// The limit that `error` shows to be reached, in words; `None` for every other error.
#[must_use]
pub fn reached_in(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let number = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        match number.map(Errno::from_raw_os_error) {
            Some(Errno::MFILE) => return Some(of_process()),
            Some(Errno::NFILE) => {
                return Some("the agent's machine has reached its limit of open files".to_owned());
            }
            _ => cause = error.source(),
        }
    }
    None
}

/// The same right now, for a failure whose error doesn't tell: of names that can't be resolved, for example.
#[must_use]
pub fn reached_now() -> Option<String> {
    reached_in(&File::open("/dev/null").err()?)
}

fn of_process() -> String {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
    format!("the agent has reached its limit{limit} open files (`ulimit -n`)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        assert_eq!(room_within(Some(20_000), 10_000), 10_000);
        assert_eq!(room_within(Some(1_024), 10_000), 768);
        assert_eq!(room_within(Some(100), 10_000), 50);
        assert_eq!(room_within(Some(0), 10_000), 1);
        assert_eq!(room_within(None, 10_000), 10_000);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let (soft, hard) = (raise_limit(), getrlimit(Resource::Nofile).maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, soft);
        assert!(hard.is_none() || soft == hard, "{soft:?} of {hard:?}");
    }

    #[test]
    fn only_an_error_of_the_limit_shows_it_whatever_it_is_wrapped_in() {
        #[derive(Debug, thiserror::Error)]
        #[error("no connection")]
        struct Wrapped(#[source] io::Error);
        let of_kernel = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for (errno, found) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::CONNREFUSED, false),
            (Errno::TIMEDOUT, false),
        ] {
            let reached = reached_in(&Wrapped(of_kernel(errno)));
            assert_eq!(reached.is_some(), found, "{errno}: {reached:?}");
            assert!(reached.is_none_or(|why| why.contains("limit of")));
        }
        assert_eq!(reached_now(), None);
    }
}
