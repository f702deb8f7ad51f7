//! What a child and its descendants print. It is always read, so that none of them is held up; its end is kept in memory, and more
//! of it in a file.

use crate::output::{Writer, lines_of};
use rustix::io::read;
use std::{
    collections::VecDeque,
    fmt::Display,
    future::pending,
    io::{self, PipeWriter},
    os::fd::OwnedFd,
};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};

/// How much of the end is kept. Written as JSON it still fits into a pipe, so reporting it never waits for the agent.
const KEPT_BYTES: usize = 16 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// How many reads catch up at most: those who still print must not hold up the report.
const CATCH_UP_READS: usize = 64;

/// The reader of their output.
pub(super) struct Printed {
    /// `None` once nobody can print any longer.
    pipe: Option<Receiver>,
    buffer: Box<[u8]>,
    kept: VecDeque<u8>,
    cut: bool,
    writer: Option<Writer>,
}

impl Printed {
    /// The reader, which passes what it reads on to a writer too, and the end to print to.
    pub(super) fn new(writer: Option<Writer>) -> io::Result<(Self, PipeWriter)> {
        let (reader, output) = io::pipe()?;
        let this = Self {
            pipe: Some(Receiver::from_owned_fd(OwnedFd::from(reader))?),
            buffer: vec![0; READ_BYTES].into(),
            kept: VecDeque::new(),
            cut: false,
            writer,
        };
        Ok((this, output))
    }

    /// Whether nobody can print any longer.
    pub(super) const fn has_ended(&self) -> bool {
        self.pipe.is_none()
    }

    /// Waits for more, and reads it; never returns once nobody can print any longer. Cancel-safe.
    pub(super) async fn more(&mut self) {
        let Some(pipe) = &mut self.pipe else {
            return pending().await;
        };
        let read = pipe.read(&mut self.buffer).await;
        self.keep(read.unwrap_or(0));
    }

    /// Reads what was printed until now.
    pub(super) fn catch_up(&mut self) {
        for _ in 0..CATCH_UP_READS {
            let Some(pipe) = &self.pipe else { return };
            // The pipe doesn't block.
            let Ok(bytes) = read(pipe, &mut self.buffer[..]) else {
                return;
            };
            self.keep(bytes);
        }
    }

    /// Keeps the first bytes of the buffer; none is the end.
    fn keep(&mut self, bytes: usize) {
        if bytes == 0 {
            self.pipe = None;
        }
        if let Some(writer) = &self.writer {
            writer.printed(&self.buffer[..bytes]);
        }
        self.kept.extend(&self.buffer[..bytes]);
        let excess = self.kept.len().saturating_sub(KEPT_BYTES);
        self.kept.drain(..excess);
        self.cut |= excess > 0;
    }

    /// Adds a line about what prints to what is kept.
    pub(super) fn note(&self, text: impl Display) {
        if let Some(writer) = &self.writer {
            writer.note(text);
        }
    }

    /// Waits until what was read is on the disk, but not long.
    pub(super) fn close(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.close();
        }
    }

    /// The end of it as text, in whole lines if they are short, without what would control a terminal.
    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        let first = bytes.iter().position(|byte| *byte == b'\n');
        let from = first.filter(|_| self.cut).map_or(0, |first| first + 1);
        let mut text = String::new();
        for line in lines_of(&bytes[from..]) {
            text += &line;
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn only_the_last_lines_are_kept_without_what_controls_a_terminal() {
        let (mut printed, mut writer) = Printed::new(None).unwrap();
        let print = std::thread::spawn(move || {
            for number in 0..20_000 {
                writeln!(writer, "\x1b[1mline {number}\x07\r").unwrap();
            }
        });
        while !printed.has_ended() {
            printed.more().await;
        }
        print.join().unwrap();
        let text = printed.text();
        assert!(
            text.starts_with("line ") && text.ends_with("line 19999\n"),
            "{text}"
        );
        assert!(text.len() <= KEPT_BYTES && text.len() > KEPT_BYTES / 2);
        assert!(!text.contains(['\x1b', '\x07', '\r']));
    }

    #[tokio::test]
    async fn what_was_printed_before_is_read_at_once() {
        let (mut printed, mut writer) = Printed::new(None).unwrap();
        writer.write_all(b"why it failed").unwrap();
        printed.catch_up();
        assert_eq!(printed.text(), "why it failed\n");
        assert!(!printed.has_ended());
        drop(writer);
        printed.catch_up();
        assert!(printed.has_ended());
    }
}
