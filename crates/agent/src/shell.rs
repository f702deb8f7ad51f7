//! Words of the command lines that people are told to paste. Servers, other machines and folders choose names, and a shell would
//! run what is in them.

use std::{borrow::Cow, path::Path};

/// A text as one word of a command line. What a shell takes literally stays as it is.
#[must_use]
pub fn word(text: &str) -> Cow<'_, str> {
    // It refuses nothing but NUL, which no argument of a program has.
    shlex::try_quote(text).unwrap_or(Cow::Borrowed("''"))
}

/// A path as one word, which no program takes for a flag.
#[must_use]
pub fn path(path: &Path) -> String {
    let text = path.to_string_lossy();
    let flag = if text.starts_with('-') { "./" } else { "" };
    word(&format!("{flag}{text}")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::Command};

    /// The arguments that a shell makes of a line.
    fn arguments(line: &str) -> Vec<String> {
        let script = format!("printf '%s\\0' {line}");
        let done = Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("a shell");
        let text = String::from_utf8(done.stdout).expect("UTF-8");
        let words = text.strip_suffix('\0').unwrap_or_default().split('\0');
        words.map(str::to_owned).collect()
    }

    #[test]
    fn a_shell_makes_one_word_of_each_text_and_runs_nothing() {
        for text in [
            "x'; touch PWNED; '",
            "$(touch PWNED)",
            "`touch PWNED`",
            "a\" b\"",
            "it's $HOME !! \\ ^",
            "a\nb",
            "* ? [a] {b,c} ~",
            "# no comment",
            "",
            "模型 é",
        ] {
            assert_eq!(arguments(&word(text)), [text]);
            assert_eq!(arguments(&path(Path::new(text))), [text]);
        }
        for plain in ["reveille.toml", "/home/me/a-b_c.toml", "qwen2.5:7b"] {
            assert_eq!(word(plain), plain);
        }
    }

    #[test]
    fn no_path_is_a_flag() {
        assert_eq!(path(Path::new("-rf x")), "'./-rf x'");
        assert_eq!(path(Path::new("--force")), "./--force");
        assert_eq!(path(Path::new(OsStr::from_bytes(b"b\xffd"))), "'b\u{fffd}d'");
    }
}
