//! Replicas of different releases on one journal: what this one doesn't know it refuses, for that aggregate alone; what an
//! older one wrote it folds again.

use crate::events::{PATIENCE, commit, journal, meta, named, register, request_wake, stored};
use cqrs_es::Aggregate;
use reveille_bus::{
    AggregateId, BusError, CommandError, Connection, Executed, Follow, Followed, Follower, Journal,
    JournalEntry,
    commit::{AnyCommit, CommitError},
};
use reveille_domain::{Provider, Rejection, Status, rows::SourceBody};
use reveille_tests::Nats;

type Change = fn(&mut serde_json::Value);

/// Writes the last commit of `id` again as another release would have, behind itself.
async fn forge(
    nats: &Nats,
    connection: &Connection,
    id: &AggregateId,
    change: impl Fn(&mut serde_json::Value),
) -> u64 {
    let last = stored(connection)
        .await
        .into_iter()
        .rfind(|stored| stored.id() == *id)
        .unwrap();
    let mut body: serde_json::Value = serde_json::from_slice(&last.payload).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let next_event = number(&body["first_event_seq"]) + body["events"].as_array().unwrap().len() as u64;
    body["first_event_seq"] = next_event.into();
    body["aggregate_version"] = (number(&body["aggregate_version"]) + 1).into();
    body["prev"] = last.hash().to_string().into();
    body["command_id"] = uuid::Uuid::now_v7().to_string().into();
    change(&mut body);
    let payload = serde_json::to_vec(&body).unwrap();
    let raw = nats.connect().await;
    let answer = raw.request(id.subject(), payload.into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    number(&answer["seq"])
}

async fn wake(journal: &Journal, id: &AggregateId) -> Result<Executed<Provider>, CommandError<Rejection>> {
    journal.execute::<Provider>(id, request_wake(), &meta(10)).await
}

async fn asleep(journal: &Journal, name: &str) -> AggregateId {
    let id = named(name);
    commit(journal, &id).await;
    id
}

async fn next_commit(follower: &mut Follower) -> JournalEntry {
    loop {
        let told = tokio::time::timeout(PATIENCE, follower.next()).await.unwrap();
        if let Followed::Commit(entry) = told.unwrap() {
            return entry;
        }
    }
}

fn provider_state(entry: &JournalEntry) -> Provider {
    match &entry.commit {
        Ok((_, AnyCommit::Provider(commit))) => commit.state.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_newer_commit_closes_its_aggregate_to_commands_and_no_other() {
    let changes: [(&str, Change); 3] = [
        ("v 2", |body| body["v"] = 2.into()),
        ("state_version 2", |body| body["state_version"] = 2.into()),
        ("event version 2", |body| {
            body["events"][0]["version"] = "2".into();
        }),
    ];
    let (nats, connection, journal) = journal().await;
    let other = asleep(&journal, "other").await;
    let mut follower = Follower::new(&connection, Follow::Latest);
    next_commit(&mut follower).await;
    for (index, (says, change)) in changes.into_iter().enumerate() {
        let id = asleep(&journal, &format!("changed-{index}")).await;
        next_commit(&mut follower).await;
        let sequence = forge(&nats, &connection, &id, change).await;
        let refused = wake(&journal, &id).await;
        let Err(CommandError::Bus(BusError::Unreadable { aggregate, reason })) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(aggregate, id.to_string());
        assert!(
            reason.contains("newer version") && reason.contains(says),
            "{reason}"
        );
        assert_eq!(
            stored(&connection).await.len() as u64,
            sequence,
            "nothing was written"
        );
        let entry = next_commit(&mut follower).await;
        assert_eq!(entry.sequence, sequence);
        assert!(
            matches!(entry.commit, Err(CommitError::Newer { .. })),
            "{:?}",
            entry.commit
        );
        assert!(matches!(entry.row_source().body, SourceBody::Unreadable { .. }));
    }
    let woken = wake(&journal, &other).await.unwrap();
    assert_eq!(woken.events.len(), 1, "other aggregates go on");
}

#[tokio::test]
async fn a_readable_commit_after_a_newer_one_opens_the_aggregate_again() {
    let (nats, connection, journal) = journal().await;
    let id = asleep(&journal, "vllm").await;
    forge(&nats, &connection, &id, |body| body["v"] = 2.into()).await;
    wake(&journal, &id).await.unwrap_err();
    let readable = forge(&nats, &connection, &id, |body| body["v"] = 1.into()).await;
    let woken = wake(&journal, &id).await.unwrap();
    assert_eq!(woken.sequence, readable + 1);
}

#[tokio::test]
async fn a_state_of_an_older_format_is_folded_from_the_events() {
    let (nats, connection, journal) = journal().await;
    let id = asleep(&journal, "vllm").await;
    let mut follower = Follower::new(&connection, Follow::Latest);
    next_commit(&mut follower).await;
    let woken = wake(&journal, &id).await.unwrap();
    let mut right = woken.state.clone();
    next_commit(&mut follower).await;
    let old = |body: &mut serde_json::Value| {
        body["state_version"] = 0.into();
        body["state"] = serde_json::json!({ "an": "older format" });
    };
    // Three in a row, none with a state that this version reads.
    for _ in 0..3 {
        forge(&nats, &connection, &id, old).await;
        woken.events.iter().for_each(|event| right.apply(event.clone()));
        assert_eq!(provider_state(&next_commit(&mut follower).await), right);
    }
    let loaded = journal.load::<Provider>(&id).await.unwrap();
    assert_eq!(loaded.state(), &right);

    // Whoever begins with the last commit, or with the first, folds the same.
    for follow in [Follow::Latest, Follow::After(None)] {
        let mut fresh = Follower::new(&connection, follow);
        let last = loop {
            let entry = next_commit(&mut fresh).await;
            if entry.sequence == 5 {
                break entry;
            }
        };
        assert_eq!(provider_state(&last), right, "{follow:?}");
    }

    // The next command stands on it, and its commit carries the state as it is written today.
    let ended = reveille_domain::ProviderCommand::ExpireWake {
        wake_id: match &right {
            Provider::Registered(provider) => match &provider.status {
                Status::Waking { wake } => wake.id,
                status => panic!("{status:?}"),
            },
            state => panic!("{state:?}"),
        },
        at: crate::events::at(10_000),
    };
    let ended = journal
        .execute::<Provider>(&id, ended, &meta(10_000))
        .await
        .unwrap();
    assert_eq!(ended.events.len(), 1);
    assert_eq!(stored(&connection).await[5].provider().state, ended.state);
    assert_eq!(provider_state(&next_commit(&mut follower).await), ended.state);
}

#[tokio::test]
async fn an_older_state_behind_a_commit_that_cannot_be_read_is_not_guessed() {
    let (nats, connection, journal) = journal().await;
    let id = asleep(&journal, "vllm").await;
    let mut follower = Follower::new(&connection, Follow::Latest);
    next_commit(&mut follower).await;
    forge(&nats, &connection, &id, |body| body["v"] = 2.into()).await;
    next_commit(&mut follower).await;
    let older = |body: &mut serde_json::Value| {
        body["v"] = 1.into();
        body["state_version"] = 0.into();
    };
    forge(&nats, &connection, &id, older).await;
    let entry = next_commit(&mut follower).await;
    assert!(
        matches!(entry.commit, Err(CommitError::OlderState { found: 0, .. })),
        "{:?}",
        entry.commit
    );
    let refused = wake(&journal, &id).await.unwrap_err();
    assert!(
        matches!(refused, CommandError::Bus(BusError::Unreadable { .. })),
        "{refused}"
    );
    let registered = journal.execute::<Provider>(&id, register(&id), &meta(20)).await;
    assert!(registered.is_err(), "{registered:?}");
}
