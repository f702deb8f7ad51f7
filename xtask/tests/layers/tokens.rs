//! Cuts Rust into words and signs.

/// A word or a sign of Rust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Word(String),
    /// `::`
    Path,
    Sign(char),
}

impl Token {
    /// The word, if it is one.
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Path | Self::Sign(_) => None,
        }
    }
}

/// A file's words and signs, without comments and without the text of literals.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut tokens = vec![];
    let mut here = 0;
    while here < chars.len() {
        let start = here;
        here += match (at(here), at(here + 1)) {
            ('/', '/') => chars[start..].iter().take_while(|c| **c != '\n').count(),
            ('/', '*') => block_comment(&chars[start..]),
            ('"', _) => string(&chars[start..], 0),
            ('r', '"' | '#') if raw_string(&chars[start..]).is_some() => {
                raw_string(&chars[start..]).unwrap_or(1)
            }
            ('\'', '\\') => {
                2 + chars[start + 2..]
                    .iter()
                    .skip(1)
                    .take_while(|c| **c != '\'')
                    .count()
                    + 2
            }
            ('\'', _) if at(here + 2) == '\'' => 3,
            (':', ':') => {
                tokens.push(Token::Path);
                2
            }
            (c, _) if c == '_' || c.is_alphabetic() => {
                let word: String = chars[start..]
                    .iter()
                    .take_while(|c| **c == '_' || c.is_alphanumeric())
                    .collect();
                let length = word.chars().count();
                tokens.push(Token::Word(word));
                length
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(Token::Sign(c));
                }
                1
            }
        };
    }
    tokens
}

/// The length of a comment that may hold others.
fn block_comment(chars: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut here = 0;
    while here + 1 < chars.len() {
        match (chars[here], chars[here + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                here += 1;
                continue;
            }
        }
        here += 2;
        if depth == 0 {
            return here;
        }
    }
    chars.len()
}

/// The length of a string that begins at its quote.
fn string(chars: &[char], hashes: usize) -> usize {
    let mut here = 1;
    while here < chars.len() {
        match chars[here] {
            '\\' if hashes == 0 => here += 2,
            '"' if chars[here + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes =>
            {
                return here + 1 + hashes;
            }
            _ => here += 1,
        }
    }
    chars.len()
}

/// The length of a string such as `r#"…"#`, if one begins here.
fn raw_string(chars: &[char]) -> Option<usize> {
    let hashes = chars[1..].iter().take_while(|c| **c == '#').count();
    let quote = 1 + hashes;
    // Without a hash a backslash is still no escape in it.
    let closes = |rest: &[char]| {
        let end = rest[1..].iter().enumerate().position(|(index, c)| {
            *c == '"'
                && rest[index + 2..]
                    .iter()
                    .take(hashes)
                    .filter(|c| **c == '#')
                    .count()
                    == hashes
        });
        end.map_or(rest.len(), |end| end + 2 + hashes)
    };
    (chars.get(quote) == Some(&'"')).then(|| quote + closes(&chars[quote..]))
}
