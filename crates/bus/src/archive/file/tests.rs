use super::*;

/// An archive of this format, made by another program.
const GOLDEN: &str = include_str!("golden.jsonl");

fn commits() -> [ArchivedCommit; 2] {
    let subject = "reveille.events.agent.gpu-box".to_owned();
    let headers = [("Reveille-Event-Types", "AgentConnected"), ("Nats-Msg-Id", "a")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let at = Timestamp::from_millis(1_764_000_000_000);
    let first = br#"{"v":1}"#.as_slice();
    [
        ArchivedCommit::new(1, subject.clone(), headers.to_vec(), first.into(), Some(at)),
        ArchivedCommit::new(2, subject, vec![], [0, 255].as_slice().into(), None),
    ]
}

#[test]
fn an_archive_is_written_and_read_as_ever() {
    let mut writer = ArchiveWriter::new(vec![], 2).expect("a head");
    for commit in commits() {
        writer.write(&commit).expect("a line");
    }
    let written = writer.finish().expect("an end");
    assert_eq!(String::from_utf8(written).expect("text"), GOLDEN);

    let mut reader = ArchiveReader::new(GOLDEN.as_bytes()).expect("an archive");
    for commit in commits() {
        assert_eq!(reader.next_commit().expect("a commit"), Some(commit));
    }
    assert_eq!(reader.next_commit().expect("the end"), None);
}

#[test]
fn no_byte_of_an_archive_changes_unnoticed() {
    let stored_ms = GOLDEN.find("\"stored_ms\":").expect("a time");
    // When it was stored only informs.
    let free = stored_ms + "\"stored_ms\":".len()..GOLDEN.len();
    let free = free.start..free.start + "1764000000000".len();
    for place in (0..GOLDEN.len()).filter(|place| !free.contains(place)) {
        let mut bytes = GOLDEN.as_bytes().to_vec();
        bytes[place] ^= 1;
        let read = ArchiveReader::new(bytes.as_slice()).and_then(|mut reader| {
            let mut read = vec![];
            while let Some(commit) = reader.next_commit()? {
                read.push(commit);
            }
            Ok(read)
        });
        if let Ok(read) = read {
            assert_eq!(read.len(), 2, "byte {place}");
            let same = read
                .iter()
                .zip(commits())
                .all(|(read, commit)| read.is_same(&commit));
            assert!(same, "byte {place} was changed unnoticed");
        }
    }
}
