//! Outages of NATS in the middle of swaps: what the journal says afterwards of an agent's group.

use std::time::Duration;

use reveille_tests::{Api, assert_exclusive, wait_until};
use serde_json::json;
use tokio::time::sleep;

use crate::{archive::assert_sound, scene::SOON, sleeping::Shared};

const MODELS: [&str; 2] = ["a", "b"];

#[tokio::test]
async fn after_outages_in_the_middle_of_swaps_the_journal_has_one_awake_at_a_time() {
    swap_through_outages(4, Duration::from_millis(2_500), Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "slow: three minutes of outages"]
async fn after_three_minutes_of_outages_the_journal_has_one_awake_at_a_time() {
    swap_through_outages(18, Duration::from_secs(5), Duration::from_secs(5)).await;
}

/// Each time, both members are woken by a person, who doesn't wait, and NATS is away for `away` from the start of the first
/// one's backend on. Meanwhile that one comes up, is idle and sleeps, and nobody hears of it. Frozen, NATS delivers afterwards
/// what was sent to it; killed, it has lost that.
async fn swap_through_outages(outages: usize, away: Duration, pause: Duration) {
    let args = ["--boot-delay-ms", "200", "--token-delay-ms", "2"];
    let sleeping = "idle_after = \"200ms\"\nmin_awake = \"100ms\"\n";
    let mut shared = Shared::start(&MODELS, &args, "", sleeping).await;
    for outage in 0..outages {
        sleep(pause).await;
        let before: usize = shared.starts().0.iter().sum();
        for model in MODELS {
            request_wake(&shared.api, model).await;
        }
        wait_until("a backend is started", SOON, async || {
            (shared.starts().0.iter().sum::<usize>() > before).then_some(())
        })
        .await;
        let nats = &mut shared.world.nats;
        if outage % 2 == 0 {
            nats.process().sigstop();
            sleep(away).await;
            nats.process().sigcont();
        } else {
            nats.kill9();
            sleep(away).await;
            nats.restart().await;
        }
        for model in MODELS {
            wait_until("an answer after the outage", SOON, async || {
                (shared.api.chat(model).await.status == 200).then_some(())
            })
            .await;
        }
        for model in MODELS {
            let llm = format!("gpu-box/{model}");
            shared.api.wait_for_status(&llm, "hibernating", SOON).await;
        }
    }
    let (starts, collisions) = shared.starts();
    println!("{starts:?} starts");
    assert_eq!(collisions, 0, "never two at once");
    assert_exclusive(&shared.world.journal().await);
    assert_sound(&shared.world).await;
}

async fn request_wake(api: &Api, model: &str) {
    let path = format!("/reveille/v1/providers/gpu-box/{model}/wake");
    wait_until("a wake", SOON, async || {
        (api.post(&path, &json!({})).await.status == 202).then_some(())
    })
    .await;
}
