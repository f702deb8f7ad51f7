//! What the benchmarks measure with.

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the machine was started, by the clock that nobody sets: the same in all of its processes.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000;
    whole + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

/// How busy the machine was in the last 1, 5 and 15 minutes: how many tasks ran or wanted to.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
