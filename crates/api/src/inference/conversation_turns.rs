//! Conversations over the members of a pool, in time that tests pass by themselves.

use super::{affinity::Conversation, choice::Reach, endpoint::tests::at, members::Members};
use crate::{metrics::Metrics, registry::tests::snapshot_at};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio::{task::JoinSet, time::sleep};

const CONVERSATIONS: u64 = 20;
const TURNS: u64 = 10;
const MEMBERS: [&str; 4] = ["a/p", "b/p", "c/p", "d/p"];

/// Where each turn of each conversation went.
type Turns = Vec<Vec<String>>;

/// Lets the conversations run, each turn for about a second, and up to two seconds between turns; at the `slow` member a turn takes ten
/// times as long.
async fn turns(slow: Option<&str>) -> Turns {
    let members = Members::new(Metrics::default());
    let pool = MEMBERS.map(|id| snapshot_at(id, 7));
    let mut running = JoinSet::new();
    for conversation in 0..CONVERSATIONS {
        let (members, pool) = (members.clone(), pool.clone());
        let slow = slow.map(str::to_owned);
        running.spawn(async move {
            let says = |role: &str, text: String| json!({ "role": role, "content": text });
            let mut messages = vec![
                says("system", "You are helpful. ".repeat(100)),
                says("user", format!("Question {conversation}?")),
            ];
            // Any numbers will do, as long as each run has the same.
            let drawn =
                |turn: u64, of: u64| Duration::from_millis((conversation * 7_919 + turn * 104_729) % of);
            let mut went = vec![];
            for turn in 0..TURNS {
                sleep(drawn(turn + 3, 2_000)).await;
                let body = json!({ "model": "m", "messages": messages }).to_string();
                let conversation =
                    || Conversation::of(None, "m", at("/v1/chat/completions"), body.as_bytes());
                let chosen = members
                    .choose_for(conversation, &pool, Reach::All, &[])
                    .expect("one");
                let attempt = members.enter(&chosen);
                let id = chosen.provider.id.to_string();
                let factor = if slow.as_ref() == Some(&id) { 10 } else { 1 };
                sleep(factor * (Duration::from_millis(500) + drawn(turn, 1_000))).await;
                drop(attempt);
                went.push(id);
                messages.push(says("assistant", "An answer.".to_owned()));
                messages.push(says("user", "And then?".to_owned()));
            }
            (conversation, went)
        });
    }
    let mut all = running.join_all().await;
    all.sort();
    all.into_iter().map(|(_, went)| went).collect()
}

fn shares(turns: &Turns) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for member in turns.iter().flatten() {
        *shares.entry(member.as_str()).or_default() += 1;
    }
    shares
}

/// How many of a hundred turns met the member of the turn before.
fn kept(turns: &Turns) -> usize {
    let pairs: Vec<_> = turns.iter().flat_map(|went| went.windows(2)).collect();
    let kept = pairs.iter().filter(|pair| pair[0] == pair[1]).count();
    kept * 100 / pairs.len()
}

#[tokio::test(start_paused = true)]
async fn nearly_every_turn_meets_the_member_of_the_turn_before_and_no_member_gets_too_many() {
    let turns = turns(None).await;
    let shares = shares(&turns);
    assert!(kept(&turns) >= 95, "{}: {turns:?}", kept(&turns));
    let all = usize::try_from(CONVERSATIONS * TURNS).expect("few");
    assert_eq!(shares.len(), MEMBERS.len(), "{shares:?}");
    assert!(shares.values().all(|share| share * 100 <= all * 40), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_member_that_slows_down_falls_by_itself() {
    let before = turns(None).await;
    for slow in MEMBERS {
        let turns = turns(Some(slow)).await;
        let (before, after) = (shares(&before)[slow], shares(&turns)[slow]);
        assert!(
            after * 100 <= before * 65,
            "{slow}: {before} turns of 200, then {after}"
        );
        assert!(kept(&turns) >= 90, "{slow}: {}", kept(&turns));
    }
}

/// Replicas know nothing of each other's requests.
#[test]
fn two_replicas_send_a_conversation_to_the_same_member() {
    let replicas = [(); 2].map(|()| Members::new(Metrics::default()));
    let pool = MEMBERS.map(|id| snapshot_at(id, 7));
    for number in 0..100 {
        let text = format!("Question {number}?");
        let body: Value = json!({ "messages": [{ "role": "user", "content": text }] });
        let body = body.to_string();
        let chosen = [0, 1].map(|replica: usize| {
            let conversation = || Conversation::of(None, "m", at("/v1/chat/completions"), body.as_bytes());
            let chosen = replicas[replica].choose_for(conversation, &pool, Reach::All, &[]);
            chosen.expect("one").provider.id.clone()
        });
        assert_eq!(chosen[0], chosen[1]);
    }
}
