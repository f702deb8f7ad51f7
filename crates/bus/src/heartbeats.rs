//! Heartbeats. A stream keeps each agent's last heartbeat and each replica's last canary, so a replica that starts knows
//! at once who was heard when. While its own canary doesn't come back, it infers nothing from silence.

pub use crate::canaries::CANARY_EVERY;

use crate::{
    canaries::Canary,
    clock::NatsClock,
    connection::Connection,
    entry,
    error::BusError,
    messages,
    ordered_reader::OrderedReader,
    refusals::{Reason, Refusals, SubjectKind},
    streams::{self, HEARTBEATS_STREAM},
    subjects::{self, Sign},
};
use async_nats::{
    Client,
    jetstream::{self, consumer::DeliverPolicy},
};
use reveille_domain::{AgentName, Availability, Epoch, ProviderName, SessionId, Timestamp, WakeFailure};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{debug, warn};
use uuid::Uuid;

/// How often an agent sends a heartbeat unless its config says otherwise.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// The pause before the consumer is created again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// How long the own canary may be missing before the reader is started again.
const SILENT: Duration = Duration::from_secs(4);
/// After so many readers in a row whose canaries stopped or never came, although the server created each, it stores none.
const READERS_IN_VAIN: u32 = 2;

/// What an agent reports about itself, over and over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The agent's name.
    pub agent: AgentName,
    /// The agent's session.
    pub session: SessionId,
    /// The session's epoch.
    pub epoch: Epoch,
    /// How long the agent may be silent before it counts as lost, in milliseconds: three of its periods.
    pub silent_after_ms: u64,
    /// Why the machine's owner lets none of its providers wake now: a pause, or quiet hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<WakeFailure>,
    /// The agent's providers.
    pub providers: Vec<ProviderPulse>,
}

/// What a heartbeat reports about one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderPulse {
    /// The provider's name.
    pub provider: ProviderName,
    /// What the last probe found; `None` before the first.
    #[serde(default)]
    pub availability: Option<Availability>,
    /// How many requests its backend is working on.
    pub in_flight: u32,
    /// Why its backend stays awake although it was to sleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays_awake: Option<StaysAwake>,
}

/// The longest reason that is kept, in characters.
const MAX_REASON_CHARS: usize = 400;

/// A backend that was to sleep and stays awake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaysAwake {
    /// Which of the attempts of its agent's run this was.
    pub attempt: u64,
    /// Why, in one sentence for people.
    pub reason: String,
}

impl StaysAwake {
    /// The same with its text cut and stripped of control characters: one from the wire may contain anything.
    #[must_use]
    pub fn bounded(&self) -> Self {
        let chars = self.reason.chars().filter(|c| !c.is_control());
        Self {
            attempt: self.attempt,
            reason: chars.take(MAX_REASON_CHARS).collect(),
        }
    }
}

/// Sends a heartbeat. The server stores it without an acknowledgement.
///
/// # Errors
/// When the connection is closed.
pub async fn send(client: &Client, heartbeat: &Heartbeat) -> Result<(), BusError> {
    messages::publish(client, subjects::heartbeat(&heartbeat.agent), heartbeat).await
}

/// A heartbeat as a replica receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedHeartbeat {
    /// What the agent sent.
    pub heartbeat: Heartbeat,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// When it arrived, in the replica's listened time; `None` for one that the stream had kept, which is no sign of life.
    pub heard_at: Option<Duration>,
}

/// Receives all heartbeats; for a replica, also sends its canary and sets its clock by it.
pub struct HeartbeatWatch {
    connection: Connection,
    generation: watch::Receiver<u64>,
    /// The replica that sends canaries; `None` for a watch that only listens.
    replica: Option<String>,
    clock: NatsClock,
    messages: Option<OrderedReader>,
    ticks: tokio::time::Interval,
    sent: Option<(Uuid, Instant)>,
    last_canary: Instant,
    /// Whether a canary has come back to this reader. What came before it was kept by the stream.
    is_live: bool,
    /// How many readers in a row fell silent.
    in_vain: u32,
    refusals: Refusals,
}

impl HeartbeatWatch {
    /// The watch of `replica` (a subject token), which sets `clock` and counts in `refusals` the messages it drops.
    #[must_use]
    pub fn new(connection: &Connection, replica: &str, clock: NatsClock, refusals: &Refusals) -> Self {
        Self::of(connection, Some(replica.to_owned()), clock, refusals.clone())
    }

    /// A watch that only listens, for processes that infer nothing from silence.
    #[must_use]
    pub fn listening(connection: &Connection) -> Self {
        Self::of(connection, None, NatsClock::default(), Refusals::default())
    }

    fn of(connection: &Connection, replica: Option<String>, clock: NatsClock, refusals: Refusals) -> Self {
        let mut ticks = tokio::time::interval(CANARY_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self {
            connection: connection.clone(),
            generation: connection.generation(),
            replica,
            clock,
            messages: None,
            ticks,
            sent: None,
            last_canary: Instant::now(),
            is_live: false,
            in_vain: 0,
            refusals,
        }
    }

    /// The next heartbeat. Waits out every outage. Cancel-safe.
    pub async fn next(&mut self) -> ReceivedHeartbeat {
        loop {
            let Some(messages) = &mut self.messages else {
                if let Err(error) = self.start().await {
                    debug!(%error, "can't read heartbeats, trying again");
                    tokio::time::sleep(RESTART_PAUSE).await;
                }
                continue;
            };
            tokio::select! {
                message = messages.next() => match message {
                    Ok(message) => {
                        if let Some(heard) = self.take(&message) {
                            return heard;
                        }
                    }
                    Err(error) => {
                        debug!(%error, "reading heartbeats again");
                        self.messages = None;
                    }
                },
                _ = self.generation.changed() => self.messages = None,
                _ = self.ticks.tick() => self.send_canary().await,
            }
        }
    }

    async fn start(&mut self) -> Result<(), BusError> {
        self.generation.borrow_and_update();
        self.is_live = false;
        self.clock.interrupted();
        let js = self.connection.jetstream();
        if self.connection.makes_streams() {
            streams::ensure_heartbeats(&js).await?;
        }
        let stream = js.get_stream_no_info(HEARTBEATS_STREAM).await;
        let stream = stream.map_err(BusError::unavailable)?;
        let from = DeliverPolicy::LastPerSubject;
        self.messages = Some(OrderedReader::new(&stream, subjects::HEARTBEATS, from).await?);
        self.last_canary = Instant::now();
        self.send_canary().await;
        Ok(())
    }

    async fn send_canary(&mut self) {
        let Some(replica) = &self.replica else { return };
        if self.last_canary.elapsed() > SILENT {
            self.messages = None;
            self.in_vain = self.in_vain.saturating_add(1);
            if self.in_vain >= READERS_IN_VAIN {
                self.connection.health().canaries_missing(true);
            }
            return;
        }
        let nonce = Uuid::now_v7();
        self.sent = Some((nonce, Instant::now()));
        let canary = Canary {
            nonce,
            without_journal: self.connection.health().is_lost(),
            has_read: Some(self.connection.health().has_read()),
        };
        if let Err(error) =
            messages::publish(self.connection.client(), subjects::canary(replica), &canary).await
        {
            debug!(%error, "can't send a canary");
        }
    }

    /// The heartbeat in the message, if there is one. This replica's own canary sets the clock; anything else is dropped.
    fn take(&mut self, message: &jetstream::Message) -> Option<ReceivedHeartbeat> {
        let stored_at = entry::timestamp(message.info().ok()?.published);
        match subjects::sign(&message.subject)? {
            Sign::Canary(replica) if Some(replica) == self.replica.as_deref() => {
                let canary: Canary = serde_json::from_slice(&message.payload).ok()?;
                if let Some((_, at)) = self.sent.take_if(|(nonce, _)| *nonce == canary.nonce) {
                    self.last_canary = Instant::now();
                    self.is_live = true;
                    self.in_vain = 0;
                    self.connection.health().canaries_missing(false);
                    self.clock.canary(at, self.last_canary, stored_at);
                }
                None
            }
            Sign::Canary(_) => None,
            Sign::Heartbeat(agent) => match serde_json::from_slice::<Heartbeat>(&message.payload) {
                Ok(heartbeat) if heartbeat.agent == agent => Some(ReceivedHeartbeat {
                    heartbeat,
                    stored_at,
                    heard_at: self.is_live.then(|| self.clock.listened()),
                }),
                heard => {
                    let why = heard.map_or(Reason::Malformed, |_| Reason::OtherName);
                    if let Some(so_far) = self.refusals.count(SubjectKind::Heartbeats, why) {
                        warn!(
                            agent.name = %agent, reason = <&str>::from(why), refused.so_far = so_far,
                            "dropped a malformed heartbeat on the subject of {agent}"
                        );
                    }
                    None
                }
            },
        }
    }
}
