//! Control as an owner sees it: the real aggregates behind it, without a journal.

use futures::{FutureExt, future::BoxFuture};
use reveille_agent::hub::Hub;
use reveille_bus::{
    HubId, Refusals,
    control::{ControlAnswer, ControlError, ControlRequest, ControlRequests, Report},
    wakes::WakeMessage,
};
use reveille_domain::{
    Epoch, ModelName, Provider, ProviderCommand, ProviderEvent, ProviderId, Rejection, SleepReason, Stage,
    Timestamp, WakeCause, WakeId, WakeOutcome, WakeRecord,
    provider::{Registered, StatusName},
};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;
use uuid::Uuid;

/// The epoch of the agent's session.
pub const EPOCH: Epoch = Epoch(3);

/// One provider, as control has it.
#[derive(Clone)]
pub struct Control(Arc<Mutex<State>>, Arc<watch::Sender<bool>>);

struct State {
    id: ProviderId,
    provider: Provider,
    sequence: u64,
    asked: Vec<ControlRequest>,
    stopped: bool,
    kept_waiting: usize,
    refusal: Option<ControlError>,
    lost: bool,
    restored: bool,
    hub: Option<HubId>,
    /// The stages of each wake that has succeeded.
    succeeded: Vec<Vec<Stage>>,
}

impl Control {
    pub fn new() -> Self {
        Self::of("p")
    }

    /// Control of the provider of that name.
    pub fn of(name: &str) -> Self {
        let id = format!("box/{name}").parse().expect("an id");
        let state = State {
            id,
            provider: Provider::default(),
            sequence: 0,
            asked: Vec::new(),
            stopped: false,
            kept_waiting: 0,
            refusal: None,
            lost: false,
            restored: false,
            hub: None,
            succeeded: Vec::new(),
        };
        Self(Arc::new(Mutex::new(state)), Arc::new(watch::Sender::new(false)))
    }

    /// Answers an agent over NATS.
    pub async fn serve(self, client: async_nats::Client) {
        let mut requests = ControlRequests::subscribe(&client, &Refusals::default())
            .await
            .expect("a connection");
        while let Some(asked) = requests.next().await {
            let answer = match &asked.request {
                ControlRequest::Connect { .. } => {
                    self.released().await;
                    self.connect()
                }
                ControlRequest::Stop { .. } => {
                    self.state().stopped = true;
                    ControlAnswer::Stopped
                }
                request => self.ask(request.clone()).await,
            };
            asked.answer(&answer).await;
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// Executes a command that isn't the agent's.
    pub fn execute(&self, command: &ProviderCommand) {
        self.state().execute(command).expect("legal");
    }

    /// An operator asks for a wake: the message to the agent.
    pub fn request_wake(&self) -> WakeMessage {
        self.wake_for(WakeCause::Operator { key: None })
    }

    /// What a sweep sends while a wake is in flight.
    pub fn wake_in_flight(&self) -> Option<WakeMessage> {
        self.state().wake()
    }

    /// A request asks for a wake, and waits for it.
    pub fn wake_for_request(&self) -> WakeMessage {
        self.wake_for(WakeCause::Request {
            request_id: "r".to_owned(),
            model: ModelName::parse("m").expect("legal"),
            key: None,
        })
    }

    fn wake_for(&self, cause: WakeCause) -> WakeMessage {
        let command = ProviderCommand::RequestWake {
            wake_id: WakeId(Uuid::now_v7()),
            cause,
            overdue: None,
            allowed_at: None,
            at: now(),
        };
        self.execute(&command);
        self.state().wake().expect("in flight")
    }

    /// Asks for a wake though the agent has not said that the backend sleeps.
    pub fn wake_asleep(&self) -> WakeMessage {
        let last = self.provider().last_report();
        self.execute(&ProviderCommand::ReportAsleep {
            report: reveille_domain::ReportId {
                seq: last.seq.next(),
                ..last
            },
            reason: SleepReason::FoundAsleep,
            for_wake: None,
            at: now(),
        });
        self.request_wake()
    }

    /// The wake in flight is given up.
    pub fn expire_wake(&self, wake: &WakeMessage) {
        self.execute(&ProviderCommand::ExpireWake {
            wake_id: wake.wake_id,
            at: wake.deadline_ms,
        });
    }

    pub fn status(&self) -> Option<StatusName> {
        self.state()
            .provider
            .registered()
            .map(|provider| provider.status.name())
    }

    /// The provider, which must be registered.
    pub fn provider(&self) -> Registered {
        self.state().provider.registered().expect("registered").clone()
    }

    pub fn last_wake(&self) -> Option<WakeRecord> {
        self.provider().wakes.last().cloned()
    }

    /// Answers nothing until it is released.
    pub fn hold(&self) {
        self.1.send_replace(true);
    }

    pub fn release(&self) {
        self.1.send_replace(false);
    }

    /// Its replicas can't read what the journal has of the provider, or can again.
    pub fn set_unreadable(&self, unreadable: bool) {
        let reason = "a commit of a later version".to_owned();
        self.state().refusal = unreadable.then_some(ControlError::Unreadable { reason });
    }

    /// Belongs to this hub from now on.
    pub fn belongs_to(&self, hub: HubId) {
        self.state().hub = Some(hub);
    }

    /// Its messages no longer reach the agent, or do again.
    pub fn set_lost(&self, lost: bool) {
        self.state().lost = lost;
    }

    /// Its journal was restored: it has a new session begun, and then answers nothing.
    pub fn restore(&self) {
        self.state().restored = true;
    }

    fn connect(&self) -> ControlAnswer {
        if std::mem::take(&mut self.state().restored) {
            self.hold();
            let refusal = ControlError::Superseded {
                current: Epoch(EPOCH.0 + 1),
                restored: true,
                revoked: false,
            };
            return ControlAnswer::Refused { refusal };
        }
        ControlAnswer::Connected {
            epoch: EPOCH,
            providers: vec![],
            hub: self.state().hub,
        }
    }

    /// Refuses everything for good.
    pub fn refuse(&self) {
        let reason = "its model belongs to another provider".to_owned();
        self.state().refusal = Some(ControlError::Invalid { reason });
    }

    /// Whether somebody waits for an answer.
    pub fn is_asked(&self) -> bool {
        self.state().kept_waiting > 0
    }

    /// The stages of the last wake that the agent has reported.
    pub fn last_stages(&self) -> Vec<Stage> {
        let stages = |asked: &ControlRequest| match asked {
            ControlRequest::Report {
                report:
                    Report::Wake {
                        outcome: WakeOutcome::Succeeded { stages } | WakeOutcome::Failed { stages, .. },
                        ..
                    },
                ..
            } => Some(stages.clone()),
            _ => None,
        };
        self.state().asked.iter().rev().find_map(stages).expect("a wake")
    }

    /// The names of the stages of each wake that has succeeded, as the journal has them.
    pub fn succeeded(&self) -> Vec<Vec<String>> {
        let names = |stages: &Vec<Stage>| stages.iter().map(|stage| stage.name.clone()).collect();
        self.state().succeeded.iter().map(names).collect()
    }

    /// For which wakes of its group the backend slept.
    pub fn sleeps_for(&self) -> Vec<WakeId> {
        let for_wake = |asked: &ControlRequest| match asked {
            ControlRequest::Report {
                report: Report::Asleep { for_wake, .. },
                ..
            } => *for_wake,
            _ => None,
        };
        self.state().asked.iter().filter_map(for_wake).collect()
    }

    /// Why the backend slept, each time.
    pub fn sleeps(&self) -> Vec<SleepReason> {
        let reason = |asked: &ControlRequest| match asked {
            ControlRequest::Report {
                report: Report::Asleep { reason, .. },
                ..
            } => Some(*reason),
            _ => None,
        };
        self.state().asked.iter().filter_map(reason).collect()
    }

    /// How often the provider was published.
    pub fn registrations(&self) -> usize {
        let asked = &self.state().asked;
        let registers = |asked: &&ControlRequest| matches!(asked, ControlRequest::Register { .. });
        asked.iter().filter(registers).count()
    }

    async fn released(&self) {
        self.state().kept_waiting += 1;
        let mut held = self.1.subscribe();
        held.wait_for(|held| !held).await.expect("control lives");
        self.state().kept_waiting -= 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }
}

impl Hub for Control {
    fn ask(&self, request: ControlRequest) -> BoxFuture<'static, ControlAnswer> {
        let this = self.clone();
        async move {
            tokio::task::yield_now().await;
            this.released().await;
            this.state().answer(request)
        }
        .boxed()
    }

    fn is_connected(&self) -> bool {
        !self.state().lost
    }
}

impl State {
    fn answer(&mut self, request: ControlRequest) -> ControlAnswer {
        self.asked.push(request.clone());
        if let Some(refusal) = self.refusal.clone() {
            return ControlAnswer::Refused { refusal };
        }
        let at = now();
        let command = match request {
            ControlRequest::Register {
                epoch,
                seq,
                spec,
                availability,
                ..
            } => ProviderCommand::Register {
                id: self.id.clone(),
                epoch,
                seq,
                spec,
                availability,
                at,
            },
            ControlRequest::Report {
                id: report,
                report: Report::Wake { wake_id, outcome },
                ..
            } => ProviderCommand::ReportWake {
                wake_id,
                report,
                outcome,
                at,
            },
            ControlRequest::Report {
                id: report,
                report: Report::Asleep { reason, for_wake },
                ..
            } => ProviderCommand::ReportAsleep {
                report,
                reason,
                for_wake,
                at,
            },
            ControlRequest::Report {
                id: report,
                report: Report::Awake,
                ..
            } => ProviderCommand::ReportAwake { report, at },
            ControlRequest::Resume {
                id: report,
                availability,
                ..
            } => ProviderCommand::Resume {
                report,
                availability,
                at,
            },
            ControlRequest::Deregister { epoch, .. } => ProviderCommand::Deregister { epoch, at },
            other => panic!("an owner doesn't ask for {other:?}"),
        };
        match self.execute(&command) {
            Ok(events) => ControlAnswer::Done {
                status: self.provider.registered().map(|provider| provider.status.name()),
                sequence: self.sequence,
                last_seq: self
                    .provider
                    .registered()
                    .map(|provider| provider.last_seq)
                    .unwrap_or_default(),
                wake: self.wake(),
                awaited: events
                    .iter()
                    .any(|event| matches!(event, ProviderEvent::WakeSucceeded { .. })),
            },
            Err(rejection) => ControlAnswer::Refused {
                refusal: match rejection {
                    Rejection::SessionSuperseded { current } => ControlError::Superseded {
                        current,
                        restored: false,
                        revoked: false,
                    },
                    Rejection::NotRegistered | Rejection::RegisterFirst { .. } => ControlError::RegisterFirst,
                    Rejection::ResumeFirst => ControlError::ResumeFirst,
                    other => panic!("{other}"),
                },
            },
        }
    }

    fn execute(&mut self, command: &ProviderCommand) -> Result<Vec<ProviderEvent>, Rejection> {
        let events = self.provider.decide(command)?;
        self.sequence += u64::from(!events.is_empty());
        for event in &events {
            if let ProviderEvent::WakeSucceeded { stages, .. } = event {
                self.succeeded.push(stages.clone());
            }
            self.provider = std::mem::take(&mut self.provider).evolve(event);
        }
        Ok(events)
    }

    fn wake(&self) -> Option<WakeMessage> {
        let provider = self.provider.registered()?;
        let wake = provider.status.wake()?;
        Some(WakeMessage {
            provider: self.id.clone(),
            wake_id: wake.id,
            epoch: provider.epoch,
            sequence: self.sequence,
            deadline_ms: wake.deadline_ms,
            now_ms: now(),
            awaited: matches!(wake.cause, WakeCause::Request { .. }),
            wanted: true,
            replica: String::new(),
        })
    }
}

pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Timestamp::from_millis(u64::try_from(since.as_millis()).expect("a while to go"))
}
