use super::*;
use crate::relay::frame::{FRAME_OVERHEAD_BYTES, cost};
use proptest::prelude::*;

const POOL_BYTES: usize = 32 * 1024 * 1024;

#[test]
fn thousands_of_requests_that_wait_for_their_first_byte_fit() {
    let pool = Pool::new(POOL_BYTES);
    let mut open = Vec::new();
    while let Some(window) = Window::open(&pool) {
        open.push(window);
    }
    assert!(open.len() > 3900, "{} windows", open.len());
    assert!(pool.free() < MIN_WINDOW_BYTES);
    for mut window in open {
        window.close(&pool);
        window.close(&pool);
    }
    assert_eq!(pool.free(), POOL_BYTES);
}

#[test]
fn a_sender_that_uses_its_window_up_gets_a_larger_one() {
    let pool = Pool::new(POOL_BYTES);
    let mut window = Window::open(&pool).unwrap();
    let first = window.size();
    for _ in 0..8 {
        let spend = window.allowed() - window.received;
        assert!(window.receive(spend));
        window.consume(spend, &pool).unwrap();
    }
    assert_eq!(first, MAX_FIRST_WINDOW_BYTES);
    assert_eq!(window.size(), MAX_WINDOW_BYTES);
}

#[test]
fn a_slow_sender_keeps_its_window() {
    let pool = Pool::new(POOL_BYTES);
    let mut window = Window::open(&pool).unwrap();
    let first = window.size();
    for _ in 0..10_000 {
        assert!(window.receive(cost(200)));
        window.consume(cost(200), &pool);
    }
    assert_eq!(window.size(), first);
}

#[test]
fn an_ended_body_holds_only_what_waits_for_its_reader() {
    let pool = Pool::new(POOL_BYTES);
    let mut window = Window::open(&pool).unwrap();
    assert!(window.receive(cost(1000)));
    window.end(&pool);
    assert_eq!(pool.free(), POOL_BYTES - 1000 - FRAME_OVERHEAD_BYTES as usize);
    assert_eq!(window.consume(cost(1000), &pool), None);
    assert_eq!(pool.free(), POOL_BYTES);
}

#[test]
fn credit_totals_only_grow() {
    let mut credit = SendCredit::new(2000);
    credit.allow(1000);
    assert_eq!(credit.room(), 2000 - FRAME_OVERHEAD_BYTES as usize);
    credit.spend(cost(1000));
    credit.allow(2000);
    assert_eq!(credit.room(), 0);
}

/// One step of a request's life, for whichever of the open windows.
#[derive(Debug, Clone)]
enum Step {
    Open,
    Send { window: usize, bytes: usize },
    Read { window: usize },
    Close { window: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Open),
        8 => (any::<usize>(), 1..300_000usize).prop_map(|(window, bytes)| Step::Send { window, bytes }),
        8 => any::<usize>().prop_map(|window| Step::Read { window }),
        1 => any::<usize>().prop_map(|window| Step::Close { window }),
    ]
}

proptest! {
    /// The sender's credit never stalls for good, what is allowed stays within the pool, and all of it comes back.
    #[test]
    fn windows_stay_within_their_pool_and_never_stall(steps in proptest::collection::vec(step(), 1..400)) {
        let total = 1024 * 1024;
        let pool = Pool::new(total);
        let mut open: Vec<(Window, SendCredit, Vec<u64>)> = Vec::new();
        for step in steps {
            let count = open.len().max(1);
            match step {
                Step::Open => open.extend(Window::open(&pool).map(|window| {
                    let credit = SendCredit::new(window.allowed());
                    (window, credit, Vec::new())
                })),
                Step::Send { window, bytes } => if let Some((window, credit, waiting)) = open.get_mut(window % count) {
                    let sent = cost(bytes.min(credit.room()));
                    credit.spend(sent);
                    prop_assert!(window.receive(sent));
                    waiting.push(sent);
                },
                Step::Read { window } => if let Some((window, credit, waiting)) = open.get_mut(window % count) {
                    for sent in waiting.drain(..) {
                        window.consume(sent, &pool).into_iter().for_each(|total| credit.allow(total));
                    }
                    prop_assert!(credit.room() >= 1024, "a read-out window has {} bytes of room", credit.room());
                },
                Step::Close { window } => if window % count < open.len() {
                    open.swap_remove(window % count).0.close(&pool);
                },
            }
            let ahead: u64 = open.iter().map(|(window, ..)| window.allowed - window.consumed).sum();
            prop_assert!(ahead + pool.free() as u64 <= total as u64);
        }
        open.iter_mut().for_each(|(window, ..)| window.close(&pool));
        prop_assert_eq!(pool.free(), total);
    }
}
