//! What is refused: bad input, bad keys, and messages that make no sense where they are said.

use super::{asked::chat, hub::Hub};
use reveille_tests::{Answer, wait_until};
use serde_json::{Value, json};

use crate::scene::SOON;

pub async fn bad_input(hub: &Hub, key: &str) {
    let plant = |place| hub.planted.plant(place);
    let post = || {
        hub.client
            .post(hub.url("/v1/chat/completions"))
            .bearer_auth(key)
            .header("content-type", "application/json")
    };
    let model = format!("open-{}", hub.marker);
    for (place, body) in [
        (
            "body that is cut short",
            r#"{"model":"MODEL","messages":["SECRET"#.to_owned(),
        ),
        ("body that is no JSON", "SECRET is what I ask".to_owned()),
        (
            "messages that are none",
            r#"{"model":"MODEL","messages":"SECRET"}"#.to_owned(),
        ),
        (
            "stream that is no boolean",
            r#"{"model":"MODEL","messages":[],"stream":"SECRET"}"#.to_owned(),
        ),
        (
            "model that is an object",
            r#"{"model":{"SECRET":1},"messages":[]}"#.to_owned(),
        ),
        (
            "model that nobody has",
            r#"{"model":"SECRET","messages":[]}"#.to_owned(),
        ),
        (
            "model that is too long",
            format!(r#"{{"model":"{}","messages":[]}}"#, "SECRET".repeat(40)),
        ),
        (
            "base_url in a body",
            r#"{"model":"MODEL","messages":[],"base_url":"http://SECRET"}"#.to_owned(),
        ),
        (
            "model that is there twice",
            r#"{"model":"MODEL","model":"SECRET","messages":[]}"#.to_owned(),
        ),
    ] {
        let body = body.replace("MODEL", &model).replace("SECRET", &plant(place));
        let answer = hub.ask(post().body(body), &[place]).await;
        assert!((400..500).contains(&answer.status), "{place}: {}", answer.text());
    }
    for (place, header) in [
        ("wait that is none", "x-reveille-wait"),
        ("wake that is no choice", "x-reveille-wake"),
        ("progress that is no choice", "x-reveille-progress"),
        ("media type that is none", "content-type"),
        ("encoding that is none", "content-encoding"),
    ] {
        let request = hub.client.post(hub.url("/v1/chat/completions")).bearer_auth(key);
        let request = request
            .header(header, plant(place))
            .body(chat(hub, "open", "hello").to_string());
        let answer = hub.ask(request, &[place, "completion"]).await;
        assert!((400..500).contains(&answer.status), "{place}: {}", answer.text());
    }
    for (place, path) in [
        ("query that is none", "/reveille/v1/llms?limit="),
        ("cursor that is none", "/reveille/v1/wakes?after="),
        ("path that is none", "/nowhere/"),
        ("wake id that is none", "/reveille/v1/wakes/"),
        ("model in a path", "/v1/models/"),
    ] {
        let answer = hub
            .ask(hub.get(&format!("{path}{}", plant(place))), &[place])
            .await;
        assert!((400..500).contains(&answer.status), "{place}: {}", answer.text());
    }
    let terms = json!({ "name": "n", "scopes": [plant("scope that is none")] });
    let answer = hub
        .ask(
            hub.client
                .post(hub.url("/reveille/v1/keys"))
                .bearer_auth(&hub.root)
                .json(&terms),
            &["scope that is none"],
        )
        .await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let guess = json!({ "agent": hub.marker, "token_id": plant("token id that is none"), "secret": plant("secret of no token"), "key": "x" });
    let request = hub.client.post(hub.url("/reveille/v1/enroll")).json(&guess);
    let answer = hub
        .ask(request, &["token id that is none", "secret of no token"])
        .await;
    assert!((400..500).contains(&answer.status), "{}", answer.text());
}

pub async fn refused_keys(hub: &Hub) {
    let terms = |more: Value| {
        let mut terms = json!({ "name": "n", "scopes": ["infer:*"] });
        terms
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        terms
    };
    let expired = hub
        .make_key("expired key", &terms(json!({ "expires_in_s": 1 })))
        .await;
    let revoked = hub.make_key("revoked key", &terms(json!({}))).await;
    let weak = hub
        .make_key("key without the scope", &terms(json!({ "scopes": ["query"] })))
        .await;
    let id = revoked.split('_').nth(1).expect("an id").to_owned();
    let answer = hub
        .ask(
            hub.client
                .delete(hub.url(&format!("/reveille/v1/keys/{id}")))
                .bearer_auth(&hub.root),
            &[],
        )
        .await;
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    let wrong = format!(
        "rv_{id}_{}",
        &hub.planted.plant("wrong secret of a key").repeat(2)[..43]
    );
    wait_until("the key had expired", SOON, async || {
        (Answer::of(hub.client.get(hub.url("/v1/models")).bearer_auth(&expired))
            .await
            .status
            == 401)
            .then_some(())
    })
    .await;
    let [foreign, basic] =
        ["key of another service", "basic credentials"].map(|place| hub.planted.plant(place));
    for (name, value, status) in [
        ("authorization", format!("Bearer {expired}"), 401),
        ("authorization", format!("Bearer {revoked}"), 401),
        ("authorization", format!("Bearer {wrong}"), 401),
        ("authorization", format!("Bearer sk-{foreign}"), 401),
        ("authorization", format!("Basic {basic}"), 401),
        ("x-api-key", revoked.clone(), 401),
        ("authorization", format!("Bearer {weak}"), 403),
    ] {
        let request = hub
            .client
            .post(hub.url("/v1/chat/completions"))
            .header(name, value);
        let answer = hub.ask(request.json(&chat(hub, "open", "hello")), &[]).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
}

/// What makes no sense where it is said, by somebody who may speak there.
pub async fn foreign_messages(hub: &Hub) {
    let plant = |place| hub.planted.plant(place);
    let marker = &hub.marker;
    let agent = hub
        .connect(&hub.agent_key(), &format!("_INBOX.agent.{marker}"))
        .await;
    let control = plant("control message that is none");
    for payload in [
        format!("{{\"v\":1,\"agent\":\"{control}\",\"verb\":\"{control}\"}}"),
        format!(
            "{{\"v\":1,\"agent\":{marker:?},\"verb\":\"report\",\"provider\":\"open\",\"id\":{{\"epoch\":\"{control}\"}}}}"
        ),
        control.clone(),
    ] {
        let answer = agent
            .request(format!("reveille.control.{marker}.report"), payload.into())
            .await;
        let answer: Value = serde_json::from_slice(&answer.expect("an answer").payload).expect("JSON");
        assert_eq!(answer["answer"], "refused");
    }
    let heartbeat = format!("{{\"agent\":\"{}\"}}", plant("heartbeat that is none"));
    agent
        .publish(format!("reveille.heartbeats.{marker}"), heartbeat.into())
        .await
        .expect("sent");
    let frame = plant("frame that is none");
    agent
        .publish(format!("reveille.replies.x.{marker}.{frame}"), frame.into())
        .await
        .expect("sent");
    agent.flush().await.expect("sent");
    let api = hub.connect(&hub.keys.join("api.nk"), "_INBOX.api").await;
    let (wake, order) = (plant("wake that is none"), plant("order that is none"));
    api.publish(
        format!("reveille.wakes.{marker}.open"),
        format!("{{\"provider\":\"{wake}\"}}").into(),
    )
    .await
    .expect("sent");
    api.publish(
        format!("reveille.orders.{marker}"),
        format!("{{\"epoch\":1,\"order\":\"{order}\"}}").into(),
    )
    .await
    .expect("sent");
    api.flush().await.expect("sent");
}
