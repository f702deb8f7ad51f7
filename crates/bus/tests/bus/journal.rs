//! One writer and the journal: what a command leaves there, and what it never does.

use crate::events::{
    PATIENCE, agent_key, check, commit, connect, jetstream, journal, meta, named, open, provider_key,
    register, request_wake, settled, stored,
};
use futures::StreamExt;
use reveille_bus::{
    BusError, CommandError, CommitMeta, Expected, FACTS, Follow, Followed, Follower, JOURNAL_STREAM, Journal,
    JournalContext, JournalTrouble, commit::RECENT_COMMANDS,
};
use reveille_domain::{Agent, Epoch, Provider, ProviderCommand, Rejection, Timestamp};
use std::time::Duration;

#[tokio::test]
async fn commits_chain_by_hash_and_number_their_events_without_a_gap() {
    let (_nats, connection, journal) = journal().await;
    let ids = [agent_key(), named("one"), named("two")];
    for _ in 0..4 {
        for id in &ids {
            commit(&journal, id).await;
        }
    }
    let all = stored(&connection).await;
    assert_eq!(all.len(), 12);
    check(&all);
    for id in &ids {
        let subject = id.subject();
        let of_id: Vec<_> = all.iter().filter(|stored| stored.subject == subject).collect();
        assert_eq!(of_id.len(), 4);
    }
}

#[tokio::test]
async fn a_refused_or_needless_command_leaves_nothing() {
    let (_nats, connection, journal) = journal().await;
    let id = provider_key();
    let refused = journal.execute::<Provider>(&id, request_wake(), &meta(0)).await;
    assert!(
        matches!(refused, Err(CommandError::Rejected(Rejection::NotRegistered))),
        "{refused:?}"
    );
    let first = journal
        .execute::<Provider>(&id, register(&id), &meta(0))
        .await
        .unwrap();
    let again = journal
        .execute::<Provider>(&id, register(&id), &meta(1))
        .await
        .unwrap();
    assert_eq!((again.events.len(), again.sequence), (0, first.sequence));
    assert_eq!(again.state, first.state);
    assert_eq!(stored(&connection).await.len(), 1);
}

#[tokio::test]
async fn a_decision_on_what_is_known_is_made_again_when_that_is_not_the_last_commit() {
    let (_nats, connection, journal) = journal().await;
    let mut follower = Follower::new(&connection, Follow::Latest);
    let id = provider_key();
    let mut known = vec![];
    for command in [register(&id), request_wake()] {
        journal.execute::<Provider>(&id, command, &meta(0)).await.unwrap();
        known.push(last_commit(&mut follower).await);
    }
    let [registered, waking] = known.try_into().unwrap();

    // Its next commit is refused, and on the last one there is nothing to do.
    let joined = journal
        .execute_on(Some(registered), &id, request_wake(), &meta(0))
        .await
        .unwrap();
    assert_eq!((joined.events.len(), joined.sequence), (0, 2));
    assert_eq!(joined.state, *waking.state());

    let deregister = ProviderCommand::Deregister {
        epoch: Epoch(1),
        at: Timestamp::from_millis(1),
    };
    let gone = journal
        .execute_on(Some(waking.clone()), &id, deregister, &meta(0))
        .await
        .unwrap();
    assert_eq!(gone.sequence, 3);
    // Known to be waking, so that there is nothing to do, which isn't so.
    let refused = journal
        .execute_on(Some(waking), &id, request_wake(), &meta(0))
        .await;
    assert!(
        matches!(refused, Err(CommandError::Rejected(_))),
        "the provider is gone: {refused:?}"
    );
    // Known to be gone, so that it is refused, which isn't so.
    let known = last_commit(&mut follower).await;
    journal
        .execute::<Provider>(&id, register(&id), &meta(0))
        .await
        .unwrap();
    let woken = journal
        .execute_on(Some(known), &id, request_wake(), &meta(0))
        .await
        .unwrap();
    assert_eq!((woken.events.len(), woken.sequence), (1, 5));
    check(&stored(&connection).await);
}

/// What a command can be decided on after the next commit.
async fn last_commit(follower: &mut Follower) -> JournalContext<Provider> {
    loop {
        if let Followed::Commit(entry) = follower.next().await.unwrap() {
            return JournalContext::after(&entry).expect("a provider's");
        }
    }
}

#[tokio::test]
async fn a_command_that_comes_again_takes_effect_once() {
    let (_nats, connection, journal) = journal().await;
    let id = agent_key();
    let (command, meta_once) = (connect(), meta(0));
    let first = journal.execute::<Agent>(&id, command, &meta_once).await.unwrap();
    // As many other commands as are remembered come in between.
    for _ in 0..RECENT_COMMANDS {
        commit(&journal, &id).await;
    }
    // Another session, so that only the command's id can tell that it was there before.
    let command = connect();
    let again = journal.execute::<Agent>(&id, command, &meta_once).await.unwrap();
    assert!(again.events.is_empty());
    let all = stored(&connection).await;
    assert_eq!(all.len(), 1 + RECENT_COMMANDS);
    assert_eq!(again.sequence, all.len() as u64);
    assert_eq!(first.sequence, 1);
    assert!(
        all.iter()
            .all(|stored| stored.agent().recent_command_ids.len() <= RECENT_COMMANDS)
    );
    check(&all);
}

#[tokio::test]
async fn subscribers_hear_accepted_commits_only_with_their_sequence() {
    let (nats, _connection, journal) = journal().await;
    let raw = nats.connect().await;
    let mut facts = raw.subscribe(FACTS).await.unwrap();
    settled(&raw).await;
    let id = provider_key();
    let sequence = commit(&journal, &id).await;
    // A rival's append that stands on no commit: the server refuses it.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
    let refused = raw
        .request_with_headers(id.subject(), headers, "forged".into())
        .await
        .unwrap();
    let refused = String::from_utf8_lossy(&refused.payload).into_owned();
    assert!(refused.contains("10071"), "{refused}");
    let last = commit(&journal, &id).await;

    for expected in [sequence, last] {
        let fact = tokio::time::timeout(PATIENCE, facts.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(fact.subject.as_str(), "reveille.facts.provider.gpu-box.vllm");
        let headers = fact.headers.unwrap();
        assert_eq!(
            headers.get("Nats-Sequence").unwrap().as_str(),
            expected.to_string()
        );
        assert_eq!(
            headers.get("Reveille-Event-Types").unwrap().as_str(),
            "ProviderRegistered"
        );
    }
    let more = tokio::time::timeout(Duration::from_millis(200), facts.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn a_commit_that_this_version_cannot_read_stops_its_aggregate_alone() {
    let (nats, _connection, journal) = journal().await;
    let raw = nats.connect().await;
    for (name, poison) in [("newer", r#"{"v":2,"state_version":1}"#), ("broken", "poison")] {
        let id = named(name);
        raw.request(id.subject(), poison.into()).await.unwrap();
        let error = journal
            .execute::<Provider>(&id, register(&id), &meta(0))
            .await
            .unwrap_err();
        let CommandError::Bus(BusError::Unreadable { aggregate, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(aggregate, &format!("provider gpu-box/{name}"));
        assert!(
            error.to_string().contains("newer version") == (name == "newer"),
            "{error}"
        );
    }
    commit(&journal, &named("fine")).await;
}

#[tokio::test]
async fn a_commit_too_large_for_the_server_or_the_stream_is_refused_at_once() {
    let (_nats, connection, journal) = journal().await;
    let id = agent_key();
    let cause = "x".repeat(connection.client().max_payload());
    let large = CommitMeta::new(&cause, crate::events::at(0));
    let error = journal
        .execute::<Agent>(&id, connect(), &large)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CommandError::Bus(BusError::TooLarge { bytes }) if bytes > cause.len()),
        "{error:?}"
    );

    let js = jetstream(&connection);
    let mut config = js
        .get_stream(JOURNAL_STREAM)
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.max_message_size = 4096;
    js.update_stream(config).await.unwrap();
    let large = CommitMeta::new(&"x".repeat(5000), crate::events::at(0));
    let error = journal
        .execute::<Agent>(&id, connect(), &large)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CommandError::Bus(BusError::TooLarge { bytes }) if bytes > 5000),
        "{error:?}"
    );
    assert!(stored(&connection).await.is_empty());
}

#[tokio::test]
async fn a_full_journal_refuses_commits_and_keeps_what_it_has() {
    let (_nats, connection, journal) = journal().await;
    let first = commit(&journal, &named("kept")).await;
    let js = jetstream(&connection);
    let mut config = js
        .get_stream(JOURNAL_STREAM)
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    config.max_messages = 1;
    js.update_stream(config.clone()).await.unwrap();
    let id = named("refused");
    let refused = tokio::spawn({
        let (journal, id) = (journal.clone(), id.clone());
        async move { journal.execute::<Provider>(&id, register(&id), &meta(0)).await }
    });
    let error = refused.await.unwrap().unwrap_err();
    // It was refused: nobody needs to wonder whether it took effect.
    assert!(
        matches!(&error, CommandError::Bus(BusError::Journal(JournalTrouble::Full(reason))) if reason.contains("maximum")),
        "{error:?}"
    );
    let all = stored(&connection).await;
    assert_eq!(
        all.iter().map(|stored| stored.sequence).collect::<Vec<_>>(),
        [first]
    );
    config.max_messages = -1;
    js.update_stream(config).await.unwrap();
    commit(&journal, &id).await;
}

#[tokio::test]
async fn a_command_to_a_server_that_is_away_fails() {
    let (mut nats, _connection, journal) = journal().await;
    nats.kill9();
    let (id, meta) = (agent_key(), meta(0));
    let command = journal.execute::<Agent>(&id, connect(), &meta);
    let ended = tokio::time::timeout(PATIENCE, command).await;
    let error = ended.expect("an end").unwrap_err();
    assert!(
        matches!(error, CommandError::Bus(BusError::Unavailable(_))),
        "{error:?}"
    );
    nats.restart().await;
    commit(&journal, &agent_key()).await;
}

#[tokio::test]
async fn appends_name_the_commit_they_stand_on() {
    let (_nats, connection, journal) = journal().await;
    let id = provider_key();
    assert_eq!(
        journal.load::<Provider>(&id).await.unwrap().expected(),
        Expected::NoCommit
    );
    let sequence = commit(&journal, &id).await;
    assert_eq!(
        journal.load::<Provider>(&id).await.unwrap().expected(),
        Expected::After(sequence)
    );
    commit(&journal, &id).await;
    let stream = jetstream(&connection).get_stream(JOURNAL_STREAM).await.unwrap();
    for (sequence, stands_on) in [(1, "0"), (2, "1")] {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let header = message
            .headers
            .get("Nats-Expected-Last-Subject-Sequence")
            .unwrap();
        assert_eq!(header.as_str(), stands_on);
    }
}

/// Power loss is another test's matter; a killed server alone must forget nothing that it acknowledged.
#[tokio::test]
async fn acknowledged_commits_survive_a_killed_server_byte_for_byte() {
    let (mut nats, connection, journal) = journal().await;
    for _ in 0..20 {
        commit(&journal, &agent_key()).await;
    }
    let before = stored(&connection).await;
    nats.restart().await;
    let again = open(&nats.url()).await;
    let after = stored(&again).await;
    let bytes = |all: &[crate::events::Stored]| -> Vec<_> {
        all.iter()
            .map(|stored| (stored.sequence, stored.hash()))
            .collect()
    };
    assert_eq!(bytes(&before), bytes(&after));
    commit(&Journal::new(again.jetstream()), &agent_key()).await;
}

#[tokio::test]
async fn a_part_of_the_journal_is_read_to_its_end_and_no_further() {
    let (nats, _connection, journal) = journal().await;
    let (one, two) = (named("one"), named("two"));
    for id in [&one, &two, &one, &one] {
        commit(&journal, id).await;
    }
    for (after, of, expected) in [
        (0, None, vec![1, 2, 3, 4]),
        (2, None, vec![3, 4]),
        (4, None, vec![]),
        (9, None, vec![]),
        (0, Some(&one), vec![1, 3, 4]),
        (1, Some(&two), vec![2]),
        (2, Some(&two), vec![]),
        (0, Some(&agent_key()), vec![]),
    ] {
        let entries = journal.read(after, of).await.unwrap();
        let read = entries.map(|entry| entry.unwrap().sequence).collect::<Vec<_>>();
        let read = tokio::time::timeout(PATIENCE, read).await.expect("an end");
        assert_eq!(read, expected, "after {after} of {of:?}");
    }
    assert_eq!(journal.last_sequence().await.unwrap(), 4);
    // More than is on its way at once, so that a lost server is missed.
    for _ in 0..600 {
        commit(&journal, &agent_key()).await;
    }
    let entries = journal.read(0, None).await.unwrap();
    nats.kill9();
    let read = tokio::time::timeout(PATIENCE, entries.collect::<Vec<_>>()).await;
    let read = read.expect("an end, not a wait for the server");
    assert!(read.last().unwrap().is_err(), "{} were read", read.len());
}
