//! One request: who asked for what, which steps it took, and how it ended.

use crate::{
    ids::{RecordId, WakeId},
    key::Priority,
    names::{KeyId, ModelName, ProviderId},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, mem::size_of, sync::Arc};
use strum::{Display, EnumString, IntoStaticStr};

/// The most steps of a request that are kept: the first and the last ones.
pub const MAX_STEPS: usize = 32;
/// The most members of a pool that are named beside the chosen one.
pub const MAX_OTHERS: usize = 8;
/// A wait for a slot or for memory that is shorter is no step, in milliseconds.
const NAMED_WAIT_MS: u64 = 20;
/// The longest reason that is kept, in characters.
const MAX_REASON_CHARS: usize = 800;

/// One inference request. Times within it are milliseconds since it was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Identifies the record, and orders records by the time at which their requests were received.
    pub record_id: RecordId,
    /// The request's id as its client sees it in `x-request-id`. A client that chooses ids may use one again.
    pub request_id: String,
    /// The API replica that received it.
    pub replica: Arc<str>,
    /// The id of its key; absent for the operator of the replica's machine.
    #[serde(default)]
    pub key: Option<KeyId>,
    /// Its path, as the table of paths has it.
    pub path: Cow<'static, str>,
    /// The model as it was asked for; absent until the body was read.
    #[serde(default)]
    pub model: Option<ModelName>,
    /// Whether it asked for a stream.
    #[serde(default)]
    pub stream: bool,
    /// Its class where requests wait.
    #[serde(default)]
    pub priority: Priority,
    /// When it was received, in NATS time as far as the replica knew it.
    pub received_at_ms: Timestamp,
    /// What happened to it, in order.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// How many steps in the middle were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub steps_left_out: u32,
    /// The provider that answered it, or at which it failed.
    #[serde(default)]
    pub provider: Option<ProviderId>,
    /// The wake that it waited for.
    #[serde(default)]
    pub wake_id: Option<WakeId>,
    /// When the last provider got it.
    #[serde(default)]
    pub handed_over_ms: Option<u64>,
    /// When the first byte of the answer's body came from the provider.
    #[serde(default)]
    pub first_byte_ms: Option<u64>,
    /// When it ended; absent while it is in flight.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// How it ended, or that it hasn't.
    pub outcome: RequestOutcome,
    /// The HTTP status of the answer, once that is known.
    #[serde(default)]
    pub status: Option<u16>,
    /// Why it failed or broke off.
    #[serde(default)]
    pub error: Option<RequestError>,
    /// What it used; absent for answers without tokens.
    #[serde(default)]
    pub tokens: Option<TokenCount>,
    /// How many bytes of an answer's body came from the provider.
    #[serde(default)]
    pub answer_bytes: u64,
    /// For how many requests like it this record stands: more than 1 if its replica had so many that it kept only some.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub stands_for: u32,
}

/// How a request ended, or that it hasn't.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RequestOutcome {
    /// It has not ended.
    InFlight,
    /// Its answer was passed on to the end.
    Done,
    /// It was answered with an error, by Reveille or by its backend.
    Failed,
    /// Its answer broke off after it had begun.
    Cut,
    /// Its client left before the end.
    Disconnected,
}

impl RequestOutcome {
    /// Whether something went wrong on this side.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        match self {
            Self::Failed | Self::Cut => true,
            Self::InFlight | Self::Done | Self::Disconnected => false,
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestError {
    /// The code that its client got, such as `wake_failed`.
    pub code: Cow<'static, str>,
    /// A sentence for people; empty where a sentence could repeat what the request contained.
    pub reason: String,
}

impl RequestError {
    /// An error with its reason cut and stripped of control characters.
    #[must_use]
    pub fn new(code: impl Into<Cow<'static, str>>, reason: &str) -> Self {
        Self {
            code: code.into(),
            reason: bounded(reason),
        }
    }
}

/// The tokens of a request and its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCount {
    /// Those of the prompt.
    pub input: Option<u64>,
    /// Those of the answer.
    pub output: Option<u64>,
    /// Whether `output` is the number of the stream's pieces, because the backend gave none.
    pub estimated: bool,
}

/// Something that happened to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When, in milliseconds since the request was received.
    pub after_ms: u64,
    /// What.
    #[serde(flatten)]
    pub kind: StepKind,
}

/// What happens to requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum StepKind {
    /// Its body was read as far as the model's name needs it.
    Read,
    /// One of the providers of its model was chosen.
    Chosen {
        /// The provider.
        provider: ProviderId,
        /// How many providers have the model.
        of: u32,
        /// Why this one, for people.
        why: Cow<'static, str>,
        /// What spoke against others, the best first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        others: Vec<NotChosen>,
    },
    /// It waits for a wake of the provider.
    Waking {
        /// The provider.
        provider: ProviderId,
    },
    /// It waits until the provider is asleep, and can be woken.
    FallingAsleep {
        /// The provider.
        provider: ProviderId,
    },
    /// It waits for the provider's agent.
    Reaching {
        /// The provider.
        provider: ProviderId,
    },
    /// It waits for a slot at the provider, or for memory.
    Queued {
        /// The provider.
        provider: ProviderId,
        /// Its place in the queue; the next one to leave has 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<u32>,
    },
    /// The provider's agent gets it.
    Sent {
        /// The provider.
        provider: ProviderId,
    },
    /// It isn't answered there.
    Missed {
        /// The provider.
        provider: ProviderId,
        /// Why, for people.
        why: String,
    },
}

/// A member of a pool that wasn't chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotChosen {
    /// The provider.
    pub provider: ProviderId,
    /// What it was, for people.
    pub why: Cow<'static, str>,
}

impl StepKind {
    /// A request that isn't answered at `provider`.
    #[must_use]
    pub fn missed(provider: ProviderId, why: &str) -> Self {
        Self::Missed {
            provider,
            why: bounded(why),
        }
    }

    /// Whether nothing is new in it after `last`.
    fn repeats(&self, last: &Self) -> bool {
        match (self, last) {
            (Self::Queued { provider, .. }, Self::Queued { provider: same, .. }) => provider == same,
            _ => self == last,
        }
    }

    /// Whether it ends a wait that began with the step `last`.
    fn ends_wait(&self, last: &Self) -> bool {
        matches!((self, last), (Self::Sent { provider }, Self::Queued { provider: same, .. }) if provider == same)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Chosen { why, others, .. } => {
                let others = others.iter();
                let others = others.map(|other| size_of::<NotChosen>() + other.why.len());
                why.len() + others.sum::<usize>()
            }
            Self::Missed { why, .. } => why.len(),
            Self::Read
            | Self::Waking { .. }
            | Self::FallingAsleep { .. }
            | Self::Reaching { .. }
            | Self::Queued { .. }
            | Self::Sent { .. } => 0,
        }
    }
}

impl RequestRecord {
    /// Adds a step, unless it only repeats the last one. Of too many, those in the middle are left out.
    pub fn step(&mut self, after_ms: u64, kind: StepKind) {
        if let Some(last) = self.steps.last() {
            if kind.repeats(&last.kind) {
                return;
            }
            if kind.ends_wait(&last.kind) && after_ms.saturating_sub(last.after_ms) < NAMED_WAIT_MS {
                self.steps.pop();
            }
        }
        if self.steps.len() >= MAX_STEPS {
            self.steps.remove(MAX_STEPS / 2);
            self.steps_left_out = self.steps_left_out.saturating_add(1);
        }
        self.steps.push(Step { after_ms, kind });
    }

    /// When it ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Timestamp> {
        let ended = self.ended_ms?;
        Some(Timestamp::from_millis(
            self.received_at_ms.as_millis().saturating_add(ended),
        ))
    }

    /// How long its client waited for the first byte of an answer, or for the end if there was none; `None` while it waits.
    #[must_use]
    pub fn waited_ms(&self) -> Option<u64> {
        self.first_byte_ms.or(self.ended_ms)
    }

    /// How long a provider worked on it, in milliseconds.
    #[must_use]
    pub fn busy_ms(&self) -> u64 {
        match (self.handed_over_ms, self.ended_ms) {
            (Some(from), Some(to)) => to.saturating_sub(from),
            (None | Some(_), None | Some(_)) => 0,
        }
    }

    /// Whether it waited for a wake.
    #[must_use]
    pub fn waked(&self) -> bool {
        let waits = |step: &Step| matches!(step.kind, StepKind::Waking { .. });
        self.wake_id.is_some() || self.steps.iter().any(waits)
    }

    /// Whether it went as most do: answered soon, without a wake.
    #[must_use]
    pub fn is_usual(&self, slow_ms: u64) -> bool {
        let soon = self.waited_ms().is_some_and(|waited| waited < slow_ms);
        self.outcome == RequestOutcome::Done && soon && !self.waked()
    }

    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let steps = self.steps.iter().map(|step| step.kind.bytes());
        let texts = self.request_id.len()
            + self.model.as_ref().map_or(0, |model| model.as_str().len())
            + self.error.as_ref().map_or(0, |error| error.reason.len());
        size_of::<Self>() + self.steps.capacity() * size_of::<Step>() + steps.sum::<usize>() + texts
    }
}

fn bounded(text: &str) -> String {
    let chars = text.chars().filter(|c| !c.is_control());
    chars.take(MAX_REASON_CHARS).collect()
}

const fn one() -> u32 {
    1
}

// serde passes a reference.
const fn is_one(number: &u32) -> bool {
    *number == 1
}

const fn is_zero(number: &u32) -> bool {
    *number == 0
}
