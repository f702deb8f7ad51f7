//! Finds out, while a successful answer passes, whether it says anything: an engine that has died behind its front may answer 200 with
//! nothing but an error, comments, or the end of a stream.
//!
//! Nothing is held back. Only the line of a stream that comes in is kept, and the beginning of any other answer.

use super::{head::STORED_PATH, last_event::LastEvent};
use serde_json::Value;

/// A longer line of a stream is an event with content: errors and roles are short.
const MAX_LINE_BYTES: usize = 16 * 1024;
/// A longer answer that is no stream is a completion.
const MAX_JSON_BYTES: usize = 64 * 1024;
/// May come before all else.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
const ERROR: &[u8] = b"\"error\"";

/// What an answer has said so far.
#[derive(Debug)]
pub struct Content {
    kind: AnswerKind,
    form: Form,
    /// The line so far, or the beginning of what is no stream.
    kept: Vec<u8>,
    has_content: bool,
    has_error: bool,
    /// Whether the open event is named as the last one.
    is_last: bool,
    is_over: bool,
    /// How many events or lines had a part of a completion.
    parts: u64,
}

/// What an answer should say, by the path of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// `OpenAI`'s completions and embeddings.
    Completion,
    /// One of `OpenAI`'s responses or of Anthropic's messages, whose events have types.
    Typed,
    /// Ollama's: a line of JSON, or one after the other.
    Lines,
    /// Anything that isn't an error.
    Other,
    /// The same, for requests that a backend answers without its engine, so they tell nothing of it.
    Aside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing but spaces has come so far.
    Unknown,
    Json,
    Events,
    Lines,
    /// It is compressed, or no text, so it can't be read.
    Opaque,
}

/// What a part of an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// Nothing: a comment, a blank line, or a line that isn't whole yet.
    Nothing,
    /// Something, but nothing of a completion: a role, an error, or JSON that isn't whole yet.
    Something,
    /// A part of a completion.
    Content,
}

impl AnswerKind {
    /// The kind of the answer to a request for this path, which may have a query.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        match path.split('?').next().unwrap_or_default() {
            "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" => Self::Completion,
            "/v1/responses" | "/v1/messages" => Self::Typed,
            "/api/chat" | "/api/generate" => Self::Lines,
            "/tokenize"
            | "/detokenize"
            | "/v1/messages/count_tokens"
            | "/apply-template"
            | "/props"
            | "/api/show"
            | "/v1/audio/voices" => Self::Aside,
            path if path.starts_with(STORED_PATH) => Self::Aside,
            _ => Self::Other,
        }
    }

    const fn is_anything(self) -> bool {
        matches!(self, Self::Other | Self::Aside)
    }
}

impl Content {
    /// Of a successful answer that may be compressed.
    #[must_use]
    pub const fn new(kind: AnswerKind, is_compressed: bool) -> Self {
        Self {
            kind,
            form: if is_compressed {
                Form::Opaque
            } else {
                Form::Unknown
            },
            kept: Vec::new(),
            has_content: is_compressed,
            has_error: false,
            is_last: false,
            is_over: false,
            parts: 0,
        }
    }

    /// The next part of the answer.
    pub fn next(&mut self, part: &[u8]) -> Said {
        let blank = |byte: &u8| byte.is_ascii_whitespace() || BYTE_ORDER_MARK.contains(byte);
        if self.form == Form::Unknown {
            self.form = match (part.iter().find(|byte| !blank(byte)), self.kind) {
                (None, _) => return Said::Nothing,
                (Some(b'{'), AnswerKind::Lines) => Form::Lines,
                (Some(b'{'), _) => Form::Json,
                // What begins a line of events.
                (Some(b'd' | b'e' | b'i' | b'r' | b':'), AnswerKind::Other | AnswerKind::Aside) => {
                    Form::Events
                }
                (Some(_), AnswerKind::Other | AnswerKind::Aside) => {
                    self.has_content = true;
                    Form::Opaque
                }
                (Some(_), _) => Form::Events,
            };
        }
        match self.form {
            Form::Unknown | Form::Opaque => Said::Content,
            Form::Json => self.next_of_json(part),
            Form::Events | Form::Lines => self.next_of_lines(part),
        }
    }

    /// How many events or lines of a stream had a part of a completion so far: about as many as tokens.
    #[must_use]
    pub const fn parts(&self) -> u64 {
        self.parts
    }

    /// Whether the stream has told that it has ended. The API leaves there, and the backend may keep its connection open.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the backend has said that it failed. What follows may still be a completion.
    #[must_use]
    pub const fn has_error(&self) -> bool {
        self.has_error
    }

    /// Nothing more will come.
    ///
    /// # Errors
    /// What the answer has instead of a completion.
    pub fn end(&mut self) -> Result<(), &'static str> {
        match self.form {
            Form::Json if !self.has_content => match serde_json::from_slice(&self.kept) {
                Ok(answer) if is_error(&answer) => self.has_error = true,
                Ok(answer) => self.has_content = self.is_whole(&answer),
                Err(_) => {}
            },
            Form::Events | Form::Lines if !self.is_over => {
                self.end_line();
            }
            Form::Unknown | Form::Json | Form::Events | Form::Lines | Form::Opaque => {}
        }
        if self.has_error {
            Err("an error")
        } else if self.has_content || self.kind.is_anything() {
            Ok(())
        } else {
            Err("nothing of a completion")
        }
    }

    /// Whether the whole answer is an error object, not a stream with one.
    #[must_use]
    pub const fn is_error_object(&self) -> bool {
        matches!(self.form, Form::Json) && self.has_error
    }

    fn next_of_json(&mut self, part: &[u8]) -> Said {
        if self.has_content {
            return Said::Content;
        }
        self.kept.extend_from_slice(part);
        if self.kept.len() > MAX_JSON_BYTES {
            self.has_content = true;
            self.kept = Vec::new();
            return Said::Content;
        }
        if part.iter().all(u8::is_ascii_whitespace) {
            Said::Nothing
        } else {
            Said::Something
        }
    }

    fn next_of_lines(&mut self, mut part: &[u8]) -> Said {
        let mut said = Said::Nothing;
        while let Some(end) = part.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            said = said.max(self.more_of_line(&part[..end])).max(self.end_line());
            part = &part[end + 1..];
        }
        said.max(self.more_of_line(part))
    }

    fn more_of_line(&mut self, part: &[u8]) -> Said {
        let room = MAX_LINE_BYTES.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&part[..part.len().min(room)]);
        if part.len() > room && (self.kept.starts_with(b"data:") || self.form == Form::Lines) {
            self.has_content = true;
            return Said::Content;
        }
        Said::Nothing
    }

    fn end_line(&mut self) -> Said {
        if self.form == Form::Events && LastEvent::in_line(&self.kept) == Some(LastEvent::Named) {
            self.is_last = true;
        }
        let data = match self.form {
            Form::Lines => Some(self.kept.trim_ascii()),
            _ => self.kept.strip_prefix(b"data:").map(<[u8]>::trim_ascii),
        };
        let said = match data {
            None | Some([]) => Said::Nothing,
            Some(b"[DONE]") => {
                self.is_over = true;
                Said::Something
            }
            Some(data) if self.has_content && !contains(data, ERROR) => Said::Content,
            Some(data) => match serde_json::from_slice::<Value>(data) {
                Ok(event) if is_error(&event) => {
                    self.has_error = true;
                    Said::Something
                }
                Ok(event) if self.has_some(&event) => {
                    self.has_content = true;
                    Said::Content
                }
                Ok(_) => Said::Something,
                // Too long to be kept as a whole, or of several lines.
                Err(_) if self.has_content => Said::Content,
                Err(_) => Said::Something,
            },
        };
        if said > Said::Nothing && self.is_last {
            self.is_over = true;
        }
        self.parts += u64::from(said == Said::Content);
        self.kept.clear();
        said
    }

    /// Whether a whole answer that isn't an error is what was asked for.
    fn is_whole(&self, answer: &Value) -> bool {
        match self.kind {
            AnswerKind::Completion => has_items(answer, "choices") || has_items(answer, "data"),
            AnswerKind::Typed => answer["type"] == "message" || answer["object"] == "response",
            AnswerKind::Lines => has_line(answer),
            AnswerKind::Other | AnswerKind::Aside => true,
        }
    }

    /// Whether an event has something of what was asked for.
    fn has_some(&self, event: &Value) -> bool {
        match self.kind {
            AnswerKind::Completion => has_choice(event),
            AnswerKind::Typed => event["type"].as_str().is_some_and(is_progress),
            AnswerKind::Lines => has_line(event),
            AnswerKind::Other | AnswerKind::Aside => true,
        }
    }
}

fn contains(data: &[u8], word: &[u8]) -> bool {
    data.windows(word.len()).any(|part| part == word)
}

fn is_error(answer: &Value) -> bool {
    // Some APIs always have the field, and leave it empty without an error.
    let given = |error: &Value| is_something(error) && error != false;
    given(&answer["error"])
        || given(&answer["response"]["error"])
        || answer["object"] == "error"
        || answer["type"] == "error"
}

fn has_items(answer: &Value, list: &str) -> bool {
    answer[list].as_array().is_some_and(|items| !items.is_empty())
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(_) | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// Whether an event has more than the role of who will speak.
fn has_choice(event: &Value) -> bool {
    let says = |choice: &Value| {
        let delta = choice["delta"].as_object().into_iter().flatten();
        let mut parts = delta.filter(|(name, _)| *name != "role");
        parts.any(|(_, value)| is_something(value))
            || ["text", "message", "finish_reason"]
                .iter()
                .any(|name| is_something(&choice[name]))
    };
    event["choices"]
        .as_array()
        .is_some_and(|choices| choices.iter().any(says))
        || has_items(event, "data")
}

/// Whether a type is that of an event with a part of a message or response, or of its regular end.
fn is_progress(kind: &str) -> bool {
    let has_part = kind.ends_with("delta") || kind.ends_with(".done");
    has_part || matches!(kind, "response.completed" | "response.incomplete")
}

/// Whether a line of Ollama's has more than the role of who will speak.
fn has_line(line: &Value) -> bool {
    let of_message = ["content", "thinking", "tool_calls"].map(|name| &line["message"][name]);
    let of_line = ["response", "thinking"].map(|name| &line[name]);
    line["done"] == true || of_message.into_iter().chain(of_line).any(is_something)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str =
        r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    const TOKEN: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}"#;
    const FAILED: &str = r#"data: {"error":{"message":"EngineDeadError","code":500}}"#;

    /// What an answer amounts to, however it comes.
    fn end(answer: &str) -> Result<(), &'static str> {
        end_at("/v1/chat/completions", answer)
    }

    fn end_at(path: &str, answer: &str) -> Result<(), &'static str> {
        let ends = [1, 7, answer.len().max(1)].map(|size| {
            let mut content = Content::new(AnswerKind::of_path(path), false);
            for part in answer.as_bytes().chunks(size) {
                content.next(part);
            }
            content.end()
        });
        assert!(ends.iter().all(|end| *end == ends[0]), "{answer}: {ends:?}");
        ends[0]
    }

    #[test]
    fn only_an_answer_with_something_of_a_completion_is_one() {
        let (error, nothing) = (Err("an error"), Err("nothing of a completion"));
        for (answer, is) in [
            (String::new(), nothing),
            (" \r\n".to_owned(), nothing),
            ("data: [DONE]\n\n".to_owned(), nothing),
            (": ping\n\n: ping\n\n".to_owned(), nothing),
            (format!("{ROLE}\n\n"), nothing),
            (format!("{ROLE}\n\ndata: [DONE]\n\n"), nothing),
            (format!("{FAILED}\n\ndata: [DONE]\n\n"), error),
            (format!("{ROLE}\n\n{TOKEN}\n\n{FAILED}\n\n"), error),
            (format!("{ROLE}\n\n{TOKEN}\n\ndata: [DONE]\n\n"), Ok(())),
            (format!("{ROLE}\r\n\r\n{TOKEN}"), Ok(())),
            (
                r#"data: {"choices":[{"text":"","finish_reason":"length"}]}"#.to_owned(),
                Ok(()),
            ),
            (
                r#"data: {"choices":[{"delta":{"tool_calls":[{}]}}]}"#.to_owned(),
                Ok(()),
            ),
            (r#"{"error":{"message":"EngineDeadError"}}"#.to_owned(), error),
            (
                r#"{"object":"error","message":"EngineDeadError"}"#.to_owned(),
                error,
            ),
            (r#"{"id":"c","choices":[]}"#.to_owned(), nothing),
            ("<html>".to_owned(), nothing),
            (
                r#" {"choices":[{"message":{"content":null}}],"error":null}"#.to_owned(),
                Ok(()),
            ),
            (r#"{"data":[{"embedding":[0.5]}]}"#.to_owned(), Ok(())),
        ] {
            assert_eq!(end(&answer), is, "{answer}");
        }
        assert_eq!(
            Content::new(AnswerKind::Completion, true).end(),
            Ok(()),
            "what can't be read may be anything"
        );
    }

    #[test]
    fn what_answers_of_other_kinds_amount_to() {
        const STARTED: &str =
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[]}}\n\n";
        const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"hi\"}}\n\n";
        const CREATED: &str = "data: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n";
        let (error, nothing) = (Err("an error"), Err("nothing of a completion"));
        for (path, answer, is) in [
            ("/v1/messages", STARTED.to_owned(), nothing),
            (
                "/v1/messages",
                "event: ping\ndata: {\"type\":\"ping\"}\n\n".to_owned(),
                nothing,
            ),
            ("/v1/messages", format!("{STARTED}{DELTA}"), Ok(())),
            (
                "/v1/messages",
                format!("{STARTED}{DELTA}event: error\ndata: {{\"type\":\"error\",\"error\":{{}}}}\n\n"),
                error,
            ),
            (
                "/v1/messages",
                "{\"type\":\"message\",\"content\":[]}".to_owned(),
                Ok(()),
            ),
            (
                "/v1/messages",
                "{\"type\":\"error\",\"error\":{}}".to_owned(),
                error,
            ),
            ("/v1/messages", "{}".to_owned(), nothing),
            ("/v1/responses", CREATED.to_owned(), nothing),
            (
                "/v1/responses",
                format!("{CREATED}data: {{\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}}\n\n"),
                Ok(()),
            ),
            (
                "/v1/responses",
                format!(
                    "{CREATED}data: {{\"type\":\"response.failed\",\"response\":{{\"error\":{{}}}}}}\n\n"
                ),
                error,
            ),
            (
                "/v1/responses",
                "{\"object\":\"response\",\"error\":null}".to_owned(),
                Ok(()),
            ),
            (
                "/api/chat",
                "{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n".to_owned(),
                nothing,
            ),
            (
                "/api/chat",
                "{\"message\":{\"content\":\"hi\"},\"done\":false}\n{\"done\":true}".to_owned(),
                Ok(()),
            ),
            (
                "/api/generate",
                "{\"response\":\"hi\"}\n{\"error\":\"no\"}\n".to_owned(),
                error,
            ),
            ("/v1/rerank", "{\"results\":[]}".to_owned(), Ok(())),
            ("/v1/rerank", "{\"error\":{}}".to_owned(), error),
            ("/sdapi/v1/txt2img", "{\"error\":\"\"}".to_owned(), Ok(())),
            ("/sdapi/v1/txt2img", "{\"error\":false}".to_owned(), Ok(())),
            ("/sdapi/v1/txt2img", "{\"error\":\"no\"}".to_owned(), error),
            ("/v1/audio/speech", "RIFF{\"error\":1}".to_owned(), Ok(())),
            (
                "/v1/audio/transcriptions",
                "data: {\"error\":{}}\n\n".to_owned(),
                error,
            ),
            ("/v1/audio/transcriptions", "deal with it".to_owned(), Ok(())),
            ("/sdapi/v1/txt2img", String::new(), Ok(())),
        ] {
            assert_eq!(end_at(path, &answer), is, "{path} {answer}");
        }
    }

    #[test]
    fn the_last_of_named_events_ends_a_stream() {
        let mut content = Content::new(AnswerKind::Typed, false);
        let long = "x".repeat(2 * MAX_LINE_BYTES);
        for (part, over) in [
            ("event: message_delta\ndata: {}\n\n", false),
            ("event: response.completed\n", false),
            ("data: {\"a\":\"", false),
            (&long, false),
            ("\"}\n", true),
        ] {
            content.next(part.as_bytes());
            assert_eq!(content.is_over(), over, "{part:.20}");
        }
        assert_eq!(content.end(), Ok(()));
    }

    #[test]
    fn comments_blank_lines_and_halves_of_lines_say_nothing() {
        let mut content = Content::new(AnswerKind::Completion, false);
        for (part, said) in [
            ("\n", Said::Nothing),
            (": ping\n\n", Said::Nothing),
            ("event: chunk\nid: 1\n", Said::Nothing),
            (ROLE, Said::Nothing),
            ("\n\n", Said::Something),
            (TOKEN, Said::Nothing),
            ("\r", Said::Content),
            ("\n\r\n", Said::Nothing),
            ("data: {\"", Said::Nothing),
            ("a", Said::Nothing),
        ] {
            assert_eq!(content.next(part.as_bytes()), said, "{part:?}");
        }
        let mut json = Content::new(AnswerKind::Completion, false);
        for (part, said) in [
            (" \n", Said::Nothing),
            ("{\"choices\":", Said::Something),
            ("\n", Said::Nothing),
        ] {
            assert_eq!(json.next(part.as_bytes()), said, "{part:?}");
        }
    }

    #[test]
    fn what_is_long_is_content_and_is_not_kept() {
        let long = "x".repeat(MAX_JSON_BYTES);
        for before in ["data: {\"text\":\"", "{\"text\":\""] {
            let mut content = Content::new(AnswerKind::Completion, false);
            content.next(before.as_bytes());
            assert_eq!(content.next(long.as_bytes()), Said::Content);
            assert!(content.kept.len() <= MAX_LINE_BYTES);
            assert_eq!(content.end(), Ok(()));
        }
    }

    #[test]
    fn the_end_of_events_is_a_line_of_its_own_however_it_comes() {
        let found = |parts: &[&str]| {
            let mut content = Content::new(AnswerKind::Completion, false);
            for part in parts {
                content.next(part.as_bytes());
            }
            content.is_over()
        };
        assert!(found(&["data: {}\n\ndata: [DONE]\n\n"]));
        assert!(found(&["data:[DO", "NE]", "\r\n"]));
        assert!(!found(&["data: {\"text\":\"data: [DONE]\"}\n\n"]));
        assert!(!found(&["data: [DONE]", " and more\n"]));
        assert!(!found(&["{\"data\":1}"]));
    }
}
