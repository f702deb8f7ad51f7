//! A caller's options, in headers: how to treat a sleeping model, how long to wait, how to report progress, how soon to have a turn.

use axum::http::{HeaderMap, HeaderValue, header};
use reveille_domain::{Priority, key::ProgressForm};
use std::time::Duration;

const WAKE: &str = "x-reveille-wake";
pub(super) const WAIT: &str = "x-reveille-wait";
pub(super) const QUEUE_WAIT: &str = "x-reveille-queue-wait";
const PROGRESS: &str = "x-reveille-progress";
const PRIORITY: &str = "x-reveille-priority";

/// What the `User-Agent` of each of codex's programs begins with.
const CODEX: &str = "codex";

/// How long a client gets comments whose program may end the stream after two minutes without a chunk.
pub(crate) const COMMENTS_FOR: Duration = Duration::from_secs(60);

/// What happens when the model sleeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum WakeMode {
    /// Wake it and hold the request.
    #[default]
    Block,
    /// Wake it and answer `waking` at once.
    Async,
    /// Don't wake it.
    Never,
}

/// How a waiting stream reports that it waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A comment line: every client skips it.
    #[default]
    Comment,
    /// A comment line, and after [`COMMENTS_FOR`] what `Delta` sends: the program behind the client may have a timer.
    CommentThenDelta,
    /// A chunk without text, for clients whose timers ignore comments.
    Delta,
    /// A text in `reasoning_content`, for clients that show it.
    Reasoning,
    /// Not at all: the status is open until the outcome is known.
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    pub wake: WakeMode,
    /// How long it waits altogether: for wakes, for a slot, for memory.
    pub wait: Duration,
    /// How long of that it waits for a slot, if not for all of it.
    pub queue_wait: Option<Duration>,
    pub progress: Progress,
    /// Whether the client sends a request for a stream again after any status of 500 or more, whatever the headers say.
    pub ignores_should_retry: bool,
    /// The class that it asks for where requests wait; its key's counts if that is lower.
    pub priority: Option<Priority>,
}

/// An invalid header: its name, and what it may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadOption {
    pub header: &'static str,
    pub expected: &'static str,
}

impl Options {
    /// Reads the headers; `longest` is how long a caller waits by default, and at most, and `progress` what its key says.
    pub fn read(
        headers: &HeaderMap,
        longest: Duration,
        progress: Option<ProgressForm>,
    ) -> Result<Self, BadOption> {
        let user_agent = headers.get(header::USER_AGENT).map_or("", words);
        let wake = match option(headers, WAKE)? {
            None => WakeMode::default(),
            Some("block") => WakeMode::Block,
            Some("async") => WakeMode::Async,
            Some("never") => WakeMode::Never,
            Some(_) => {
                return Err(BadOption {
                    header: WAKE,
                    expected: "block, async or never",
                });
            }
        };
        let progress = match option(headers, PROGRESS)? {
            None => match progress {
                Some(form) => form.into(),
                None => Progress::of_client(user_agent),
            },
            Some("comment") => Progress::Comment,
            Some("delta") => Progress::Delta,
            Some("reasoning") => Progress::Reasoning,
            Some("off") => Progress::Off,
            Some(_) => {
                return Err(BadOption {
                    header: PROGRESS,
                    expected: "comment, delta, reasoning or off",
                });
            }
        };
        let seconds = |header| {
            let wait = option(headers, header)?.map(|seconds| {
                let seconds: f64 = seconds.parse().unwrap_or(-1.0);
                Duration::try_from_secs_f64(seconds)
            });
            wait.transpose().map_err(|_| BadOption {
                header,
                expected: "a number of seconds",
            })
        };
        let wait = seconds(WAIT)?.unwrap_or(longest).min(longest);
        let queue_wait = seconds(QUEUE_WAIT)?.map(|wait| wait.min(longest));
        let priority = option(headers, PRIORITY)?.map(str::parse).transpose();
        let priority = priority.map_err(|_| BadOption {
            header: PRIORITY,
            expected: "high, normal or low",
        })?;
        Ok(Self {
            wake,
            wait,
            queue_wait,
            progress,
            priority,
            ignores_should_retry: user_agent.starts_with(CODEX),
        })
    }
}

impl Progress {
    /// What suits the client with this `User-Agent`. LangChain ends a stream after a time without a chunk, and comments don't
    /// count. Its packages name themselves, but for the one for OpenAI in Python: that has the name of OpenAI's client, and its
    /// timer of two minutes only where that is the asynchronous one.
    fn of_client(user_agent: &str) -> Self {
        let user_agent = user_agent.to_ascii_lowercase();
        if user_agent.contains("langchain") {
            Self::Delta
        } else if user_agent.starts_with("asyncopenai/python") {
            Self::CommentThenDelta
        } else {
            Self::default()
        }
    }
}

impl From<ProgressForm> for Progress {
    fn from(form: ProgressForm) -> Self {
        match form {
            ProgressForm::Comment => Self::Comment,
            ProgressForm::Delta => Self::Delta,
            ProgressForm::Reasoning => Self::Reasoning,
            ProgressForm::Off => Self::Off,
        }
    }
}

/// What a header of ours says, which may come once.
fn option<'a>(headers: &'a HeaderMap, header: &'static str) -> Result<Option<&'a str>, BadOption> {
    let mut values = headers.get_all(header).iter();
    let value = values.next().map(words);
    match values.next() {
        None => Ok(value),
        Some(_) => Err(BadOption {
            header,
            expected: "sent once, not several times",
        }),
    }
}

/// The header's text; anything else is as invalid as an unknown word.
fn words(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("?").trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    const LONGEST: Duration = Duration::from_secs(290);

    fn read(name: &'static str, value: &'static str) -> Result<Options, BadOption> {
        let headers =
            HeaderMap::from_iter([(name.parse().expect("a name"), HeaderValue::from_static(value))]);
        Options::read(&headers, LONGEST, None)
    }

    #[test]
    fn a_request_may_say_otherwise_than_its_key_which_goes_before_its_client() {
        let langchain = (header::USER_AGENT, HeaderValue::from_static("langchain"));
        let said = (PROGRESS.parse().expect("a name"), HeaderValue::from_static("off"));
        let read = |headers: &[(HeaderName, HeaderValue)], key| {
            let headers = HeaderMap::from_iter(headers.iter().cloned());
            Options::read(&headers, LONGEST, key).map(|options| options.progress)
        };
        let key = Some(ProgressForm::Reasoning);
        assert_eq!(read(&[said, langchain.clone()], key), Ok(Progress::Off));
        assert_eq!(
            read(std::slice::from_ref(&langchain), key),
            Ok(Progress::Reasoning)
        );
        assert_eq!(read(&[langchain], None), Ok(Progress::Delta));
        assert_eq!(read(&[], Some(ProgressForm::Delta)), Ok(Progress::Delta));
    }

    #[test]
    fn a_caller_can_shorten_the_wait_and_never_lengthen_it() {
        assert_eq!(read("x-other", "1").map(|o| o.wait), Ok(LONGEST));
        assert_eq!(read(WAIT, "1.5").map(|o| o.wait), Ok(Duration::from_millis(1500)));
        assert_eq!(read(WAIT, "0").map(|o| o.wait), Ok(Duration::ZERO));
        assert_eq!(read(WAIT, "1").map(|o| o.queue_wait), Ok(None));
        assert_eq!(
            read(QUEUE_WAIT, "1").map(|o| (o.wait, o.queue_wait)),
            Ok((LONGEST, Some(Duration::from_secs(1))))
        );
        assert_eq!(read(QUEUE_WAIT, "soon").map_err(|e| e.header), Err(QUEUE_WAIT));
        for longer in ["291", "1e18", "1e19"] {
            assert_eq!(read(WAIT, longer).map(|o| o.wait), Ok(LONGEST), "{longer}");
            let queue_wait = read(QUEUE_WAIT, longer).map(|o| o.queue_wait);
            assert_eq!(queue_wait, Ok(Some(LONGEST)), "{longer}");
        }
        for nonsense in ["", "-1", "soon", "NaN", "inf", "1e400", "1,5"] {
            assert_eq!(
                read(WAIT, nonsense).map_err(|e| e.header),
                Err(WAIT),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn an_option_that_comes_twice_is_refused_even_with_the_same_value() {
        for (header, value) in [
            (WAKE, "never"),
            (WAIT, "1"),
            (QUEUE_WAIT, "1"),
            (PROGRESS, "off"),
            (PRIORITY, "low"),
        ] {
            let mut headers = HeaderMap::new();
            for _ in 0..2 {
                assert!(Options::read(&headers, LONGEST, None).is_ok(), "{header}");
                headers.append(header, HeaderValue::from_static(value));
            }
            let refused = Options::read(&headers, LONGEST, None).map_err(|refused| refused.header);
            assert_eq!(refused, Err(header));
        }
    }

    #[test]
    fn modes_are_read_and_nonsense_is_refused() {
        assert_eq!(read(WAKE, "async").map(|o| o.wake), Ok(WakeMode::Async));
        assert_eq!(read(WAKE, " never ").map(|o| o.wake), Ok(WakeMode::Never));
        assert_eq!(read(PROGRESS, "off").map(|o| o.progress), Ok(Progress::Off));
        for (agent, progress) in [
            ("langchainjs-openai/1.0.0 (node/v22.1.0)", Progress::Delta),
            ("langchain-partner-python-azure-openai", Progress::Delta),
            ("AsyncOpenAI/Python 2.8.1", Progress::CommentThenDelta),
            ("OpenAI/Python 2.8.1", Progress::Comment),
            ("", Progress::Comment),
        ] {
            assert_eq!(
                read("user-agent", agent).map(|o| o.progress),
                Ok(progress),
                "{agent}"
            );
        }
        for (agent, ignores) in [("codex_exec/0.171.0", true), ("OpenAI/JS 6.49.0", false)] {
            let read = read("user-agent", agent).map(|options| options.ignores_should_retry);
            assert_eq!(read, Ok(ignores), "{agent}");
        }
        assert_eq!(read(PRIORITY, "low").map(|o| o.priority), Ok(Some(Priority::Low)));
        assert_eq!(read("x-other", "low").map(|o| o.priority), Ok(None));
        for (header, value) in [
            (WAKE, "Maybe"),
            (WAKE, ""),
            (PROGRESS, "yes"),
            (PRIORITY, "urgent"),
        ] {
            assert_eq!(read(header, value).map_err(|e| e.header), Err(header));
        }
    }
}
