//! Laws of an agent's keys and of the tokens that let them in.

use proptest::prelude::*;
use reveille_domain::{
    Agent, AgentCommand, AgentEvent, AgentKey, AgentName, Epoch, MAX_TOKEN_LIFETIME, SecretHash, SessionId,
    Timestamp, TokenId,
};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

#[derive(Debug, Clone)]
enum Ask {
    Connect(u128),
    Issue(u8, u64),
    Enroll(u8, u8, u8),
    Trust(u8),
    Revoke,
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        2 => (0..9_u128).prop_map(Ask::Connect),
        3 => (any::<u8>(), 0..2_000_u64).prop_map(|(token, secs)| Ask::Issue(token % 16, secs)),
        // Now and then with another token's secret.
        6 => (0..16_u8, prop_oneof![9 => Just(0_u8), 1 => Just(1)], 0..4_u8)
            .prop_map(|(token, off, key)| Ask::Enroll(token, token + off, key)),
        1 => (0..4_u8).prop_map(Ask::Trust),
        1 => Just(Ask::Revoke),
    ]
}

fn key(number: u8) -> AgentKey {
    AgentKey::parse(&format!("U{}", char::from(b'A' + number).to_string().repeat(55))).expect("legal")
}

fn command(ask: &Ask, at: Timestamp) -> AgentCommand {
    let name = AgentName::parse("gpu-box").expect("legal");
    let token = |number: u8| TokenId(Uuid::from_u128(number.into()));
    match *ask {
        Ask::Connect(session) => AgentCommand::Connect {
            name,
            session: SessionId(Uuid::from_u128(session)),
            version: "1".to_owned(),
            at,
        },
        Ask::Issue(number, secs) => AgentCommand::IssueToken {
            name,
            token: token(number),
            secret: SecretHash::new([number; 32]),
            expires_at: Timestamp::from_millis(at.as_millis() + secs * 1000),
            at,
        },
        Ask::Enroll(number, secret, by) => AgentCommand::Enroll {
            name,
            token: token(number),
            secret: SecretHash::new([secret; 32]),
            key: key(by),
            at,
        },
        Ask::Trust(by) => AgentCommand::Trust {
            name,
            key: key(by),
            at,
        },
        Ask::Revoke => AgentCommand::Revoke { name, at },
    }
}

proptest! {
    #[test]
    fn a_token_lets_one_key_in_once_and_nobody_after_its_time_or_a_revocation(
        asks in proptest::collection::vec((ask(), 0..400_u64), 1..120),
    ) {
        let (mut agent, mut events, mut now) = (Agent::default(), vec![], 1_000_000);
        // The tokens and keys that are still usable, judged from the events alone.
        let mut open: HashMap<TokenId, Timestamp> = HashMap::new();
        let mut spent: HashSet<TokenId> = HashSet::new();
        for (ask, secs) in asks {
            now += secs * 1000;
            let (at, before) = (Timestamp::from_millis(now), agent.epoch());
            for event in agent.decide(&command(&ask, at)).unwrap_or_default() {
                match &event {
                    AgentEvent::AgentTokenIssued { token, expires_at_ms, .. } => {
                        prop_assert!(expires_at_ms.since(at) <= MAX_TOKEN_LIFETIME);
                        open.insert(*token, *expires_at_ms);
                        spent.remove(token);
                    }
                    AgentEvent::AgentEnrolled { token: Some(token), .. } => {
                        prop_assert!(open.get(token).is_some_and(|expires| at < *expires));
                        prop_assert!(spent.insert(*token), "a token was used twice");
                    }
                    AgentEvent::AgentRevoked { .. } => open.clear(),
                    AgentEvent::AgentEnrolled { token: None, .. }
                    | AgentEvent::AgentConnected { .. }
                    | AgentEvent::AgentEpochAdvanced { .. } => {}
                }
                agent = agent.evolve(&event);
                events.push(event);
            }
            if matches!(ask, Ask::Revoke) {
                prop_assert_eq!(agent.access.key(), None);
                prop_assert!(agent.epoch() > before || !matches!(agent.sessions, reveille_domain::Sessions::Connected(_)));
            }
            prop_assert!(agent.epoch() >= before && before >= Epoch(0));
            prop_assert!(serde_json::to_string(&agent).expect("serializes").len() < 4096);
        }
        let folded = events.iter().fold(Agent::default(), Agent::evolve);
        prop_assert_eq!(folded, agent);
    }
}
