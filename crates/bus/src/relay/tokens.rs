//! Finds, while an answer passes, how many tokens its backend says that it used. Nothing is parsed but the numbers, and nothing is
//! held back: only the end of what has passed is kept, in case a field was cut there.
//!
//! Within a text of JSON the quotes of such a field would be escaped, so what a model writes isn't taken for one.

use super::content::AnswerKind;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// A field with its number is never longer, in bytes.
const FIELD_BYTES: usize = 64;

/// The numbers of tokens in an answer. The last ones count: some streams say how many there are so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Those of the prompt.
    pub input: Option<u64>,
    /// Those of the answer.
    pub output: Option<u64>,
}

/// Looks for the numbers of tokens in one answer.
#[derive(Debug)]
pub struct TokenScan {
    /// How the fields end, by whose API the answer is of.
    endings: &'static [LazyLock<Finder<'static>>],
    /// The end of what has passed.
    tail: Vec<u8>,
    found: Tokens,
}

static OF_OPENAI: [LazyLock<Finder<'static>>; 1] = [LazyLock::new(|| Finder::new("_tokens\""))];
static OF_OLLAMA: [LazyLock<Finder<'static>>; 1] = [LazyLock::new(|| Finder::new("eval_count\""))];
static OF_ANY: [LazyLock<Finder<'static>>; 3] = [
    LazyLock::new(|| Finder::new("_tokens\"")),
    LazyLock::new(|| Finder::new("\"tokens_evaluated\"")),
    LazyLock::new(|| Finder::new("\"tokens_predicted\"")),
];

impl TokenScan {
    /// Of an answer of this kind that isn't compressed; `None` if such answers have no tokens.
    #[must_use]
    pub fn new(kind: AnswerKind) -> Option<Self> {
        let endings: &'static [_] = match kind {
            AnswerKind::Completion | AnswerKind::Typed => &OF_OPENAI,
            AnswerKind::Lines => &OF_OLLAMA,
            AnswerKind::Other => &OF_ANY,
            AnswerKind::Aside => return None,
        };
        Some(Self {
            endings,
            tail: Vec::new(),
            found: Tokens::default(),
        })
    }

    /// The next part of the answer.
    pub fn next(&mut self, part: &[u8]) {
        // A field that was cut ends within the beginning of this part.
        let begins = &part[..part.len().min(FIELD_BYTES)];
        self.tail.extend_from_slice(begins);
        let mut joined = std::mem::take(&mut self.tail);
        self.look(&joined, false);
        if part.len() > FIELD_BYTES {
            self.look(part, false);
            joined.clear();
            joined.extend_from_slice(&part[part.len() - FIELD_BYTES..]);
        } else {
            let surplus = joined.len().saturating_sub(FIELD_BYTES);
            joined.drain(..surplus);
        }
        self.tail = joined;
    }

    /// What was found in the answer, of which nothing more will come.
    pub fn end(&mut self) -> Tokens {
        let tail = std::mem::take(&mut self.tail);
        self.look(&tail, true);
        self.found
    }

    /// Takes the numbers that end within `bytes`, or with them if `is_all`.
    fn look(&mut self, bytes: &[u8], is_all: bool) {
        for ending in self.endings {
            for at in ending.find_iter(bytes) {
                let name_end = at + ending.needle().len() - 1;
                let begins = bytes[..name_end]
                    .iter()
                    .rposition(|byte| *byte == b'"')
                    .map(|quote| quote + 1);
                let Some(name) = begins.map(|begins| &bytes[begins..name_end]) else {
                    continue;
                };
                let Some(number) = number(&bytes[name_end + 1..], is_all) else {
                    continue;
                };
                match name {
                    b"prompt_tokens" | b"input_tokens" | b"prompt_eval_count" | b"tokens_evaluated" => {
                        self.found.input = Some(number);
                    }
                    b"completion_tokens" | b"output_tokens" | b"eval_count" | b"tokens_predicted" => {
                        self.found.output = Some(number);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The number behind a name and its colon; `None` if there is none, or if it may go on behind `bytes`.
fn number(bytes: &[u8], is_all: bool) -> Option<u64> {
    let value = bytes.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == value.len() && !is_all {
        return None;
    }
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in an answer, however it is cut.
    fn found(path: &str, answer: &str) -> (Option<u64>, Option<u64>) {
        let sizes = [1, 3, 7, 50, 63, 64, 65, answer.len().max(1)];
        let all = sizes.map(|size| {
            let mut scan = TokenScan::new(AnswerKind::of_path(path)).expect("it has tokens");
            for part in answer.as_bytes().chunks(size) {
                scan.next(part);
                assert!(scan.tail.len() <= 2 * FIELD_BYTES);
            }
            let Tokens { input, output } = scan.end();
            (input, output)
        });
        assert!(all.iter().all(|one| *one == all[0]), "{answer}: {all:?}");
        all[0]
    }

    #[test]
    fn the_tokens_of_each_api_are_found_however_its_answer_is_cut() {
        let long = "x".repeat(10_000);
        for (path, answer, expected) in [
            (
                "/v1/chat/completions",
                format!(
                    r#"{{"choices":[{{"message":{{"content":"{long}"}}}}],"usage":{{"prompt_tokens":12,"total_tokens":340,"completion_tokens":328,"prompt_tokens_details":{{"cached_tokens":8}}}}}}"#
                ),
                (Some(12), Some(328)),
            ),
            (
                "/v1/chat/completions",
                "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\" : 5,\n\"completion_tokens\": 9}}\n\ndata: [DONE]\n\n".to_owned(),
                (Some(5), Some(9)),
            ),
            (
                "/v1/messages",
                "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":7,\"output_tokens\":1}}}\n\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n".to_owned(),
                (Some(25), Some(15)),
            ),
            (
                "/v1/responses",
                format!("data: {{\"type\":\"response.completed\",\"response\":{{\"output\":\"{long}\",\"usage\":{{\"input_tokens\":3,\"output_tokens\":4,\"output_tokens_details\":{{\"reasoning_tokens\":2}}}}}}}}\n\n"),
                (Some(3), Some(4)),
            ),
            (
                "/api/chat",
                "{\"message\":{\"content\":\"hi\"},\"done\":false}\n{\"done\":true,\"prompt_eval_count\":26,\"eval_count\":298}\n".to_owned(),
                (Some(26), Some(298)),
            ),
            (
                "/completion",
                "data: {\"content\":\"\",\"stop\":true,\"tokens_predicted\":64,\"tokens_evaluated\":9,\"timings\":{\"prompt_n\":1}}\n\n".to_owned(),
                (Some(9), Some(64)),
            ),
            ("/v1/embeddings", "{\"data\":[],\"usage\":{\"prompt_tokens\":8}}".to_owned(), (Some(8), None)),
            ("/v1/chat/completions", "\"completion_tokens\": 77".to_owned(), (None, Some(77))),
        ] {
            assert_eq!(found(path, &answer), expected, "{path} {answer:.80}");
        }
    }

    #[test]
    fn what_a_model_writes_is_not_taken_for_numbers_of_tokens() {
        for answer in [
            r#"{"choices":[{"message":{"content":"{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}"}}]}"#,
            r#"data: {"choices":[{"delta":{"content":"\"completion_tokens\": 7"}}]}"#,
            r#"{"usage":{"completion_tokens":null,"prompt_tokens":"5","max_tokens":9}}"#,
            r#"{"usage":{"completion_tokens":99999999999999999999999}}"#,
            "\"completion_tokens\":",
            "",
        ] {
            assert_eq!(found("/v1/chat/completions", answer), (None, None), "{answer}");
        }
        assert!(TokenScan::new(AnswerKind::Aside).is_none());
    }
}
