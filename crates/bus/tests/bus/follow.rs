//! Following the journal: every commit once and in order, whatever happens to the server, the stream or the reader.

use crate::events::{PATIENCE, Stored, agent_key, commit, jetstream, journal, named, stored};
use futures::FutureExt;
use reveille_bus::{
    BusError, Checkpoint, Connection, Follow, Followed, Follower, JOURNAL_STREAM, Journal, JournalEntry,
    commit::CommitHash, ensure_streams,
};
use std::time::{Duration, Instant};
use tokio::time::timeout;

async fn next(follower: &mut Follower) -> Followed {
    timeout(PATIENCE, follower.next())
        .await
        .expect("something in time")
        .unwrap()
}

async fn next_commit(follower: &mut Follower) -> JournalEntry {
    loop {
        match next(follower).await {
            Followed::Commit(entry) => return entry,
            Followed::CaughtUp { .. } | Followed::Interrupted => {}
            Followed::Reset => panic!("the journal is the one it was"),
        }
    }
}

/// What is told up to and with the next `CaughtUp`: whether a reset, which commits, and the sequence at the end.
async fn caught_up(follower: &mut Follower) -> (bool, Vec<u64>, u64) {
    let (mut reset, mut sequences) = (false, vec![]);
    loop {
        match next(follower).await {
            Followed::Reset => {
                assert!(
                    sequences.is_empty(),
                    "a reset comes before what it is followed by"
                );
                reset = true;
            }
            Followed::Commit(entry) => sequences.push(entry.sequence),
            Followed::Interrupted => {}
            Followed::CaughtUp { sequence } => return (reset, sequences, sequence),
        }
    }
}

/// Deletes the journal and makes it anew, with `commits` commits.
async fn replace(connection: &Connection, journal: &Journal, commits: usize) {
    let js = jetstream(connection);
    js.delete_stream(JOURNAL_STREAM).await.unwrap();
    ensure_streams(&js).await.unwrap();
    for _ in 0..commits {
        commit(journal, &agent_key()).await;
    }
}

fn checkpoint(stored: &Stored) -> Checkpoint {
    Checkpoint {
        sequence: stored.sequence,
        hash: stored.hash(),
    }
}

#[tokio::test]
async fn the_latest_commit_of_each_aggregate_comes_first_and_then_everything() {
    let (_nats, connection, journal) = journal().await;
    let mut follower = Follower::new(&connection, Follow::Latest);
    assert_eq!(
        caught_up(&mut follower).await,
        (true, vec![], 0),
        "an empty journal"
    );
    let (one, two) = (named("one"), named("two"));
    for id in [&one, &two, &one, &two, &agent_key(), &one] {
        commit(&journal, id).await;
    }
    for sequence in 1..=6 {
        assert_eq!(next_commit(&mut follower).await.sequence, sequence);
    }
    let mut follower = Follower::new(&connection, Follow::Latest);
    assert_eq!(caught_up(&mut follower).await, (true, vec![4, 5, 6], 6));
    commit(&journal, &two).await;
    let entry = next_commit(&mut follower).await;
    let all = stored(&connection).await;
    assert_eq!(
        (entry.sequence, entry.hash, &entry.subject),
        (7, all[6].hash(), &two.subject())
    );
    assert_eq!(entry.payload, all[6].payload);
    assert_eq!(entry.commit.unwrap().0, two);
    assert!(entry.stored_at.as_millis() > 1_700_000_000_000);
}

#[tokio::test]
async fn a_checkpoint_is_followed_by_everything_behind_it() {
    let (_nats, connection, journal) = journal().await;
    for _ in 0..5 {
        commit(&journal, &agent_key()).await;
    }
    let all = stored(&connection).await;
    let mut follower = Follower::new(&connection, Follow::After(None));
    assert_eq!(caught_up(&mut follower).await, (false, vec![1, 2, 3, 4, 5], 5));
    let mut follower = Follower::new(&connection, Follow::After(Some(checkpoint(&all[2]))));
    assert_eq!(caught_up(&mut follower).await, (false, vec![4, 5], 5));
    let mut follower = Follower::new(&connection, Follow::After(Some(checkpoint(&all[4]))));
    assert_eq!(caught_up(&mut follower).await, (false, vec![], 5));
    assert_eq!(
        commit(&journal, &agent_key()).await,
        next_commit(&mut follower).await.sequence
    );

    let forged = [(3, CommitHash::of(b"another")), (9, all[4].hash())];
    for (sequence, hash) in forged {
        let mut follower = Follower::new(&connection, Follow::After(Some(Checkpoint { sequence, hash })));
        for _ in 0..2 {
            let told = timeout(PATIENCE, follower.next()).await.unwrap();
            assert!(
                matches!(told, Err(BusError::Diverged { seq }) if seq == sequence),
                "{told:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_poisonous_message_is_told_and_stops_nothing() {
    let (nats, connection, journal) = journal().await;
    let raw = nats.connect().await;
    for subject in [
        "reveille.events.provider.gpu-box.vllm",
        "reveille.events.unheard.of",
    ] {
        raw.request(subject, "poison".into()).await.unwrap();
    }
    commit(&journal, &agent_key()).await;
    let mut follower = Follower::new(&connection, Follow::After(None));
    for (sequence, readable) in [(1, false), (2, false), (3, true)] {
        let entry = next_commit(&mut follower).await;
        assert_eq!((entry.sequence, entry.commit.is_ok()), (sequence, readable));
        assert_eq!(entry.archived().raw.unwrap().payload, entry.payload);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_followers_no_commit() {
    let (mut nats, connection, journal) = journal().await;
    let mut latest = Follower::new(&connection, Follow::Latest);
    let mut after = Follower::new(&connection, Follow::After(None));
    caught_up(&mut latest).await;
    caught_up(&mut after).await;
    // The latest of each aggregate is enough at the start only: from then on each commit is told.
    let mut expected = 0;
    for down in [0, 3] {
        commit(&journal, &agent_key()).await;
        nats.kill9();
        tokio::time::sleep(Duration::from_secs(down)).await;
        nats.restart().await;
        let back = Instant::now();
        commit(&journal, &agent_key()).await;
        for follower in [&mut latest, &mut after] {
            for sequence in expected + 1..=expected + 2 {
                assert_eq!(next_commit(follower).await.sequence, sequence);
            }
        }
        println!(
            "after {down} s down, a commit and both followers took {:?}",
            back.elapsed()
        );
        expected += 2;
    }
}

#[tokio::test]
async fn a_replaced_journal_begins_anew_or_diverges_although_it_reuses_sequences() {
    let (_nats, connection, journal) = journal().await;
    for _ in 0..3 {
        commit(&journal, &agent_key()).await;
    }
    // Shorter than what was seen, as long, and longer.
    for commits in [1, 3, 6] {
        let last = stored(&connection).await.last().unwrap().clone();
        let mut latest = Follower::new(&connection, Follow::Latest);
        let mut after = Follower::new(&connection, Follow::After(Some(checkpoint(&last))));
        caught_up(&mut latest).await;
        caught_up(&mut after).await;
        replace(&connection, &journal, commits).await;
        let replaced = Instant::now();
        assert!(matches!(next(&mut latest).await, Followed::Interrupted));
        assert!(matches!(next(&mut latest).await, Followed::Reset));
        assert_eq!(next_commit(&mut latest).await.sequence, commits as u64);
        assert!(matches!(next(&mut after).await, Followed::Interrupted));
        let told = timeout(PATIENCE, after.next()).await.unwrap();
        assert!(
            matches!(told, Err(BusError::Diverged { seq }) if seq == last.sequence),
            "{told:?}"
        );
        println!("a replaced journal was noticed after {:?}", replaced.elapsed());
    }
}

/// A paused consumer still sends its signs of life: only the stream's head tells that something is missing.
#[tokio::test]
async fn a_consumer_that_falls_silent_is_noticed() {
    let (nats, connection, journal) = journal().await;
    let mut follower = Follower::new(&connection, Follow::Latest);
    caught_up(&mut follower).await;
    let raw = nats.connect().await;
    let names = raw
        .request(format!("$JS.API.CONSUMER.NAMES.{JOURNAL_STREAM}"), "".into())
        .await
        .unwrap();
    let names = String::from_utf8(names.payload.to_vec()).unwrap();
    let (_, rest) = names.split_once(r#""consumers":[""#).expect("a consumer");
    let (name, _) = rest.split_once('"').unwrap();
    let paused = raw
        .request(
            format!("$JS.API.CONSUMER.PAUSE.{JOURNAL_STREAM}.{name}"),
            r#"{"pause_until":"2999-01-01T00:00:00Z"}"#.into(),
        )
        .await
        .unwrap();
    let paused = String::from_utf8(paused.payload.to_vec()).unwrap();
    assert!(paused.contains(r#""paused":true"#), "{paused}");
    let sequence = commit(&journal, &agent_key()).await;
    let started = Instant::now();
    // The reader is also dropped and taken up again all the time, as in a `select!`.
    let entry = loop {
        if let Ok(Ok(Followed::Commit(entry))) = timeout(Duration::from_millis(100), follower.next()).await {
            break entry;
        }
        assert!(started.elapsed() < PATIENCE, "nobody noticed");
    };
    println!("a silent consumer was noticed after {:?}", started.elapsed());
    assert_eq!(entry.sequence, sequence);
}

#[tokio::test]
async fn a_deleted_consumer_is_made_again() {
    let (_nats, connection, journal) = journal().await;
    let mut follower = Follower::new(&connection, Follow::Latest);
    caught_up(&mut follower).await;
    let stream = jetstream(&connection).get_stream(JOURNAL_STREAM).await.unwrap();
    let names: Vec<_> = futures::TryStreamExt::try_collect(stream.consumer_names())
        .await
        .unwrap();
    let [name]: [String; 1] = names.try_into().unwrap();
    stream.delete_consumer(&name).await.unwrap();
    let sequence = commit(&journal, &agent_key()).await;
    assert_eq!(next_commit(&mut follower).await.sequence, sequence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_dropped_at_every_await_loses_nothing() {
    const COMMITS: u64 = 300;
    let (_nats, connection, journal) = journal().await;
    let writer = tokio::spawn(async move {
        for _ in 0..COMMITS {
            commit(&journal, &agent_key()).await;
        }
    });
    let mut follower = Follower::new(&connection, Follow::After(None));
    let (mut seen, started) = (0, Instant::now());
    while seen < COMMITS {
        assert!(started.elapsed() < PATIENCE, "only {seen} commits came");
        // Dropped at its first await, or soon after.
        let told = match follower.next().now_or_never() {
            Some(told) => told,
            None => match timeout(Duration::from_micros(500), follower.next()).await {
                Ok(told) => told,
                Err(_) => continue,
            },
        };
        if let Followed::Commit(entry) = told.unwrap() {
            seen += 1;
            assert_eq!(entry.sequence, seen);
        }
    }
    writer.await.unwrap();
}
