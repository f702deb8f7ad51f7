//! What a person answers, or a flag in their place, before anything is written or tried.

use crate::{failure::Failure, logging::notice, terminal};
use anyhow::anyhow;
use std::io::{self, BufRead, IsTerminal, StdinLock, Write};

/// Who answers.
pub enum Answers<I> {
    /// Somebody at a terminal.
    Person(I),
    /// Nobody: everything that was found is written, and nothing is tried.
    Nobody,
    /// `--yes`; and whether `--try` was given too.
    Flags { try_running: bool },
}

impl Answers<StdinLock<'static>> {
    /// By the flags, and else whoever is at the terminal.
    pub fn of(yes: bool, try_running: bool) -> Self {
        if yes {
            return Self::Flags { try_running };
        }
        match io::stdin().is_terminal() && io::stderr().is_terminal() {
            true => Self::Person(io::stdin().lock()),
            false => Self::Nobody,
        }
    }
}

impl<I: BufRead> Answers<I> {
    /// Whether to write something.
    pub fn writes(&mut self, question: &str) -> Result<bool, Failure> {
        self.asked(question, true, |_| true)
    }

    /// Whether to try the recipe of a backend that doesn't run.
    pub fn tries_stopped(&mut self, question: &str) -> Result<bool, Failure> {
        self.asked(question, true, |flags| flags.is_some())
    }

    /// Whether to try the recipe of a running backend, which interrupts it.
    pub fn tries_running(&mut self, question: &str) -> Result<bool, Failure> {
        self.asked(question, false, |flags| flags == Some(true))
    }

    /// `default` is what a person's empty line means; `flags` answers in nobody's place with `None`, and with `--yes` by whether
    /// there is `--try`.
    fn asked(
        &mut self,
        question: &str,
        default: bool,
        flags: fn(Option<bool>) -> bool,
    ) -> Result<bool, Failure> {
        match self {
            Self::Nobody => Ok(flags(None)),
            Self::Flags { try_running } => Ok(flags(Some(*try_running))),
            Self::Person(input) => ask(input, question, default),
        }
    }
}

fn ask(input: &mut impl BufRead, question: &str, default: bool) -> Result<bool, Failure> {
    let choices = if default { "[Y/n]" } else { "[y/N]" };
    loop {
        let shown = format!("{question} {choices} ");
        let mut output = io::stderr();
        let _ = output.write_all(terminal::lines(&shown).as_bytes());
        let _ = output.flush();
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            notice("");
            return Err(anyhow!("the input ended before an answer, so nothing was written").into());
        }
        match line.trim().to_ascii_lowercase().as_str() {
            "" => return Ok(default),
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => notice("Answer y or n."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each question gets.
    fn answered<I: BufRead>(mut answers: Answers<I>) -> [bool; 3] {
        [
            answers.writes("?").unwrap(),
            answers.tries_stopped("?").unwrap(),
            answers.tries_running("?").unwrap(),
        ]
    }

    #[test]
    fn what_runs_is_interrupted_only_by_a_yes_of_its_own() {
        let nobody: Answers<&[u8]> = Answers::Nobody;
        assert_eq!(answered(nobody), [true, false, false]);
        for (try_running, answers) in [(false, [true, true, false]), (true, [true, true, true])] {
            let flags: Answers<&[u8]> = Answers::Flags { try_running };
            assert_eq!(answered(flags), answers);
        }
        for (lines, answers) in [
            ("\n\n\n", [true, true, false]),
            ("y\nYES\n y \n", [true, true, true]),
            ("n\nno\nN\n", [false, false, false]),
            ("what?\ny\n\nn\n", [true, true, false]),
        ] {
            assert_eq!(answered(Answers::Person(lines.as_bytes())), answers, "{lines:?}");
        }
    }

    #[test]
    fn an_input_that_ends_is_no_answer() {
        let error = Answers::Person("what?\n".as_bytes()).writes("?").unwrap_err();
        assert!(error.to_string().contains("nothing was written"), "{error}");
    }
}
