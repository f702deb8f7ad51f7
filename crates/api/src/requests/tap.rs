//! Sees an answer pass: when its first byte comes, how many bytes there are, and what it says of tokens. Holds nothing up and changes
//! nothing.

use super::Recording;
use reveille_bus::relay::{AnswerKind, TokenScan, Tokens};
use reveille_domain::requests::{RequestError, TokenCount};

/// The code of an answer whose status is one of success, and whose content isn't.
const BACKEND_FAILED: &str = "backend_failed";

/// Sees one answer pass. What it has seen is recorded when it is dropped.
pub(crate) struct Tap {
    recording: Recording,
    scan: Option<TokenScan>,
    bytes: u64,
    /// How many events or lines had a part of a completion.
    parts: u64,
}

impl Tap {
    /// For an answer of this kind; `is_readable` unless it is an error, or compressed.
    pub fn new(recording: Recording, kind: AnswerKind, is_readable: bool) -> Self {
        Self {
            recording,
            scan: if is_readable { TokenScan::new(kind) } else { None },
            bytes: 0,
            parts: 0,
        }
    }

    /// A piece of the answer.
    pub fn piece(&mut self, piece: &[u8]) {
        if self.bytes == 0 && !piece.is_empty() {
            self.recording.first_byte();
        }
        self.bytes += piece.len() as u64;
        if let Some(scan) = &mut self.scan {
            scan.next(piece);
        }
    }

    /// So many events or lines had a part of a completion so far.
    pub const fn parts(&mut self, parts: u64) {
        self.parts = parts;
    }

    /// The answer has `what` instead of a completion.
    pub fn failed(&self, status: u16, what: &str) {
        let reason = format!("the backend answered with status {status} and {what}");
        self.recording
            .failed(RequestError::new(BACKEND_FAILED, &reason), None, None);
    }

    fn tokens(&mut self) -> Option<TokenCount> {
        let Tokens { input, output } = self.scan.as_mut()?.end();
        let estimated = output.is_none() && self.parts > 0;
        let output = if estimated { Some(self.parts) } else { output };
        (input.is_some() || output.is_some()).then_some(TokenCount {
            input,
            output,
            estimated,
        })
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let tokens = self.tokens();
        self.recording.used(self.bytes, tokens);
    }
}
