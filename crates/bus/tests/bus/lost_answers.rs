//! Appends whose answer is lost: they are in the journal once or not at all, and the writer knows which.

use crate::{
    events::{PATIENCE, agent_key, check, commit, connect, jetstream, journal, meta, open, stored},
    proxy::{Lose, Proxy},
};
use reveille_bus::{BusError, CommandError, CommitMeta, Journal, commit::RECENT_COMMANDS};
use reveille_domain::{Agent, CommandId};
use std::{collections::HashMap, time::Instant};

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_found_by_its_command() {
    let (nats, direct, _) = journal().await;
    let proxy = Proxy::start(&nats.url()).await;
    let connection = open(&proxy.url()).await;
    let journal = Journal::new(connection.jetstream());
    let id = agent_key();
    // The first append of an aggregate, and a later one.
    for (round, losses) in [(1, 1), (2, 2)] {
        proxy.lose(Lose::Answer);
        let started = Instant::now();
        let command_meta = meta(0);
        let done = journal
            .execute::<Agent>(&id, connect(), &command_meta)
            .await
            .unwrap();
        println!(
            "an append whose answer was lost was found after {:?}",
            started.elapsed()
        );
        assert_eq!(proxy.lost(), losses);
        assert_eq!((done.sequence, done.events.len()), (round, 1));
        let all = stored(&direct).await;
        assert_eq!(all.len() as u64, round);
        assert_eq!(all.last().unwrap().agent().command_id, command_meta.command_id);
        check(&all);
    }
}

#[tokio::test]
async fn an_append_that_is_lost_is_tried_again() {
    let (nats, direct, _) = journal().await;
    let proxy = Proxy::start(&nats.url()).await;
    let connection = open(&proxy.url()).await;
    let journal = Journal::new(connection.jetstream());
    for round in 1..=2 {
        proxy.lose(Lose::Append);
        let done = journal
            .execute::<Agent>(&agent_key(), connect(), &meta(0))
            .await
            .unwrap();
        assert_eq!((u64::from(proxy.lost()), done.sequence), (round, round));
        let all = stored(&direct).await;
        assert_eq!(all.len() as u64, round);
        check(&all);
    }
}

#[tokio::test]
async fn a_lost_answer_is_known_although_others_went_on_in_between() {
    const OTHERS: usize = RECENT_COMMANDS + 4;
    let (nats, direct, rival) = journal().await;
    let proxy = Proxy::start(&nats.url()).await;
    let connection = open(&proxy.url()).await;
    let journal = Journal::new(connection.jetstream());
    let id = agent_key();
    proxy.lose(Lose::Answer);
    let command_meta = meta(0);
    let ours = tokio::spawn({
        let (id, command_meta) = (id.clone(), command_meta.clone());
        async move { journal.execute::<Agent>(&id, connect(), &command_meta).await }
    });
    reveille_tests::wait_until("the append is in the journal", PATIENCE, async || {
        (!stored(&direct).await.is_empty()).then_some(())
    })
    .await;
    // More than a commit remembers.
    for _ in 0..OTHERS {
        commit(&rival, &id).await;
    }
    let done = ours.await.unwrap().unwrap();
    assert_eq!(done.events.len(), 1);
    let all = stored(&direct).await;
    let is_ours = |id: CommandId| id == command_meta.command_id;
    assert_eq!(
        all.iter()
            .filter(|stored| is_ours(stored.agent().command_id))
            .count(),
        1
    );
    assert_eq!(all.len(), 1 + OTHERS);
    assert_eq!(done.sequence, 1);
    check(&all);
}

/// Runs commands without a pause while the server is killed and started again; then compares what the writer was told
/// with what the journal holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_writer_is_told_through_a_servers_death_is_what_the_journal_holds() {
    let (mut nats, connection, journal) = journal().await;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (journal, stopped) = (journal.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut told = vec![];
                while !*stopped.borrow() {
                    let meta = meta(0);
                    let done = journal.execute::<Agent>(&agent_key(), connect(), &meta).await;
                    told.push((meta, done.map(|done| done.sequence)));
                }
                told
            })
        })
        .collect();
    for _ in 0..2 {
        let before = stored(&connection).await.len();
        reveille_tests::wait_until("commits go on", PATIENCE, async || {
            let info = jetstream(&connection)
                .get_stream(reveille_bus::JOURNAL_STREAM)
                .await
                .ok()?;
            (info.cached_info().state.messages > before as u64 + 50).then_some(())
        })
        .await;
        nats.kill9();
        nats.restart().await;
    }
    commit(&journal, &agent_key()).await;
    stop.send_replace(true);
    let _ = stopped.changed().await;
    let mut told = vec![];
    for writer in writers {
        told.extend(writer.await.unwrap());
    }
    let all = stored(&connection).await;
    check(&all);
    let held: HashMap<CommandId, u64> = all.iter().map(|s| (s.agent().command_id, s.sequence)).collect();
    let (mut ok, mut unknown) = (0, 0);
    for (CommitMeta { command_id, .. }, told) in &told {
        match told {
            Ok(sequence) => {
                ok += 1;
                let at = held.get(command_id).expect("an acknowledged commit is there");
                assert_eq!(at, sequence);
            }
            Err(CommandError::Bus(BusError::Unknown(_))) => unknown += 1,
            Err(CommandError::Bus(BusError::Unavailable(_) | BusError::Busy(_))) => {
                assert!(
                    !held.contains_key(command_id),
                    "a command that failed left nothing"
                );
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!(
        "{} commands: {ok} done, {unknown} unknown, {} commits",
        told.len(),
        all.len()
    );
    assert!(ok > 100 && ok < all.len() + unknown + 1);
}
