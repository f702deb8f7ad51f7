//! Who may say what, on a real server with the config that the hub's keys are rendered into.

use crate::events::{PATIENCE, jetstream};
use crate::raw_client::RawClient;
use reveille_bus::{
    BusError, Connection, NatsAccess, NatsServer, Refusals,
    access::{AuthRequests, ConnectionRevoker, HubKeys, NatsKey, Role},
};
use reveille_domain::AgentName;
use reveille_tests::{Nats, wait_until};
use std::{
    collections::HashMap,
    fmt::Write,
    fs,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A server that asks for keys, and who is let in by them.
struct Locked {
    nats: Nats,
    folder: TempDir,
    keys: HubKeys,
    agents: Arc<Mutex<HashMap<String, AgentName>>>,
    answering: JoinHandle<()>,
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Locked {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = HubKeys::make(&folder.path().join("keys")).unwrap();
        let nats = Nats::start_with(&keys.server_config().unwrap()).await;
        let agents = Arc::new(Mutex::new(HashMap::<String, AgentName>::new()));
        let api = NatsAccess {
            server: NatsServer::at(&nats.url()),
            role: Role::Api,
            key: Some(keys.role(&Role::Api).unwrap()),
        };
        let api = Connection::open(&api.named("api")).await.unwrap();
        let issuer = keys.issuer().unwrap().expect("there");
        let mut requests = AuthRequests::subscribe(api.client(), issuer, &Refusals::default())
            .await
            .unwrap();
        api.client().flush().await.unwrap();
        let known = agents.clone();
        let answering = tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let agent = known.lock().unwrap().get(request.key()).cloned();
                match agent {
                    Some(agent) => request.admit(&agent).await,
                    None => request.refuse("nobody knows it").await,
                }
            }
            drop(api);
        });
        Self {
            nats,
            folder,
            keys,
            agents,
            answering,
        }
    }

    fn enrolled(&self, name: &str) -> NatsKey {
        let key = NatsKey::fresh_user();
        let name = AgentName::parse(name).unwrap();
        self.agents.lock().unwrap().insert(key.public(), name);
        key
    }

    fn access(&self, role: Role, key: Option<NatsKey>) -> NatsAccess {
        NatsAccess {
            server: NatsServer::at(&self.nats.url()),
            role,
            key,
        }
    }

    async fn party(&self, role: &Role) -> RawClient {
        let key = match role {
            Role::Agent(name) => self.enrolled(name.as_str()),
            role => self.keys.role(role).unwrap(),
        };
        let file = self.folder.path().join(format!("{}.seed", key.public()));
        key.write(&file).unwrap();
        RawClient::connect(&self.nats.url(), fs::read_to_string(file).unwrap().trim()).await
    }
}

/// One of each kind of subject, and of each kind that names an agent one that names this one and one that names another.
const SUBJECTS: [&str; 45] = [
    "reveille.events.agent.gpu-box",
    "reveille.events.provider.gpu-box.vllm",
    "reveille.events.key.k7mq2v9x",
    "reveille.facts.>",
    "reveille.facts.provider.gpu-box.vllm",
    "reveille.heartbeats.gpu-box",
    "reveille.heartbeats.other",
    "reveille.heartbeats._canary.r1",
    "reveille.heartbeats.>",
    "reveille.requests.r1",
    "reveille.control.gpu-box.report",
    "reveille.control.other.report",
    "reveille.control.*.*",
    "reveille.wakes.gpu-box.vllm",
    "reveille.wakes.other.vllm",
    "reveille.orders.gpu-box",
    "reveille.orders.other",
    "reveille.acks.gpu-box.q",
    "reveille.acks.other.q",
    "reveille.infer.gpu-box",
    "reveille.infer.other",
    "reveille.replies.r1.gpu-box.q",
    "reveille.replies.r1.other.q",
    "reveille.>",
    "_INBOX.agent.gpu-box.q",
    "_INBOX.agent.other.q",
    "_INBOX.api.q",
    "_INBOX.projector.q",
    "_INBOX.admin.q",
    "_INBOX.>",
    "$JS.API.INFO",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.REVEILLE_EVENTS",
    "$JS.API.STREAM.CREATE.REVEILLE_EVENTS",
    "$JS.API.STREAM.INFO.REVEILLE_REQUESTS",
    "$JS.API.STREAM.CREATE.REVEILLE_REQUESTS",
    "$JS.API.STREAM.CREATE.OTHER",
    "$JS.API.STREAM.UPDATE.REVEILLE_EVENTS",
    "$JS.API.STREAM.DELETE.REVEILLE_EVENTS",
    "$JS.API.STREAM.MSG.GET.REVEILLE_EVENTS",
    "$JS.API.CONSUMER.CREATE.REVEILLE_EVENTS",
    "$JS.API.CONSUMER.CREATE.OTHER",
    "$SYS.REQ.USER.AUTH",
    "$SYS.REQ.SERVER.PING",
    ">",
];

#[tokio::test]
async fn each_role_may_publish_and_subscribe_to_what_it_needs_and_to_nothing_else() {
    let locked = Locked::start().await;
    let mut roles = Role::OF_THE_HUB.to_vec();
    roles.push(Role::Agent(AgentName::parse("gpu-box").unwrap()));
    let mut parties = vec![];
    for role in &roles {
        parties.push(locked.party(role).await);
    }
    let mut matrix = format!("{:<44}", "subject (p: may publish, s: may subscribe)");
    for role in &roles {
        let _ = write!(matrix, "{:>14}", role.to_string());
    }
    for subject in SUBJECTS {
        let _ = write!(matrix, "\n{subject:<44}");
        for party in &mut parties {
            let p = if party.may_publish(subject).await {
                'p'
            } else {
                '-'
            };
            let s = if party.may_subscribe(subject).await {
                's'
            } else {
                '-'
            };
            let _ = write!(matrix, "{:>14}", format!("{p}{s}"));
        }
    }
    println!("{matrix}");
    insta::assert_snapshot!(matrix);
}

#[tokio::test]
async fn who_has_no_key_or_an_unknown_one_is_not_let_in() {
    let locked = Locked::start().await;
    let agent = Role::Agent(AgentName::parse("gpu-box").unwrap());
    for key in [None, Some(NatsKey::fresh_user())] {
        let refused = Connection::try_open(&locked.access(agent.clone(), key).named("stranger")).await;
        let error = refused.expect_err("nobody knows it");
        assert!(matches!(error, BusError::Refused), "{error}");
    }
    let key = locked.enrolled("gpu-box");
    let known = Connection::try_open(&locked.access(agent, Some(key)).named("agent")).await;
    assert!(known.is_ok(), "{known:?}");
}

#[tokio::test]
async fn an_agent_that_is_shown_out_is_gone_at_once_and_stays_out() {
    let locked = Locked::start().await;
    let system = locked.access(Role::System, locked.keys.system().unwrap());
    let system = Connection::open(&system.named("system")).await.unwrap();
    let (gone, stays) = (locked.enrolled("gpu-box"), locked.enrolled("other"));
    let open = async |name: &str, key: &NatsKey| {
        let role = Role::Agent(AgentName::parse(name).unwrap());
        let access = locked.access(role, Some(key.clone()));
        Connection::open(&access.named(name)).await.unwrap()
    };
    let (one, two, other) = (
        open("gpu-box", &gone).await,
        open("gpu-box", &gone).await,
        open("other", &stays).await,
    );
    let generation = *other.generation().borrow();

    locked.agents.lock().unwrap().remove(&gone.public());
    let ended = ConnectionRevoker::new(system.client())
        .sweep(|_, key| locked.agents.lock().unwrap().contains_key(key))
        .await
        .unwrap();
    assert_eq!(ended, 2);
    wait_until("both were cut and not let in again", PATIENCE, async || {
        (!one.is_connected() && !two.is_connected()).then_some(())
    })
    .await;
    assert!(other.is_connected());
    assert_eq!(
        *other.generation().borrow(),
        generation,
        "the other one was cut too"
    );
    other.client().flush().await.unwrap();
}

#[tokio::test]
async fn a_subscriber_hears_facts_and_can_say_nothing() {
    let locked = Locked::start().await;
    let mut subscriber = locked.party(&Role::Subscriber).await;
    assert!(subscriber.may_subscribe("reveille.facts.>").await);
    let api = locked.access(Role::Api, Some(locked.keys.role(&Role::Api).unwrap()));
    let api = Connection::open(&api.named("api")).await.unwrap();
    reveille_bus::ensure_streams(&jetstream(&api)).await.unwrap();
    api.client()
        .publish("reveille.events.agent.x", "{}".into())
        .await
        .unwrap();
    let heard = subscriber.next_message().await;
    assert!(heard.starts_with("HMSG reveille.facts.agent.x "), "{heard}");
    assert!(!subscriber.may_publish("reveille.facts.agent.x").await);
}

#[tokio::test]
async fn a_signature_that_another_connection_was_asked_for_lets_nobody_in() {
    let locked = Locked::start().await;
    let key = locked.enrolled("gpu-box");
    let file = locked.folder.path().join("agent.nk");
    key.write(&file).unwrap();
    let pair = nkeys::KeyPair::from_seed(fs::read_to_string(file).unwrap().trim()).unwrap();

    let (mut first, nonce) = RawClient::greeted(&locked.nats.url()).await;
    let signature = pair.sign(nonce.as_bytes()).unwrap();
    let (mut second, other) = RawClient::greeted(&locked.nats.url()).await;
    assert_ne!(nonce, other);
    let refused = second.authenticate(&key.public(), &signature).await;
    assert!(refused.is_some_and(|text| text.contains("Authorization Violation")));
    assert_eq!(first.authenticate(&key.public(), &signature).await, None);
}

#[tokio::test]
async fn headers_and_reply_subjects_take_an_agent_nowhere_else() {
    let locked = Locked::start().await;
    let api = locked.access(Role::Api, Some(locked.keys.role(&Role::Api).unwrap()));
    let api = Connection::open(&api.named("api")).await.unwrap();
    let js = jetstream(&api);
    reveille_bus::ensure_streams(&js).await.unwrap();
    let stored = async |stream: &str| {
        let mut stream = js.get_stream(stream).await.unwrap();
        stream.info().await.unwrap().state.clone()
    };
    let mut other = locked
        .party(&Role::Agent(AgentName::parse("other").unwrap()))
        .await;
    for subject in [
        "reveille.wakes.other.*",
        "reveille.orders.other",
        "reveille.infer.other",
        "_INBOX.agent.other.>",
    ] {
        assert!(other.may_subscribe(subject).await);
    }
    let mut agent = locked
        .party(&Role::Agent(AgentName::parse("gpu-box").unwrap()))
        .await;

    // What a stream would answer, or publish later or elsewhere, goes nowhere.
    let headers = [
        "",
        "Nats-Rollup: all\r\n",
        "Nats-Schedule: @at 2030-01-01T00:00:00Z\r\nNats-Schedule-Target: reveille.heartbeats.other\r\n",
        "Nats-TTL: 1s\r\n",
        "Nats-Expected-Stream: REVEILLE_EVENTS\r\n",
    ];
    assert_eq!(
        agent.publish("reveille.heartbeats.gpu-box", "", "", "{}").await,
        None
    );
    for header in headers {
        for reply in [
            "reveille.wakes.other.vllm",
            "reveille.orders.other",
            "_INBOX.agent.other.q",
            "reveille.heartbeats.other",
        ] {
            // Some are refused at once, the others must have no effect.
            let _ = agent
                .publish("reveille.heartbeats.gpu-box", reply, header, "{}")
                .await;
        }
    }
    let heartbeats = stored("REVEILLE_HEARTBEATS").await;
    assert_eq!(
        (heartbeats.messages, heartbeats.subjects_count),
        (1, 1),
        "{heartbeats:?}"
    );
    assert_eq!(stored("REVEILLE_EVENTS").await.messages, 0);
    for subject in [
        "reveille.events.agent.gpu-box",
        "reveille.facts.agent.gpu-box",
        "$JS.API.STREAM.INFO.REVEILLE_HEARTBEATS",
        "$JS.ACK.REVEILLE_EVENTS.x.1.1.1.1.0",
        "$SYS.REQ.USER.AUTH",
    ] {
        let refused = agent
            .publish(subject, "reveille.wakes.other.vllm", "", "{}")
            .await;
        assert!(
            refused.is_some_and(|text| text.contains("Permissions Violation")),
            "{subject}"
        );
    }
    assert_eq!(other.refusal().await, None);
    assert_eq!(other.heard(), 0, "the other agent heard something");
}
