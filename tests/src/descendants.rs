//! What runs below a process.

use std::fs;

/// The ids of all processes below `of`, read from `/proc`; those that ended and aren't reaped yet are among them.
pub fn descendants(of: u32) -> Vec<u32> {
    let mut found = children(of);
    let mut seen = 0;
    while let Some(parent) = found.get(seen).copied() {
        found.extend(children(parent));
        seen += 1;
    }
    found
}

fn children(of: u32) -> Vec<u32> {
    let mut found = Vec::new();
    // Each thread has a list of those that it started.
    for thread in fs::read_dir(format!("/proc/{of}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}
