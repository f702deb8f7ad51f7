//! What was changed, lost or moved in an archive or a journal is named.

use async_nats::{HeaderMap, jetstream};
use reveille_tests::{Commit, JOURNAL, World};
use std::fs;

use super::{a_past, done, export, fails, forged, text};

#[tokio::test]
async fn damage_to_an_archive_is_named_and_restores_nothing() {
    let world = a_past(World::new().await).await;
    let file = export(&world, "journal.jsonl").await;
    let whole = fs::read_to_string(&file).expect("an archive");
    let lines: Vec<&str> = whole.lines().collect();
    let last = lines.len() - 2;
    let joined = |lines: &[&str]| lines.join("\n") + "\n";
    let without = |line: usize| [&lines[..line], &lines[line + 1..]].concat();

    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    let payload = lines[3].find("\"payload\":\"").expect("a payload") + 60;
    let other = if lines[3].as_bytes()[payload] == b'A' {
        "B"
    } else {
        "A"
    };
    let flipped = format!("{}{other}{}", &lines[3][..payload], &lines[3][payload + 1..]);
    let mut changed = lines.clone();
    changed[3] = &flipped;
    let renamed = lines[4].replace("reveille.events.", "reveille.events.x");
    let mut moved = lines.clone();
    moved[4] = &renamed;
    let cut = whole.len() - lines[last + 1].len() - 20;
    let cases = [
        (
            joined(&changed),
            "line 4 of the archive was changed: commit 3 (reveille.events.",
        ),
        (
            joined(&moved),
            "line 5 of the archive was changed: commit 4 (reveille.events.x",
        ),
        (
            joined(&without(2)),
            "commit 3 (reveille.events.provider.gpu-box.vllm): commit 2 is missing before it",
        ),
        (
            joined(&swapped),
            "commit 3 (reveille.events.provider.gpu-box.vllm): commit 2 is missing before it",
        ),
        (
            joined(&without(last)),
            &format!("the archive is cut off: it ends after commit {}", last - 1),
        ),
        (
            joined(&lines[..=last]),
            &format!("the archive is cut off: it ends after commit {last}"),
        ),
        (
            whole[..cut].to_owned(),
            &format!("the archive is cut off: it ends after commit {}", last - 1),
        ),
        (whole.clone() + "{}\n", "it comes after the end"),
        (
            whole.replacen("\"version\":1", "\"version\":2", 1),
            "a newer version (format 2, this one reads up to 1)",
        ),
        ("{\"rows\":[]}\n".to_owned(), "is not an archive of a journal"),
    ];
    let empty = World::new().await;
    for (number, (damaged, expected)) in cases.iter().enumerate() {
        let file = world.folder().join(format!("damaged-{number}.jsonl"));
        fs::write(&file, damaged).expect("a file");
        let said = fails(&world, &["verify", text(&file)]).await;
        assert!(said.contains(expected), "{said}\nshould say: {expected}");
        let said = fails(&empty, &["import", "--nats", &empty.nats.url(), text(&file)]).await;
        assert!(said.contains(expected), "{said}\nshould say: {expected}");
    }
    assert!(
        jetstream::new(empty.nats.connect().await)
            .get_stream(JOURNAL)
            .await
            .is_err()
    );
    assert!(done(&world, &["verify", text(&file)]).await.contains("sound"));
}

/// The same without what the server compares.
fn bare(commit: &Commit) -> (String, HeaderMap, Vec<u8>) {
    (commit.subject.clone(), HeaderMap::new(), commit.payload.to_vec())
}

#[tokio::test]
async fn the_first_breach_of_a_running_journal_is_named() {
    let sound = a_past(World::new().await).await;
    let commits = sound.journal().await;
    let replaced = |number: usize, from: &str, to: &str| {
        let mut forged: Vec<_> = commits.iter().map(bare).collect();
        let payload = String::from_utf8(forged[number].2.clone()).expect("JSON");
        assert!(payload.contains(from), "{payload}");
        forged[number].2 = payload.replacen(from, to, 1).into_bytes();
        forged
    };
    let mut removed: Vec<_> = commits.iter().map(bare).collect();
    removed.remove(2);
    let subject = "reveille.events.provider.gpu-box.vllm";
    let cases = [
        // The commit that was changed can still be read: the next one of its subject tells.
        (
            replaced(2, "\"cause\":\"", "\"cause\":\"x"),
            format!("commit 4 ({subject}): prev is not the hash of commit 3"),
        ),
        (
            removed,
            format!("commit 3 ({subject}): prev is not the hash of commit 2"),
        ),
        (
            replaced(2, "\"aggregate_version\":2", "\"aggregate_version\":3"),
            format!("commit 3 ({subject}): aggregate_version is 3, should be 2"),
        ),
        (
            replaced(2, "\"first_event_seq\":2", "\"first_event_seq\":9"),
            format!("commit 3 ({subject}): first_event_seq is 9, should be 2"),
        ),
        (
            replaced(2, "\"requested\":1", "\"requested\":7"),
            format!("commit 3 ({subject}): its events don't lead"),
        ),
        (
            replaced(2, "\"v\":1", "\"v\":2"),
            format!("commit 3 ({subject}): it was written by a newer version"),
        ),
    ];
    for (messages, expected) in cases {
        let world = World::new().await;
        forged(&world, false, messages).await;
        let said = fails(&world, &["verify", "--nats", &world.nats.url()]).await;
        assert!(said.contains(&expected), "{said}\nshould say: {expected}");
    }
}
