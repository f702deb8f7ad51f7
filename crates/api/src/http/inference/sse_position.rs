//! Where in a stream its last byte was, however its bytes are cut: whether an event is open, and whether the end has been sent.
//!
//! Lines end with LF, CR or CRLF; a blank line ends an event; lines that begin with a colon belong to none. In a stream of
//! lines each is an event of its own.

use reveille_bus::relay::LastEvent;

/// How much of a line is kept: more than a line of the end, and less than a line of any length.
const KEPT_BYTES: usize = LastEvent::LINE_BYTES;

/// How far a stream has come.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// Whether each line is an event of its own.
    lines: bool,
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
}

impl Position {
    /// The beginning of a stream of lines.
    pub fn of_lines() -> Self {
        Self {
            lines: true,
            ..Self::default()
        }
    }

    /// Moves on past bytes that were sent.
    pub fn pass(&mut self, mut bytes: &[u8]) {
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
            Some(_) => self.is_in_event = !self.lines,
        }
        match LastEvent::in_line(&self.line) {
            Some(LastEvent::Data) => self.has_ended = true,
            Some(LastEvent::Named) => self.is_last = true,
            None => {}
        }
        self.line.clear();
    }
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
    fn a_line_of_a_stream_of_lines_is_an_event() {
        for (sent, between) in [
            ("{}\n", true),
            ("{}\r\n{}\n", true),
            ("{}\n{\"a\"", false),
            ("{}", false),
        ] {
            let mut position = Position::of_lines();
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
}
