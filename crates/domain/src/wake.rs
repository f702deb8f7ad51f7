//! A wake: what caused it, how it went, and how failures delay the next one.

use crate::{
    ids::WakeId,
    names::{KeyId, ModelName},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use strum::Display;

/// The longest text of a wake that is kept, in characters: a reason, a stage's name or a request's id. Longer ones are cut.
const MAX_TEXT_CHARS: usize = 400;
/// The most stages of a wake that are kept. Later ones are dropped.
pub(crate) const MAX_STAGES: usize = 64;
/// The longest backoff after failed wakes.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// The backoff after a wake that the machine's owner did not allow. It bounds what many callers write to the journal, and is
/// short because owners change their minds. Once the agent says that they have, it is over.
const NOT_ALLOWED_BACKOFF: Duration = Duration::from_secs(5);

/// A wake in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wake {
    /// Its id.
    pub id: WakeId,
    /// What caused it.
    pub cause: WakeCause,
    /// When it was requested.
    pub requested_at_ms: Timestamp,
    /// When it times out.
    pub deadline_ms: Timestamp,
}

/// What caused a wake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum WakeCause {
    /// An inference request.
    Request {
        /// The request's id, which its client sees in `x-request-id`.
        request_id: String,
        /// The model it named.
        model: ModelName,
        /// The request's key, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<KeyId>,
    },
    /// A request for the wake itself.
    Operator {
        /// The request's key, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<KeyId>,
    },
}

impl WakeCause {
    /// The cause with its text cut, because it becomes part of the provider's state.
    pub(crate) fn bounded(&self) -> Self {
        match self {
            Self::Request {
                request_id,
                model,
                key,
            } => Self::Request {
                request_id: bounded_text(request_id),
                model: model.clone(),
                key: key.clone(),
            },
            Self::Operator { key } => Self::Operator { key: key.clone() },
        }
    }

    /// The key whose quota the wake uses.
    #[must_use]
    pub const fn key(&self) -> Option<&KeyId> {
        match self {
            Self::Request { key, .. } | Self::Operator { key } => key.as_ref(),
        }
    }
}

/// `text` without control characters, cut to the length that commits and states keep.
fn bounded_text(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_TEXT_CHARS)
        .collect()
}

/// Why a wake ended without the backend being available.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeFailure {
    /// Its kind.
    pub kind: WakeFailureKind,
    /// The recipe's stage that failed, such as `step 1 http` or `probe`.
    pub stage: String,
    /// A sentence for people; never a recipe's output.
    pub reason: String,
}

/// The kinds of failed wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WakeFailureKind {
    /// A step of the recipe failed.
    Recipe,
    /// The steps succeeded, but the backend did not become available in time.
    Unavailable,
    /// No outcome was known by the deadline.
    TimedOut,
    /// The agent went silent.
    AgentLost,
    /// The agent stopped.
    AgentStopped,
    /// The provider or its recipe was removed from the agent's config.
    Withdrawn,
    /// The backend died soon after a successful wake.
    Died,
    /// The machine's owner allows no wake now, because of a pause, quiet hours or a daily limit.
    NotAllowed,
    /// Another member of its group did not make room in time.
    GroupBlocked,
    /// It only waited for its group, and nobody waited for it any longer.
    NotNeeded,
}

impl WakeFailure {
    /// A failure with its texts cut and stripped of control characters.
    #[must_use]
    pub fn new(kind: WakeFailureKind, stage: &str, reason: &str) -> Self {
        Self {
            kind,
            stage: bounded_text(stage),
            reason: bounded_text(reason),
        }
    }

    /// Whether a pause or quiet hours of the agent have refused it, which hold for all its providers.
    #[must_use]
    pub fn is_by_whole_agent(&self) -> bool {
        self.kind == WakeFailureKind::NotAllowed
            && matches!(self.stage.as_str(), PAUSED_STAGE | QUIET_HOURS_STAGE)
    }

    /// The failure as [`Self::new`] makes it: one from the wire may contain anything.
    pub(crate) fn bounded(&self) -> Self {
        Self::new(self.kind, &self.stage, &self.reason)
    }
}

/// One stage of a recipe's run, timed by the agent from the moment it accepted the wake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name, such as `step 1 http` or `probe`.
    pub name: String,
    /// When it began, in milliseconds after the agent accepted the wake.
    pub started_after_ms: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// The stage of a wake that a pause of its agent refuses.
pub const PAUSED_STAGE: &str = "paused";
/// The stage of a wake that its agent's quiet hours refuse.
pub const QUIET_HOURS_STAGE: &str = "quiet_hours";
/// The stage in which a wake waits until its groups have room, as agents report it.
pub const GROUP_STAGE: &str = "group";
/// The stage of a wake whose backend came up, but lists none of the provider's models.
pub const MODELS_STAGE: &str = "models";
/// The only stage of a wake whose backend was found awake before its agent had reported how a recipe went.
pub(crate) const FOUND_AWAKE_STAGE: &str = "found awake";

impl Wake {
    /// The stages of this wake if the backend is simply found awake at `at`.
    pub(crate) fn found_awake(&self, at: Timestamp) -> Vec<Stage> {
        let took = at.since(self.requested_at_ms).as_millis();
        vec![Stage {
            name: FOUND_AWAKE_STAGE.to_owned(),
            started_after_ms: 0,
            took_ms: u64::try_from(took).unwrap_or(u64::MAX),
        }]
    }
}

impl Stage {
    /// How long a wake with these stages waited for its groups, in milliseconds.
    pub(crate) fn group_wait_ms(stages: &[Self]) -> u64 {
        let waits = stages.iter().filter(|stage| stage.name == GROUP_STAGE);
        waits.fold(0, |sum, stage| sum.saturating_add(stage.took_ms))
    }

    /// The first [`MAX_STAGES`] of `stages`, with their names cut.
    pub(crate) fn bounded(stages: &[Self]) -> Vec<Self> {
        let bounded = |stage: &Self| Self {
            name: bounded_text(&stage.name),
            ..*stage
        };
        stages.iter().take(MAX_STAGES).map(bounded).collect()
    }
}

/// An agent's report of how a wake ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum WakeOutcome {
    /// The backend is available.
    Succeeded {
        /// The recipe's stages, in order.
        stages: Vec<Stage>,
    },
    /// The backend is not available.
    Failed {
        /// Why.
        failure: WakeFailure,
        /// The stages that ran, in order.
        stages: Vec<Stage>,
    },
}

/// An ended wake in the provider's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeRecord {
    /// Its id.
    pub id: WakeId,
    /// When it was requested.
    pub requested_at_ms: Timestamp,
    /// When it ended.
    pub ended_at_ms: Timestamp,
    /// How long it waited until its groups had room, in milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub group_wait_ms: u64,
    /// Why it failed; absent when it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<WakeFailure>,
}

impl WakeRecord {
    /// How long it took without the wait for its groups, which says nothing about the next wake.
    #[must_use]
    pub const fn took_by_itself(&self) -> Duration {
        let took = self.ended_at_ms.since(self.requested_at_ms);
        took.saturating_sub(Duration::from_millis(self.group_wait_ms))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why a backend is asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum SleepReason {
    /// It was put to sleep because it was idle.
    Idle,
    /// It was put to sleep by hand.
    Operator,
    /// It was put to sleep to make room for another member of its group.
    Group,
    /// The probe found it asleep. Reveille did not put it to sleep.
    FoundAsleep,
    /// The supervised backend process ended.
    Exited,
    /// The backend no longer answers.
    Unreachable,
    /// The backend ended while it worked on requests.
    Crashed,
    /// The backend answered its probe, but no completion.
    Failed,
}

/// Failed wakes in a row, and how long they delay the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many in a row.
    pub count: u32,
    /// No wake before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_until_ms: Option<Timestamp>,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<WakeFailure>,
}

impl Failures {
    /// One more failure at `at`: no backoff after the first, then 1, 2, 4 … 60 s.
    #[must_use]
    pub fn and(&self, failure: WakeFailure, at: Timestamp) -> Self {
        let count = self.count.saturating_add(1);
        let pause = count.checked_sub(2).map(|doublings| {
            Duration::from_secs(1u64.checked_shl(doublings).unwrap_or(u64::MAX)).min(MAX_BACKOFF)
        });
        Self {
            count,
            held_until_ms: pause.map(|pause| at.plus(pause)),
            last: Some(failure),
        }
    }

    /// The failures after a failed wake at `at`. Only the backend's own failures count. An owner's refusal delays the next
    /// wake for a moment. A group without room, or callers that left before there was any, say nothing about this backend.
    #[must_use]
    pub fn after(&self, failure: &WakeFailure, at: Timestamp) -> Self {
        match failure.kind {
            WakeFailureKind::Recipe
            | WakeFailureKind::Unavailable
            | WakeFailureKind::TimedOut
            | WakeFailureKind::Died => self.and(failure.clone(), at),
            WakeFailureKind::NotAllowed => Self {
                count: self.count,
                held_until_ms: Some(at.plus(NOT_ALLOWED_BACKOFF)),
                last: Some(failure.clone()),
            },
            WakeFailureKind::GroupBlocked
            | WakeFailureKind::NotNeeded
            | WakeFailureKind::AgentLost
            | WakeFailureKind::AgentStopped
            | WakeFailureKind::Withdrawn => self.clone(),
        }
    }

    /// Whether the last failure was a pause or quiet hours of the agent, and its owner lets it wake backends again by `allowed_at`.
    /// Other refusals concern one provider, and the agent's word says nothing about them.
    #[must_use]
    pub(crate) fn is_allowed_again(&self, allowed_at: Option<Timestamp>) -> bool {
        let by_whole_agent = self.last.as_ref().is_some_and(WakeFailure::is_by_whole_agent);
        let refused_at = self.held_until_ms.map(|until| until.minus(NOT_ALLOWED_BACKOFF));
        by_whole_agent && refused_at < allowed_at
    }

    /// The backoff that remains at `at`, if any. One longer than `MAX_BACKOFF` dates from before the clock was set back, and
    /// is over.
    #[must_use]
    pub fn backoff_at(&self, at: Timestamp) -> Option<Duration> {
        self.held_until_ms
            .map(|until| until.since(at))
            .filter(|left| !left.is_zero() && *left <= MAX_BACKOFF)
    }
}
