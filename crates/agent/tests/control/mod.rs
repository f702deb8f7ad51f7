//! Control as an owner sees it: the real aggregates behind it, without a journal.

use futures::{FutureExt, future::BoxFuture};
use reveille_agent::hub::Hub;
use reveille_bus::{
    control::{ControlAnswer, ControlRequest, ControlRequests, Refusal, Report},
    wakes::WakeMessage,
};
use reveille_domain::{
    Epoch, Provider, ProviderCommand, ProviderId, Rejection, SleepReason, Timestamp, WakeCause, WakeId,
    WakeRecord,
    provider::{Registered, StatusName},
};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;

/// The epoch of the agent's session.
pub const EPOCH: Epoch = Epoch(3);

/// One provider, as control has it.
#[derive(Clone)]
pub struct Control(Arc<Mutex<State>>);

struct State {
    id: ProviderId,
    provider: Provider,
    sequence: u64,
    asked: Vec<ControlRequest>,
    stopped: bool,
}

impl Control {
    pub fn new() -> Self {
        let id = "box/p".parse().expect("an id");
        Self(Arc::new(Mutex::new(State {
            id,
            provider: Provider::default(),
            sequence: 0,
            asked: Vec::new(),
            stopped: false,
        })))
    }

    /// Answers an agent over NATS.
    pub async fn serve(self, client: async_nats::Client) {
        let mut requests = ControlRequests::subscribe(&client).await.expect("a connection");
        while let Some(asked) = requests.next().await {
            let answer = match &asked.request {
                ControlRequest::Connect { .. } => ControlAnswer::Connected {
                    epoch: EPOCH,
                    providers: vec![],
                },
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

    /// Asks for a wake: the message to the agent.
    pub fn request_wake(&self) -> WakeMessage {
        let command = ProviderCommand::RequestWake {
            wake_id: WakeId(Uuid::now_v7()),
            cause: WakeCause::Operator { key: None },
            at: now(),
        };
        self.execute(&command);
        self.state().wake().expect("in flight")
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

    /// Why the backend slept, each time.
    pub fn sleeps(&self) -> Vec<SleepReason> {
        let reason = |asked: &ControlRequest| match asked {
            ControlRequest::Report {
                report: Report::Asleep { reason },
                ..
            } => Some(*reason),
            _ => None,
        };
        self.state().asked.iter().filter_map(reason).collect()
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
            this.state().answer(request)
        }
        .boxed()
    }
}

impl State {
    fn answer(&mut self, request: ControlRequest) -> ControlAnswer {
        self.asked.push(request.clone());
        let at = now();
        let command = match request {
            ControlRequest::Register {
                epoch,
                spec,
                availability,
                ..
            } => ProviderCommand::Register {
                id: self.id.clone(),
                epoch,
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
                report: Report::Asleep { reason },
                ..
            } => ProviderCommand::ReportAsleep { report, reason, at },
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
            other => panic!("an owner doesn't ask for {other:?}"),
        };
        match self.execute(&command) {
            Ok(()) => ControlAnswer::Done {
                status: self.provider.registered().map(|provider| provider.status.name()),
                sequence: self.sequence,
                last_seq: self
                    .provider
                    .registered()
                    .map(|provider| provider.last_seq)
                    .unwrap_or_default(),
                wake: self.wake(),
            },
            Err(rejection) => ControlAnswer::Refused {
                refusal: match rejection {
                    Rejection::SessionSuperseded { current } => Refusal::Superseded { current },
                    Rejection::NotRegistered | Rejection::RegisterFirst { .. } => Refusal::RegisterFirst,
                    Rejection::ResumeFirst => Refusal::ResumeFirst,
                    other => panic!("{other}"),
                },
            },
        }
    }

    fn execute(&mut self, command: &ProviderCommand) -> Result<(), Rejection> {
        let events = self.provider.decide(command)?;
        self.sequence += u64::from(!events.is_empty());
        for event in &events {
            self.provider = std::mem::take(&mut self.provider).evolve(event);
        }
        Ok(())
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
        })
    }
}

pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Timestamp::from_millis(u64::try_from(since.as_millis()).expect("a while to go"))
}
