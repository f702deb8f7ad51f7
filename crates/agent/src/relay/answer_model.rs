//! Puts another name into the `model` of an answer while it passes, in JSON and in each event or line of a stream: into its own,
//! and into that of the whole answer within an event, as Anthropic's `message_start` and the events of OpenAI's responses have it.
//!
//! Everything else passes as it came, byte for byte and at once: nothing is held back, whatever is still to come. What isn't a JSON
//! object, or a stream of events with such objects as data, passes unchanged.

use bytes::{BufMut, Bytes, BytesMut};
use reveille_domain::ModelName;

/// The keys that matter. The value of the first changes, and the others are those of whole answers.
const KEYS: [&[u8]; 3] = [b"model", b"message", b"response"];
const MODEL: usize = 0;
/// What the lines of an event with its data begin with.
const DATA: &[u8] = b"data:";
/// May come before all else.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The place in an answer, and the name to put into it.
#[derive(Debug)]
pub(super) struct AnswerModel {
    /// As a JSON string.
    name: Vec<u8>,
    form: Form,
    line: Line,
    /// Whether the last byte was a carriage return, to which a line feed may belong.
    after_return: bool,
    object: Object,
}

/// What the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing but spaces has come so far.
    Unknown,
    Json,
    Events,
}

/// The place in a line of an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So many bytes of [`DATA`] have come.
    Prefix(usize),
    Data,
    Other,
}

/// The place in a JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Object {
    place: JsonPlace,
    /// How many objects and arrays are open.
    depth: u32,
    /// Whether the second of these is the object of a whole answer.
    in_answer: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JsonPlace {
    /// Before the first byte.
    Start,
    /// The text isn't an object, or is over.
    Over,
    /// Where a key of the outermost object, or of a whole answer's, is expected.
    BeforeKey,
    /// In such a key, after so many bytes, and which of [`KEYS`] it may be.
    Key {
        read: usize,
        may_be: [bool; KEYS.len()],
        escaped: bool,
    },
    /// After such a key; which of [`KEYS`] it is.
    AfterKey(Option<usize>),
    /// Where the value of `model` begins.
    BeforeModel,
    /// Where a whole answer may begin.
    BeforeAnswer,
    /// In that value, which is left out.
    Model { escaped: bool },
    /// In another value, or after one.
    Elsewhere,
    /// In a string of another value.
    Text { escaped: bool },
}

impl AnswerModel {
    pub(super) fn new(name: &ModelName) -> Self {
        Self {
            name: serde_json::Value::from(name.as_str()).to_string().into_bytes(),
            form: Form::Unknown,
            line: Line::Prefix(0),
            after_return: false,
            object: Object::NEW,
        }
    }

    /// The next piece of the answer, with the name in it.
    pub(super) fn pass(&mut self, piece: Bytes) -> Bytes {
        let mut changed: Option<BytesMut> = None;
        for (index, byte) in piece.iter().copied().enumerate() {
            let shown = self.next(byte);
            if shown == Shown::Same {
                if let Some(changed) = &mut changed {
                    changed.put_u8(byte);
                }
                continue;
            }
            let changed = changed.get_or_insert_with(|| BytesMut::from(&piece[..index]));
            if shown == Shown::Name {
                changed.extend_from_slice(&self.name);
            }
        }
        changed.map_or(piece, BytesMut::freeze)
    }

    fn next(&mut self, byte: u8) -> Shown {
        if self.form == Form::Unknown && !byte.is_ascii_whitespace() && !BYTE_ORDER_MARK.contains(&byte) {
            self.form = if byte == b'{' { Form::Json } else { Form::Events };
        }
        match self.form {
            Form::Unknown => Shown::Same,
            Form::Json => self.object.next(byte),
            Form::Events => self.next_of_events(byte),
        }
    }

    fn next_of_events(&mut self, byte: u8) -> Shown {
        let ends_line = matches!(byte, b'\n' | b'\r');
        let same_end = byte == b'\n' && self.after_return;
        self.after_return = byte == b'\r';
        if ends_line {
            // An empty line ends the event; its data may be on several lines.
            if self.line == Line::Prefix(0) && !same_end {
                self.object = Object::NEW;
            }
            self.line = Line::Prefix(0);
            return Shown::Same;
        }
        match self.line {
            Line::Data => return self.object.next(byte),
            Line::Other => {}
            Line::Prefix(same) if byte == DATA[same] => {
                self.line = match same + 1 {
                    all if all == DATA.len() => Line::Data,
                    more => Line::Prefix(more),
                }
            }
            Line::Prefix(_) => self.line = Line::Other,
        }
        Shown::Same
    }
}

/// What the client gets for a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Same,
    /// The name.
    Name,
    Nothing,
}

impl Object {
    const NEW: Self = Self {
        place: JsonPlace::Start,
        depth: 0,
        in_answer: false,
    };

    fn next(&mut self, byte: u8) -> Shown {
        let mut shown = Shown::Same;
        self.place = match (self.place, byte) {
            // Another may follow on a line of its own.
            (JsonPlace::Over, b'\n') => JsonPlace::Start,
            (place, b' ' | b'\t' | b'\r' | b'\n') if !place.is_string() => place,
            (JsonPlace::Start, b'{') => {
                self.depth = 1;
                JsonPlace::BeforeKey
            }
            (JsonPlace::Start | JsonPlace::Over, _) => JsonPlace::Over,
            (JsonPlace::BeforeKey, b'"') => JsonPlace::Key {
                read: 0,
                may_be: [true; KEYS.len()],
                escaped: false,
            },
            (
                JsonPlace::Key {
                    read,
                    may_be,
                    escaped: false,
                },
                b'"',
            ) => JsonPlace::AfterKey((0..KEYS.len()).find(|key| may_be[*key] && KEYS[*key].len() == read)),
            (
                JsonPlace::Key {
                    read,
                    mut may_be,
                    escaped,
                },
                byte,
            ) => {
                for (key, may_be) in KEYS.iter().zip(&mut may_be) {
                    *may_be &= key.get(read) == Some(&byte);
                }
                JsonPlace::Key {
                    read: read.saturating_add(1),
                    may_be,
                    escaped: !escaped && byte == b'\\',
                }
            }
            (JsonPlace::AfterKey(Some(MODEL)), b':') => JsonPlace::BeforeModel,
            (JsonPlace::AfterKey(Some(_)), b':') if self.depth == 1 => JsonPlace::BeforeAnswer,
            (JsonPlace::BeforeAnswer, b'{') => {
                (self.depth, self.in_answer) = (2, true);
                JsonPlace::BeforeKey
            }
            (JsonPlace::BeforeModel, b'"') => {
                shown = Shown::Name;
                JsonPlace::Model { escaped: false }
            }
            (JsonPlace::Model { escaped }, byte) => {
                shown = Shown::Nothing;
                after_string(byte, escaped)
                    .map_or(JsonPlace::Elsewhere, |escaped| JsonPlace::Model { escaped })
            }
            (JsonPlace::Text { escaped }, byte) => after_string(byte, escaped)
                .map_or(JsonPlace::Elsewhere, |escaped| JsonPlace::Text { escaped }),
            (
                JsonPlace::BeforeKey
                | JsonPlace::AfterKey(_)
                | JsonPlace::BeforeModel
                | JsonPlace::BeforeAnswer
                | JsonPlace::Elsewhere,
                byte,
            ) => self.elsewhere(byte),
        };
        shown
    }

    /// The place after a byte of a value, outside of strings.
    fn elsewhere(&mut self, byte: u8) -> JsonPlace {
        match byte {
            b'"' => return JsonPlace::Text { escaped: false },
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.in_answer &= self.depth > 1;
            }
            b',' if self.depth == 1 || self.depth == 2 && self.in_answer => return JsonPlace::BeforeKey,
            _ => {}
        }
        if self.depth == 0 {
            JsonPlace::Over
        } else {
            JsonPlace::Elsewhere
        }
    }
}

impl JsonPlace {
    const fn is_string(self) -> bool {
        matches!(self, Self::Key { .. } | Self::Model { .. } | Self::Text { .. })
    }
}

/// Whether the next byte of a string is escaped; `None` after its end.
const fn after_string(byte: u8, escaped: bool) -> Option<bool> {
    match byte {
        b'"' if !escaped => None,
        b'\\' => Some(!escaped),
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes of an answer that comes in pieces of `size` bytes.
    fn passed(answer: &str, size: usize) -> String {
        let mut model = AnswerModel::new(&ModelName::parse("pub\"lic").expect("legal"));
        let pieces = answer.as_bytes().chunks(size);
        let passed: Vec<u8> = pieces
            .flat_map(|piece| model.pass(Bytes::copy_from_slice(piece)))
            .collect();
        String::from_utf8(passed).expect("text")
    }

    fn check(answer: &str, expected: &str) {
        for size in [1, 2, 3, 7, answer.len().max(1)] {
            assert_eq!(passed(answer, size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn the_model_of_an_answer_is_the_public_one_and_nothing_else_changes() {
        check(
            r#" { "id":"x\"y", "model" :  "Org/\"Mo\\del" , "n": 1.0e5, "x": {"model":"a"}, "choices":[{"model":"b"}, "model"] } "#,
            r#" { "id":"x\"y", "model" :  "pub\"lic" , "n": 1.0e5, "x": {"model":"a"}, "choices":[{"model":"b"}, "model"] } "#,
        );
        check(
            r#"{"data":[{"embedding":[0.1,-2e-3]}],"usage":{},"model":"a","models":"b","mode":"c","model":"d"}"#,
            r#"{"data":[{"embedding":[0.1,-2e-3]}],"usage":{},"model":"pub\"lic","models":"b","mode":"c","model":"pub\"lic"}"#,
        );
    }

    #[test]
    fn the_model_of_each_event_is_the_public_one_whatever_its_lines_end_with() {
        for end in ["\n", "\r\n", "\r"] {
            let event = |name: &str| {
                format!(
                    ": {{\"model\":\"a\"}}{end}event: x{end}data: {{\"id\":1,{end}data:\"model\":\"{name}\",\"x\":[{{\"model\":\"a\"}}]}}{end}{end}"
                )
            };
            let rest = format!("data: [DONE]{end}{end}");
            check(
                &format!("\u{feff}{}", event("a")),
                &format!("\u{feff}{}", event("pub\\\"lic")),
            );
            check(
                &format!("{}{}{rest}", event("a"), event("b\\\"")),
                &format!("{}{}{rest}", event("pub\\\"lic"), event("pub\\\"lic")),
            );
        }
    }

    #[test]
    fn the_model_of_a_whole_answer_within_an_event_is_the_public_one() {
        check(
            r#"data: {"type":"message_start","message":{"id":"m","model":"a","usage":{"model":"a"},"content":[{"model":"a"}],"model":"b"},"x":{"model":"a"}}"#,
            r#"data: {"type":"message_start","message":{"id":"m","model":"pub\"lic","usage":{"model":"a"},"content":[{"model":"a"}],"model":"pub\"lic"},"x":{"model":"a"}}"#,
        );
        check(
            r#"data: {"response":{"message":{"model":"a"},"model":"b"},"message":{},"model":"c"}"#,
            r#"data: {"response":{"message":{"model":"a"},"model":"pub\"lic"},"message":{},"model":"pub\"lic"}"#,
        );
        check(
            r#"{"choices":[{"message":{"model":"a"}}],"response":"{\"model\":\"a\"}","message":[{"model":"a"}],"messages":{"model":"a"}}"#,
            r#"{"choices":[{"message":{"model":"a"}}],"response":"{\"model\":\"a\"}","message":[{"model":"a"}],"messages":{"model":"a"}}"#,
        );
    }

    #[test]
    fn the_model_of_each_line_is_the_public_one() {
        check(
            "{\"model\":\"a\",\"message\":{\"content\":\"x\"}}\n{\"model\":\"a\",\"done\":true}\r\n{\"model\":\"a\"}",
            "{\"model\":\"pub\\\"lic\",\"message\":{\"content\":\"x\"}}\n{\"model\":\"pub\\\"lic\",\"done\":true}\r\n{\"model\":\"pub\\\"lic\"}",
        );
    }

    #[test]
    fn what_is_no_object_passes_unchanged() {
        for answer in [
            "",
            " \r\n ",
            r#"{"error":{"message":"no","model":"a"}}"#,
            r#"{"model":null,"x":1}"#,
            r#"{"model":7,"x":"model"}"#,
            r#"{"model":{"model":"a"}}"#,
            r#"{"x":"\",\"model\":\"a\""}"#,
            r#"{"mod\u0065l":"a"}"#,
            r#"{} {"model":"a"}"#,
            r#"[{"model":"a"}]"#,
            r#""model""#,
            "<html>{\"model\":\"a\"}</html>",
            "data: [DONE]\n\ndata:[{\"model\":\"a\"}]\n\nmodel: {\"model\":\"a\"}\n\n data: {\"model\":\"a\"}\n\n",
        ] {
            check(answer, answer);
        }
    }

    #[test]
    fn nothing_is_held_back() {
        let mut model = AnswerModel::new(&ModelName::parse("m").expect("legal"));
        let mut pass = |piece: &'static str| model.pass(Bytes::from_static(piece.as_bytes()));
        assert_eq!(pass("data: {\"mod"), "data: {\"mod");
        assert_eq!(pass("el\":\"lo"), "el\":\"m\"");
        assert_eq!(pass("ng"), "");
        assert_eq!(pass("\",\"x\":"), ",\"x\":");
        let whole = Bytes::from_static(b"\"y\"}\n\n");
        let same = model.pass(whole.clone());
        assert_eq!(
            same.as_ptr(),
            whole.as_ptr(),
            "a piece without a model isn't copied"
        );
    }
}
