//! Writes the last heartbeats of agents, apart from the fold because heartbeats are not in the journal.

use crate::Projection;
use reveille_bus::{Connection, heartbeats::HeartbeatWatch};
use reveille_domain::{AgentName, Timestamp};
use std::{collections::HashMap, time::Duration};
use tokio::time::MissedTickBehavior;
use tracing::debug;

/// How often they are written.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// The most agents whose heartbeats wait for the database. Those of further agents are dropped until their next one.
const MAX_WAITING: usize = 10_000;

/// Receives heartbeats and writes them. Never ends.
pub(crate) async fn record(projection: &Projection, connection: &Connection) {
    let mut watch = HeartbeatWatch::listening(connection);
    let mut ticks = tokio::time::interval(WRITE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting: HashMap<AgentName, Timestamp> = HashMap::new();
    loop {
        tokio::select! {
            heard = watch.next() => {
                let agent = heard.heartbeat.agent;
                if waiting.len() < MAX_WAITING || waiting.contains_key(&agent) {
                    waiting.insert(agent, heard.stored_at);
                }
            }
            _ = ticks.tick() => if !waiting.is_empty() {
                match projection.heard(&waiting).await {
                    Ok(()) => waiting.clear(),
                    // The fold already logs that the database is unavailable.
                    Err(error) => debug!(%error, "heartbeats can't be written, trying again"),
                }
            },
        }
    }
}
