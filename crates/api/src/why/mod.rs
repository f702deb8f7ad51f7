//! Why something is as it is: the chain of causes of a request or of a wake, and what the next request for a model would meet, in plain
//! words with times. Pure: what is known comes in.

mod provider;
mod request;
mod wake;

pub(crate) use provider::{Member, of_model, of_provider};
pub(crate) use request::of_request;
pub(crate) use wake::{Room, of_wake};

use reveille_domain::{Timestamp, WakeFailureKind};
use serde::Serialize;
use std::time::Duration;

/// What `why` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Why {
    /// `request`, `wake`, `model` or `provider`.
    pub about: &'static str,
    pub id: String,
    /// The answer in one sentence.
    pub summary: String,
    /// What led to it, in order.
    pub chain: Vec<Cause>,
    /// What somebody can do about it.
    pub advice: Option<String>,
}

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Cause {
    /// When it happened; absent for what holds now.
    pub at_ms: Option<Timestamp>,
    pub what: String,
}

impl Cause {
    fn at(at: Timestamp, what: impl Into<String>) -> Self {
        Self {
            at_ms: Some(at),
            what: what.into(),
        }
    }

    fn now(what: impl Into<String>) -> Self {
        Self {
            at_ms: None,
            what: what.into(),
        }
    }
}

/// A time in words.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

fn millis(ms: u64) -> String {
    span(Duration::from_millis(ms))
}

fn after(at: Timestamp, ms: u64) -> Timestamp {
    at.plus(Duration::from_millis(ms))
}

/// What the owner of a machine, or somebody else, can do about a wake that failed so.
fn advice_on(kind: WakeFailureKind, provider: &str, agent: &str) -> Option<String> {
    Some(match kind {
        WakeFailureKind::Recipe => format!(
            "read `reveille logs {provider}` on the machine of {agent}, and correct the provider's [provider.wake]"
        ),
        WakeFailureKind::Unavailable | WakeFailureKind::TimedOut => format!(
            "read `reveille logs {provider}` on the machine of {agent}; if the backend only takes long, raise provider.wake.max_wait"
        ),
        WakeFailureKind::Died => {
            format!("read `reveille logs {provider}` on the machine of {agent}: its command ended")
        }
        WakeFailureKind::AgentLost | WakeFailureKind::AgentStopped => {
            format!("start the agent {agent}, or its machine")
        }
        WakeFailureKind::Withdrawn => return None,
        WakeFailureKind::NotAllowed => {
            format!(
                "ask the owner of {agent}, who decides when it wakes anything; `reveille status` shows the rule"
            )
        }
        WakeFailureKind::GroupBlocked => {
            "wait until the other members of its group have no work, or use their models".to_owned()
        }
        WakeFailureKind::NotNeeded => return None,
    })
}

#[cfg(test)]
mod tests;
