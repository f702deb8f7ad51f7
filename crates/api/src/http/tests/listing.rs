use super::{
    Served,
    fake_hub::{active, hibernating, inactive},
    keys::with_root,
};
use crate::{commands::Admin, keys::AuthMode};
use reveille_domain::{
    AgentCommand, AgentName, Capability, ModelDetails, ModelName, SecretHash, SessionId, Timestamp, TokenId,
};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use uuid::Uuid;

#[tokio::test]
async fn sleeping_models_are_listed_and_listing_wakes_none() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "Qwen/Qwen3-8B", hibernating());
    served.hub.publish("b/vllm", "pooled", inactive());
    served.hub.publish("c/vllm", "pooled", active());
    let answer = served.get("/v1/models").await;
    let list = answer.json();
    assert_eq!((answer.status, &list["object"]), (200, &json!("list")));
    let ids: Vec<_> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| model["id"].clone())
        .collect();
    assert_eq!(ids, ["Qwen/Qwen3-8B", "pooled"]);
    let one = served.get("/v1/models/Qwen/Qwen3-8B").await.json();
    assert_eq!(one, list["data"][0]);
    assert_eq!(
        one,
        json!({
            "id": "Qwen/Qwen3-8B", "object": "model", "created": 1, "owned_by": "reveille",
            "status": { "value": "sleeping" },
            "reveille": {
                "status": "hibernating", "wake": null,
                "providers": [{ "id": "a/vllm", "status": "hibernating", "since_ms": 1000, "can_wake": true }],
            },
        })
    );
    let pooled = served.get("/v1/models/pooled").await.json();
    assert_eq!(
        (&pooled["status"]["value"], &pooled["reveille"]["status"]),
        (&json!("loaded"), &json!("active"))
    );
    assert_eq!(
        served.get("/v1/models/c/pooled").await.json()["reveille"]["providers"][0]["id"],
        "c/vllm"
    );
    let missing = served.get("/v1/models/none").await;
    assert_eq!(
        (missing.status, missing.error().as_str()),
        (404, "model_not_found")
    );
    assert_eq!(served.hub.asked(), 0);
}

/// What a backend says of a model.
fn details(created: u64, context_length: Option<u64>, capabilities: &[&str]) -> ModelDetails {
    let capability = |name: &&str| Capability::parse(name).expect("legal");
    ModelDetails {
        created: Some(created),
        context_length,
        capabilities: capabilities.iter().map(capability).collect(),
    }
}

#[tokio::test]
async fn a_sleeping_model_tells_what_its_backend_told_and_a_pool_what_holds_for_all_of_it() {
    let served = Served::new().await;
    let publish = |provider: &str, details: ModelDetails| {
        served.hub.publish(provider, "pooled", hibernating());
        served.hub.change(provider, |registered| {
            let model = ModelName::parse("pooled").expect("legal");
            let spec = registered.spec.clone().with_details([(model, details)].into());
            registered.spec = spec.expect("its model");
        });
    };
    publish(
        "a/vllm",
        details(1_700_000_000, Some(262_144), &["tools", "vision"]),
    );
    let told = async |path: &str| {
        let model = served.get(path).await.json();
        ["created", "context_length", "max_model_len", "capabilities"].map(|key| model[key].clone())
    };
    let alone = [
        json!(1_700_000_000),
        json!(262_144),
        json!(262_144),
        json!(["tools", "vision"]),
    ];
    assert_eq!(told("/v1/models/pooled").await, alone);
    assert_eq!(told("/v1/models/a/pooled").await, alone);
    publish("b/vllm", details(1_600_000_000, Some(32_768), &["tools"]));
    publish("c/vllm", details(1_800_000_000, None, &[]));
    assert_eq!(
        told("/v1/models/pooled").await,
        [
            json!(1_600_000_000),
            json!(32_768),
            json!(32_768),
            json!(["tools"])
        ]
    );
    assert_eq!(told("/v1/models/a/pooled").await, alone, "one of them by itself");
}

#[tokio::test]
async fn the_latest_tag_may_be_left_out_only_where_the_backend_adds_it() {
    let served = Served::new().await;
    for (provider, model) in [
        ("a/ollama", "qwen3:latest"),
        ("b/ollama", "llama3"),
        ("c/vllm", "plain"),
        ("c/other", "tagged:latest"),
    ] {
        served.hub.publish(provider, model, active());
        let ollama = provider.ends_with("ollama");
        served
            .hub
            .change(provider, |it| it.spec = it.spec.clone().with_latest_tag(ollama));
    }
    let found = async |model: &str| {
        let answer = served.get(&format!("/v1/models/{model}")).await;
        (answer.status == 200).then(|| answer.json()["reveille"]["providers"][0]["id"].clone())
    };
    for (model, provider) in [
        ("qwen3", "a/ollama"),
        ("qwen3:latest", "a/ollama"),
        ("a/qwen3", "a/ollama"),
        ("llama3:latest", "b/ollama"),
        ("b/llama3:latest", "b/ollama"),
    ] {
        assert_eq!(found(model).await, Some(json!(provider)), "{model}");
    }
    for model in ["plain:latest", "tagged", "qwen3:7b", "b/qwen3", "c/tagged"] {
        assert_eq!(found(model).await, None, "{model}");
    }
    served.hub.publish("d/vllm", "qwen3", active());
    assert_eq!(
        found("qwen3").await,
        Some(json!("d/vllm")),
        "the exact name first"
    );
    assert_eq!(found("a/qwen3").await, Some(json!("a/ollama")));
}

/// What a list has in one of its fields, read in pages.
async fn in_pages(served: &Served, list: &str, query: &str, limit: u32, field: &str) -> Vec<String> {
    let (mut listed, mut after) = (vec![], String::new());
    loop {
        let path = format!("/reveille/v1/{list}?{query}&limit={limit}{after}");
        let page = served.get(&path).await.json();
        let rows = page["data"].as_array().expect("a list");
        assert!(rows.len() <= limit as usize);
        listed.extend(
            rows.iter()
                .map(|row| row[field].as_str().expect("text").to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return listed,
        }
    }
}

#[tokio::test]
async fn providers_are_listed_in_the_order_that_is_asked_for() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "one", inactive());
    served.hub.publish("b/vllm", "two", hibernating());
    served.hub.publish("c/vllm", "three", active());
    served.hub.publish("d/vllm", "two", active());
    served.hub.change("b/vllm", |provider| {
        provider.status = reveille_domain::Status::Hibernating {
            since_ms: Timestamp::from_millis(500),
        };
    });
    for (query, ids) in [
        ("", "abcd"),
        ("sort=name", "abcd"),
        ("sort=-name", "dcba"),
        ("sort=status", "cdba"),
        ("sort=-status", "abdc"),
        ("sort=since", "bacd"),
        ("sort=-since", "dcab"),
        ("sort=-since&model=two", "db"),
        ("sort=since&status=active", "cd"),
    ] {
        for limit in [1, 3, 1000] {
            let listed = in_pages(&served, "providers", query, limit, "agent").await;
            assert_eq!(listed.concat(), ids, "{query} by {limit}");
        }
    }
    let cursor = served
        .get("/reveille/v1/providers?sort=since&limit=1")
        .await
        .json()["next"]
        .clone();
    let path = format!(
        "/reveille/v1/providers?after={}",
        cursor.as_str().expect("a cursor")
    );
    assert_eq!(served.get(&path).await.error(), "invalid_cursor");
}

#[tokio::test]
async fn agents_and_keys_are_listed_in_the_order_that_is_asked_for() {
    let (served, root) = with_root(AuthMode::Open).await;
    for (agent, connected_ms) in [("a", Some(30)), ("b", None), ("c", Some(10)), ("d", Some(20))] {
        let agent = AgentName::parse(agent).expect("legal");
        let name = agent.clone();
        let command = move |at| match connected_ms {
            Some(at_ms) => AgentCommand::Connect {
                name,
                session: SessionId(Uuid::from_u128(1)),
                version: "1".to_owned(),
                at: Timestamp::from_millis(at_ms),
            },
            None => AgentCommand::IssueToken {
                name,
                token: TokenId(Uuid::from_u128(1)),
                secret: SecretHash::new([0; 32]),
                expires_at: at,
                at,
            },
        };
        let done = Admin::agent(&*served.hub, &agent, "test", Box::new(command)).await;
        assert_eq!(done.expect("accepted").events.len(), 1);
    }
    for (query, agents) in [
        ("", "abcd"),
        ("sort=-name", "dcba"),
        ("sort=connected", "bcda"),
        ("sort=-connected", "adcb"),
    ] {
        for limit in [1, 3, 1000] {
            let listed = in_pages(&served, "agents", query, limit, "agent").await;
            assert_eq!(listed.concat(), agents, "{query} by {limit}");
        }
    }
    let mut made = vec![];
    for secs in [0, 10, 20, 30] {
        served.hub.secs.store(secs, Ordering::SeqCst);
        let terms = json!({ "name": "n", "scopes": ["query"] });
        made.push(served.make(&root, terms).await.0);
    }
    let turned = |ids: &[String]| ids.iter().rev().cloned().collect::<Vec<_>>();
    let mut by_id = made.clone();
    by_id.sort();
    for (query, ids) in [
        ("", by_id.clone()),
        ("sort=-id", turned(&by_id)),
        ("sort=created", made.clone()),
        ("sort=-created", turned(&made)),
    ] {
        for limit in [1, 3, 1000] {
            let listed = in_pages(&served, "keys", query, limit, "id").await;
            assert_eq!(listed, ids, "{query} by {limit}");
        }
    }
    for path in [
        "agents?sort=connected&after=a",
        "keys?sort=created&after=abcdefgh",
    ] {
        let answer = served.get(&format!("/reveille/v1/{path}")).await;
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (400, "invalid_cursor"),
            "{path}"
        );
    }
    let ahead = served.get("/reveille/v1/agents?min_seq=1000000").await;
    assert_eq!((ahead.status, ahead.error().as_str()), (503, "rows_behind"));
}

#[tokio::test]
async fn a_sort_that_a_list_does_not_know_is_refused_and_the_known_ones_are_named() {
    let served = Served::new().await;
    for (list, legal) in [
        ("llms", "name, -name, status, -status, since, -since"),
        ("providers", "name, -name, status, -status, since, -since"),
        ("wakes", "requested, -requested, took, -took"),
        ("events", "seq, -seq"),
        ("agents", "name, -name, connected, -connected"),
        ("keys", "id, -id, created, -created"),
    ] {
        for sort in ["", "-", "--name", "nonsense", "NAME", "model", "name,since"] {
            let answer = served.get(&format!("/reveille/v1/{list}?sort={sort}")).await;
            assert_eq!(
                (answer.status, answer.error().as_str()),
                (400, "invalid_query"),
                "{list} {sort}"
            );
            assert!(
                answer
                    .text()
                    .contains(&format!("sort: the sort of this list is one of {legal}")),
                "{}",
                answer.text()
            );
        }
    }
    // The cursor of wakes had another name when there was but one order.
    assert_eq!(
        served.get("/reveille/v1/wakes?before=x").await.error(),
        "invalid_cursor"
    );
    assert_eq!(
        served.get("/reveille/v1/wakes?before=x&after=x").await.error(),
        "invalid_query"
    );
    let both = served.get("/reveille/v1/events?follow=true&sort=-seq").await;
    assert_eq!(
        (both.status, both.json()["error"]["param"].clone()),
        (400, json!("sort"))
    );
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let served = Served::new().await;
    let ready = served.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("ready")));
    served.hub.forget_everything();
    let missing = served.get("/readyz").await;
    let expected = json!({ "status": "not_ready", "checks": { "registry": false, "nats": true, "clock": true, "agent_auth": true, "agent": true, "journal": true } });
    assert_eq!((missing.status, missing.json()), (503, expected));
    assert_eq!(served.get("/livez").await.json(), json!({ "status": "alive" }));
}

#[tokio::test]
async fn providers_are_shown_without_their_recipes() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", hibernating());
    served.hub.publish("b/vllm", "m", active());
    let page = served
        .get("/reveille/v1/providers?status=hibernating")
        .await
        .json();
    assert_eq!(
        (&page["next"], &page["applied"]),
        (&Value::Null, &json!(served.hub.registry.applied()))
    );
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1));
    let one = served.get("/reveille/v1/providers/a/vllm").await.json();
    assert_eq!(one, page["data"][0]);
    assert_eq!(one["recipe"], json!({ "kind": "http", "budget_ms": 60_000 }));
    assert_eq!(
        (&one["id"], &one["waiting"], &one["epoch"]),
        (&json!("a/vllm"), &json!(3), &json!(7))
    );
    let ahead = format!(
        "/reveille/v1/providers?min_seq={}",
        served.hub.registry.applied() + 1
    );
    for (path, status, code) in [
        ("/reveille/v1/providers/a/none", 404, "not_found"),
        ("/reveille/v1/providers/A/none", 400, "invalid_path"),
        ("/reveille/v1/providers?status=tired", 400, "invalid_query"),
        ("/reveille/v1/providers?colour=red", 400, "invalid_query"),
        (&*ahead, 503, "rows_behind"),
    ] {
        let answer = served.get(path).await;
        assert_eq!((answer.status, answer.error().as_str()), (status, code), "{path}");
    }
}

#[tokio::test]
async fn waking_by_hand_begins_once_and_may_wait() {
    let served = Served::new().await;
    served.hub.publish("a/vllm", "m", hibernating());
    let order = |what: &str| served.post(&format!("/reveille/v1/providers/a/vllm/{what}"), &json!({}));
    let begun = super::Answer::of(order("wake")).await;
    assert_eq!((begun.status, &begun.json()["status"]), (202, &json!("waking")));
    let wake_id = begun.json()["wake_id"].as_str().expect("a wake").to_owned();
    assert_eq!(begun.header("x-reveille-wake-id"), Some(wake_id.as_str()));
    let waiting = tokio::spawn(super::Answer::of(order("wake?wait=true")));
    served.hub.until("the second order", |hub| hub.asked() == 2).await;
    served.hub.change("a/vllm", |provider| provider.status = active());
    let woken = waiting.await.expect("an answer");
    assert_eq!((woken.status, &woken.json()["wake_id"]), (200, &json!(wake_id)));
    let again = super::Answer::of(order("wake")).await;
    assert_eq!((again.status, &again.json()["status"]), (200, &json!("active")));
    assert_eq!(super::Answer::of(order("sleep")).await.status, 202);
    assert_eq!(served.hub.slept.load(Ordering::SeqCst), 1);
    let nobody = super::Answer::of(served.post("/reveille/v1/providers/a/none/wake", &json!({}))).await;
    assert_eq!(
        (nobody.status, nobody.error().as_str()),
        (404, "provider_not_found")
    );
}

#[tokio::test]
async fn providers_come_in_pages_that_leave_none_out() {
    let served = Served::new().await;
    let all = ["a/one", "a/two", "a-b/one", "b/one", "b/two"];
    for id in all {
        served.hub.publish(id, "pooled", active());
    }
    let mut seen = vec![];
    let mut after = String::new();
    loop {
        let page = served
            .get(&format!("/reveille/v1/providers?limit=2{after}"))
            .await
            .json();
        let ids: Vec<_> = page["data"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| row["id"].clone())
            .collect();
        assert!(ids.len() <= 2);
        seen.extend(ids);
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["a/one", "a/two", "a-b/one", "b/one", "b/two"]);
    for (query, count) in [
        ("agent=a", 2),
        ("provider=one", 3),
        ("model=pooled", 5),
        ("model=other", 0),
        ("limit=0", 1),
    ] {
        let page = served
            .get(&format!("/reveille/v1/providers?{query}"))
            .await
            .json();
        assert_eq!(page["data"].as_array().map(Vec::len), Some(count), "{query}");
    }
    let refused = served.get("/reveille/v1/providers?after=x").await;
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (400, "invalid_cursor")
    );
}

#[tokio::test]
async fn status_tells_how_far_the_rows_are_behind_and_what_waits() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "qwen", hibernating());
    let status = served.get("/reveille/v1/status").await.json();
    let journal = status["journal"].as_u64().expect("a sequence");
    let applied = status["rows"]["applied"].as_u64().expect("a sequence");
    assert_eq!(status["rows"]["lag"], journal.saturating_sub(applied));
    // The fake's number for each of its providers.
    let waiting = status["waiting"].as_object().expect("an object");
    assert_eq!(waiting.get("gpu-box/vllm"), Some(&json!(3)), "{status}");
}
