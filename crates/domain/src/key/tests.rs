//! The rules by example: given these events, when a command comes, then these events or this refusal.

use super::*;
use crate::{KeyId, KeyName, SecretHash, Timestamp};
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(60);

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_764_000_000_000 + secs * 1000)
}

fn id() -> KeyId {
    KeyId::parse("k7mq2v9x").expect("legal")
}

fn secret(number: u8) -> SecretHash {
    SecretHash::new([number; 32])
}

fn policy(expires_at_ms: Option<Timestamp>) -> KeyPolicy {
    KeyPolicy {
        name: KeyName::parse("the laptop").expect("legal"),
        scopes: scopes(&["infer:*"]),
        expires_at_ms,
        limits: KeyLimits::default(),
        progress: None,
        priority: Priority::Normal,
    }
}

fn scopes(raw: &[&str]) -> Scopes {
    let scopes: Result<std::collections::BTreeSet<Scope>, _> = raw.iter().map(|raw| raw.parse()).collect();
    scopes.expect("scopes").try_into().expect("some")
}

fn create(number: u8, expires: Option<Timestamp>) -> KeyCommand {
    KeyCommand::Create {
        id: id(),
        policy: policy(expires),
        secret: secret(number),
        at: at(0),
    }
}

fn rotate(number: u8, grace: Duration, secs: u64) -> KeyCommand {
    KeyCommand::Rotate {
        secret: secret(number),
        grace,
        at: at(secs),
    }
}

fn revoke(secs: u64) -> KeyCommand {
    KeyCommand::Revoke { at: at(secs) }
}

fn after(commands: &[KeyCommand]) -> Key {
    commands.iter().fold(Key::default(), |key, command| {
        let events = key.decide(command).expect("accepted");
        events.iter().fold(key, Key::evolve)
    })
}

fn valid(key: &Key, secs: u64) -> Vec<u8> {
    let Key::Issued(key) = key else { return vec![] };
    key.secrets_at(at(secs))
        .map(|secret| secret.as_bytes()[0])
        .collect()
}

#[test]
fn a_key_is_valid_from_its_creation_until_it_expires() {
    assert_eq!(valid(&after(&[create(1, None)]), 1_000_000_000), [1]);
    let expiring = after(&[create(1, Some(at(10)))]);
    assert_eq!(valid(&expiring, 9), [1]);
    assert_eq!(valid(&expiring, 10), [0; 0], "the moment itself is too late");
}

#[test]
fn a_key_that_would_begin_expired_is_refused() {
    let refused = Err(KeyRejection::ExpiresBeforeItBegins);
    assert_eq!(Key::Unknown.decide(&create(1, Some(at(0)))), refused);
}

#[test]
fn an_id_is_given_once_and_a_retry_changes_nothing() {
    let key = after(&[create(1, None)]);
    assert_eq!(key.decide(&create(1, None)), Ok(vec![]));
    assert_eq!(key.decide(&create(2, None)), Err(KeyRejection::IdTaken));
    let revoked = after(&[create(1, None), revoke(1)]);
    assert_eq!(revoked.decide(&create(1, None)), Err(KeyRejection::IdTaken));
}

#[test]
fn a_rotation_ends_the_old_secret_at_once_or_after_its_grace() {
    let at_once = after(&[create(1, None), rotate(2, Duration::ZERO, 10)]);
    assert_eq!(valid(&at_once, 10), [2]);
    let later = after(&[create(1, None), rotate(2, GRACE, 10)]);
    assert_eq!(valid(&later, 69), [2, 1]);
    assert_eq!(valid(&later, 70), [2]);
    assert_eq!(later.decide(&rotate(2, GRACE, 11)), Ok(vec![]), "a retry");
}

#[test]
fn a_second_rotation_within_the_grace_leaves_two_secrets_and_not_three() {
    let key = after(&[create(1, None), rotate(2, GRACE, 10), rotate(3, GRACE, 20)]);
    assert_eq!(valid(&key, 21), [3, 2]);
}

#[test]
fn a_rotation_does_not_make_a_key_live_longer() {
    let key = after(&[create(1, Some(at(15))), rotate(2, GRACE, 10)]);
    assert_eq!(valid(&key, 14), [2, 1]);
    assert_eq!(valid(&key, 15), [0; 0]);
    assert_eq!(key.decide(&rotate(3, GRACE, 15)), Err(KeyRejection::Expired));
}

#[test]
fn a_grace_has_an_end() {
    let key = after(&[create(1, None)]);
    let longer = MAX_GRACE + Duration::from_secs(1);
    assert!(key.decide(&rotate(2, MAX_GRACE, 1)).is_ok());
    assert_eq!(key.decide(&rotate(2, longer, 1)), Err(KeyRejection::GraceTooLong));
}

#[test]
fn a_revoked_key_stays_revoked_and_its_hashes_are_forgotten() {
    let key = after(&[create(7, None), rotate(8, GRACE, 1), revoke(2)]);
    assert_eq!(valid(&key, 3), [0; 0]);
    assert_eq!(key.decide(&revoke(3)), Ok(vec![]));
    assert_eq!(
        key.decide(&rotate(9, Duration::ZERO, 3)),
        Err(KeyRejection::Revoked)
    );
    let json = serde_json::to_string(&key).expect("serializes");
    assert!(!json.contains("0707") && !json.contains("0808"), "{json}");
}

#[test]
fn what_was_never_made_is_neither_rotated_nor_revoked() {
    for command in [rotate(1, Duration::ZERO, 1), revoke(1)] {
        assert_eq!(Key::Unknown.decide(&command), Err(KeyRejection::NotFound));
    }
}

#[test]
fn a_model_is_asked_by_its_name_anywhere_and_by_its_agent_there_alone() {
    let by_name = scopes(&["infer:qwen"]);
    assert!(by_name.may_ask("qwen", "qwen") && by_name.may_ask("gpu-box/qwen", "qwen"));
    assert!(!by_name.may_ask("qwen2", "qwen2") && !by_name.may_ask("Qwen", "Qwen"));
    let on_agent = scopes(&["infer:gpu-box/qwen"]);
    assert!(on_agent.may_ask("gpu-box/qwen", "qwen"));
    assert!(!on_agent.may_ask("qwen", "qwen") && !on_agent.may_ask("other/qwen", "qwen"));
    assert!(scopes(&["infer:*"]).may_ask("anything", "anything"));
    let none = scopes(&["admin", "query"]);
    assert!(!none.may_infer() && !none.may_ask("qwen", "qwen"));
}

#[test]
fn scopes_read_back_as_they_are_written_and_others_are_refused() {
    for raw in [
        "admin",
        "query",
        "infer:*",
        "infer:Qwen/Qwen3-8B",
        "infer:infer:*",
    ] {
        assert_eq!(
            raw.parse::<Scope>().map(|scope| scope.to_string()),
            Ok(raw.to_owned())
        );
    }
    for raw in ["", "Admin", "infer", "infer:", "infer:a\nb", "*", "admin "] {
        assert!(raw.parse::<Scope>().is_err(), "{raw:?}");
    }
    let many = (0..=MAX_SCOPES).map(|n| format!("infer:m{n}").parse::<Scope>().expect("legal"));
    let many: std::collections::BTreeSet<_> = many.collect();
    assert_eq!(Scopes::try_from(many), Err(InvalidScope::Count));
    assert_eq!(
        Scopes::try_from(std::collections::BTreeSet::new()),
        Err(InvalidScope::Count)
    );
}

#[test]
fn limits_have_limits() {
    assert_eq!(KeyLimits::new(Some(0), None, None), Err(InvalidLimit::Rate));
    assert_eq!(
        KeyLimits::new(Some(MAX_RATE + 1), None, None),
        Err(InvalidLimit::Rate)
    );
    assert_eq!(
        KeyLimits::new(None, Some(0), None),
        Err(InvalidLimit::Concurrency)
    );
    assert_eq!(
        KeyLimits::new(None, Some(MAX_CONCURRENCY + 1), None),
        Err(InvalidLimit::Concurrency)
    );
    assert_eq!(
        KeyLimits::new(None, None, Some(MAX_WAKES_PER_HOUR + 1)),
        Err(InvalidLimit::WakesPerHour)
    );
    assert!(KeyLimits::new(Some(1), Some(1), Some(0)).is_ok());
}

#[test]
fn a_hash_is_read_as_it_is_written_and_never_printed() {
    let hash = SecretHash::new(std::array::from_fn(|n| n as u8 * 7));
    let text = serde_json::to_string(&hash).expect("written");
    assert_eq!(text.len(), 66);
    assert_eq!(serde_json::from_str::<SecretHash>(&text).expect("read"), hash);
    assert!(!format!("{hash:?}").contains(&text[1..9]));
    for damaged in [&text.replacen('0', "", 1), &text.replace('0', "g"), "\"\""] {
        let read = serde_json::from_str::<SecretHash>(damaged);
        assert!(read.is_err(), "{damaged}");
    }
}
