//! A journal that is gone: nothing is laid in its place while anything shows that there was one.

use crate::events::{PATIENCE, agent, agent_key, commit, jetstream, journal, open, stored};
use async_nats::jetstream::stream::DiscardPolicy;
use reveille_bus::{
    Beginning, BusError, Connection, Follow, Followed, Follower, HEARTBEATS_STREAM, HubId, JOURNAL_STREAM,
    Journal, JournalTrouble, NatsAccess, NatsClock, Refusals,
    access::Role,
    ensure_streams,
    heartbeats::{self, Heartbeat, HeartbeatWatch},
};
use reveille_domain::{Agent, Epoch, SessionId};
use reveille_tests::{Nats, wait_until};
use std::time::{Duration, Instant};
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

/// The follower of a whole process, which runs by itself.
struct Guard {
    connection: Connection,
    heard: mpsc::UnboundedReceiver<Result<Followed, BusError>>,
    task: JoinHandle<()>,
    /// Sends its canaries, if it is a replica.
    canaries: Option<JoinHandle<()>>,
}

impl Guard {
    async fn over(nats: &Nats, beginning: Beginning) -> Self {
        let connection = open(&nats.url()).await;
        let mut follower = Follower::guarding(&connection, Follow::Latest, beginning);
        let (tell, heard) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move { while tell.send(follower.next().await).is_ok() {} });
        Self {
            connection,
            heard,
            task,
            canaries: None,
        }
    }

    /// A replica of this name, which sends canaries.
    async fn replica(nats: &Nats, name: &str) -> Self {
        let beginning = Beginning {
            replica: Some(name.to_owned()),
            ..Beginning::default()
        };
        let mut guard = Self::over(nats, beginning).await;
        let (clock, refusals) = (NatsClock::default(), Refusals::default());
        let mut watch = HeartbeatWatch::new(&guard.connection, name, clock, &refusals);
        let canaries = tokio::spawn(async move {
            loop {
                watch.next().await;
            }
        });
        guard.canaries = Some(canaries);
        guard
    }

    /// Waits for the next report of this kind and returns the commits on the way.
    async fn until(&mut self, is_it: impl Fn(&Followed) -> bool) -> Vec<u64> {
        let mut sequences = vec![];
        loop {
            let told = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
            let told = told.expect("a report in time").unwrap().unwrap();
            if let Followed::Commit(entry) = &told {
                sequences.push(entry.sequence);
            }
            if is_it(&told) {
                return sequences;
            }
        }
    }

    async fn caught_up(&mut self) -> Vec<u64> {
        self.until(|told| matches!(told, Followed::CaughtUp { .. })).await
    }

    fn hub(&self) -> Option<HubId> {
        self.connection.health().hub()
    }

    /// Waits until the journal counts as lost, for a reason with these words.
    async fn lost(&self, words: &str) {
        let health = self.connection.health();
        wait_until(&format!("the journal {words}"), PATIENCE, async || {
            matches!(health.trouble(), Some(JournalTrouble::Lost(why)) if why.contains(words)).then_some(())
        })
        .await;
    }

    async fn found(&self) {
        let health = self.connection.health();
        wait_until("the journal was found", PATIENCE, async || {
            health.trouble().is_none().then_some(())
        })
        .await;
    }

    async fn exists(&self) -> bool {
        jetstream(&self.connection)
            .get_stream(JOURNAL_STREAM)
            .await
            .is_ok()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(canaries) = &self.canaries {
            canaries.abort();
        }
    }
}

#[tokio::test]
async fn a_journal_that_was_read_is_not_begun_again() {
    let (nats, connection, journal) = journal().await;
    for _ in 0..3 {
        commit(&journal, &agent_key()).await;
    }
    let mut guard = Guard::over(&nats, Beginning::default()).await;
    assert_eq!(guard.caught_up().await, [3]);
    let js = jetstream(&connection);
    js.delete_stream(JOURNAL_STREAM).await.unwrap();
    guard
        .lost("is gone, although its commits up to 3 were read")
        .await;
    // Nor by a command.
    let loaded = journal.load::<Agent>(&agent_key()).await;
    assert!(matches!(loaded, Err(BusError::NoStream { .. })), "{loaded:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!guard.exists().await);
    // Nor is an empty one taken for it.
    ensure_streams(&js).await.unwrap();
    guard.lost("is empty").await;
    // Another one, which somebody else has begun, is.
    for _ in 0..2 {
        commit(&journal, &agent_key()).await;
    }
    guard.until(|told| matches!(told, Followed::Reset)).await;
    assert_eq!(guard.caught_up().await.last(), Some(&2));
    guard.found().await;
    assert_eq!(stored(&connection).await.len(), 2);
}

#[tokio::test]
async fn a_hub_keeps_its_id_until_another_journal_takes_its_place() {
    let (mut nats, connection, journal) = journal().await;
    commit(&journal, &agent_key()).await;
    assert_eq!(connection.health().hub(), None, "nobody has looked yet");
    let mut replicas = [
        Guard::over(&nats, Beginning::default()).await,
        Guard::over(&nats, Beginning::default()).await,
    ];
    for replica in &mut replicas {
        replica.caught_up().await;
    }
    let id = replicas[0].hub().expect("an id");
    assert_eq!(replicas[1].hub(), Some(id));
    nats.restart().await;
    replicas[0].caught_up().await;
    let again = Guard::over(&nats, Beginning::default()).await;
    wait_until("the journal was found", PATIENCE, async || again.hub()).await;
    assert_eq!((replicas[0].hub(), again.hub()), (Some(id), Some(id)));

    let js = jetstream(&connection);
    js.delete_stream(JOURNAL_STREAM).await.unwrap();
    replicas[0].lost("is gone").await;
    assert_eq!(replicas[0].hub(), Some(id), "it is lost, not another one");
    ensure_streams(&js).await.unwrap();
    commit(&journal, &agent_key()).await;
    for replica in &replicas {
        wait_until("the other journal was found", PATIENCE, async || {
            replica.hub().filter(|hub| *hub != id)
        })
        .await;
    }
    assert_eq!(replicas[0].hub(), replicas[1].hub());
    assert_eq!(reveille_bus::hub_id(&js).await.unwrap(), replicas[0].hub());
}

#[tokio::test]
async fn a_journal_that_nobody_ever_had_is_begun() {
    let nats = Nats::start().await;
    let mut guard = Guard::over(&nats, Beginning::default()).await;
    guard.caught_up().await;
    assert!(guard.exists().await);
    // Nothing was in it, so nothing is lost.
    jetstream(&guard.connection)
        .delete_stream(JOURNAL_STREAM)
        .await
        .unwrap();
    guard.until(|told| matches!(told, Followed::Interrupted)).await;
    guard.caught_up().await;
    assert!(guard.exists().await);
    guard.found().await;
}

#[tokio::test]
async fn heartbeats_and_other_evidence_show_that_there_was_a_journal() {
    let (nats, connection, _journal) = journal().await;
    let heartbeat = Heartbeat {
        agent: agent(),
        session: SessionId(Uuid::now_v7()),
        epoch: Epoch(1),
        silent_after_ms: 30_000,
        refusal: None,
        providers: vec![],
    };
    let client = nats.connect().await;
    heartbeats::send(&client, &heartbeat).await.unwrap();
    let js = jetstream(&connection);
    wait_until("the heartbeat is stored", PATIENCE, async || {
        let stream = js.get_stream(HEARTBEATS_STREAM).await.ok()?;
        (stream.cached_info().state.messages == 1).then_some(())
    })
    .await;
    let guard = Guard::over(&nats, Beginning::default()).await;
    guard
        .lost("is empty, although agents were connected to this hub")
        .await;
    js.delete_stream(JOURNAL_STREAM).await.unwrap();
    guard.lost("is gone, although agents were connected").await;

    let evidence = Some("the database has its commits".to_owned());
    let told = Beginning {
        evidence,
        ..Beginning::default()
    };
    let guard = Guard::over(&nats, told.clone()).await;
    guard.lost("is gone, although the database has its commits").await;
    assert!(!guard.exists().await);
    let told = Beginning {
        new_journal: true,
        ..told
    };
    let mut guard = Guard::over(&nats, told).await;
    guard.caught_up().await;
    assert!(guard.exists().await);
}

#[tokio::test]
async fn settings_that_are_changed_under_a_process_stop_it_until_they_are_right_again() {
    let (nats, connection, journal) = journal().await;
    commit(&journal, &agent_key()).await;
    let mut guard = Guard::over(&nats, Beginning::default()).await;
    assert_eq!(guard.caught_up().await, [1]);
    let js = jetstream(&connection);
    let ours = js
        .get_stream(JOURNAL_STREAM)
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    let mut theirs = ours.clone();
    theirs.discard = DiscardPolicy::Old;
    theirs.max_age = Duration::from_secs(3_600);
    js.update_stream(theirs).await.unwrap();
    guard.lost("can't be used: discard is Old").await;
    js.update_stream(ours).await.unwrap();
    guard.found().await;
    // It is the same journal: nothing is read again.
    commit(&journal, &agent_key()).await;
    let told = guard.until(|told| matches!(told, Followed::Commit(_))).await;
    assert_eq!(told, [2]);
}

#[tokio::test]
async fn a_journal_at_a_limit_refuses_at_once_and_says_so_until_it_takes_commits_again() {
    let (_nats, connection, _) = journal().await;
    let journal = Journal::of(&connection);
    commit(&journal, &agent_key()).await;
    let js = jetstream(&connection);
    let ours = js
        .get_stream(JOURNAL_STREAM)
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    let mut theirs = ours.clone();
    theirs.max_messages = 1;
    js.update_stream(theirs).await.unwrap();
    let begun = Instant::now();
    let refused = journal
        .execute::<Agent>(&agent_key(), crate::events::connect(), &crate::events::meta(1))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("maximum messages exceeded"),
        "{refused}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(matches!(
        connection.health().trouble(),
        Some(JournalTrouble::Full(_))
    ));
    js.update_stream(ours).await.unwrap();
    commit(&journal, &agent_key()).await;
    assert_eq!(connection.health().trouble(), None);
}

/// Each replica knows of its own commits only, and a load balancer gives none to one that isn't ready.
#[tokio::test]
async fn a_replica_sees_that_the_journal_takes_commits_again_without_appending_one() {
    let (nats, connection, journal) = journal().await;
    commit(&journal, &agent_key()).await;
    let guard = Guard::over(&nats, Beginning::default()).await;
    let js = jetstream(&connection);
    let stream = js.get_stream(JOURNAL_STREAM).await.unwrap();
    let ours = stream.cached_info().config.clone();
    for another_appends in [true, false] {
        let info = js.get_stream(JOURNAL_STREAM).await.unwrap().cached_info().clone();
        let mut theirs = info.config.clone();
        theirs.max_messages = i64::try_from(info.state.messages).unwrap();
        js.update_stream(theirs).await.unwrap();
        Journal::of(&guard.connection)
            .execute::<Agent>(&agent_key(), crate::events::connect(), &crate::events::meta(1))
            .await
            .unwrap_err();
        let trouble = guard.connection.health().trouble();
        assert!(matches!(trouble, Some(JournalTrouble::Full(_))), "{trouble:?}");
        js.update_stream(ours.clone()).await.unwrap();
        if another_appends {
            commit(&journal, &agent_key()).await;
        }
        guard.found().await;
    }
}

/// Without a database and without agents only the other replica knows that there was a journal.
#[tokio::test]
async fn a_replica_that_starts_begins_no_journal_while_another_one_has_lost_it() {
    let (nats, connection, journal) = journal().await;
    commit(&journal, &agent_key()).await;
    let mut first = Guard::replica(&nats, "first").await;
    assert_eq!(first.caught_up().await, [1]);
    let js = jetstream(&connection);
    let kept = async || {
        let stream = js.get_stream(HEARTBEATS_STREAM).await.ok()?;
        (stream.cached_info().state.messages > 0).then_some(())
    };
    wait_until("the first replica's canary", PATIENCE, kept).await;
    // It begins to look before the first one knows.
    js.delete_stream(JOURNAL_STREAM).await.unwrap();
    let second = Guard::replica(&nats, "second").await;
    second
        .lost("is gone, although the replica first has read it")
        .await;
    first
        .lost("is gone, although its commits up to 1 were read")
        .await;
    // Nor when the first one has ended, and a third one asks.
    drop(first);
    let third = Guard::replica(&nats, "third").await;
    third.lost("although the replica second has read it").await;
    assert!(!third.exists().await);
}

/// A replica that has found the journal and sent a canary.
async fn heard_once(nats: &Nats) -> Guard {
    let mut replica = Guard::replica(nats, "ended").await;
    replica.caught_up().await;
    let js = jetstream(&replica.connection);
    wait_until("its canary", PATIENCE, async || {
        let stream = js.get_stream(HEARTBEATS_STREAM).await.ok()?;
        (stream.cached_info().state.messages > 0).then_some(())
    })
    .await;
    replica
}

#[tokio::test]
async fn replicas_that_ran_once_or_start_together_keep_nobody_from_beginning_a_journal() {
    let nats = Nats::start().await;
    let ended = heard_once(&nats).await;
    let js = jetstream(&ended.connection);
    js.delete_stream(JOURNAL_STREAM).await.unwrap();
    drop(ended);
    let (mut one, mut two) = tokio::join!(Guard::replica(&nats, "one"), Guard::replica(&nats, "two"));
    tokio::join!(one.caught_up(), two.caught_up());
    assert!(one.exists().await);
}

/// A hub that is started again before anything has happened: it has nothing to lose, and nobody has.
#[tokio::test]
async fn an_empty_journal_is_taken_soon_although_a_replica_ran_before_that_had_read_nothing() {
    let nats = Nats::start().await;
    let ended = heard_once(&nats).await;
    drop(ended);
    let begun = Instant::now();
    Guard::replica(&nats, "next").await.caught_up().await;
    let took = begun.elapsed();
    // Otherwise it listens for five seconds.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_journal_whose_server_has_lost_jetstream_is_waited_for_and_says_so() {
    let (mut nats, _, journal) = journal().await;
    commit(&journal, &agent_key()).await;
    let mut guard = Guard::over(&nats, Beginning::default()).await;
    assert_eq!(guard.caught_up().await, [1]);
    let health = guard.connection.health().clone();
    assert_eq!(health.unusable(), None);
    nats.restart_without_jetstream().await;
    wait_until("JetStream was named", PATIENCE, async || {
        let why = health.unusable()?;
        why.starts_with("the journal can't be read: JetStream is off")
            .then_some(())
    })
    .await;
    assert_eq!(health.trouble(), None, "it isn't lost");
    nats.restart().await;
    assert!(guard.caught_up().await.is_empty());
    assert_eq!(health.unusable(), None);
}

#[tokio::test]
async fn a_server_without_tls_is_named_as_that() {
    let nats = Nats::start().await;
    for scheme in ["tls", "wss"] {
        let url = nats.url().replace("nats://", &format!("{scheme}://"));
        let options = NatsAccess::open(&url, Role::Api).named("test");
        let tried = tokio::time::timeout(PATIENCE, Connection::try_open(&options)).await;
        let error = tried.expect("an answer in time").expect_err(scheme);
        assert!(error.to_string().contains("this server speaks no TLS"), "{error}");
    }
}
