//! How relaying a request fails at the API's end, and whether a retry is safe.

use super::{
    frame::BadFrame,
    head::{FaultCode, RelayFault},
};
use thiserror::Error;

/// Why there is no response, or no complete one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RelayError {
    /// No agent listens on the subject.
    #[error("the agent isn't connected")]
    NoResponders,
    /// This replica's connection to NATS is down, or was down for too long.
    #[error("the connection to NATS is down")]
    Disconnected,
    /// This replica has no memory left for another response.
    #[error("this replica has no memory left for another response")]
    Overloaded,
    /// The request's path and headers don't fit into a frame.
    #[error("the request's headers are too large to relay")]
    HeadTooLarge,
    /// The agent refused the request or failed.
    #[error(transparent)]
    Fault(#[from] RelayFault),
    /// A frame of the response was lost on the way.
    #[error("part of the response was lost on the way: frame {expected} is missing")]
    Gap {
        /// The number of the missing frame.
        expected: u32,
    },
    /// The agent was silent for three keep-alive periods.
    #[error("the agent was silent for {silent_ms} ms")]
    Silent {
        /// The length of the silence, in milliseconds.
        silent_ms: u64,
    },
    /// The agent overdrew its credit.
    #[error("the agent sent more than its credit allowed")]
    Overdrawn,
    /// A frame of the response makes no sense.
    #[error("the agent's response makes no sense: {0}")]
    Malformed(#[from] BadFrame),
    /// No more of the request's body came before it was whole, so the agent was told to stop.
    #[error("the request's body broke off")]
    BodyBrokeOff,
    /// The relay stopped, or lost its connection for too long, during the request.
    #[error("the relay stopped during the request")]
    Closed,
}

impl RelayError {
    /// Whether the backend is being put to sleep, so that it can be woken only later.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.is_asleep() && matches!(self, Self::Fault(fault) if fault.report.is_none())
    }

    /// Whether the backend is asleep or being put to sleep.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        matches!(self, Self::Fault(fault) if fault.code == FaultCode::Asleep)
    }

    /// Whether the provider doesn't have what the request asks for by this name.
    #[must_use]
    pub fn is_unknown_model(&self) -> bool {
        matches!(self, Self::Fault(fault) if fault.code == FaultCode::UnknownModel)
    }

    /// Whether the agent is at one of its limits and accepts more requests once others have ended.
    #[must_use]
    pub fn is_agent_full(&self) -> bool {
        matches!(self, Self::Fault(fault) if fault.code == FaultCode::Overloaded)
    }

    /// Whether no backend can have seen the request, so that sending it again is safe.
    #[must_use]
    pub const fn never_handed_over(&self) -> bool {
        match self {
            Self::NoResponders | Self::Disconnected | Self::Overloaded | Self::HeadTooLarge => true,
            Self::Fault(fault) => fault.code.never_handed_over(),
            Self::Gap { .. }
            | Self::Silent { .. }
            | Self::Overdrawn
            | Self::Malformed(_)
            | Self::BodyBrokeOff
            | Self::Closed => false,
        }
    }
}

/// Why a relay client or server can't start.
#[derive(Debug, Error)]
pub enum RelayStartError {
    /// The replica's name is not a subject token.
    #[error("{0:?} is not a legal replica name: use a-z, 0-9, '-' and '_'")]
    ReplicaName(String),
    /// The subscription failed.
    #[error("cannot subscribe to {subject}")]
    Subscribe {
        /// The subject to subscribe to.
        subject: String,
        /// The NATS client's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
