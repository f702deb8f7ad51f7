//! Text on its way to a terminal. Names come from config files, backends and clients, and Unicode has characters that move
//! the cursor, change colours, hide, or turn what follows around: shown as they are, they make one name look like another.

use std::borrow::Cow;
use unicode_properties::{
    GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator},
    UnicodeGeneralCategory,
};

/// What separates the lines and cells of a text of our own.
const LAYOUT: [char; 2] = ['\n', '\t'];

/// A single word or sentence in which those characters are escaped.
pub fn word(text: &str) -> Cow<'_, str> {
    escaped(text, &[])
}

/// A text of several lines in which they are escaped.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, &LAYOUT)
}

/// A text of several lines that has colours of our own.
pub fn coloured(text: &str) -> Cow<'_, str> {
    escaped(text, &[LAYOUT[0], LAYOUT[1], '\u{1b}'])
}

/// The escapes are JSON's, so JSON stays what it was.
fn escaped<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let acts = |c: char| {
        let category = || c.general_category();
        let is_text = matches!(c, ' '..='~') || kept.contains(&c);
        !is_text && matches!(category(), Control | Format | LineSeparator | ParagraphSeparator)
    };
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            let units = &mut [0; 2];
            for unit in c.encode_utf16(units) {
                shown += &format!("\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_all_writing_stays() {
        for (text, shown) in [
            ("a\u{1b}[2Jb", r"a\u001b[2Jb"),
            ("m\u{202e}live", r"m\u202elive"),
            ("\u{2066}a\u{2069}\u{200f}", r"\u2066a\u2069\u200f"),
            ("m\u{200b}z\u{feff}\u{ad}", r"m\u200bz\ufeff\u00ad"),
            ("\u{9b}31m\u{7f}\u{2028}\u{2029}", r"\u009b31m\u007f\u2028\u2029"),
            ("\u{e0041}", r"\udb40\udc41"),
        ] {
            assert_eq!(word(text), shown);
            assert_eq!(lines(text), shown);
        }
        for text in [
            "qwen2.5:7b \\ \"q\"",
            "模型",
            "cafe\u{301}",
            "שלום عربى",
            "m😀",
            "é",
        ] {
            assert_eq!(word(text), text);
        }
        assert_eq!(
            (word("a\tb\n"), lines("a\tb\n")),
            (r"a\u0009b\u000a".into(), "a\tb\n".into())
        );
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let value = serde_json::json!({ "a\u{202e}": ["\u{e0041}\u{200b}\u{1b}\n\u{9b}", "\\u202e"] });
        for text in [
            value.to_string(),
            serde_json::to_string_pretty(&value).expect("JSON"),
        ] {
            let shown = lines(&text);
            assert!(!shown.contains(['\u{202e}', '\u{200b}', '\u{9b}']), "{shown}");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"),
                value
            );
        }
    }
}
