//! Several providers of one model, two of them of one agent: by which names they are asked, and how they share requests.

use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating},
    keys::locked,
};
use crate::wakes::WakeError;
use bytes::Bytes;
use reveille_domain::{Balancing, GroupName, WakeFailure, WakeFailureKind};
use serde_json::{Value, json};
use std::{sync::atomic::Ordering, time::Duration};

fn hello() -> Reply {
    Reply::Whole(
        200,
        "application/json",
        Bytes::from_static(br#"{"choices":[{"message":{"content":"ok"}}]}"#),
    )
}

/// A box with two GPUs, and a box with one, that serve the same model.
fn publish(served: &Served) {
    for provider in ["box/gpu0", "box/gpu1", "other/gpu0"] {
        served.hub.publish(provider, "org/m", active());
    }
}

impl Served {
    /// Sends a turn of a conversation and returns who answered.
    async fn says(&self, text: &str) -> String {
        let messages = json!([{ "role": "user", "content": text }]);
        let body = json!({ "model": "org/m", "messages": messages });
        let answer = Answer::of(self.post("/v1/chat/completions", &body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("x-reveille-provider").expect("one").to_owned()
    }

    fn balances(&self, provider: &str, balancing: Balancing) {
        self.hub
            .change(provider, |it| it.spec = it.spec.clone().with_balancing(balancing));
    }

    async fn members(&self, model: &str) -> Option<Vec<Value>> {
        let answer = self.get(&format!("/v1/models/{model}")).await;
        let members = answer.json()["reveille"]["providers"].as_array()?.clone();
        Some(members.iter().map(|member| member["id"].clone()).collect())
    }
}

#[tokio::test]
async fn a_pool_can_be_asked_as_a_whole_by_its_agent_or_by_its_provider() {
    let served = Served::new().await;
    publish(&served);
    served.hub.publish("box/ollama", "m:latest", active());
    served
        .hub
        .change("box/ollama", |it| it.spec = it.spec.clone().with_latest_tag(true));
    for (model, members) in [
        ("org/m", Some(json!(["box/gpu0", "box/gpu1", "other/gpu0"]))),
        ("box/org/m", Some(json!(["box/gpu0", "box/gpu1"]))),
        ("box/gpu1/org/m", Some(json!(["box/gpu1"]))),
        ("box/ollama/m", Some(json!(["box/ollama"]))),
        ("box/ollama/m:latest", Some(json!(["box/ollama"]))),
        ("box/gpu2/org/m", None),
        ("gpu0/org/m", None),
        ("other/gpu1/org/m", None),
        ("box/gpu0/m", None),
    ] {
        let found = served.members(model).await.map(Value::from);
        assert_eq!(found, members, "{model}");
    }
    served.hub.replies([hello(), hello()]);
    for _ in 0..2 {
        let answer = Answer::of(served.chat("box/gpu1/org/m", false)).await;
        assert_eq!(answer.header("x-reveille-provider"), Some("box/gpu1"));
    }
    served.hub.publish("other/named", "box/gpu1/org/m", active());
    let exact = served.members("box/gpu1/org/m").await;
    assert_eq!(
        exact.map(Value::from),
        Some(json!(["other/named"])),
        "the exact name first"
    );
}

#[tokio::test]
async fn a_key_gains_no_model_by_another_spelling() {
    let (served, root) = locked().await;
    publish(&served);
    let spellings = [
        "org/m",
        "box/org/m",
        "other/org/m",
        "box/gpu0/org/m",
        "box/gpu1/org/m",
        "other/gpu0/org/m",
    ];
    let may = async |scope: &str| {
        let key = served.key_for(&root, &[scope]).await;
        let mut may = vec![];
        for (number, model) in spellings.iter().enumerate() {
            let answer = served.get_with(&key, &format!("/v1/models/{model}")).await;
            if answer.status == 200 {
                may.push(number);
            }
        }
        let list = served.get_with(&key, "/v1/models").await.json();
        let listed = list["data"].as_array().expect("a list").iter();
        let listed: Vec<_> = listed
            .map(|model| model["id"].as_str().expect("text").to_owned())
            .collect();
        (may, listed.join(" "))
    };
    for (scope, spelled, listed) in [
        ("infer:*", &[0, 1, 2, 3, 4, 5][..], "org/m"),
        ("infer:org/m", &[0, 1, 2, 3, 4, 5], "org/m"),
        ("infer:box/org/m", &[1, 3, 4], "box/org/m"),
        ("infer:box/gpu1/org/m", &[4], "box/gpu1/org/m"),
        ("infer:gpu1/org/m", &[], ""),
        ("infer:m", &[], ""),
    ] {
        let (may, list) = may(scope).await;
        assert_eq!((&may[..], list.as_str()), (spelled, listed), "{scope}");
    }
    // The scope's name means another model now, and only that.
    served.hub.publish("third/p", "box/org/m", active());
    let (may, _) = may("infer:box/org/m").await;
    assert_eq!(may, [1]);
}

#[tokio::test]
async fn a_conversation_stays_with_the_member_that_has_it() {
    let served = Served::new().await;
    publish(&served);
    served.hub.replies((0..40).map(|_| hello()));
    let mut members = vec![];
    for conversation in 0..10 {
        let text = format!("conversation {conversation}");
        let first = served.says(&text).await;
        for _ in 0..3 {
            assert_eq!(served.says(&text).await, first);
        }
        members.push(first);
    }
    members.sort();
    members.dedup();
    assert!(members.len() > 1, "{members:?}");
}

#[tokio::test]
async fn a_conversation_leaves_a_member_that_is_busier_than_its_share() {
    let served = Served::new().await;
    publish(&served);
    served.hub.replies([hello()]);
    let own = served.says("hi").await;
    let busy: Vec<_> = (0..3)
        .map(|_| {
            served.hub.replies([Reply::Hangs]);
            tokio::spawn(Answer::of(served.chat(&format!("{own}/org/m"), false)))
        })
        .collect();
    served
        .hub
        .until("they are at work", |hub| hub.open.load(Ordering::SeqCst) == 3)
        .await;
    served.hub.replies([hello(), hello()]);
    let another = served.says("hi").await;
    assert_ne!(another, own);
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    served
        .hub
        .until("they have ended", |hub| hub.open.load(Ordering::SeqCst) == 0)
        .await;
    assert_eq!(served.says("hi").await, another, "it has the conversation now");
}

#[tokio::test]
async fn weights_priorities_and_limits_decide_among_members_that_are_awake() {
    let served = Served::new().await;
    publish(&served);
    let shares = async || {
        served.hub.replies((0..8).map(|_| hello()));
        let mut shares = [0; 3];
        for _ in 0..8 {
            let answer = Answer::of(served.chat("org/m", false)).await;
            let provider = answer.header("x-reveille-provider").expect("one");
            let place = ["box/gpu0", "box/gpu1", "other/gpu0"]
                .iter()
                .position(|id| *id == provider);
            shares[place.expect("one of them")] += 1;
        }
        shares
    };
    let balancing = |weight, priority, limit| Balancing::new(weight, priority, limit).expect("legal");
    served.balances("box/gpu1", balancing(6, 0, None));
    assert_eq!(shares().await, [1, 6, 1]);
    served.balances("other/gpu0", balancing(1, 1, Some(1)));
    assert_eq!(shares().await, [0, 0, 8]);
    served.hub.replies([Reply::Hangs]);
    let busy = tokio::spawn(Answer::of(served.chat("org/m", false)));
    served
        .hub
        .until("it is at work", |hub| hub.open.load(Ordering::SeqCst) == 1)
        .await;
    let spilled = shares().await;
    assert_eq!(spilled[2], 0, "it is at its limit: {spilled:?}");
    assert!(spilled[1] > spilled[0] && spilled[0] > 0, "{spilled:?}");
    busy.abort();
}

#[tokio::test]
async fn what_a_full_member_does_not_take_wakes_another_unless_that_ends_one_of_its_group() {
    let served = Served::new().await;
    let limit = Balancing::new(1, 0, Some(1)).expect("legal");
    served.hub.publish("box/gpu0", "org/m", active());
    served.hub.publish("box/gpu1", "org/m", hibernating());
    served.balances("box/gpu0", limit);
    let group = vec![GroupName::parse("gpu").expect("legal")];
    for provider in ["box/gpu0", "box/gpu1"] {
        let group = group.clone();
        served.hub.change(provider, |it| {
            it.spec = it.spec.clone().in_groups(group).expect("few");
        });
    }
    served.hub.replies([Reply::Hangs]);
    let busy = tokio::spawn(Answer::of(served.chat("org/m", false)));
    served
        .hub
        .until("it is at work", |hub| hub.open.load(Ordering::SeqCst) == 1)
        .await;
    let waits = tokio::spawn(Answer::of(served.chat("org/m", false)));
    let queues = &served.state.inference.queues;
    served.hub.until("it waits", |_| queues.waiting() == 1).await;
    assert_eq!(served.hub.asked(), 0, "the other one's wake would end it");
    waits.abort();
    served.hub.until("it has left", |_| queues.waiting() == 0).await;

    for provider in ["box/gpu0", "box/gpu1"] {
        served.hub.change(provider, |it| {
            it.spec = it.spec.clone().in_groups(vec![]).expect("few");
        });
    }
    served.hub.replies([hello()]);
    let (says, wakes) = tokio::join!(served.says("hi"), async {
        served.hub.until("a wake", |hub| hub.asked() == 1).await;
        let woken = served.hub.asked_of();
        served.hub.change("box/gpu1", |it| it.status = active());
        woken
    });
    assert_eq!(says, "box/gpu1");
    assert_eq!(wakes[0].to_string(), "box/gpu1");
    busy.abort();
}

#[tokio::test]
async fn after_a_wake_that_fails_the_next_member_is_woken_within_the_same_wait_and_one_request_is_sent() {
    let served = Served::new().await;
    for provider in ["a/p", "b/p", "c/p"] {
        served.hub.publish(provider, "org/m", hibernating());
    }
    let asking: Vec<_> = (0..10)
        .map(|_| {
            served.hub.replies([hello()]);
            let request = served.chat("org/m", false).header("x-reveille-wait", "10");
            tokio::spawn(Answer::of(request))
        })
        .collect();
    served.hub.until("all wait", |hub| hub.asked() == 10).await;
    let failed = WakeError::Failed {
        provider: "a/p".parse().expect("legal"),
        wake_id: None,
        failure: Box::new(WakeFailure::new(
            WakeFailureKind::AgentLost,
            "agent",
            "its agent is lost",
        )),
        retry_after: None,
        spent: Duration::from_secs(1),
    };
    served.hub.fail_wakes_of("a/p", failed);
    served.hub.until("the next wake", |hub| hub.asked() == 20).await;
    served.hub.change("b/p", |it| it.status = active());
    for answer in asking {
        let answer = answer.await.expect("an answer");
        assert_eq!(
            (answer.status, answer.header("x-reveille-provider")),
            (200, Some("b/p"))
        );
    }
    assert_eq!(served.hub.sent().len(), 10, "each once");
    let woken = served.hub.asked_of();
    assert!(woken.iter().all(|id| id.agent.as_str() != "c"), "{woken:?}");
}
