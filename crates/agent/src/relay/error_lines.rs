//! Puts a preset's name in place of its model's into the errors that a successful answer has: as an event or a line of a stream, or as all
//! of what is no stream.
//!
//! A line is held back until all of it has come, since the name may come before what shows that it is an error. Clients read whole lines
//! as well. What is longer than any error passes as it is.

use super::hidden_names::HiddenNames;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use reveille_bus::relay::AnswerKind;
use serde_json::Value;

/// The longest line that is held back, in bytes.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// May come before all else.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The place in an answer.
#[derive(Debug)]
pub(super) struct ErrorLines {
    hidden: HiddenNames,
    kind: AnswerKind,
    /// Whether it is held back as a whole; unknown until its first character.
    is_one: Option<bool>,
    /// The line so far.
    held: BytesMut,
    /// Whether the rest of the line passes, because it is too long.
    is_long: bool,
    /// Whether the open event is named an error.
    is_error_event: bool,
    /// Whether the last line ended with a carriage return, to which a line feed may belong.
    after_return: bool,
}

impl ErrorLines {
    /// The beginning of an answer of this kind.
    pub fn new(hidden: HiddenNames, kind: AnswerKind) -> Self {
        Self {
            hidden,
            kind,
            is_one: None,
            held: BytesMut::new(),
            is_long: false,
            is_error_event: false,
            after_return: false,
        }
    }

    /// The body of such an answer without the names in its errors.
    pub fn in_answer<E, S>(self, body: S) -> impl Stream<Item = Result<Bytes, E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let begin = Answer {
            lines: self,
            body: Some(body),
            error: None,
        };
        stream::unfold(begin, Answer::next)
    }

    /// The lines that have come to their end with the next piece of the answer.
    fn pass(&mut self, piece: Bytes) -> Bytes {
        let is_blank = |byte: &u8| byte.is_ascii_whitespace() || BYTE_ORDER_MARK.contains(byte);
        if self.is_one.is_none()
            && let Some(first) = piece.iter().find(|byte| !is_blank(byte))
        {
            // JSON may be on several lines, but for those of Ollama's streams.
            self.is_one = Some(*first == b'{' && self.kind != AnswerKind::Lines);
        }
        let Some(is_one) = self.is_one.filter(|is_one| !(*is_one && self.is_long)) else {
            return piece;
        };
        let mut shown = BytesMut::with_capacity(self.held.len() + piece.len());
        for line in piece.split_inclusive(|byte| ends_line(*byte)) {
            let is_whole = !is_one && line.last().is_some_and(|byte| ends_line(*byte));
            if self.is_long {
                shown.extend_from_slice(line);
                self.is_long = !is_whole;
                continue;
            }
            self.held.extend_from_slice(line);
            if is_whole {
                shown.extend_from_slice(&self.end());
            } else if self.held.len() > MAX_LINE_BYTES {
                shown.extend_from_slice(&self.held.split());
                self.is_long = true;
            }
        }
        shown.freeze()
    }

    /// What is held back, at the end of the answer or of a line.
    fn end(&mut self) -> Bytes {
        let line = self.held.split().freeze();
        let text = String::from_utf8_lossy(&line);
        let is_rest_of_end = self.after_return && *text == *"\n";
        self.after_return = text.ends_with('\r');
        if let Some(event) = text.trim_start_matches('\u{feff}').strip_prefix("event:") {
            self.is_error_event = event.trim() == "error";
        } else if text.trim().is_empty() && !is_rest_of_end {
            self.is_error_event = false;
        }
        if !text.contains("error") && !self.is_error_event || !self.is_error(&text) {
            drop(text);
            return line;
        }
        let (field, data) = match text.find(['{', '"']) {
            Some(at) => text.split_at(at),
            None => ("", &*text),
        };
        Bytes::from(format!("{field}{}", self.hidden.in_text(data)))
    }

    fn is_error(&self, line: &str) -> bool {
        let line = line.trim_start_matches('\u{feff}');
        let data = line.strip_prefix("data:");
        if self.is_error_event && data.is_some() || line.starts_with("error:") {
            return true;
        }
        let parsed = serde_json::from_str::<Value>(data.unwrap_or(line).trim());
        parsed.is_ok_and(|json| {
            let has_error = |json: &Value| !json["error"].is_null();
            let is_named = |field: &str| json[field] == "error";
            has_error(&json) || has_error(&json["response"]) || is_named("type") || is_named("object")
        })
    }
}

/// An answer on its way.
struct Answer<E, S> {
    lines: ErrorLines,
    /// `None` once it has ended.
    body: Option<S>,
    /// What broke it off, behind what was held back.
    error: Option<E>,
}

impl<E, S: Stream<Item = Result<Bytes, E>> + Unpin> Answer<E, S> {
    async fn next(mut self) -> Option<(Result<Bytes, E>, Self)> {
        while let Some(body) = &mut self.body {
            let shown = match body.next().await {
                Some(Ok(piece)) => self.lines.pass(piece),
                ended => {
                    (self.body, self.error) = (None, ended.and_then(Result::err));
                    self.lines.end()
                }
            };
            if !shown.is_empty() {
                return Some((Ok(shown), self));
            }
        }
        let error = self.error.take()?;
        Some((Err(error), self))
    }
}

const fn ends_line(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::{super::hidden_names::tests::hidden, *};
    use futures::executor::block_on;

    /// What passes of an answer that comes in pieces of `size` bytes.
    fn passed(answer: &str, kind: AnswerKind, size: usize) -> String {
        let mut lines = ErrorLines::new(hidden(), kind);
        let mut passed: Vec<u8> = Vec::new();
        for piece in answer.as_bytes().chunks(size) {
            passed.extend_from_slice(&lines.pass(Bytes::copy_from_slice(piece)));
        }
        passed.extend_from_slice(&lines.end());
        String::from_utf8(passed).expect("text")
    }

    fn check(kind: AnswerKind, answer: &str, expected: &str) {
        for size in [1, 2, 3, 7, answer.len().max(1)] {
            assert_eq!(passed(answer, kind, size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn the_errors_of_a_stream_have_the_presets_name_and_all_else_stays() {
        use AnswerKind::{Completion, Lines, Typed};
        for end in ["\n", "\r\n", "\r"] {
            let content = format!("data: {{\"x\":\"an error: own\"}}{end}{end}: own{end}");
            let event = |before: &str, name: &str| {
                format!("{content}{before}{{\"error\":{{\"message\":\"no {name}\"}}}}{end}{end}{content}")
            };
            for before in [
                "data: ".to_owned(),
                "data:".to_owned(),
                format!("event: error{end}data: "),
            ] {
                check(Completion, &event(&before, "own"), &event(&before, "Org/bot"));
            }
        }
        for (line, name) in [
            (r#"data: {"type":"error","message":"no NAME"}"#, "Org/bot"),
            (r#"data: {"object":"error","message":"no NAME"}"#, "Org/bot"),
            (
                r#"data: {"type":"response.failed","response":{"error":{"message":"no NAME"}}}"#,
                "Org/bot",
            ),
            (
                r#"data: {"type":"response.created","response":{"error":null,"x":"NAME"}}"#,
                "own",
            ),
            (r#"data: {"delta":"{\"error\":\"NAME\"}"}"#, "own"),
            (r#"error: {"message":"no NAME"}"#, "Org/bot"),
            ("event: error\ndata: {\"message\":\"no NAME\"}", "Org/bot"),
            ("event: error\ndata: no NAME", "Org/bot"),
            ("event: errors\ndata: {\"message\":\"no NAME\"}", "own"),
        ] {
            let stream = format!("\u{feff}: x\n{line}\n\ndata: [DONE]\n\n");
            check(
                Typed,
                &stream.replace("NAME", "own"),
                &stream.replace("NAME", name),
            );
        }
        check(
            Lines,
            "{\"message\":{\"content\":\"own\"}}\n{\"error\":\"own\"}\n{\"message\":\"own\"}\n{\"error\":\"own\"}",
            "{\"message\":{\"content\":\"own\"}}\n{\"error\":\"Org/bot\"}\n{\"message\":\"own\"}\n{\"error\":\"Org/bot\"}",
        );
    }

    #[test]
    fn an_event_without_an_error_passes_once_its_line_is_whole() {
        let mut lines = ErrorLines::new(hidden(), AnswerKind::Completion);
        let mut pass = |piece: &'static str| lines.pass(Bytes::from_static(piece.as_bytes()));
        assert_eq!(pass("data: {\"a\":1}\n\ndata: {"), "data: {\"a\":1}\n\n");
        assert_eq!(pass("\"b\":2"), "");
        assert_eq!(pass("}\n"), "data: {\"b\":2}\n");
    }

    #[test]
    fn what_is_too_long_for_an_error_passes_as_it_is() {
        let long = "own ".repeat(MAX_LINE_BYTES);
        for (kind, answer) in [
            (
                AnswerKind::Completion,
                format!("{{\"x\":\"{long}\",\"y\":\n\"error own\"}}"),
            ),
            (AnswerKind::Completion, format!("data: {long}\ndata: own\n")),
        ] {
            for size in [1000, answer.len()] {
                assert_eq!(passed(&answer, kind, size), answer);
            }
        }
    }

    #[test]
    fn what_ends_an_answer_stays_after_all_that_was_held_back() {
        let shown = |pieces: &[Result<&'static str, &'static str>]| -> Vec<_> {
            let pieces: Vec<_> = pieces.iter().map(|piece| piece.map(Bytes::from)).collect();
            let shown = ErrorLines::new(hidden(), AnswerKind::Completion).in_answer(stream::iter(pieces));
            block_on(shown.collect())
        };
        assert_eq!(
            shown(&[
                Ok("data: {\"x\":\"own\"}\n\ndata: {\"err"),
                Ok("or\":\"no own\"}\n"),
                Err("it broke off")
            ]),
            [
                Ok(Bytes::from("data: {\"x\":\"own\"}\n\n")),
                Ok(Bytes::from("data: {\"error\":\"no Org/bot\"}\n")),
                Err("it broke off")
            ]
        );
        assert_eq!(
            shown(&[Ok("{\n\"error\":"), Ok("{\"message\":\"no own\"}}")]),
            [Ok(Bytes::from("{\n\"error\":{\"message\":\"no Org/bot\"}}"))]
        );
        assert_eq!(
            shown(&[Ok("data: {\"error\":\"own\"}"), Err("it broke off")]),
            [
                Ok(Bytes::from("data: {\"error\":\"Org/bot\"}")),
                Err("it broke off")
            ]
        );
    }
}
