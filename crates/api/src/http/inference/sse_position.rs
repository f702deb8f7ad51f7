//! Where in a stream of server-sent events its last byte was, however its bytes are cut: whether an event is open, and
//! what the stream has told of its outcome.
//!
//! Lines end with LF, CR or CRLF; a blank line ends an event; lines that begin with a colon belong to none.

use memchr::memmem;

/// The end of a stream of OpenAI's API.
const END: &[u8] = b"[DONE]";
/// The field whose text says that an answer is complete. Within a string it would have backslashes before its quotes.
const FINISH_REASON: &[u8] = b"\"finish_reason\"";
/// How much of a line is kept: more than the line of the end, and less than a line of any length.
const KEPT_BYTES: usize = 32;
/// How much of the last bytes is kept: a finish reason's field and the beginning of its text, with some space.
const TAIL_BYTES: usize = 48;

/// What a stream has told of its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// `data: [DONE]`.
    Done,
    /// An error event.
    Error,
    /// A finish reason. Some servers end their streams with it, and never send `[DONE]`.
    Finished,
    /// None: the stream was cut, or its last event is.
    Missing,
}

/// How far a stream has come.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// The beginning of the line that is open.
    line: Vec<u8>,
    /// Whether the last byte was a CR, which an LF may complete.
    after_cr: bool,
    /// Whether an LF followed the last CR that something followed.
    is_crlf: bool,
    /// Whether a line of an event was sent, and not the blank line that ends the event.
    is_in_event: bool,
    has_ended: bool,
    has_error: bool,
    has_finished: bool,
    /// The last bytes, until there is a finish reason.
    tail: Vec<u8>,
}

impl Position {
    /// Moves on past bytes that were sent.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        self.look_for_finish(bytes);
        if std::mem::take(&mut self.after_cr) && !bytes.is_empty() {
            self.is_crlf = bytes.starts_with(b"\n");
            bytes = &bytes[usize::from(self.is_crlf)..];
        }
        while let Some(at) = memchr::memchr2(b'\n', b'\r', bytes) {
            self.add_to_line(&bytes[..at]);
            self.end_line();
            let is_cr = bytes[at] == b'\r';
            bytes = &bytes[at + 1..];
            if is_cr {
                match bytes.first() {
                    None => self.after_cr = true,
                    Some(next) => self.is_crlf = *next == b'\n',
                }
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
        }
        self.add_to_line(bytes);
    }

    /// Whether something may be inserted: no event is open, no line, and no CRLF.
    pub fn is_between_events(&self) -> bool {
        let awaits_lf = self.after_cr && self.is_crlf;
        self.line.is_empty() && !self.is_in_event && !awaits_lf
    }

    /// Whether `data: [DONE]` was sent, with or without the end of its line.
    pub fn has_ended(&self) -> bool {
        self.has_ended || is_end(&self.line)
    }

    /// What is known of the outcome if no byte follows.
    pub fn outcome(&self) -> Outcome {
        let is_cut = self.line.first().is_some_and(|first| *first != b':');
        if self.has_ended() {
            Outcome::Done
        } else if is_cut {
            Outcome::Missing
        } else if self.has_error {
            Outcome::Error
        } else if self.has_finished {
            Outcome::Finished
        } else {
            Outcome::Missing
        }
    }

    fn look_for_finish(&mut self, bytes: &[u8]) {
        if self.has_finished {
            return;
        }
        self.tail.extend_from_slice(&bytes[..bytes.len().min(TAIL_BYTES)]);
        self.has_finished = has_finish_reason(&self.tail) || has_finish_reason(bytes);
        let rest = &bytes[bytes.len().min(TAIL_BYTES)..];
        self.tail
            .extend_from_slice(&rest[rest.len().saturating_sub(TAIL_BYTES)..]);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
    }

    fn add_to_line(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES - self.line.len();
        self.line.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }

    fn end_line(&mut self) {
        match self.line.first() {
            None => self.is_in_event = false,
            Some(b':') => {}
            Some(_) => self.is_in_event = true,
        }
        self.has_ended |= is_end(&self.line);
        self.has_error |= is_error(&self.line);
        self.line.clear();
    }
}

fn is_end(line: &[u8]) -> bool {
    line.strip_prefix(b"data:")
        .is_some_and(|data| data.trim_ascii() == END)
}

fn is_error(line: &[u8]) -> bool {
    let value = || {
        let object = line.strip_prefix(b"data:")?.trim_ascii_start();
        let field = object.strip_prefix(b"{")?.trim_ascii_start();
        let value = field.strip_prefix(b"\"error\"")?.trim_ascii_start();
        Some(value.strip_prefix(b":")?.trim_ascii_start())
    };
    value().is_some_and(|value| !value.is_empty() && !value.starts_with(b"null"))
}

/// Whether a finish reason is neither null nor empty.
fn has_finish_reason(bytes: &[u8]) -> bool {
    memmem::find_iter(bytes, FINISH_REASON).any(|at| {
        let rest = bytes[at + FINISH_REASON.len()..].trim_ascii_start();
        let value = rest.strip_prefix(b":").unwrap_or_default().trim_ascii_start();
        matches!(value, [b'"', first, ..] if *first != b'"')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The position after these pieces, and after the same bytes one at a time.
    fn positions(pieces: &[&str]) -> [Position; 2] {
        let mut positions = [Position::default(), Position::default()];
        for piece in pieces {
            positions[0].pass(piece.as_bytes());
            for byte in piece.as_bytes().chunks(1) {
                positions[1].pass(byte);
            }
        }
        positions
    }

    #[test]
    fn an_open_event_is_noticed_however_lines_end_and_bytes_are_cut() {
        for between in [
            &[][..],
            &["data: 1\n\n"],
            &["data: 1\n", "\n"],
            &["data: 1\r\n\r", "\n"],
            &["data: 1\r\n", "", "\r\n"],
            &["data: 1\r\r"],
            &["data: 1\r", "\r"],
            &["data: 1\n\n: ping\n"],
            &["event: x\nid: 7\ndata: 1\n\n"],
            &["\n\n\n"],
        ] {
            for position in positions(between) {
                assert!(position.is_between_events(), "{between:?} {position:?}");
            }
        }
        for within in [
            &["data: 1"][..],
            &["data: 1\n"],
            &["data: 1\r\n"],
            &["data: 1\r"],
            &["data: 1\r\n\r"],
            &["data: 1\n\n", "d"],
            &["data: 1\n: ping\n"],
            &[": pin"],
        ] {
            for position in positions(within) {
                assert!(!position.is_between_events(), "{within:?} {position:?}");
            }
        }
    }

    #[test]
    fn the_end_is_known_however_it_is_written() {
        for ended in [
            &["data: 1\n\ndata: [DONE]\n\n"][..],
            &["data:[DONE]\n\n"],
            &["data: [DO", "NE]\r", "\n\r\n"],
            &["data: 1\r\rdata: [DONE]\r\r"],
            &["data: [DONE]"],
            &["data: [DONE] \n", "\n", ": more\n"],
        ] {
            for position in positions(ended) {
                assert!(position.has_ended(), "{ended:?}");
            }
        }
        let long = "x".repeat(100_000);
        for open in [
            "data: \"[DONE]\"\n\n",
            "data: [DONE]x\n\n",
            ": data: [DONE]\n",
            "x data: [DONE]\n",
            &format!("data: {long}[DONE]\n\n"),
        ] {
            for position in positions(&[open]) {
                assert!(!position.has_ended(), "{open:.40}");
                assert!(position.line.capacity() <= 2 * KEPT_BYTES);
            }
        }
    }

    #[test]
    fn the_outcome_is_known_however_bytes_are_cut() {
        let finished = "data: {\"choices\":[{\"finish_reason\" : \"stop\"}]}\n";
        let long = format!("data: {}\n\n{finished}\n", "x".repeat(100_000));
        for (pieces, outcome) in [
            (&[][..], Outcome::Missing),
            (&["data: 1\n\n"], Outcome::Missing),
            (&["data: {\"finish_reason\":null}\n\n"], Outcome::Missing),
            (&["data: {\"finish_reason\":\"\"}\n\n"], Outcome::Missing),
            (
                &["data: {\"content\":\"\\\"finish_reason\\\":\\\"stop\\\"\"}\n\n"],
                Outcome::Missing,
            ),
            (&[finished], Outcome::Finished),
            (
                &["data: {\"finish_rea", "son\":", "\"s", "top\"}\n\n"],
                Outcome::Finished,
            ),
            (&[&long, "data: {\"usage\":{}}\n\n"], Outcome::Finished),
            (&[finished, "\n", ": bye"], Outcome::Finished),
            (&[finished, "\n", "data: {\"us"], Outcome::Missing),
            (&[finished.trim_end()], Outcome::Missing),
            (&[finished, "\ndata: [DO", "NE]"], Outcome::Done),
            (&["data: { \"error\" : {}}\n\n"], Outcome::Error),
            (&["data: {\"error\":\"MARK\"}\r\r"], Outcome::Error),
            (&["data: {\"error\":null}\n\n"], Outcome::Missing),
            (&["data: {\"error\":{\"mess"], Outcome::Missing),
        ] {
            for position in positions(pieces) {
                assert_eq!(position.outcome(), outcome, "{pieces:.60?}");
                assert!(position.tail.len() <= TAIL_BYTES);
            }
        }
    }
}
