//! What an agent does once TLS can't be set up: no other server gets what a step sends, and a reload leaves the other providers.
//!
//! A program with one test, since what breaks TLS here is the process's.

#[expect(dead_code, reason = "the tests of recipes use the rest")]
mod backend;
#[path = "control/mod.rs"]
#[expect(dead_code, reason = "the tests of owners use the rest")]
mod control;
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod whole_agent;

use backend::{Backend, outcome, provider};
use control::EPOCH;
use reveille_agent::{
    child::{Orphans, Shims},
    fetch,
    probe::Probe,
    recipe::{Run, Runner},
    reload::{self, ReloadEvent},
    state_dir::StateDir,
};
use reveille_bus::orders::{self, AddressedOrder, Order, OrderAnswer};
use reveille_domain::{ProviderName, provider::StatusName::Active};
use rustls::crypto::{CryptoProvider, ring};
use std::{fs, sync::Arc};
use whole_agent::{World, agent_name, config};

#[tokio::test]
async fn a_client_that_cannot_be_set_up_fails_its_step_or_provider_and_nothing_else() {
    let backend = Backend::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let text = config(&format!(
        "base_url = \"{}\"\nmodels = [\"m\"]\nprobe = {{ path = \"/ok\" }}\n",
        backend.url
    ));
    let world = World::with(&text, Some(folder.path())).await;
    world.until(Active).await;
    let client = fetch::client().expect("a client");
    let no_cipher = CryptoProvider {
        cipher_suites: Vec::new(),
        ..ring::default_provider()
    };
    no_cipher.install_default().expect("nobody has before");

    step(&backend, client).await;

    let others = "[[provider]]\nname = \"q\"\nbase_url = \"https://127.0.0.1:1\"\n\
                  [[provider]]\nname = \"r\"\nbase_url = \"http://127.0.0.1:1\"\n";
    fs::write(folder.path().join("agent.toml"), text + others).expect("written");
    let state = StateDir::new(folder.path().to_owned());
    let mut asked = reload::agents(&state).await.expect("its socket");
    let mut failed = Vec::new();
    loop {
        match asked[0].next().await.expect("unbroken").expect("more") {
            ReloadEvent::Failed { provider, .. } => failed.push(provider.to_string()),
            ReloadEvent::Done => break,
            ReloadEvent::Refused { reason } => panic!("{reason}"),
            _ => {}
        }
    }
    assert_eq!(failed, ["q"]);
    let sent = world.send("/v1/embeddings", r#"{"model":"m"}"#).await;
    assert_eq!(sent.expect("an answer").0.status, 200);
    let order = AddressedOrder {
        epoch: EPOCH,
        order: Order::Sleep {
            provider: ProviderName::parse("r").expect("legal"),
        },
    };
    let answer = orders::send(&world.client, &agent_name(), &order).await;
    let missing = OrderAnswer::Refused {
        reason: "the agent has no such provider".to_owned(),
    };
    assert_ne!(answer.expect("an answer"), missing);
}

/// A step that trusts others than the system does sends nothing.
async fn step(backend: &Backend, client: fetch::Client) {
    let provider = provider(&format!(
        "base_url = \"{0}\"\ninsecure_skip_verify = true\n[provider.wake]\ntype = \"http\"\nurl = \"{1}/wake\"\n",
        backend.url.replace("http:", "https:"),
        backend.url
    ));
    let runner = Runner {
        client: client.clone(),
        shims: Shims::of_this_program().expect("a program"),
        orphans: Orphans::none(),
    };
    let probe = Probe::new(client, &provider);
    let recipe = provider.wake.expect("a recipe");
    let mut run = Run::wake(Arc::new(runner), recipe, probe, Box::pin(async {}));
    let failure = outcome(&mut run).await.failure.expect("it can't be sent");
    assert_eq!(failure.stage, "step 1 http");
    assert!(failure.reason.contains("TLS"), "{}", failure.reason);
    assert!(backend.wakes().is_empty());
}
