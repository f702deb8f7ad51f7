//! Writes output to its file on a thread of its own, so that a slow or full disk holds up nobody.

use super::{
    file::{ABOUT, OutputFile, PRINTED, add, heading},
    text::Lines,
};
use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use std::{
    collections::VecDeque,
    fmt::Display,
    io, mem,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// How much may wait to be written. The oldest is left out first: the end says why something failed.
const WAITING_BYTES: usize = 256 * 1024;
/// How many pieces may wait; further ones are added to the last.
const WAITING_PIECES: usize = 512;
/// The most that is written at once, and the pause after that: together they bound what a command can make the disk do.
const WRITE_BYTES: usize = 256 * 1024;
const WRITE_PAUSE: Duration = Duration::from_millis(200);
/// How long a line may be without an end before its beginning is written.
const BEGUN_LIMIT: Duration = Duration::from_secs(1);
/// How long the last lines may take. A disk that doesn't answer must not keep a shim from ending.
const CLOSES_WITHIN: Duration = Duration::from_secs(10);

/// The writer of what one command prints.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    pieces: VecDeque<Piece>,
    /// The bytes of those that were printed.
    bytes: usize,
    /// How many were left out.
    lost: u64,
    /// Whether the next write comes without a pause.
    hurry: bool,
    closing: bool,
    closed: bool,
}

#[derive(Debug)]
enum Piece {
    Printed(Timestamp, Vec<u8>),
    Note(Timestamp, String),
}

impl Writer {
    /// Begins to write to `file` what `source` prints, such as `wake step 1 serve`.
    #[must_use]
    pub fn start(file: OutputFile, source: String) -> Self {
        let shared = Arc::<Shared>::default();
        let theirs = shared.clone();
        let job = move || {
            Job::new(file, source).run(&theirs);
            theirs.waiting.lock().closed = true;
            theirs.changed.notify_all();
        };
        if thread::Builder::new()
            .name("output".to_owned())
            .spawn(job)
            .is_err()
        {
            shared.waiting.lock().closed = true;
        }
        Self(shared)
    }

    /// Takes what was printed; never waits.
    pub fn printed(&self, bytes: &[u8]) {
        let mut waiting = self.0.waiting.lock();
        if bytes.is_empty() || waiting.closed {
            return;
        }
        let was_empty = waiting.pieces.is_empty();
        waiting.add(bytes);
        if was_empty {
            self.0.changed.notify_all();
        }
    }

    /// Adds a line about the command; never waits.
    pub fn note(&self, text: impl Display) {
        let mut waiting = self.0.waiting.lock();
        waiting
            .pieces
            .push_back(Piece::Note(Timestamp::now(), text.to_string()));
        waiting.hurry = true;
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, but not long.
    pub fn close(self) {
        let until = Instant::now() + CLOSES_WITHIN;
        let mut waiting = self.0.waiting.lock();
        waiting.closing = true;
        self.0.changed.notify_all();
        while !waiting.closed {
            if self.0.changed.wait_until(&mut waiting, until).timed_out() {
                return;
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.waiting.lock().closing = true;
        self.0.changed.notify_all();
    }
}

impl Waiting {
    fn add(&mut self, bytes: &[u8]) {
        let many = self.pieces.len() >= WAITING_PIECES;
        match self.pieces.back_mut() {
            Some(Piece::Printed(_, last)) if many => last.extend_from_slice(bytes),
            _ => self
                .pieces
                .push_back(Piece::Printed(Timestamp::now(), bytes.to_vec())),
        }
        self.bytes += bytes.len();
        while self.bytes > WAITING_BYTES {
            let oldest = self
                .pieces
                .iter()
                .position(|piece| matches!(piece, Piece::Printed(..)));
            let Some(Piece::Printed(_, left_out)) = oldest.and_then(|at| self.pieces.remove(at)) else {
                return;
            };
            self.bytes -= left_out.len();
            self.lost += left_out.len() as u64;
        }
    }
}

/// The thread's part.
struct Job {
    file: OutputFile,
    source: String,
    lines: Lines,
    /// Since when the last line waits for its end.
    begun: Option<Instant>,
    /// What could not be written, and why.
    failed: Option<(u64, io::ErrorKind)>,
}

impl Job {
    fn new(file: OutputFile, source: String) -> Self {
        Self {
            file,
            source,
            lines: Lines::default(),
            begun: None,
            failed: None,
        }
    }

    fn run(&mut self, shared: &Shared) {
        loop {
            let (pieces, lost, closing) = self.next(shared);
            let batch = self.batch(pieces, lost, closing);
            self.write(batch);
            if closing {
                return;
            }
            pause(shared);
        }
    }

    /// Waits for something to write.
    fn next(&self, shared: &Shared) -> (VecDeque<Piece>, u64, bool) {
        let mut waiting = shared.waiting.lock();
        while waiting.pieces.is_empty() && !waiting.closing {
            match self.begun {
                None => shared.changed.wait(&mut waiting),
                Some(since) => {
                    let until = since + BEGUN_LIMIT;
                    if shared.changed.wait_until(&mut waiting, until).timed_out() {
                        break;
                    }
                }
            }
        }
        waiting.bytes = 0;
        waiting.hurry = false;
        (
            mem::take(&mut waiting.pieces),
            mem::take(&mut waiting.lost),
            waiting.closing,
        )
    }

    /// The lines of these pieces; of one that has only begun, `all` or what has waited long enough for its end.
    fn batch(&mut self, pieces: VecDeque<Piece>, lost: u64, all: bool) -> Batch {
        let (source, mut batch) = (&self.source, Batch::default());
        batch.lost = lost;
        for piece in pieces {
            match piece {
                Piece::Printed(at, bytes) => {
                    let (begun, heading) = (&mut self.begun, heading(at, source, PRINTED));
                    self.lines.push(&bytes, |line| {
                        *begun = None;
                        batch.add(&heading, &line);
                    });
                    if self.lines.has_begun() {
                        self.begun.get_or_insert_with(Instant::now);
                    }
                }
                Piece::Note(at, note) => {
                    self.begun = None;
                    if let Some(begun) = self.lines.begun() {
                        batch.add(&heading(at, source, PRINTED), &begun);
                    }
                    batch.add(&heading(at, source, ABOUT), &note);
                }
            }
        }
        if (all || self.begun.is_some_and(|since| since.elapsed() >= BEGUN_LIMIT))
            && let Some(begun) = self.lines.begun()
        {
            self.begun = None;
            batch.add(&heading(Timestamp::now(), source, PRINTED), &begun);
        }
        batch.cut_to(WRITE_BYTES);
        batch
    }

    fn write(&mut self, batch: Batch) {
        if batch.text.is_empty() && batch.lost == 0 {
            return;
        }
        let (mut text, bytes) = (vec![], batch.text.len() as u64);
        let heading = heading(Timestamp::now(), &self.source, ABOUT);
        let mut note = |note: String| add(&mut text, &heading, &note);
        if let Some((failed, why)) = self.failed {
            note(format!("{failed} bytes could not be written: {why}"));
        }
        if batch.lost > 0 {
            note(format!("{} bytes were printed too fast to be kept", batch.lost));
        }
        text.extend(batch.text);
        self.failed = match (self.file.append(&text), self.failed) {
            (Ok(()), _) => None,
            (Err(error), failed) => {
                let before = failed.map_or(0, |(failed, _)| failed);
                Some((before + bytes, error.kind()))
            }
        };
    }
}

/// What is written next.
#[derive(Default)]
struct Batch {
    text: Vec<u8>,
    /// How many bytes before it are left out.
    lost: u64,
}

impl Batch {
    fn add(&mut self, heading: &str, text: &str) {
        add(&mut self.text, heading, text);
        // Short lines become several times longer.
        if self.text.len() >= 2 * WRITE_BYTES {
            self.cut_to(WRITE_BYTES);
        }
    }

    /// Leaves out the oldest lines until it isn't longer than `most`.
    fn cut_to(&mut self, most: usize) {
        let excess = self.text.len().saturating_sub(most);
        if excess == 0 {
            return;
        }
        let end = self.text[excess..].iter().position(|byte| *byte == b'\n');
        let cut = end.map_or(self.text.len(), |end| excess + end + 1);
        self.text.drain(..cut);
        self.lost += cut as u64;
    }
}

/// Lets more come together, unless somebody waits for the end.
fn pause(shared: &Shared) {
    let until = Instant::now() + WRITE_PAUSE;
    let mut waiting = shared.waiting.lock();
    while !waiting.hurry && !waiting.closing {
        if shared.changed.wait_until(&mut waiting, until).timed_out() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::StateDir;
    use reveille_domain::{AgentName, ProviderId, ProviderName};
    use std::{fs, path::Path};

    fn file(folder: &Path) -> OutputFile {
        let (agent, provider) = (
            AgentName::parse("box").unwrap(),
            ProviderName::parse("p").unwrap(),
        );
        OutputFile::of(
            &StateDir::new(folder.to_owned()),
            &ProviderId::new(agent, provider),
        )
    }

    fn read(file: &OutputFile) -> String {
        fs::read_to_string(file.path()).unwrap_or_default()
    }

    /// The lines without their times.
    fn lines(file: &OutputFile) -> Vec<String> {
        let text = read(file);
        let line = |line: &str| {
            let (at, rest) = line.split_once(' ').expect("a time");
            assert!(at.len() == 24 && at.parse::<Timestamp>().is_ok(), "{at}");
            rest.to_owned()
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn each_line_has_its_time_and_what_printed_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        let writer = Writer::start(file.clone(), "wake step 1 serve".to_owned());
        writer.note("started");
        writer.printed(b"HF_TOKEN is nee");
        writer.printed(b"ded\nset it");
        writer.note("exited with code 7");
        writer.close();
        assert_eq!(
            lines(&file),
            [
                "wake step 1 serve * started",
                "wake step 1 serve | HF_TOKEN is needed",
                "wake step 1 serve | set it",
                "wake step 1 serve * exited with code 7"
            ]
        );
    }

    #[test]
    fn a_line_that_has_only_begun_is_written_while_nothing_follows() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        let writer = Writer::start(file.clone(), "s".to_owned());
        writer.printed(b"password: ");
        let until = Instant::now() + Duration::from_secs(20);
        while read(&file).is_empty() {
            assert!(Instant::now() < until, "never written");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(lines(&file), ["s | password: "]);
    }

    #[test]
    fn a_line_in_two_pieces_is_one_line_unless_its_end_takes_long() {
        let folder = tempfile::tempdir().unwrap();
        let mut job = Job::new(file(folder.path()), "s".to_owned());
        let mut printed = |text: &[u8], waited: Duration| {
            job.begun = job.begun.map(|since| since - waited);
            let piece = Piece::Printed(Timestamp::now(), text.to_vec());
            let batch = job.batch(VecDeque::from([piece]), 0, false);
            let text = String::from_utf8(batch.text).unwrap();
            text.lines().map(|line| line[25..].to_owned()).collect::<Vec<_>>()
        };
        let soon = BEGUN_LIMIT / 2;
        assert!(printed(b"HF_TOKEN is nee", soon).is_empty());
        assert_eq!(printed(b"ded\nset", soon), ["s | HF_TOKEN is needed"]);
        assert!(printed(b" ", soon).is_empty(), "the second line has only begun");
        assert_eq!(printed(b"it", BEGUN_LIMIT), ["s | set it"]);
    }

    #[test]
    fn a_flood_is_taken_at_once_and_its_end_is_kept_in_bounded_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        let writer = Writer::start(file.clone(), "s".to_owned());
        let flood = b"yes\n".repeat(4096);
        for _ in 0..2000 {
            writer.printed(&flood);
            assert!(writer.0.waiting.lock().bytes <= WAITING_BYTES);
        }
        writer.printed(b"why it failed\n");
        writer.close();
        let text = read(&file);
        assert!(text.ends_with(" s | why it failed\n"), "the end is kept");
        assert!(text.contains("were printed too fast to be kept"));
        for path in [file.path(), file.older()] {
            let bytes = fs::metadata(path).map_or(0, |found| found.len());
            assert!(bytes <= super::super::MAX_FILE_BYTES);
        }
    }

    #[test]
    fn what_could_not_be_written_is_counted_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        // A folder in its place can't be written to, not even by root.
        fs::create_dir(file.path()).unwrap();
        let writer = Writer::start(file.clone(), "s".to_owned());
        writer.printed(b"lost\n");
        writer.note("noted");
        let until = Instant::now() + Duration::from_secs(20);
        while !writer.0.waiting.lock().pieces.is_empty() {
            assert!(Instant::now() < until, "never taken");
            thread::sleep(Duration::from_millis(10));
        }
        writer.close();
        fs::remove_dir(file.path()).unwrap();

        let mut job = Job::new(file.clone(), "s".to_owned());
        job.failed = Some((5, io::ErrorKind::StorageFull));
        job.write(Batch {
            text: b"2026-01-01T00:00:00.000Z s | kept\n".to_vec(),
            lost: 0,
        });
        assert_eq!(
            lines(&file),
            ["s * 5 bytes could not be written: no storage space", "s | kept"]
        );
    }
}
