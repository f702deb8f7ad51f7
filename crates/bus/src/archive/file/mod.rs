//! The archive file, in JSON lines: a head, one line per commit, an end.
//!
//! ```json
//! {"format":"reveille-journal","version":1,"stream":"REVEILLE_EVENTS","first_seq":1,"last_seq":2}
//! {"seq":1,"subject":"reveille.events.agent.gpu-box","headers":[["Nats-Msg-Id","…"]],"payload":"<base64>","stored_ms":1700000000000,"digest":"…"}
//! {"seq":2,…}
//! {"commits":2,"digest":"<that of the last commit>"}
//! ```
//!
//! A digest is the SHA-256 of the digest before it and of the commit, so the first changed line is known. It leaves out
//! `stored_ms`: an archive has the same digests whether it comes from NATS or Postgres.

use super::{commit::ArchivedCommit, error::ArchiveError, verify::Breach};
use crate::{commit::CommitHash, streams::JOURNAL_STREAM};
use base64::{Engine, engine::general_purpose::STANDARD};
use reveille_domain::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    io::{BufRead, Read, Write},
};

/// The version of the format that is written, and the newest that is read.
pub const ARCHIVE_VERSION: u32 = 1;
const FORMAT: &str = "reveille-journal";
/// The first sequence of every journal, which never drops a commit.
const FIRST: u64 = 1;
/// The longest line that is read. NATS accepts messages of up to 64 MiB, which grow by a third in base64.
const MAX_LINE_BYTES: u64 = 96 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    stream: String,
    first_seq: u64,
    last_seq: u64,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    seq: u64,
    subject: String,
    headers: Vec<(String, String)>,
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stored_ms: Option<Timestamp>,
    digest: CommitHash,
}

#[derive(Serialize, Deserialize)]
struct End {
    commits: u64,
    digest: CommitHash,
}

/// Writes an archive commit by commit.
pub struct ArchiveWriter<W: Write> {
    out: W,
    next: u64,
    last: u64,
    digest: CommitHash,
}

impl<W: Write> ArchiveWriter<W> {
    /// Starts an archive of the commits 1 to `last`; 0 stands for none.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn new(mut out: W, last: u64) -> Result<Self, ArchiveError> {
        let head = Head {
            format: FORMAT.to_owned(),
            version: ARCHIVE_VERSION,
            stream: JOURNAL_STREAM.to_owned(),
            first_seq: FIRST,
            last_seq: last,
        };
        let head = line(&mut out, &head)?;
        Ok(Self {
            out,
            next: FIRST,
            last,
            digest: CommitHash::of(&head),
        })
    }

    /// Writes the next commit.
    ///
    /// # Errors
    /// When the commit isn't the next one, or the file can't be written.
    pub fn write(&mut self, commit: &ArchivedCommit) -> Result<(), ArchiveError> {
        Breach::unless_next(self.next, commit)?;
        self.digest = commit.digest(self.digest);
        self.next += 1;
        let of_commit = Line {
            seq: commit.sequence,
            subject: commit.subject.clone(),
            headers: commit.headers.clone(),
            payload: STANDARD.encode(&commit.payload).into(),
            stored_ms: commit.stored_at,
            digest: self.digest,
        };
        line(&mut self.out, &of_commit)?;
        Ok(())
    }

    /// Writes the end and returns the writer.
    ///
    /// # Errors
    /// When commits are missing, or the file can't be written.
    pub fn finish(mut self) -> Result<W, ArchiveError> {
        if self.next <= self.last {
            return Err(ArchiveError::Truncated {
                last: self.next - 1,
                expected: self.last,
            });
        }
        let end = End {
            commits: self.next - FIRST,
            digest: self.digest,
        };
        line(&mut self.out, &end)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Writes one line and returns it without its newline.
fn line(out: &mut impl Write, value: &impl Serialize) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = serde_json::to_vec(value).map_err(std::io::Error::from)?;
    bytes.push(b'\n');
    out.write_all(&bytes)?;
    bytes.pop();
    Ok(bytes)
}

/// Reads an archive commit by commit.
pub struct ArchiveReader<R: BufRead> {
    input: R,
    /// The number of the last line that was read.
    line: u64,
    next: u64,
    last: u64,
    digest: CommitHash,
}

impl<R: BufRead> ArchiveReader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// When the file is no archive, or a newer version wrote it.
    pub fn new(mut input: R) -> Result<Self, ArchiveError> {
        let not = |reason: &str| ArchiveError::NotAnArchive(reason.to_owned());
        let head = read_line(&mut input)?.ok_or_else(|| not("its first line has no end"))?;
        let digest = CommitHash::of(&head);
        let head: Head =
            serde_json::from_slice(&head).map_err(|_| not("its first line is no archive's head"))?;
        if head.format != FORMAT || head.stream != JOURNAL_STREAM {
            return Err(not("its first line names another format or stream"));
        }
        if head.version > ARCHIVE_VERSION {
            return Err(ArchiveError::Newer {
                found: head.version,
                known: ARCHIVE_VERSION,
            });
        }
        if head.first_seq != FIRST {
            return Err(not("it doesn't start with commit 1"));
        }
        Ok(Self {
            input,
            line: 1,
            next: FIRST,
            last: head.last_seq,
            digest,
        })
    }

    /// The sequence of the last commit; 0 when there is none.
    #[must_use]
    pub const fn last_sequence(&self) -> u64 {
        self.last
    }

    /// The next commit; `None` at the end of a complete archive.
    ///
    /// # Errors
    /// When a line was changed, lost or moved, or the end is missing.
    pub fn next_commit(&mut self) -> Result<Option<ArchivedCommit>, ArchiveError> {
        let Some(bytes) = read_line(&mut self.input)? else {
            return Err(ArchiveError::Truncated {
                last: self.next - 1,
                expected: self.last,
            });
        };
        self.line += 1;
        if let Ok(line) = serde_json::from_slice::<Line<'_>>(&bytes) {
            return self.commit(line).map(Some);
        }
        match serde_json::from_slice(&bytes) {
            Ok(end) => self.end(&end),
            Err(_) => Err(self.damaged(&format!("commit {} should be there", self.next))),
        }
    }

    fn commit(&mut self, line: Line<'_>) -> Result<ArchivedCommit, ArchiveError> {
        let Ok(payload) = STANDARD.decode(&*line.payload) else {
            return Err(self.damaged(&format!("the payload of commit {} isn't base64", line.seq)));
        };
        let Line {
            seq,
            subject,
            headers,
            ..
        } = line;
        let commit = ArchivedCommit::new(seq, subject, headers, payload.into(), line.stored_ms);
        Breach::unless_next(self.next, &commit)?;
        let digest = commit.digest(self.digest);
        if seq > self.last || digest != line.digest {
            let reason = format!("commit {seq} ({}) doesn't match its digest", commit.subject);
            return Err(self.damaged(&reason));
        }
        self.digest = digest;
        self.next += 1;
        Ok(commit)
    }

    fn end(&mut self, end: &End) -> Result<Option<ArchivedCommit>, ArchiveError> {
        if self.next <= self.last {
            return Err(ArchiveError::Truncated {
                last: self.next - 1,
                expected: self.last,
            });
        }
        if end.commits != self.next - FIRST || end.digest != self.digest {
            return Err(self.damaged("the end doesn't match the commits before it"));
        }
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        Err(self.damaged("it comes after the end"))
    }

    fn damaged(&self, reason: &str) -> ArchiveError {
        ArchiveError::Damaged {
            line: self.line,
            reason: reason.to_owned(),
        }
    }
}

/// One line without its newline; `None` when the newline is missing, as at the end of a truncated file.
fn read_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, ArchiveError> {
    let mut bytes = vec![];
    input.take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes)?;
    if bytes.len() as u64 == MAX_LINE_BYTES {
        return Err(ArchiveError::NotAnArchive("a line never ends".to_owned()));
    }
    Ok((bytes.pop() == Some(b'\n')).then_some(bytes))
}

#[cfg(test)]
mod tests;
