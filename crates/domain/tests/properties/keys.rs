//! Invariants of keys.

use super::through_json;
use proptest::prelude::*;
use reveille_domain::{
    Key, KeyCommand, KeyEvent, KeyId, KeyName, Scopes, SecretHash, Timestamp,
    audit::{Findings, HistoryAudit},
    key::{KeyLimits, KeyPolicy, Priority},
};
use std::time::Duration;

/// When the clock of every life begins, in seconds.
const BEGINS: u64 = 1_700_000_000;

fn secret(number: u8) -> SecretHash {
    SecretHash::new([number; 32])
}

fn command(kind: u8, number: u8, secs: u64, life: Option<u64>) -> KeyCommand {
    let at = Timestamp::from_millis((BEGINS + secs) * 1000);
    match kind {
        0 => KeyCommand::Create {
            id: KeyId::parse("k7mq2v9x").expect("legal"),
            policy: KeyPolicy {
                name: KeyName::parse("a key").expect("legal"),
                scopes: Scopes::all(),
                expires_at_ms: life.map(|secs| at.plus(Duration::from_secs(secs))),
                limits: KeyLimits::default(),
                progress: None,
                priority: Priority::Normal,
            },
            secret: secret(number),
            at,
        },
        1 => KeyCommand::Revoke { at },
        _ => KeyCommand::Rotate {
            secret: secret(number),
            grace: Duration::from_secs(life.unwrap_or(0)),
            at,
        },
    }
}

proptest! {
    #[test]
    fn a_secret_that_is_no_longer_valid_never_is_again(
        steps in proptest::collection::vec((0..12_u8, 0..40_u64, proptest::option::of(0..200_u64)), 1..60),
    ) {
        let (mut key, mut events, mut secs) = (Key::default(), vec![], 0);
        let (mut revoked, mut refused) = (false, std::collections::HashSet::new());
        for (number, (kind, wait, life)) in steps.into_iter().enumerate() {
            secs += wait;
            // A secret is random, so each is new.
            let command = command(kind, number as u8, secs, life);
            let decided = key.decide(&command).unwrap_or_default();
            prop_assert!(!revoked || decided.is_empty(), "revoked for good");
            let (mut found, id) = (Findings::default(), KeyId::parse("k7mq2v9x").expect("legal"));
            HistoryAudit::default().key(&id, &key, &decided, &mut found);
            prop_assert_eq!(found.take(), [], "{:?}", command);
            for event in decided {
                revoked |= matches!(event, KeyEvent::KeyRevoked { .. });
                key = key.evolve(&event);
                events.push(event);
            }
            prop_assert_eq!(key.decide(&command).unwrap_or_default(), [], "repeated at once: {:?}", command);
            prop_assert_eq!(&through_json(&key), &key);
            prop_assert!(serde_json::to_string(&key).expect("serializes").len() < 1024);
            let now = Timestamp::from_millis((BEGINS + secs) * 1000);
            let valid: Vec<u8> = match &key {
                Key::Issued(key) => key.secrets_at(now).map(|secret| secret.as_bytes()[0]).collect(),
                Key::Unknown | Key::Revoked(_) => vec![],
            };
            prop_assert!(valid.len() <= 2 && (!revoked || valid.is_empty()));
            prop_assert!(valid.iter().all(|secret| !refused.contains(secret)));
            refused.extend((0..=number as u8).filter(|secret| !valid.contains(secret)));
        }
        let folded = events.iter().fold(Key::default(), |key, event| key.evolve(&through_json(event)));
        prop_assert_eq!(folded, key);
    }
}
