//! How relaying a request fails on the API's side, and whether it may be tried again.

use super::{
    frame::BadFrame,
    head::{FaultCode, RelayFault},
};
use thiserror::Error;

/// Why there is no (whole) response.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RelayError {
    /// Nobody listens on the agent's subject.
    #[error("the agent isn't connected")]
    NoResponders,
    /// Our own connection to NATS is down, or was for too long to send the request.
    #[error("the connection to NATS is down")]
    Disconnected,
    /// This replica has no room for another response.
    #[error("this replica relays as many responses as it has memory for")]
    Overloaded,
    /// The request's path and headers don't fit into a frame.
    #[error("the request's headers are too large to relay")]
    HeadTooLarge,
    /// The agent refused or failed.
    #[error(transparent)]
    Fault(#[from] RelayFault),
    /// Frames of the response were lost on the way.
    #[error("part of the response was lost on the way: frame {expected} is missing")]
    Gap {
        /// The number that should have come.
        expected: u32,
    },
    /// Nothing was heard from the agent for three keep-alive periods.
    #[error("nothing was heard from the agent for {silent_ms} ms")]
    Silent {
        /// How long, in milliseconds.
        silent_ms: u64,
    },
    /// The agent sent more than it was allowed to.
    #[error("the agent sent more than it was allowed to")]
    Overdrawn,
    /// A frame of this response makes no sense.
    #[error("the agent's response makes no sense: {0}")]
    Malformed(#[from] BadFrame),
    /// The relay was stopped, or its connection lost for long, while the request was on its way.
    #[error("the relay was stopped while the request was on its way")]
    Closed,
}

impl RelayError {
    /// True when the agent said that the backend is being put to sleep, and so can be woken only later.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        matches!(
            self,
            Self::Fault(RelayFault {
                code: FaultCode::Asleep,
                report: None,
                ..
            })
        )
    }

    /// True when the agent said that the backend sleeps.
    #[must_use]
    pub const fn is_asleep(&self) -> bool {
        matches!(
            self,
            Self::Fault(RelayFault {
                code: FaultCode::Asleep,
                ..
            })
        )
    }

    /// True when the agent is at one of its limits, and takes more when others have ended.
    #[must_use]
    pub const fn is_agent_full(&self) -> bool {
        matches!(
            self,
            Self::Fault(RelayFault {
                code: FaultCode::Overloaded,
                ..
            })
        )
    }

    /// True when no backend can have seen the request, so that waking or waiting and sending it again is safe.
    #[must_use]
    pub const fn never_handed_over(&self) -> bool {
        match self {
            Self::NoResponders | Self::Disconnected | Self::Overloaded | Self::HeadTooLarge => true,
            Self::Fault(fault) => fault.code.never_handed_over(),
            Self::Gap { .. } | Self::Silent { .. } | Self::Overdrawn | Self::Malformed(_) | Self::Closed => {
                false
            }
        }
    }
}

/// Why a relay client or server could not be started.
#[derive(Debug, Error)]
pub enum RelayStartError {
    /// The replica's name must be one subject token.
    #[error("{0:?} is no legal replica name: one subject token of a-z, 0-9, '-' and '_' is needed")]
    ReplicaName(String),
    /// The subscription could not be made.
    #[error("cannot subscribe to {subject}")]
    Subscribe {
        /// What was to be subscribed to.
        subject: String,
        /// What the NATS client says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
