//! The services, each alone in the foreground until a signal ends it.

pub mod agent;
pub mod api;
pub mod projector;

use crate::{
    failure::Failure,
    sd_notify::{self, Phase},
    signals::Signals,
};
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
    let told = async {
        signals.stop.cancelled().await;
        sd_notify::tell(Phase::Stopping);
        // Only now, or a service that ends at once would end before it is told.
        stop.cancel();
        pending().await
    };
    tokio::select! {
        done = service(stop.clone()) => done,
        never = told => never,
        () = signals.hurry.cancelled() => Err(anyhow!("stopped before everything was finished").into()),
    }
}

fn ready() {
    sd_notify::tell(Phase::Ready);
}
