use super::{sessions::REMEMBERED_SESSIONS, *};
use crate::{SecretHash, SessionId, Timestamp, TokenId};
use std::time::Duration;
use uuid::Uuid;

fn connect(session: u128) -> AgentCommand {
    AgentCommand::Connect {
        name: AgentName::parse("gpu-box").expect("legal"),
        session: SessionId(Uuid::from_u128(session)),
        version: "0.1.0".into(),
        at: Timestamp::from_millis(7),
    }
}

fn after(commands: &[AgentCommand]) -> Agent {
    commands.iter().fold(Agent::default(), |agent, command| {
        let events = agent.decide(command).expect("accepted");
        events.iter().fold(agent, Agent::evolve)
    })
}

#[test]
fn each_new_session_gets_the_next_epoch() {
    assert_eq!(after(&[connect(1)]).epoch(), Epoch(1));
    assert_eq!(after(&[connect(1), connect(2)]).epoch(), Epoch(2));
}

#[test]
fn a_repeated_connect_of_the_current_session_changes_nothing() {
    assert_eq!(after(&[connect(1)]).decide(&connect(1)), Ok(vec![]));
}

#[test]
fn a_superseded_session_never_comes_back() {
    let current = Epoch(2);
    assert_eq!(
        after(&[connect(1), connect(2)]).decide(&connect(1)),
        Err(AgentRejection::SessionSuperseded { current })
    );
}

fn advance(to: u64) -> AgentCommand {
    AgentCommand::Advance {
        to: Epoch(to),
        reason: AdvanceReason::JournalRestored,
        at: Timestamp::from_millis(8),
    }
}

#[test]
fn an_advanced_epoch_supersedes_every_session_and_the_next_one_gets_a_higher_one() {
    let fenced = after(&[connect(1), connect(2), advance(1_000)]);
    let current = Epoch(1_000);
    for session in [1, 2] {
        let refused = Err(AgentRejection::SessionSuperseded { current });
        assert_eq!(fenced.decide(&connect(session)), refused);
    }
    let next = after(&[connect(1), connect(2), advance(1_000), connect(3)]);
    assert_eq!(next.epoch(), Epoch(1_001));
    assert!(next.decide(&connect(2)).is_err());
}

#[test]
fn an_epoch_is_never_lowered_nor_advanced_twice() {
    let fenced = after(&[connect(1), advance(1_000)]);
    assert_eq!(fenced.decide(&advance(1_000)), Ok(vec![]));
    assert_eq!(fenced.decide(&advance(7)), Ok(vec![]));
    assert_eq!(Agent::default().decide(&advance(7)), Ok(vec![]));
}

#[test]
fn an_agent_is_forgotten_even_if_it_never_connected_but_not_once_it_is_back() {
    let forget = |to| AgentCommand::Forget {
        name: name(),
        to: Epoch(to),
        at: Timestamp::from_millis(8),
    };
    let forgotten = AgentEvent::AgentEpochAdvanced {
        name: name(),
        epoch: Epoch(2),
        reason: AdvanceReason::Forgotten,
        at_ms: Timestamp::from_millis(8),
    };
    let away = after(&[connect(1)]);
    assert_eq!(away.decide(&forget(2)), Ok(vec![forgotten]));
    assert_eq!(
        Agent::default().decide(&forget(1)).map(|events| events.len()),
        Ok(1)
    );
    let back = after(&[connect(1), connect(2)]);
    assert_eq!(back.decide(&forget(2)), Ok(vec![]));
    let again = after(&[connect(1), forget(2), connect(3)]);
    assert_eq!(again.epoch(), Epoch(3));
}

#[test]
fn remembered_sessions_are_bounded() {
    let Sessions::Connected(session) = after(&(1..100).map(connect).collect::<Vec<_>>()).sessions else {
        panic!("connected")
    };
    assert_eq!(
        (session.epoch, session.earlier.len()),
        (Epoch(99), REMEMBERED_SESSIONS)
    );
}

fn name() -> AgentName {
    AgentName::parse("gpu-box").expect("legal")
}

const fn secs(secs: u64) -> Timestamp {
    Timestamp::from_millis(secs * 1000)
}

const fn token(number: u128) -> TokenId {
    TokenId(Uuid::from_u128(number))
}

fn key(letter: char) -> AgentKey {
    AgentKey::parse(&format!("U{}", letter.to_string().repeat(55))).expect("legal")
}

/// Valid from 0 s to 900 s, with the secret of its number.
fn issue(number: u8) -> AgentCommand {
    AgentCommand::IssueToken {
        name: name(),
        token: token(number.into()),
        secret: SecretHash::new([number; 32]),
        expires_at: secs(900),
        at: secs(0),
    }
}

fn enroll(number: u8, key: AgentKey, at: Timestamp) -> AgentCommand {
    AgentCommand::Enroll {
        name: name(),
        token: token(number.into()),
        secret: SecretHash::new([number; 32]),
        key,
        at,
    }
}

fn revoke() -> AgentCommand {
    AgentCommand::Revoke {
        name: name(),
        at: secs(9),
    }
}

#[test]
fn a_token_enrolls_one_key_once_and_the_same_request_again_changes_nothing() {
    let agent = after(&[issue(1), enroll(1, key('A'), secs(5))]);
    assert_eq!(agent.access.key(), Some(&key('A')));
    assert_eq!(agent.decide(&enroll(1, key('A'), secs(6))), Ok(vec![]));
    let used = agent.decide(&enroll(1, key('B'), secs(6)));
    assert_eq!(used, Err(AgentRejection::TokenUsed));
}

#[test]
fn a_token_that_is_unknown_expired_or_has_another_secret_enrolls_nobody() {
    let agent = after(&[issue(1)]);
    let unknown = agent.decide(&enroll(2, key('A'), secs(5)));
    assert_eq!(unknown, Err(AgentRejection::TokenUnknown));
    let AgentCommand::Enroll {
        name, token, key, at, ..
    } = enroll(1, key('A'), secs(5))
    else {
        unreachable!()
    };
    let guessed = AgentCommand::Enroll {
        name,
        token,
        secret: SecretHash::new([9; 32]),
        key: key.clone(),
        at,
    };
    assert_eq!(agent.decide(&guessed), Err(AgentRejection::TokenUnknown));
    assert!(agent.decide(&enroll(1, key.clone(), secs(899))).is_ok());
    let late = agent.decide(&enroll(1, key, secs(900)));
    assert_eq!(late, Err(AgentRejection::TokenExpired));
}

#[test]
fn a_token_lives_for_a_quarter_of_an_hour_at_most() {
    let AgentCommand::IssueToken {
        name,
        token,
        secret,
        at,
        ..
    } = issue(1)
    else {
        unreachable!()
    };
    let expires_at = at.plus(MAX_TOKEN_LIFETIME + Duration::from_millis(1));
    let long = AgentCommand::IssueToken {
        name,
        token,
        secret,
        expires_at,
        at,
    };
    assert_eq!(Agent::default().decide(&long), Err(AgentRejection::TokenTooLong));
}

#[test]
fn a_later_enrollment_replaces_the_key_and_trusting_the_same_key_changes_nothing() {
    let agent = after(&[
        issue(1),
        enroll(1, key('A'), secs(5)),
        issue(2),
        enroll(2, key('B'), secs(6)),
    ]);
    assert_eq!(agent.access.key(), Some(&key('B')));
    let trust = AgentCommand::Trust {
        name: name(),
        key: key('B'),
        at: secs(7),
    };
    assert_eq!(agent.decide(&trust), Ok(vec![]));
    let trust = AgentCommand::Trust {
        name: name(),
        key: key('C'),
        at: secs(7),
    };
    let trusted = after(&[issue(1), trust]);
    assert_eq!(trusted.access.key(), Some(&key('C')));
}

#[test]
fn a_revocation_ends_key_tokens_and_session_and_a_new_token_starts_over() {
    let revoked = [
        connect(1),
        issue(1),
        issue(2),
        enroll(1, key('A'), secs(5)),
        revoke(),
    ];
    let agent = after(&revoked);
    assert_eq!((agent.access.key(), agent.epoch()), (None, Epoch(2)));
    let current = Epoch(2);
    assert_eq!(
        agent.decide(&connect(1)),
        Err(AgentRejection::SessionSuperseded { current })
    );
    let gone = agent.decide(&enroll(2, key('B'), secs(6)));
    assert_eq!(gone, Err(AgentRejection::TokenUnknown));
    assert_eq!(
        agent.decide(&revoke()),
        Ok(vec![]),
        "there is nothing left to revoke"
    );
    let again = after(
        &[
            &revoked[..],
            &[issue(3), enroll(3, key('B'), secs(7)), connect(2)],
        ]
        .concat(),
    );
    assert_eq!((again.access.key(), again.epoch()), (Some(&key('B')), Epoch(3)));
}

#[test]
fn revoked_and_replaced_keys_are_remembered_until_they_are_enrolled_again() {
    let former = |commands: &[AgentCommand]| after(commands).access.former_keys().to_vec();
    let mut commands = vec![issue(1), enroll(1, key('A'), secs(5)), revoke()];
    assert_eq!(former(&commands), [key('A')]);
    commands.extend([issue(2), enroll(2, key('B'), secs(6))]);
    commands.extend([issue(3), enroll(3, key('C'), secs(7))]);
    assert_eq!(former(&commands), [key('A'), key('B')]);
    commands.extend([issue(4), enroll(4, key('A'), secs(8))]);
    assert_eq!(former(&commands), [key('B'), key('C')]);
    for (number, letter) in (5..).zip('D'..='P') {
        commands.extend([issue(number), enroll(number, key(letter), secs(9))]);
    }
    let latest: Vec<_> = ('H'..='O').map(key).collect();
    assert_eq!(former(&commands), latest, "only the latest eight");
}

#[test]
fn remembered_tokens_are_bounded_and_the_oldest_is_forgotten() {
    let agent = after(&(1..=20).map(issue).collect::<Vec<_>>());
    assert!(agent.decide(&enroll(20, key('A'), secs(5))).is_ok());
    let oldest = agent.decide(&enroll(1, key('A'), secs(5)));
    assert_eq!(oldest, Err(AgentRejection::TokenUnknown));
}

#[test]
fn only_the_public_key_of_a_user_is_an_agents_key() {
    for raw in [
        "",
        "U",
        "hello",
        &"U".repeat(57),
        &"A".repeat(56),
        &format!("U{}", "a".repeat(55)),
    ] {
        assert!(AgentKey::parse(raw).is_err(), "{raw}");
    }
}

#[test]
fn a_state_from_before_there_were_keys_reads_as_one_without() {
    let old = r#"{"state":"fenced","name":"gpu-box","epoch":7,"fenced_at_ms":8,"earlier":[]}"#;
    let agent: Agent = serde_json::from_str(old).expect("readable");
    assert_eq!((agent.epoch(), agent.access.key()), (Epoch(7), None));
    assert_eq!(serde_json::to_string(&agent).expect("writable"), old);
}
