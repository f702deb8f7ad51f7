//! Many writers at once: one wins each commit, and nothing is decided twice.

use crate::events::{
    PATIENCE, agent_key, check, commit, connect, jetstream, journal, meta, named, open, provider_key,
    register, request_wake, stored,
};
use cqrs_es::Aggregate;
use futures::future::join_all;
use reveille_bus::{AggregateId, BusError, CommandError, Executed, Journal, ensure_streams};
use reveille_domain::{Agent, Provider, ProviderEvent, Status};
use reveille_tests::{Nats, wait_until};
use std::{collections::HashSet, error::Error};

/// Journals over connections of their own, as replicas have them.
async fn replicas(nats: &Nats, count: usize) -> Vec<Journal> {
    let connections = (0..count).map(|_| async { Journal::new(open(&nats.url()).await.jetstream()) });
    join_all(connections).await
}

/// Asks for the wake until it is decided.
async fn ask_for_wake(journal: &Journal, id: &AggregateId) -> Executed<Provider> {
    loop {
        let asked = journal.execute::<Provider>(id, request_wake(), &meta(10)).await;
        if let Some(done) = decided(asked) {
            return done;
        }
    }
}

/// Begins a session, which is one however often it is tried.
async fn begin_session(journal: &Journal, id: &AggregateId) -> Executed<Agent> {
    let meta = meta(0);
    loop {
        if let Some(done) = decided(journal.execute::<Agent>(id, connect(), &meta).await) {
            return done;
        }
    }
}

/// `None` if it is to be tried again: on a busy machine NATS may answer too late, or too many others be first.
fn decided<A: Aggregate, E: Error>(result: Result<Executed<A>, CommandError<E>>) -> Option<Executed<A>> {
    match result {
        Err(CommandError::Bus(BusError::Unavailable(_) | BusError::Busy(_))) => None,
        done => Some(done.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixteen_first_commits_one_is_the_first_and_all_are_decided() {
    let (nats, connection, _) = journal().await;
    let journals = replicas(&nats, 16).await;
    let id = agent_key();
    // Each is another session, so each ends as a commit of its own or not at all.
    let executed = journals.iter().map(|journal| begin_session(journal, &id));
    let executed = tokio::time::timeout(PATIENCE, join_all(executed)).await.unwrap();
    let sequences: HashSet<_> = executed.iter().map(|done| done.sequence).collect();
    let epochs: HashSet<_> = executed.iter().map(|done| done.state.epoch()).collect();
    assert_eq!(
        (sequences.len(), epochs.len()),
        (16, 16),
        "each sequence has one winner"
    );
    let all = stored(&connection).await;
    assert_eq!(all.len(), 16);
    check(&all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_through_four_replicas_share_one_wake() {
    let (nats, connection, journal) = journal().await;
    let id = provider_key();
    commit(&journal, &id).await;
    let journals = replicas(&nats, 4).await;
    let asked = (0..1000).map(|index| {
        let (journal, id) = (journals[index % 4].clone(), id.clone());
        tokio::spawn(async move { ask_for_wake(&journal, &id).await })
    });
    let asked = tokio::time::timeout(PATIENCE, join_all(asked)).await.unwrap();
    let mut wakes = HashSet::new();
    let mut requested = 0;
    for done in asked {
        let done = done.unwrap();
        requested += done.events.len();
        let Provider::Registered(provider) = done.state else {
            panic!("{:?}", done.state)
        };
        let Status::Waking { wake, .. } = provider.status else {
            panic!("{:?}", provider.status)
        };
        wakes.insert(wake.id);
    }
    assert_eq!((wakes.len(), requested), (1, 1), "everybody joins the same wake");
    let all = stored(&connection).await;
    let is_request = |event: &ProviderEvent| matches!(event, ProviderEvent::WakeRequested { .. });
    let requests = all
        .iter()
        .flat_map(|stored| stored.provider().events)
        .filter(is_request);
    assert_eq!(requests.count(), 1);
    check(&all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_decides_races_as_one_server_does() {
    let nodes = Nats::start_cluster().await;
    let connections = join_all(nodes.iter().map(|node| async { open(&node.url()).await })).await;
    wait_until("the streams are there", PATIENCE, async || {
        ensure_streams(&connections[0].jetstream()).await.ok()
    })
    .await;
    for name in [reveille_bus::JOURNAL_STREAM, reveille_bus::HEARTBEATS_STREAM] {
        let stream = jetstream(&connections[0]).get_stream(name).await.unwrap();
        assert_eq!(stream.cached_info().config.num_replicas, 3, "{name}");
    }
    let journals: Vec<_> = connections.iter().map(|c| Journal::new(c.jetstream())).collect();
    let agents = (0..24).map(async |index: usize| begin_session(&journals[index % 3], &agent_key()).await);
    let agents = tokio::time::timeout(PATIENCE, join_all(agents)).await.unwrap();
    let sequences: HashSet<_> = agents.iter().map(|done| done.sequence).collect();
    assert_eq!(sequences.len(), 24);

    let id = named("shared");
    journals[0]
        .execute::<Provider>(&id, register(&id), &meta(0))
        .await
        .unwrap();
    let asked = (0..100).map(async |index: usize| ask_for_wake(&journals[index % 3], &id).await);
    let asked = tokio::time::timeout(PATIENCE, join_all(asked)).await.unwrap();
    assert_eq!(asked.iter().map(|done| done.events.len()).sum::<usize>(), 1);
    let all = stored(&connections[0]).await;
    assert_eq!(all.len(), 26);
    check(&all);
}

/// The journal must know each of them: while the winner is under way, and once it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_has_two_codes_for_a_lost_race() {
    let nodes = Nats::start_cluster().await;
    let connection = open(&nodes[0].url()).await;
    wait_until("the streams are there", PATIENCE, async || {
        ensure_streams(&connection.jetstream()).await.ok()
    })
    .await;
    let client = connection.client();
    let append = async |subject: String| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
        let answer = client.request_with_headers(subject, headers, "x".into()).await;
        String::from_utf8(answer.unwrap().payload.to_vec()).unwrap()
    };
    let code = |answer: &String| {
        [10071, 10164]
            .into_iter()
            .find(|code| answer.contains(&code.to_string()))
    };
    let mut codes = HashSet::new();
    for round in 0..50 {
        let subject = agent_key().subject() + &round.to_string();
        let mut answers = join_all((0..16).map(|_| append(subject.clone()))).await;
        answers.push(append(subject).await);
        let lost: Vec<_> = answers.iter().filter_map(code).collect();
        assert_eq!(
            lost.len(),
            16,
            "one of all wins, and losers are told by a known code: {answers:?}"
        );
        codes.extend(lost);
        if codes.len() == 2 {
            return;
        }
    }
    panic!("only {codes:?} were seen");
}
