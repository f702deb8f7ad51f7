//! Requests to control, repeated until control answers.

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{FutureExt, future::BoxFuture};
use reveille_bus::{
    Connection,
    control::{self, ControlAnswer, ControlError, ControlRequest},
};
use reveille_domain::{AgentName, Epoch};
use std::time::Duration;
use tracing::debug;

/// The pause before a request is repeated; it doubles up to a cap.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What control says of a session that isn't the agent's last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superseded {
    /// The current epoch.
    pub current: Epoch,
    /// Whether a restore of the journal ended the session, and no other process has the name.
    pub restored: bool,
    /// Whether the agent was revoked, and no other process has the name.
    pub revoked: bool,
}

/// Control, as the agent sees it.
pub trait Hub: Send + Sync {
    /// Asks until there is an answer: as often as it takes, with the same request, which is safe. The answer is
    /// never [`ControlError::Unavailable`]. [`ControlError::Unreadable`] is one: other providers of the agent may go on.
    fn ask(&self, request: ControlRequest) -> BoxFuture<'static, ControlAnswer>;

    /// Whether its messages can reach the agent now.
    fn is_connected(&self) -> bool;
}

/// Control over NATS.
#[derive(Debug, Clone)]
pub struct NatsHub {
    connection: Connection,
    agent: AgentName,
}

impl NatsHub {
    #[must_use]
    pub const fn new(connection: Connection, agent: AgentName) -> Self {
        Self { connection, agent }
    }
}

impl Hub for NatsHub {
    fn ask(&self, request: ControlRequest) -> BoxFuture<'static, ControlAnswer> {
        let Self { connection, agent } = self.clone();
        async move {
            let mut pauses = ExponentialBuilder::default()
                .with_min_delay(FIRST_PAUSE)
                .with_max_delay(LONGEST_PAUSE)
                .with_jitter()
                .without_max_times()
                .build();
            loop {
                match control::ask(connection.client(), &agent, &request).await {
                    Ok(ControlAnswer::Refused {
                        refusal: ControlError::Unavailable { reason },
                    }) => {
                        debug!(reason, "control can't answer now; asking again");
                    }
                    Ok(answer) => return answer,
                    Err(error) => debug!(%error, "control doesn't answer; asking again"),
                }
                tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
            }
        }
        .boxed()
    }

    fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }
}
