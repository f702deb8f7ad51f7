//! No secret comes out. Each place that can hold one gets one of its own; then the whole system, at its loudest, is asked,
//! wakes, fails and refuses; then everything that it has said, shown, written down and left behind is searched.

mod asked;
mod channels;
mod hub;
mod machine;
mod refused;
mod scanner;
mod typed;

use hub::Hub;
use scanner::{Channel, Form, Leak, Scanner, with_leaks};
use serde_json::json;
use std::collections::BTreeSet;

/// What callers ask a model. An agent and a backend are sent it; nobody else is.
const ASKED: [&str; 9] = [
    "prompt",
    "prompt of a stream",
    "prompt of a completion",
    "input of an embedding",
    "arguments of a tool",
    "image",
    "prompt over HTTP/2",
    "prompt that a backend fails on",
    "prompt that wakes",
];
/// What the owner of a machine sends to his backends.
const SENT_BY_RECIPES: [&str; 8] = [
    "api_key of a backend",
    "variable in a header of a recipe",
    "query of a wake recipe",
    "body of a recipe",
    "authorization of a recipe",
    "cookie of a recipe",
    "query of a sleep recipe",
    "query of a recipe that is refused",
];

/// What the agent adds to requests. Nobody but the backend gets it, not even over NATS.
const PRESET: &str = "system prompt of a preset";

/// What belongs into the requests to a backend.
pub fn reaches_a_backend() -> Vec<&'static str> {
    [&ASKED[..], &SENT_BY_RECIPES, &[PRESET]].concat()
}

/// What belongs into the messages on a kind of subject.
pub fn may_be_said(kind: &str) -> &'static [&'static str] {
    match kind {
        "infer" => &ASKED,
        "replies" => &["completion", "error body of a backend", "frame that is none"],
        "control" => &["control message that is none"],
        "heartbeats" => &["heartbeat that is none"],
        "wakes" => &["wake that is none"],
        "orders" => &["order that is none"],
        // A refusal goes to the sender's own inbox, and a replica reads the stream of heartbeats.
        "" => &["control message that is none", "heartbeat that is none"],
        _ => &[],
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: run by cargo xtask test --all"]
async fn no_planted_secret_comes_out_anywhere_it_does_not_belong() {
    let mut hub = Hub::new().await;
    hub.start_agent().await;
    hub.wait_for("open", "active").await;
    hub.wait_for("sleepy", "hibernating").await;
    let key = hub
        .make_key(
            "API key",
            &json!({ "name": "callers", "scopes": ["infer:*", "query"] }),
        )
        .await;

    asked::answered_requests(&hub, &key).await;
    asked::wakes(&hub, &key).await;
    refused::bad_input(&hub, &key).await;
    refused::refused_keys(&hub).await;
    refused::foreign_messages(&hub).await;
    typed::commands(&hub, &key).await;
    asked::queries(&hub, &key).await;

    let (canaries, channels) = (hub.planted.all(), hub.channels().await);
    let scanner = Scanner::new(&canaries);
    for channel in &channels {
        assert_finds_all(&scanner, channel, &canaries);
    }
    for channel in &channels {
        assert_secrets_were_used(&scanner, channel);
    }
    let leaks: Vec<Leak> = channels
        .iter()
        .flat_map(|channel| scanner.leaks(channel))
        .collect();
    let shown: Vec<_> = leaks.iter().map(ToString::to_string).collect();
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), shown.join("\n"));
    for channel in &channels {
        println!("{}: {} bytes", channel.name, channel.bytes.len());
    }
    println!("{} secrets in {} channels", canaries.len(), channels.len());
}

/// The scanner would see each secret in each form in this channel, and the channel was listened to.
fn assert_finds_all(scanner: &Scanner, channel: &Channel, canaries: &[scanner::Canary]) {
    let text = String::from_utf8_lossy(&channel.bytes);
    assert!(
        text.contains(&channel.marker),
        "nothing came out of: {}",
        channel.name
    );
    let leaky = Channel {
        name: channel.name.clone(),
        bytes: with_leaks(channel, canaries),
        marker: String::new(),
        allowed: vec![],
    };
    let found: BTreeSet<_> = scanner
        .leaks(&leaky)
        .into_iter()
        .map(|leak| (leak.place, leak.form))
        .collect();
    for canary in canaries {
        for form in Form::ALL {
            assert!(
                found.contains(&(canary.place, form)),
                "{} as {form:?} would not be found in {}",
                canary.place,
                channel.name
            );
        }
    }
}

/// What belongs into these channels is there: secrets that nobody used would prove nothing.
fn assert_secrets_were_used(scanner: &Scanner, channel: &Channel) {
    let expected = match channel.name.as_str() {
        "requests to a backend" => reaches_a_backend(),
        "messages on reveille.infer" => ASKED.to_vec(),
        "messages on reveille.replies" => vec!["completion", "error body of a backend"],
        "environments of children" => vec!["variable of a command", "variable of a served command"],
        "log of the agent" => [
            channels::printed_by_the_failing_command(),
            vec!["body that refuses a recipe"],
        ]
        .concat(),
        "output of commands" | "kept output" => vec![
            "output of a failing command",
            "output of a served command",
            "body that refuses a recipe",
        ],
        "command lines" => vec!["argument of a served command"],
        _ => return,
    };
    let everything = Channel {
        name: channel.name.clone(),
        bytes: channel.bytes.clone(),
        marker: String::new(),
        allowed: vec![],
    };
    let found: BTreeSet<_> = scanner
        .leaks(&everything)
        .into_iter()
        .map(|leak| leak.place)
        .collect();
    for place in expected {
        assert!(found.contains(place), "{place} is not in the {}", channel.name);
    }
}
