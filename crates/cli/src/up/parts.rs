//! The parts of `reveille up` that run in this process, and the order in which they stop.

use crate::failure::Failure;
use anyhow::anyhow;
use std::{collections::BTreeMap, fmt, future::Future, time::Duration};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// How long a part may take to shut down; each has shorter limits for what it finishes.
const PART_ENDS_WITHIN: Duration = Duration::from_secs(60);

/// A part, in the order in which they are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Signs off while the API still hears it.
    Agent,
    /// Finishes its requests.
    Api,
    /// Projects what the others did as they stopped.
    Projector,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Api => "API",
            Self::Projector => "projector",
        })
    }
}

/// The running parts.
#[derive(Debug, Default)]
pub struct Parts {
    tasks: JoinSet<Result<(), Failure>>,
    running: BTreeMap<Role, (CancellationToken, Id)>,
}

impl Parts {
    /// Starts a part, which stops when its token is cancelled.
    pub fn start<F>(&mut self, role: Role, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let id = self.tasks.spawn(part(stop.clone())).id();
        self.running.insert(role, (stop, id));
    }

    /// Waits until `stop`, or fails when a part that the others need has stopped.
    pub async fn until_one_fails(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        loop {
            let (role, ended) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = self.next_ended() => ended,
            };
            match (role, ended) {
                // Inference never depends on the database.
                (Role::Projector, Err(failure)) => error!(
                    reason = %failure,
                    "the projector stopped: Postgres is no longer updated, everything else keeps running"
                ),
                // The hub serves the agents of other machines.
                (Role::Agent, Err(Failure::Revoked(_))) => error!(
                    "this machine's agent was revoked: its models are gone, everything else keeps running. Restart \
                     `reveille up` to admit it again"
                ),
                (Role::Agent | Role::Api | Role::Projector, Ok(())) => {
                    return Err(anyhow!("the {role} stopped unexpectedly").into());
                }
                (Role::Agent | Role::Api, Err(failure)) => return Err(failure),
            }
        }
    }

    /// Stops the parts one after the other. Dropping this ends them at once.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for role in [Role::Agent, Role::Api, Role::Projector] {
            let Some((stop, _)) = self.running.get(&role) else {
                continue;
            };
            stop.cancel();
            let ended = timeout(PART_ENDS_WITHIN, async {
                while self.running.contains_key(&role) {
                    let (_, ended) = self.next_ended().await;
                    if outcome.is_ok() {
                        outcome = ended;
                    }
                }
            });
            if ended.await.is_err() {
                warn!("the {role} did not stop within {} s", PART_ENDS_WITHIN.as_secs());
            }
        }
        outcome
    }

    /// The next part to stop; never, if none is running.
    async fn next_ended(&mut self) -> (Role, Result<(), Failure>) {
        let (id, ended) = match self.tasks.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, ended))) => (id, ended),
            Some(Err(error)) => (error.id(), Err(broken(&error))),
        };
        let role = self.running.iter().find(|(_, (_, part))| *part == id);
        let role = role.map_or(Role::Api, |(role, _)| *role);
        self.running.remove(&role);
        (role, ended)
    }
}

fn broken(error: &JoinError) -> Failure {
    anyhow!("a task panicked: {error}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    type Order = Arc<Mutex<Vec<Role>>>;

    fn part(parts: &mut Parts, role: Role, order: &Order) {
        let order = order.clone();
        parts.start(role, |stop| async move {
            stop.cancelled().await;
            order.lock().unwrap().push(role);
            Ok(())
        });
    }

    #[tokio::test]
    async fn the_agent_ends_before_the_api_and_the_projector_last() {
        let (mut parts, order) = (Parts::default(), Order::default());
        for role in [Role::Projector, Role::Api, Role::Agent] {
            part(&mut parts, role, &order);
        }
        parts.stop().await.unwrap();
        assert_eq!(*order.lock().unwrap(), [Role::Agent, Role::Api, Role::Projector]);
    }

    #[tokio::test]
    async fn a_projector_that_fails_ends_nothing_else_and_an_agent_that_fails_does() {
        let (mut parts, order) = (Parts::default(), Order::default());
        part(&mut parts, Role::Api, &order);
        parts.start(Role::Projector, |_| async {
            Err(anyhow!("the rows are odd").into())
        });
        let agent = CancellationToken::new();
        let fails = agent.clone();
        parts.start(Role::Agent, |_| async move {
            fails.cancelled().await;
            Err(Failure::Superseded("superseded".to_owned()))
        });
        let never = CancellationToken::new();
        let waited = timeout(Duration::from_millis(100), parts.until_one_fails(&never));
        assert!(
            waited.await.is_err(),
            "the projector's failure stopped everything"
        );
        agent.cancel();
        let ended = parts.until_one_fails(&never).await;
        assert!(matches!(ended, Err(Failure::Superseded(_))), "{ended:?}");
        parts.stop().await.unwrap();
        assert_eq!(*order.lock().unwrap(), [Role::Api]);
    }
}
