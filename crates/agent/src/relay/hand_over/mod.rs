//! Hands a request over to its backend: lets it in, waits for its turn and for a connection, and sends it, once more if it found no
//! backend.

use super::{
    backend::Backend,
    outcome::{Answering, Broken, Connecting},
};
use crate::{
    http1::{Response, SendError, SendProgress, SentBody},
    provider::{NoTurn, Slot},
};
use http::{HeaderMap, Method, Request, Uri};
use reveille_bus::{
    open_files,
    relay::{FaultCode, RelayFault},
};
use reveille_domain::{Availability, ProviderName};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

#[cfg(test)]
mod tests;

/// How many connections to backends there may be, if the limit of open files has room for as many.
const MAX_CONNECTIONS: usize = 65_536;
/// The pause before a request asks again for a connection when the process had no file left for it.
const FILES_PAUSE: Duration = Duration::from_millis(100);
/// The pause before a request asks again to be let in.
const ENTRY_PAUSE: Duration = Duration::from_millis(10);

/// A request as the backend gets it.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub method: Method,
    pub target: Uri,
    pub headers: HeaderMap,
    pub body: SentBody,
}

/// What a request waits for at the agent, and for how long.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub replica: &'a str,
    /// While the backend is being put to sleep, and for a connection.
    pub hold: Duration,
    /// Until when it waits for its turn, if it does.
    pub turn_by: Option<Instant>,
}

/// A backend's answer, and the request's slot and permit until it is over.
pub(super) struct Answer {
    pub response: Response,
    pub answering: Answering,
    pub slot: Slot,
    pub connection: OwnedSemaphorePermit,
}

/// A permit for each connection to a backend, so that files are left for everything else. Served in order.
pub(super) struct Connections(Arc<Semaphore>);

impl Connections {
    pub fn new() -> Self {
        let most = open_files::room_within(open_files::raise_limit(), MAX_CONNECTIONS);
        Self(Arc::new(Semaphore::new(most)))
    }

    /// Sends a request once it's its turn, a second time if there was no connection although the backend is up. While the process
    /// has no file left for a connection, the request waits.
    pub async fn send(
        &self,
        backend: &Backend,
        request: &Outgoing,
        mut slot: Slot,
        patience: Patience<'_>,
    ) -> Result<Answer, RelayFault> {
        let mut is_last = false;
        let mut by = Instant::now() + patience.hold;
        loop {
            if let Some(turn_by) = patience.turn_by {
                let turn = slot.turn(patience.replica, turn_by).await;
                turn.map_err(|none| busy(none, &backend.config.name))?;
                by = by.max(Instant::now() + patience.hold);
            }
            let connection = self.permit(by).await?;
            let upload = request.body.progress();
            let mut answering = Answering::begin(&backend.handle, &backend.config, upload);
            let error = match hand_over(backend, &mut slot, request.clone()).await {
                Ok(response) => {
                    return Ok(Answer {
                        response,
                        answering,
                        slot,
                        connection,
                    });
                }
                Err(error) => error,
            };
            drop(connection);
            if let Some(fault) = upload.and_then(SendProgress::fault) {
                answering.forget();
                return Err(fault);
            }
            let SendError::Connect(failed) = &error else {
                // The owner must hear of it before it can learn otherwise that the backend has ended.
                let fault = answering.broke(&error, Broken::BeforeAnswer);
                drop(slot);
                return Err(match backend.scheme_hint(&error).await {
                    Some(hint) => RelayFault::new(fault.code, format!("{}: {hint}", fault.message)),
                    None => fault,
                });
            };
            answering.forget();
            if let Some(limit) = failed.limit_reached() {
                if Instant::now() >= by {
                    return Err(RelayFault::new(FaultCode::Overloaded, limit));
                }
                sleep(FILES_PAUSE).await;
                continue;
            }
            drop(slot);
            let hint = backend.scheme_hint(&error).await;
            let reason = hint.map_or_else(|| failed.reason(), str::to_owned);
            let fault = backend.unreached(&reason).await;
            let is_up = backend.handle.gate.availability() == Some(Availability::Available);
            let is_used = upload.is_some_and(SendProgress::has_begun);
            if is_last || is_used || fault.code != FaultCode::BackendUnavailable || !is_up {
                return Err(fault);
            }
            is_last = true;
            slot = enter(backend, patience.hold).await?;
        }
    }

    /// The permit for a connection, in the order of those who ask.
    async fn permit(&self, by: Instant) -> Result<OwnedSemaphorePermit, RelayFault> {
        let permit = timeout_at(by, self.0.clone().acquire_owned()).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| {
            let full = "the agent's limit of open files (`ulimit -n`) has no room for another connection";
            RelayFault::new(FaultCode::Overloaded, full)
        })
    }
}

/// A slot at the backend. While the backend is being put to sleep, requests wait until it sleeps or stays awake after all.
pub(super) async fn enter(backend: &Backend, hold: Duration) -> Result<Slot, RelayFault> {
    let entered = async {
        loop {
            if let Some(slot) = backend.handle.gate.enter() {
                return Ok(slot);
            }
            if let Some(why) = backend.handle.gate.refusal() {
                return Err(RelayFault::new(FaultCode::BackendUnavailable, why));
            }
            if let Some(report) = backend.handle.refused().await {
                return Err(RelayFault::asleep("the backend sleeps", report));
            }
            if backend.handle.gate.is_closed_for_good() {
                // The API asks again, until there is another owner or the provider is withdrawn.
                return Err(RelayFault::new(FaultCode::Asleep, "the provider is reloaded"));
            }
            sleep(ENTRY_PAUSE).await;
        }
    };
    // The backend still works on other requests. The API tells its client so, and asks again.
    let held = RelayFault::new(FaultCode::Asleep, "the backend is being put to sleep");
    timeout(hold, entered).await.unwrap_or(Err(held))
}

/// Connects to the backend and sends it a request. `slot` knows from when on the backend may have seen it.
async fn hand_over(backend: &Backend, slot: &mut Slot, request: Outgoing) -> Result<Response, SendError> {
    let connecting = Connecting::begin(&backend.handle);
    let connection = backend.client.connect().await;
    connecting.end();
    let connection = connection?;
    slot.connected();
    let mut sent = Request::new(request.body);
    (*sent.method_mut(), *sent.uri_mut(), *sent.headers_mut()) =
        (request.method, request.target, request.headers);
    backend.client.send(connection, sent).await
}

/// The fault for a request that had no turn in time.
fn busy(none: NoTurn, provider: &ProviderName) -> RelayFault {
    let (limit, waiting) = (none.limit, none.waiting);
    let message = format!(
        "all its turns are taken (max_concurrency = {limit} of `{provider}`), and requests that wait for one at its agent: {waiting}"
    );
    RelayFault::new(FaultCode::Busy, message)
}
