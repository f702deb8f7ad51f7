//! When agents were last heard: written now and then, apart from the fold, because heartbeats are not in the journal.

use crate::Projection;
use reveille_bus::{Connection, heartbeats::HeartbeatWatch};
use reveille_domain::{AgentName, Timestamp};
use std::{collections::HashMap, time::Duration};
use tokio::time::MissedTickBehavior;
use tracing::debug;

/// How often they are written.
const WRITE_EVERY: Duration = Duration::from_secs(2);
/// How many agents wait to be written; while the database is away, further ones are forgotten until they are heard again.
const MAX_WAITING: usize = 10_000;

/// Hears heartbeats and writes them down. Never ends.
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
                    // The fold says in the log that the database is away.
                    Err(error) => debug!(%error, "can't write down heartbeats, trying again"),
                }
            },
        }
    }
}
