//! Names, commands and connections that the tests share.

use async_nats::jetstream::{self, stream::RawMessageErrorKind};
use futures::StreamExt;
use reveille_bus::{
    AggregateId, CommitMeta, Connection, JOURNAL_STREAM, Journal, NatsAccess,
    access::Role,
    commit::{AnyCommit, Commit, CommitHash},
    ensure_streams,
};
use reveille_domain::{
    Agent, AgentCommand, AgentName, Availability, Epoch, Key, KeyCommand, KeyId, KeyName, ModelName,
    Provider, ProviderCommand, ProviderId, ProviderName, ProviderSpec, RecipeKind, ReportSeq, Scopes,
    SecretHash, SessionId, Timestamp, WakeCause, WakeId, WakeSpec,
    key::{KeyLimits, KeyPolicy, Priority},
};
use reveille_tests::{Nats, wait_until};
use std::time::Duration;
use uuid::Uuid;

/// A test waits this long for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_764_000_000_000 + secs * 1000)
}

pub fn agent() -> AgentName {
    AgentName::parse("gpu-box").unwrap()
}

pub fn provider() -> ProviderId {
    ProviderId::new(agent(), ProviderName::parse("vllm").unwrap())
}

pub fn agent_key() -> AggregateId {
    AggregateId::Agent(agent())
}

pub fn provider_key() -> AggregateId {
    AggregateId::Provider(provider())
}

/// The journal's key of a key that clients have.
pub fn client_key() -> AggregateId {
    AggregateId::Key(KeyId::parse("k7mq2v9x").unwrap())
}

/// Makes the key, with everything that it may have.
pub fn create_key(id: &AggregateId) -> KeyCommand {
    let AggregateId::Key(id) = id else {
        panic!("{id} is no key")
    };
    let scopes = ["infer:qwen3-8b", "query"].map(|scope| scope.parse().unwrap());
    KeyCommand::Create {
        id: id.clone(),
        policy: KeyPolicy {
            name: KeyName::parse("the laptop").unwrap(),
            scopes: Scopes::try_from(std::collections::BTreeSet::from(scopes)).unwrap(),
            expires_at_ms: Some(at(1_000)),
            limits: KeyLimits::new(Some(600), Some(8), Some(20)).unwrap(),
            progress: None,
            priority: Priority::Normal,
        },
        secret: SecretHash::new([0xaa; 32]),
        at: at(0),
    }
}

/// Rotates a key to a secret that nobody had before.
pub fn rotate_key() -> KeyCommand {
    let mut secret = [0xbb; 32];
    secret[..16].copy_from_slice(Uuid::now_v7().as_bytes());
    KeyCommand::Rotate {
        secret: SecretHash::new(secret),
        grace: Duration::from_secs(60),
        at: at(10),
    }
}

/// The key of a provider of this name.
pub fn named(name: &str) -> AggregateId {
    AggregateId::Provider(ProviderId::new(agent(), ProviderName::parse(name).unwrap()))
}

pub fn meta(secs: u64) -> CommitMeta {
    CommitMeta::new("test", at(secs))
}

/// A session that nobody had before.
pub fn connect() -> AgentCommand {
    AgentCommand::Connect {
        name: agent(),
        session: SessionId(Uuid::now_v7()),
        version: "0.1.0".to_owned(),
        at: at(0),
    }
}

pub fn spec() -> ProviderSpec {
    let wake = WakeSpec {
        kind: RecipeKind::Http,
        budget_ms: 70_000,
    };
    ProviderSpec::new(vec![ModelName::parse("qwen3-8b").unwrap()], Some(wake), false).unwrap()
}

/// Registers the provider, asleep.
pub fn register(id: &AggregateId) -> ProviderCommand {
    let AggregateId::Provider(id) = id else {
        panic!("{id} is no provider")
    };
    ProviderCommand::Register {
        id: id.clone(),
        epoch: Epoch(1),
        seq: ReportSeq(0),
        spec: spec(),
        availability: Some(Availability::Unavailable),
        at: at(0),
    }
}

pub fn request_wake() -> ProviderCommand {
    ProviderCommand::RequestWake {
        wake_id: WakeId(Uuid::now_v7()),
        cause: WakeCause::Operator { key: None },
        overdue: None,
        allowed_at: None,
        at: at(10),
    }
}

pub async fn open(url: &str) -> Connection {
    let options = NatsAccess::open(url, Role::Api).named("test");
    tokio::time::timeout(PATIENCE, Connection::open(&options))
        .await
        .expect("a connection in time")
        .unwrap()
}

/// JetStream with patience for a busy machine. What is asked again and again takes the connection's own, which soon takes silence for an
/// outage: a cluster may lose an answer.
pub fn jetstream(connection: &Connection) -> jetstream::Context {
    let mut js = connection.jetstream();
    js.set_timeout(PATIENCE);
    js
}

/// Waits until the server has dealt with everything that the client sent; a flush alone doesn't.
pub async fn settled(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    echo.next().await.expect("an echo");
}

/// A server with the streams, a connection to it and the journal there.
pub async fn journal() -> (Nats, Connection, Journal) {
    let nats = Nats::start().await;
    let connection = open(&nats.url()).await;
    ensure_streams(&jetstream(&connection)).await.unwrap();
    let journal = Journal::new(connection.jetstream());
    (nats, connection, journal)
}

/// A commit of `id` that the journal takes for sure.
pub async fn commit(journal: &Journal, id: &AggregateId) -> u64 {
    let sequence = match id {
        AggregateId::Agent(_) => {
            let done = journal.execute::<Agent>(id, connect(), &meta(0)).await.unwrap();
            done.sequence
        }
        AggregateId::Provider(_) => {
            let mut command = register(id);
            let was = journal.load::<Provider>(id).await.unwrap();
            // Every further registration is one of a later epoch.
            if let (Provider::Registered(was), ProviderCommand::Register { epoch, .. }) =
                (was.state(), &mut command)
            {
                *epoch = was.epoch.next();
            }
            let done = journal.execute::<Provider>(id, command, &meta(0)).await.unwrap();
            assert_eq!(done.events.len(), 1);
            done.sequence
        }
        AggregateId::Key(_) => {
            let made = journal.load::<Key>(id).await.unwrap().state().id().is_some();
            let command = if made { rotate_key() } else { create_key(id) };
            let done = journal.execute::<Key>(id, command, &meta(0)).await.unwrap();
            done.sequence
        }
    };
    assert!(sequence > 0);
    sequence
}

/// A commit as the journal holds it.
#[derive(Debug, Clone)]
pub struct Stored {
    pub sequence: u64,
    pub subject: String,
    pub payload: Vec<u8>,
}

impl Stored {
    pub fn id(&self) -> AggregateId {
        AggregateId::of_subject(&self.subject).unwrap()
    }

    pub fn agent(&self) -> Commit<Agent> {
        match AnyCommit::decode(&self.id(), &self.payload).unwrap() {
            AnyCommit::Agent(commit) => commit,
            AnyCommit::Provider(_) | AnyCommit::Key(_) => panic!("{} is no agent's", self.subject),
        }
    }

    pub fn provider(&self) -> Commit<Provider> {
        match AnyCommit::decode(&self.id(), &self.payload).unwrap() {
            AnyCommit::Provider(commit) => commit,
            AnyCommit::Agent(_) | AnyCommit::Key(_) => panic!("{} is no provider's", self.subject),
        }
    }

    pub fn key(&self) -> Commit<Key> {
        match AnyCommit::decode(&self.id(), &self.payload).unwrap() {
            AnyCommit::Key(commit) => commit,
            AnyCommit::Agent(_) | AnyCommit::Provider(_) => panic!("{} is no key's", self.subject),
        }
    }

    pub fn hash(&self) -> CommitHash {
        CommitHash::of(&self.payload)
    }
}

/// Everything in the journal, read one by one by sequence.
pub async fn stored(connection: &Connection) -> Vec<Stored> {
    let stream = jetstream(connection).get_stream(JOURNAL_STREAM).await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let mut all = vec![];
    for sequence in 1..=last {
        // A cluster that has only just got a node back may not answer yet.
        let read = wait_until("the commit could be read", PATIENCE, async || {
            match stream.get_raw_message(sequence).await {
                Err(error) if error.kind() != RawMessageErrorKind::NoMessageFound => None,
                read => Some(read),
            }
        });
        match read.await {
            Ok(message) => all.push(Stored {
                sequence,
                subject: message.subject.to_string(),
                payload: message.payload.to_vec(),
            }),
            Err(error) => assert_eq!(error.kind(), RawMessageErrorKind::NoMessageFound),
        }
    }
    all
}

/// Checks what every journal of ours must hold: chains without a gap, and states that are the fold of their events.
pub fn check(all: &[Stored]) {
    use cqrs_es::Aggregate;
    fn chain<A: Aggregate + Clone + PartialEq + std::fmt::Debug>(commits: &[(Commit<A>, CommitHash)]) {
        let (mut folded, mut prev, mut event_seq) = (A::default(), None, 1);
        for (index, (commit, hash)) in commits.iter().enumerate() {
            assert_eq!(commit.aggregate_version, index as u64 + 1);
            assert_eq!(commit.prev, prev);
            assert_eq!(commit.first_event_seq, event_seq);
            for event in &commit.events {
                folded.apply(event.clone());
            }
            assert_eq!(folded, commit.state);
            event_seq += commit.events.len() as u64;
            prev = Some(*hash);
        }
        let mut ids: Vec<_> = commits.iter().map(|(commit, _)| commit.command_id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), commits.len(), "no command took effect twice");
    }
    let mut subjects: Vec<_> = all.iter().map(|stored| stored.subject.clone()).collect();
    subjects.sort();
    subjects.dedup();
    for subject in subjects {
        let of_subject = || all.iter().filter(|stored| stored.subject == subject);
        match AggregateId::of_subject(&subject).unwrap() {
            AggregateId::Agent(_) => chain(&of_subject().map(|s| (s.agent(), s.hash())).collect::<Vec<_>>()),
            AggregateId::Provider(_) => {
                chain(&of_subject().map(|s| (s.provider(), s.hash())).collect::<Vec<_>>());
            }
            AggregateId::Key(_) => chain(&of_subject().map(|s| (s.key(), s.hash())).collect::<Vec<_>>()),
        }
    }
}
