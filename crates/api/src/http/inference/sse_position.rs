//! Where in a stream its last byte was, however its bytes are cut: whether an event is open, and what the stream has told of its
//! outcome.
//!
//! Lines end with LF, CR or CRLF; a blank line ends an event; lines that begin with a colon belong to none. In a stream of
//! lines each is an event of its own.

use crate::inference::endpoint::StreamEnd;
use memchr::memmem;
use reveille_bus::relay::LastEvent;

/// How much of a line is kept: more than a line of the end, and less than a line of any length.
const KEPT_BYTES: usize = LastEvent::LINE_BYTES;
/// How much of the last bytes is kept: a field that says that an answer is complete, and the beginning of its value, with some
/// space.
const TAIL_BYTES: usize = 48;

/// What a stream has told of its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its last event.
    Done,
    /// An error event.
    Error,
    /// That the answer is complete. Some servers end OpenAI's streams so, and never send `[DONE]`.
    Finished,
    /// None: the stream was cut, or its last event is.
    Missing,
}

/// How far a stream has come.
#[derive(Debug)]
pub(super) struct Position {
    end: StreamEnd,
    /// The beginning of the line that is open.
    line: Vec<u8>,
    /// Whether the last byte was a CR, which an LF may complete.
    after_cr: bool,
    /// Whether an LF followed the last CR that something followed.
    is_crlf: bool,
    /// Whether a line of an event was sent, and not the blank line that ends the event.
    is_in_event: bool,
    /// Whether the name of the open event says that it is the last.
    is_last: bool,
    has_ended: bool,
    has_error: bool,
    has_finished: bool,
    /// The last bytes, until the answer is complete.
    tail: Vec<u8>,
}

impl Position {
    /// The beginning of a stream that ends so.
    pub const fn new(end: StreamEnd) -> Self {
        Self {
            end,
            line: Vec::new(),
            after_cr: false,
            is_crlf: false,
            is_in_event: false,
            is_last: false,
            has_ended: false,
            has_error: false,
            has_finished: false,
            tail: Vec::new(),
        }
    }

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

    /// Whether the last event was sent. `data: [DONE]` needs no end of its line.
    pub fn has_ended(&self) -> bool {
        self.has_ended || LastEvent::in_line(&self.line) == Some(LastEvent::Data)
    }

    /// What is known of the outcome if no byte follows.
    pub fn outcome(&self) -> Outcome {
        // The last line of a stream of lines needs no end.
        let is_lines = self.end == StreamEnd::Done;
        let has_error = self.has_error || is_lines && is_error(&self.line);
        let is_whole = is_lines && (self.has_finished || has_error);
        let is_cut = self.line.first().is_some_and(|first| *first != b':') && !is_whole;
        if self.has_ended() {
            Outcome::Done
        } else if is_cut {
            Outcome::Missing
        } else if has_error {
            Outcome::Error
        } else if self.has_finished {
            Outcome::Finished
        } else if self.end == StreamEnd::Unspecified {
            Outcome::Done
        } else {
            Outcome::Missing
        }
    }

    fn look_for_finish(&mut self, bytes: &[u8]) {
        if self.has_finished {
            return;
        }
        self.tail.extend_from_slice(&bytes[..bytes.len().min(TAIL_BYTES)]);
        self.has_finished = has_finished(self.end, &self.tail) || has_finished(self.end, bytes);
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
            None => {
                self.is_in_event = false;
                self.has_ended |= self.is_last;
            }
            Some(b':') => {}
            Some(_) => self.is_in_event = self.end != StreamEnd::Done,
        }
        match LastEvent::in_line(&self.line) {
            Some(LastEvent::Data) => self.has_ended = true,
            Some(LastEvent::Named) => self.is_last = true,
            None => {}
        }
        self.has_error |= is_error(&self.line);
        self.line.clear();
    }
}

/// Whether a line is an event with an error, or is its name.
fn is_error(line: &[u8]) -> bool {
    let name = line.strip_prefix(b"event:").map(<[u8]>::trim_ascii);
    let value = || {
        let object = line.strip_prefix(b"data:").unwrap_or(line).trim_ascii_start();
        let field = object.strip_prefix(b"{")?.trim_ascii_start();
        let value = field.strip_prefix(b"\"error\"")?.trim_ascii_start();
        Some(value.strip_prefix(b":")?.trim_ascii_start())
    };
    name == Some(b"error") || value().is_some_and(|value| !value.is_empty() && !value.starts_with(b"null"))
}

/// Whether some bytes say that the answer is complete. Within a string, the name of the field would have backslashes before its
/// quotes.
fn has_finished(end: StreamEnd, bytes: &[u8]) -> bool {
    let field: &[u8] = match end {
        StreamEnd::Finish => b"\"finish_reason\"",
        StreamEnd::Done => b"\"done\"",
        StreamEnd::Stop => b"\"stop\"",
        StreamEnd::Named | StreamEnd::Unspecified => return false,
    };
    memmem::find_iter(bytes, field).any(|at| {
        let rest = bytes[at + field.len()..].trim_ascii_start();
        let value = rest.strip_prefix(b":").unwrap_or_default().trim_ascii_start();
        match end {
            // Neither null nor empty.
            StreamEnd::Finish => matches!(value, [b'"', first, ..] if *first != b'"'),
            _ => value.starts_with(b"true"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The position after these pieces, and after the same bytes one at a time.
    fn positions(pieces: &[&str]) -> [Position; 2] {
        let mut positions = [Position::new(StreamEnd::Finish), Position::new(StreamEnd::Finish)];
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
    fn a_line_of_a_stream_of_lines_is_an_event() {
        for (sent, between) in [
            ("{}\n", true),
            ("{}\r\n{}\n", true),
            ("{}\n{\"a\"", false),
            ("{}", false),
        ] {
            let mut position = Position::new(StreamEnd::Done);
            position.pass(sent.as_bytes());
            assert_eq!(position.is_between_events(), between, "{sent:?}");
        }
    }

    #[test]
    fn the_last_of_named_events_has_come_once_it_has_ended() {
        for name in [
            "message_stop",
            "response.completed",
            "response.incomplete",
            "response.failed",
        ] {
            let long = "x".repeat(1_000);
            let event = format!("event: ping\ndata: {{}}\n\nevent: {name}\r\ndata: {{\"a\":\"{long}\"}}\r\n");
            for mut position in positions(&[&event]) {
                assert!(!position.has_ended(), "{name}");
                position.pass(b"\n");
                assert!(position.has_ended(), "{name}");
            }
        }
        for open in [
            "event: message_stop_reason\n\n",
            "data: message_stop\n\n",
            "event: error\n\n",
        ] {
            for position in positions(&[open]) {
                assert!(!position.has_ended(), "{open:?}");
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
