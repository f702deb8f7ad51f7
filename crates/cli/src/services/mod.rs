//! The services, each by itself in the foreground until a signal stops it.

pub mod agent;
pub mod api;
pub mod projector;

use crate::{failure::Failure, sd_notify, signals::Signals};
use anyhow::anyhow;
use std::future::{Future, pending};
use tokio_util::sync::CancellationToken;

async fn until_signalled<F, S>(service: S) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
    S: FnOnce(CancellationToken) -> F,
{
    let signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let notifies = async {
        signals.stop.cancelled().await;
        sd_notify::stopping();
        // Only now: a service that stops at once would end the process before the notification is sent.
        stop.cancel();
        pending().await
    };
    tokio::select! {
        done = service(stop.clone()) => done,
        never = notifies => never,
        () = signals.hurry.cancelled() => Err(anyhow!("stopped before all work was finished").into()),
    }
}
