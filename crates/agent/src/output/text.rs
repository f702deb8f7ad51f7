//! The bytes that a command prints, as lines of text: without colours, without what bars of progress overwrite, and each of
//! bounded length.

use std::mem;

/// The longest line. What follows in a longer one is a line of its own.
pub(crate) const MAX_LINE_BYTES: usize = 4096;
const ESCAPE: char = '\u{1b}';
const BELL: char = '\u{7}';

/// Divides bytes into lines as they come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    /// Whether what comes next overwrites the line.
    returned: bool,
    /// Whether the line that ends next has been given in part.
    given: bool,
}

impl Lines {
    /// Takes more bytes, and gives each line that they end.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(String)) {
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.add(&bytes[..end], &mut line);
            match bytes[end] {
                b'\n' => {
                    if let Some(text) = self.end() {
                        line(text);
                    }
                }
                _ => self.returned = true,
            }
            bytes = &bytes[end + 1..];
        }
        self.add(bytes, &mut line);
    }

    /// Whether a line has begun that isn't given yet.
    pub(super) const fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    /// The line that has begun, before its end.
    pub(super) fn begun(&mut self) -> Option<String> {
        if self.begun.is_empty() {
            return None;
        }
        (self.given, self.returned) = (true, false);
        Some(clean(&mem::take(&mut self.begun)))
    }

    fn end(&mut self) -> Option<String> {
        self.returned = false;
        let was_given = mem::take(&mut self.given);
        let text = clean(&mem::take(&mut self.begun));
        (!was_given || !text.is_empty()).then_some(text)
    }

    fn add(&mut self, mut bytes: &[u8], line: &mut impl FnMut(String)) {
        if bytes.is_empty() {
            return;
        }
        if mem::take(&mut self.returned) {
            self.begun.clear();
        }
        while self.begun.len() + bytes.len() > MAX_LINE_BYTES {
            let (now, later) = bytes.split_at(MAX_LINE_BYTES - self.begun.len());
            self.begun.extend_from_slice(now);
            let end = whole_characters(&self.begun);
            let cut = self.begun.split_off(end);
            if let Some(text) = self.begun() {
                line(text);
            }
            (self.begun, bytes) = (cut, later);
        }
        self.begun.extend_from_slice(bytes);
    }
}

/// How many bytes there are without a character of UTF-8 that lacks its end.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(&bytes[bytes.len().saturating_sub(3)..]) {
        Err(error) if error.error_len().is_none() => {
            let last = bytes.iter().rposition(|byte| *byte >= 0xc0);
            last.filter(|at| *at > 0).unwrap_or(bytes.len())
        }
        _ => bytes.len(),
    }
}

/// All lines of a text.
pub(crate) fn lines_of(bytes: &[u8]) -> Vec<String> {
    let (mut lines, mut all) = (Lines::default(), vec![]);
    lines.push(bytes, |line| all.push(line));
    all.extend(lines.begun());
    all
}

/// The last lines of a text, at most so many and with at most so many bytes together; the beginning of the first one is left out
/// if it is too long.
pub(crate) fn end_of(text: &str, most: usize, most_bytes: usize) -> Vec<&str> {
    let (mut lines, mut left) = (vec![], most_bytes);
    for line in text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(most)
    {
        let mut from = line.len().saturating_sub(left);
        while !line.is_char_boundary(from) {
            from += 1;
        }
        if from == line.len() {
            break;
        }
        left -= line.len() - from;
        lines.push(&line[from..]);
    }
    lines.reverse();
    lines
}

/// Text without what a terminal would obey: colours and other sequences, and single control characters.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == ESCAPE {
            skip_sequence(&mut rest);
        } else if !c.is_control() || c == '\t' {
            shown.push(c);
        }
    }
    shown
}

/// Skips what belongs to an escape: a control sequence up to its last character, the title of a window up to its end, or one
/// character.
fn skip_sequence(rest: &mut std::str::Chars<'_>) {
    match rest.next() {
        Some('[') => {
            let _ = rest.find(|c| matches!(c, '@'..='~'));
        }
        Some(']') => {
            let end = rest.find(|c| matches!(*c, BELL | ESCAPE));
            if end == Some(ESCAPE) {
                rest.next();
            }
        }
        Some(_) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_colours_and_what_a_bar_of_progress_overwrites() {
        for (printed, lines) in [
            ("one\ntwo", &["one", "two"][..]),
            ("one\r\n\ntwo\n", &["one", "", "two"]),
            ("\u{1b}[1;31mred\u{1b}[0m\u{7}\n", &["red"]),
            (
                "\u{1b}]0;title\u{7}a\u{1b}]0;t\u{1b}\\b\u{1b}(Bc\tz\n",
                &["abBc\tz"],
            ),
            (" 10%\r 50%\r100%\r\ndone\n", &["100%", "done"]),
            ("\r 10%\r 50%", &[" 50%"]),
            ("a\0b\u{9b}c\n\u{1b}[", &["abc", ""]),
            ("", &[]),
        ] {
            assert_eq!(lines_of(printed.as_bytes()), lines, "{printed:?}");
        }
        assert_eq!(lines_of(b"a\xff\xfeb"), ["a\u{fffd}\u{fffd}b"]);
    }

    #[test]
    fn a_line_without_an_end_is_cut_between_two_characters() {
        let long = "é".repeat(MAX_LINE_BYTES);
        let lines = lines_of(format!("x{long}\nnext\n").as_bytes());
        assert_eq!(lines.concat(), format!("x{long}next"));
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.len() <= MAX_LINE_BYTES));
        let binary: Vec<u8> = (0..20_000u32).map(|n| (n * 7 % 256) as u8 | 0x80).collect();
        assert!(lines_of(&binary).len() >= 5);
    }

    #[test]
    fn a_line_that_was_given_before_its_end_is_not_given_again() {
        let (mut lines, mut seen) = (Lines::default(), vec![]);
        lines.push(b"loading", |line| seen.push(line));
        assert!(seen.is_empty() && lines.has_begun());
        seen.extend(lines.begun());
        lines.push(b"\nready\n", |line| seen.push(line));
        assert_eq!(seen, ["loading", "ready"]);
        assert_eq!(lines.begun(), None);
    }

    #[test]
    fn the_end_of_a_text_is_bounded_in_lines_and_bytes() {
        let text = "1\n2\n\n3\n4\n";
        assert_eq!(end_of(text, 3, 100), ["2", "3", "4"]);
        assert_eq!(end_of(text, 9, 2), ["3", "4"]);
        assert_eq!(end_of("begin äend\nz", 5, 5), ["end", "z"]);
        assert_eq!(end_of("", 5, 5), [""; 0]);
    }
}
