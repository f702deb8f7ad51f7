//! How a stream of events says that it is over. A backend may leave its connection open after that, so both ends of the relay
//! look for it.

/// The end of OpenAI's streams.
const DONE: &[u8] = b"[DONE]";
/// The names of the last events of streams that have no such end: Anthropic's, and those of OpenAI's responses.
const NAMES: [&[u8]; 4] = [
    b"message_stop",
    b"response.completed",
    b"response.failed",
    b"response.incomplete",
];

/// What a line of an event stream says about its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastEvent {
    /// It is `data: [DONE]`, the end.
    Data,
    /// It names the event that it belongs to as the last one.
    Named,
}

impl LastEvent {
    /// The longest line that says something, in bytes, with room for spaces.
    pub const LINE_BYTES: usize = 32;

    /// What a line, without its end, says.
    #[must_use]
    pub fn in_line(line: &[u8]) -> Option<Self> {
        let field = |name: &[u8]| line.strip_prefix(name).map(<[u8]>::trim_ascii);
        if field(b"data:") == Some(DONE) {
            return Some(Self::Data);
        }
        let name = field(b"event:")?;
        NAMES.contains(&name).then_some(Self::Named)
    }
}
