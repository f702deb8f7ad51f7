//! The benchmarks that are quick enough to see whether they still measure. Their figures are nobody's promise here.

use reveille_tests::{Exit, Launch, World, nats_server, program};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn a_herd_shares_one_wake_and_all_of_it_is_answered_a_few_at_a_time() {
    let world = World::new().await;
    let args = ["--herd", "500", "--max-concurrency", "4", "--boot-ms", "20000"];
    let bench = Launch::new(program("bench-wake"), world.folder().join("bench.log"))
        .args(args)
        // A fifth above what each takes.
        .args(["--max-kb", "25"])
        .env("REVEILLE_TEST_NATS_SERVER", nats_server())
        .start();
    let exit = bench.wait_for_exit(PATIENCE).await;
    let printed = bench.log();
    assert_eq!(exit, Exit::Code(0), "{printed}");
    let figure = |part: &str| {
        let line = printed.lines().find_map(|line| line.strip_prefix(part));
        let figure = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
        figure.unwrap_or_else(|| panic!("no {part}: {printed}"))
    };
    let [wakes, answered, at_once] = ["wakes", "answered", "the most at the backend at once"].map(figure);
    assert_eq!([wakes, answered], [1, 500], "{printed}");
    // A busy machine may not get to use all four.
    assert!((1..=4).contains(&at_once), "{printed}");
}

#[tokio::test]
async fn the_benchmark_of_wakes_measures_every_part_of_one() {
    let world = World::new().await;
    let bench = Launch::new(program("bench-wake"), world.folder().join("bench.log"))
        .args(["--wakes", "3"])
        .env("REVEILLE_TEST_NATS_SERVER", nats_server())
        .start();
    let exit = bench.wait_for_exit(PATIENCE).await;
    let printed = bench.log();
    assert_eq!(exit, Exit::Code(0), "{printed}");
    let figures = |part: &str| -> Vec<f64> {
        let mut lines = printed.lines().map(str::trim);
        let line = lines.find_map(|line| line.strip_prefix(part));
        let line = line.unwrap_or_else(|| panic!("no {part}: {printed}"));
        line.split_whitespace()
            .filter_map(|figure| figure.parse().ok())
            .collect()
    };
    for part in [
        "request → recipe started",
        "backend ready → first byte",
        "backend ready → request at the backend",
        "request at the backend → first byte",
        "recipe started → backend ready (its boot)",
        "request → first byte (all of it)",
    ] {
        let figures = figures(part);
        assert_eq!(figures.len(), 3, "{part}: {printed}");
        assert!(figures.is_sorted() && figures[0] > 0.0, "{part}: {printed}");
    }
    let boot = figures("recipe started → backend ready (its boot)");
    assert!(boot[0] >= 50.0, "a boot takes 50 ms at least: {printed}");
}

#[tokio::test]
async fn the_benchmark_of_audits_writes_a_sound_archive() {
    let world = World::new().await;
    let bench = Launch::new(program("bench-audit"), world.folder().join("bench.log"))
        .args(["--commits", "5000"])
        .start();
    let exit = bench.wait_for_exit(PATIENCE).await;
    let printed = bench.log();
    assert_eq!(exit, Exit::Code(0), "{printed}");
    assert!(printed.contains("5000 commits, "), "{printed}");
}
