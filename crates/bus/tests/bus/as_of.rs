//! Everything as of a moment, as the server finds it.

use crate::events::{agent_key, commit, journal, named, provider, provider_key};
use reveille_domain::{
    Epoch, Timestamp,
    as_of::{Moment, World},
};
use std::time::Duration;

fn epoch(world: &World) -> Option<Epoch> {
    world.providers.get(&provider()).map(|known| known.state.epoch())
}

#[tokio::test]
async fn the_last_commit_of_each_aggregate_up_to_then_is_what_there_was() {
    let (_nats, connection, journal) = journal().await;
    for moment in [
        Moment::Sequence(0),
        Moment::Sequence(9),
        Moment::Time(Timestamp::from_millis(1)),
    ] {
        assert_eq!(journal.as_of(moment).await.unwrap(), World::default(), "{moment}");
    }
    commit(&journal, &agent_key()).await;
    let first = commit(&journal, &provider_key()).await;
    let second = commit(&journal, &provider_key()).await;
    let stream = connection
        .jetstream()
        .get_stream("REVEILLE_EVENTS")
        .await
        .unwrap();
    let stored = stream.get_raw_message(second).await.unwrap().time;
    let stored = u64::try_from(stored.unix_timestamp_nanos() / 1_000_000).unwrap();
    // The next one is stored in a later millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let last = commit(&journal, &provider_key()).await;
    for (moment, sequence, expected) in [
        (Moment::Sequence(1), 1, None),
        (Moment::Sequence(first), first, Some(Epoch(1))),
        (Moment::Sequence(second), second, Some(Epoch(2))),
        (Moment::Sequence(1_000), last, Some(Epoch(3))),
        (Moment::Time(Timestamp::from_millis(1)), 0, None),
        (
            Moment::Time(Timestamp::from_millis(stored)),
            second,
            Some(Epoch(2)),
        ),
        (
            Moment::Time(Timestamp::from_millis(stored + 3_600_000)),
            last,
            Some(Epoch(3)),
        ),
    ] {
        let world = journal.as_of(moment).await.unwrap();
        assert_eq!((world.sequence, epoch(&world)), (sequence, expected), "{moment}");
        assert_eq!(world.agents.len(), usize::from(sequence > 0), "{moment}");
    }
}

/// More aggregates than the server answers for at once.
#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn thousands_of_aggregates_are_found() {
    let (_nats, _connection, journal) = journal().await;
    for number in 0..1_500 {
        commit(&journal, &named(&format!("p{number}"))).await;
    }
    let world = journal.as_of(Moment::Sequence(1_400)).await.unwrap();
    assert_eq!((world.sequence, world.providers.len()), (1_400, 1_400));
}
