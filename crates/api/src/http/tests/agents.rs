//! Tokens that would lead nowhere, and agents that were forgotten.

use super::{Answer, Served, keys::with_root};
use crate::{
    commands::{Admin, AgentCommandAt},
    keys::AuthMode,
};
use reveille_domain::{AdvanceReason, AgentCommand, AgentName, Epoch, SessionId};
use serde_json::json;
use uuid::Uuid;

const TOKENS: &str = "/reveille/v1/agents/nas/tokens";

async fn listed(served: &Served) -> Vec<String> {
    let agents = served.get("/reveille/v1/agents").await.json();
    let rows = agents["data"].as_array().expect("rows").iter();
    rows.map(|row| {
        format!(
            "{} {}",
            row["agent"].as_str().unwrap(),
            row["status"].as_str().unwrap()
        )
    })
    .collect()
}

#[tokio::test]
async fn a_token_for_another_machine_is_only_made_where_that_finds_the_hub() {
    let (served, root) = with_root(AuthMode::Open).await;
    let asked = async |over_nats: bool| {
        let request = served.post(TOKENS, &json!({ "over_nats": over_nats }));
        Answer::of(request.bearer_auth(&root)).await
    };
    let refused = asked(true).await;
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (409, "hub_not_reachable")
    );
    assert!(
        refused.text().contains("`reveille up --agents`"),
        "{}",
        refused.text()
    );
    assert_eq!(listed(&served).await, [""; 0], "nobody was invited");
    assert_eq!(asked(false).await.status, 201);
}

#[tokio::test]
async fn no_token_is_made_by_which_a_machine_would_take_the_place_of_the_hubs_own_agent() {
    let (served, root) = with_root(AuthMode::Open).await;
    let request = served.post("/reveille/v1/agents/own-box/tokens", &json!({}));
    let refused = Answer::of(request.bearer_auth(&root)).await;
    assert_eq!((refused.status, refused.error().as_str()), (409, "own_agent"));
    assert!(
        refused.text().contains("choose another name"),
        "{}",
        refused.text()
    );
    assert_eq!(listed(&served).await, [""; 0], "nobody was invited");
}

#[tokio::test]
async fn a_forgotten_agent_is_not_listed_until_it_is_invited_or_comes_back() {
    let (served, root) = with_root(AuthMode::Open).await;
    let (nas, path) = (
        AgentName::parse("nas").unwrap(),
        "/reveille/v1/agents/nas/providers",
    );
    let forget = async || {
        let request = served.client.delete(format!("{}{path}", served.url));
        Answer::of(request.bearer_auth(&root)).await.json()
    };
    let invite = async || Answer::of(served.post(TOKENS, &json!({})).bearer_auth(&root)).await;
    assert_eq!(invite().await.status, 201);
    assert_eq!(listed(&served).await, ["nas invited"]);
    assert_eq!(
        forget().await,
        json!({"agent": "nas", "providers": 0, "has_key": false})
    );
    assert_eq!(listed(&served).await, [""; 0]);
    invite().await;
    assert_eq!(listed(&served).await, ["nas invited"]);
    let connect = |session| {
        let name = nas.clone();
        move |at| AgentCommand::Connect {
            name,
            session: SessionId(Uuid::from_u128(session)),
            version: "1".to_owned(),
            at,
        }
    };
    for session in [1, 2] {
        let connected = Admin::agent(&*served.hub, &nas, "test", Box::new(connect(session))).await;
        assert!(connected.is_ok());
        assert_eq!(listed(&served).await, ["nas away"]);
        forget().await;
        assert_eq!(listed(&served).await, [""; 0], "{session}");
    }
    // Neither ends what a person has done: to forget it.
    let restored = |at| AgentCommand::Advance {
        to: Epoch(1_000),
        reason: AdvanceReason::JournalRestored,
        at,
    };
    for command in [
        Box::new(restored) as AgentCommandAt,
        Box::new({
            let name = nas.clone();
            move |at| AgentCommand::Revoke { name, at }
        }),
    ] {
        assert!(Admin::agent(&*served.hub, &nas, "test", command).await.is_ok());
        assert_eq!(listed(&served).await, [""; 0]);
    }
    invite().await;
    let ended_by = served.state.registry.agents().get(&nas).unwrap().ended_by;
    assert_eq!(
        ended_by,
        Some(AdvanceReason::Revoked),
        "a new token ends no session"
    );
}
