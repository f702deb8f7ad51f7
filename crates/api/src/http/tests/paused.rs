//! An agent whose owner lets nothing wake: lists show it by the agent's heartbeats, and requests get the command that ends it.

use super::{
    Answer, Served,
    fake_hub::{active, hibernating, id},
};
use crate::{commands::Admin, wakes::WakeError};
use reveille_bus::heartbeats::{Heartbeat, ProviderPulse, StaysAwake};
use reveille_domain::{
    AgentCommand, AgentName, Epoch, PAUSED_STAGE, SessionId, Timestamp, WakeFailure, WakeFailureKind,
};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

impl Served {
    async fn connect(&self, agent: &AgentName) {
        let name = agent.clone();
        let command = move |at| AgentCommand::Connect {
            name,
            session: SessionId(Uuid::nil()),
            version: "1".to_owned(),
            at,
        };
        let connected = Admin::agent(&*self.hub, agent, "test", Box::new(command)).await;
        assert_eq!(connected.expect("accepted").events.len(), 1);
    }

    /// A heartbeat of the agent's session `epoch`.
    fn hears(&self, agent: &AgentName, epoch: u64, refusal: Option<WakeFailure>) {
        let heartbeat = Heartbeat {
            agent: agent.clone(),
            session: SessionId(Uuid::nil()),
            epoch: Epoch(epoch),
            silent_after_ms: 30_000,
            refusal,
            providers: vec![],
        };
        self.hub
            .registry
            .owner_refusals()
            .take(&heartbeat, Timestamp::from_millis(1));
    }
}

#[tokio::test]
async fn a_backend_that_was_to_sleep_and_stays_awake_is_listed_with_the_reason_until_it_sleeps() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", active());
    let hears = |epoch, reason: Option<&str>| {
        let stays_awake = reason.map(|reason| StaysAwake {
            attempt: 3,
            reason: reason.to_owned(),
        });
        served.hub.registry.staying_awake().take(&Heartbeat {
            agent: id("a/p").agent,
            session: SessionId(Uuid::nil()),
            epoch: Epoch(epoch),
            silent_after_ms: 30_000,
            refusal: None,
            providers: vec![ProviderPulse {
                provider: id("a/p").provider,
                availability: None,
                in_flight: 0,
                stays_awake,
            }],
        });
    };
    let listed = async || served.get("/reveille/v1/providers/a/p").await.json()["stays_awake"].clone();
    assert_eq!(listed().await, json!(null));
    hears(6, Some("of an earlier session"));
    assert_eq!(listed().await, json!(null));
    hears(7, Some("it isn't the agent's\u{1b}"));
    assert_eq!(
        listed().await,
        json!({"attempt": 3, "reason": "it isn't the agent's"})
    );
    served.hub.publish("a/p", "m", hibernating());
    assert_eq!(listed().await, json!(null), "it sleeps");
    served.hub.publish("a/p", "m", active());
    hears(7, None);
    assert_eq!(listed().await, json!(null));
}

fn paused(reason: &str) -> WakeFailure {
    WakeFailure::new(WakeFailureKind::NotAllowed, PAUSED_STAGE, reason)
}

#[tokio::test]
async fn a_pause_is_listed_with_the_agent_and_its_providers_until_it_ends() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", hibernating());
    let agent = AgentName::parse("a").expect("legal");
    served.connect(&agent).await;
    let (agents, providers) = ("/reveille/v1/agents", "/reveille/v1/providers");
    // The fake hub's providers are of another session than its agents.
    for (list, epoch) in [(agents, 1), (providers, 7)] {
        let refused = async || served.get(list).await.json()["data"][0]["wakes_refused"].clone();
        assert_eq!(refused().await, json!(null), "{list}");
        served.hears(&agent, epoch, Some(paused("its owner has paused this agent")));
        assert_eq!(
            refused().await,
            json!({"kind": "not_allowed", "stage": "paused", "reason": "its owner has paused this agent"}),
            "{list}"
        );
        served.hears(&agent, epoch, None);
        assert_eq!(refused().await, json!(null), "{list}");
    }
}

#[tokio::test]
async fn a_request_for_a_paused_provider_gets_the_end_of_the_pause_and_the_command_that_ends_it() {
    let served = Served::new().await;
    served.hub.publish("a/p", "m", hibernating());
    for (reason, more) in [
        (
            "its owner has paused this agent until 2026-11-23 14:00 +01:00",
            "; `reveille agent resume` on the machine of a ends the pause",
        ),
        (
            "its owner has paused this agent until `reveille agent resume`",
            " on the machine of a",
        ),
    ] {
        served.hub.refuse(WakeError::Failed {
            provider: id("a/p"),
            wake_id: None,
            failure: Box::new(paused(reason)),
            retry_after: None,
            spent: Duration::ZERO,
        });
        let answer = Answer::of(served.chat("m", false)).await;
        let message = format!("a/p can't be woken now: {reason}{more}");
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["message"], message);
    }
}
