//! Finds the end of a chunked body (RFC 9112, section 7.1), by rules at least as strict as hyper's: where this finds an
//! end, hyper does too.

/// A position in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// In the size of a chunk: the size up to here, and whether there was a digit.
    Size(u64, bool),
    /// After the size, in ignored bytes.
    Extension(u64),
    /// Before the line feed after the size.
    SizeEnd(u64),
    /// In the data, with the number of bytes to come.
    Data(u64),
    /// Before the line break after the data.
    DataReturn,
    DataEnd,
    /// At the beginning of a line after the last chunk.
    Trailer,
    TrailerLine,
    /// Before the line feed behind such a line.
    TrailerEnd,
    /// Before the last line feed.
    End,
}

/// What some bytes contain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// All belong to the body, and it goes on.
    All,
    /// The body ends after this many.
    Ended(usize),
    /// After this many comes something that is no chunked body.
    Broken(usize),
}

impl Chunks {
    /// Before the first chunk.
    pub const START: Self = Self::Size(0, false);

    /// Advances over `bytes`.
    pub fn pass(&mut self, bytes: &[u8]) -> Passed {
        let mut at = 0;
        while at < bytes.len() {
            if let Self::Data(left) = *self {
                let here = left.min((bytes.len() - at) as u64);
                // No more than the length of a slice.
                at += here as usize;
                *self = if here == left {
                    Self::DataReturn
                } else {
                    Self::Data(left - here)
                };
                continue;
            }
            let Some(next) = self.after(bytes[at]) else {
                return Passed::Broken(at);
            };
            at += 1;
            if *self == Self::End {
                return Passed::Ended(at);
            }
            *self = next;
        }
        Passed::All
    }

    /// The position after `byte`, outside of data; `None` if the byte isn't allowed here.
    fn after(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Size(size, _), digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16)?;
                let size = size.checked_mul(16)?.checked_add(u64::from(digit))?;
                Some(Self::Size(size, true))
            }
            (Self::Size(size, true) | Self::Extension(size), b'\r') => Some(Self::SizeEnd(size)),
            (Self::Size(size, true), b';' | b' ' | b'\t') => Some(Self::Extension(size)),
            (Self::Extension(_), b'\n') | (Self::Size(..), _) => None,
            (Self::Extension(size), _) => Some(Self::Extension(size)),
            (Self::SizeEnd(0), b'\n') => Some(Self::Trailer),
            (Self::SizeEnd(size), b'\n') => Some(Self::Data(size)),
            (Self::DataReturn, b'\r') => Some(Self::DataEnd),
            (Self::DataEnd, b'\n') => Some(Self::START),
            (Self::Trailer, b'\r') => Some(Self::End),
            (Self::TrailerLine, b'\r') => Some(Self::TrailerEnd),
            (Self::TrailerEnd, b'\n') => Some(Self::Trailer),
            (Self::Trailer | Self::TrailerLine, b'\n') => None,
            (Self::Trailer | Self::TrailerLine, _) => Some(Self::TrailerLine),
            // What follows the end is another request.
            (Self::End, b'\n') => Some(Self::START),
            (Self::SizeEnd(_) | Self::DataReturn | Self::DataEnd | Self::TrailerEnd | Self::End, _) => None,
            (data @ Self::Data(_), _) => Some(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"5\r\nhello\r\nA;x=1 \r\n0123456789\r\n0\r\nx: y\r\n\r\n";

    #[test]
    fn the_end_is_found_wherever_the_bytes_are_cut() {
        for cut in 0..=WHOLE.len() {
            let mut chunks = Chunks::START;
            let mut rest = [&WHOLE[cut..], b"GET"].concat();
            if cut < WHOLE.len() {
                assert_eq!(chunks.pass(&WHOLE[..cut]), Passed::All, "cut at {cut}");
            } else {
                rest = [WHOLE, b"GET"].concat();
            }
            assert_eq!(chunks.pass(&rest), Passed::Ended(rest.len() - 3), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_broken() {
        for broken in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "5\nhello",
            "5\r\nhelloo\r\n",
            "11111111111111111\r\n",
            "0\r\n\rx",
            "5\r\nhello\n",
            "0\r\nx: y\n\r\n",
            "0\r\n\n",
        ] {
            let mut chunks = Chunks::START;
            let passed = chunks.pass(broken.as_bytes());
            assert!(matches!(passed, Passed::Broken(_)), "{broken:?}: {passed:?}");
        }
    }
}
