//! Running the recipes that wake a backend or put it to sleep.
//!
//! A [`Run`] is a task of its own, so that its owner keeps answering meanwhile. It reports its outcome once, as soon as it
//! is known, and ends only when everything that it started has ended, except the served backend of a wake that succeeded:
//! that goes to the owner. A future that is handed to it must complete before it begins.

mod answer;
mod runner;
mod timeline;

pub use runner::Runner;
pub use timeline::Outcome;

use crate::{
    child::{Child, Exit, Hint},
    config::{Action, Step, WakeConfig},
    listeners::{Earlier, LocalPort},
    probe::Probe,
    processes::listed,
    verify::{self, Verify},
};
use futures::future::{BoxFuture, OptionFuture};
use reveille_domain::WakeFailure;
use runner::stage_name;
use std::{sync::Arc, time::Duration};
use timeline::{Failed, Timeline};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The stage after the steps.
const PROBE_STAGE: &str = "probe";
/// How soon after a sleep recipe the probe must find the backend asleep.
const ASLEEP_WITHIN: Duration = Duration::from_secs(10);
/// How soon a served command must have ended a server that it replaces on its port.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);
/// The pause between looks at who listens there.
const REPLACED_PAUSE: Duration = Duration::from_millis(50);
/// The stage after the probe.
const VERIFY_STAGE: &str = "verify";
/// How long a verification may take at least that the wake's budget doesn't contain. The margin of the wake's deadline
/// (`DEADLINE_MARGIN`) is longer.
const SHORTEST_VERIFY: Duration = Duration::from_secs(2);

/// Completes when a run may begin: an earlier run and a served backend have ended.
pub type Before = BoxFuture<'static, ()>;

/// The two things that a run reports.
#[derive(Debug)]
pub enum Progress {
    /// How it went: at once, and never when it is cancelled.
    Outcome(Outcome),
    /// Everything that it started has ended, except the served backend of a wake that succeeded.
    Ended(Ended),
}

/// What is left of a run.
#[derive(Debug, Default)]
pub struct Ended {
    /// The served backend of a wake that succeeded.
    pub served: Option<Child>,
    /// The end of what the command has printed that failed; empty if none has. For the owner of this machine only.
    pub printed: String,
    /// What to do about the failure, for the owner of this machine.
    pub hint: Option<Hint>,
}

/// A running recipe. Dropping it cancels it and ends what it started, in the background.
#[derive(Debug)]
pub struct Run {
    outcome: Option<oneshot::Receiver<Outcome>>,
    task: JoinHandle<Ended>,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

impl Run {
    /// Runs a wake recipe: its steps, then the probe for `max_wait`, then the probe's verification if it has one, which may
    /// take what is left of `max_wait` unless the recipe has a time-out for it.
    #[must_use]
    pub fn wake(runner: Arc<Runner>, recipe: WakeConfig, probe: Probe, before: Before) -> Self {
        Self::spawn(runner, Job::Wake(recipe, Box::new(probe)), before)
    }

    /// Runs the steps of a sleep recipe, then the probe until it no longer finds the backend available.
    #[must_use]
    pub fn sleep(runner: Arc<Runner>, steps: Vec<Step>, probe: Probe, before: Before) -> Self {
        Self::spawn(runner, Job::Sleep(steps, Box::new(probe)), before)
    }

    /// Runs nothing, and ends as soon as what ran before has ended.
    #[must_use]
    pub fn ending(before: Before) -> Self {
        let cancel = CancellationToken::new();
        Self {
            outcome: None,
            task: tokio::spawn(async {
                before.await;
                Ended::default()
            }),
            _cancel_on_drop: cancel.clone().drop_guard(),
            cancel,
        }
    }

    fn spawn(runner: Arc<Runner>, job: Job, before: Before) -> Self {
        let (tell, outcome) = oneshot::channel();
        let cancel = CancellationToken::new();
        let cancelled = cancel.clone();
        let task = tokio::spawn(async move {
            // Not cancellable: when this run has ended, everything before it must have ended too.
            before.await;
            let mut running = None;
            let done = cancelled
                .run_until_cancelled(job.run(&runner, &mut running))
                .await;
            let Some((outcome, hint)) = done else {
                if let Some(child) = running {
                    child.stop().await;
                }
                return Ended::default();
            };
            let failure = outcome.failure.clone();
            // The owner may be gone; what was started must end all the same.
            let _ = tell.send(outcome);
            let Some(failure) = failure else {
                return Ended {
                    served: running,
                    ..Ended::default()
                };
            };
            let mut ended = Ended {
                hint,
                ..Ended::default()
            };
            if let Some(mut child) = running {
                child.end().await;
                child.printed().clone_into(&mut ended.printed);
                ended.hint = ended.hint.or_else(|| child.hint(true));
            }
            // It may say no more than the reason.
            ended.hint = ended
                .hint
                .filter(|hint| !failure.reason.contains(&hint.to_string()));
            runner.note(job.name(), &failure, ended.hint.as_ref());
            ended
        });
        Self {
            outcome: Some(outcome),
            task,
            _cancel_on_drop: cancel.clone().drop_guard(),
            cancel,
        }
    }

    /// Waits for its outcome, then for its end. Cancel-safe; must not be called after the end.
    pub async fn next(&mut self) -> Progress {
        if let Some(outcome) = &mut self.outcome {
            let told = outcome.await;
            self.outcome = None;
            if let Ok(outcome) = told {
                return Progress::Outcome(outcome);
            }
        }
        Progress::Ended((&mut self.task).await.unwrap_or_default())
    }

    /// Waits for the end of everything except the served backend of a wake that succeeded.
    pub async fn ended(self) -> Option<Child> {
        self.task.await.unwrap_or_default().served
    }

    /// Cancels the run and waits until everything that it started has ended.
    pub async fn stop(self) {
        self.cancel.cancel();
        if let Some(child) = self.ended().await {
            child.stop().await;
        }
    }
}

enum Job {
    Wake(WakeConfig, Box<Probe>),
    Sleep(Vec<Step>, Box<Probe>),
}

impl Job {
    /// What its stages are called where output is kept.
    const fn name(&self) -> &'static str {
        match self {
            Self::Wake(..) => "wake",
            Self::Sleep(..) => "sleep",
        }
    }

    /// How it went, and what to do about a failure. A child in `running` at the end, or after a cancellation, must be ended by the caller or, after a success, kept.
    async fn run(&self, runner: &Runner, running: &mut Option<Child>) -> (Outcome, Option<Hint>) {
        if let Self::Wake(..) = self {
            runner.orphans.clone().gone().await;
        }
        let mut timeline = Timeline::begin();
        let failure = self.run_stages(runner, &mut timeline, running).await.err();
        let Timeline { stages, hint, .. } = timeline;
        (Outcome { stages, failure }, hint)
    }

    /// Runs the stages in order, up to the first that fails.
    async fn run_stages(
        &self,
        runner: &Runner,
        timeline: &mut Timeline,
        running: &mut Option<Child>,
    ) -> Result<(), WakeFailure> {
        let (steps, probe) = match self {
            Self::Wake(recipe, probe) => (&recipe.steps, probe),
            Self::Sleep(steps, probe) => (steps, probe),
        };
        let mut earlier = None;
        for (index, step) in steps.iter().enumerate() {
            let stage = stage_name(index, step);
            let source = format!("{} {stage}", self.name());
            let done = async {
                if let Action::Serve { end, .. } = &step.action {
                    if let Some(end) = end {
                        let ended = runner.end(end, &format!("{source} end"), running).await;
                        ended.map_err(|failed| failed.of("`end`"))?;
                    }
                    if let Some(port) = probe.port() {
                        earlier = Some(Earlier::at(port.clone()).await);
                    }
                }
                let done = runner.run_step(step, &source, running).await;
                done.map_err(|failed| answer::with_remedy(failed, probe))
            };
            timeline.stage(&stage, done).await?;
        }
        let Self::Wake(recipe, _) = self else {
            return timeline.stage(PROBE_STAGE, await_end(probe)).await;
        };
        let booted_by = Instant::now() + recipe.max_wait;
        let booted = await_boot(recipe.max_wait, probe, running, earlier.as_ref());
        timeline.stage(PROBE_STAGE, booted).await?;
        if probe.verification().is_empty() {
            return Ok(());
        }
        let by = booted_by.max(Instant::now() + SHORTEST_VERIFY);
        let by = recipe.verify.is_none().then_some(by);
        let answered = answers(probe.verification(), by, running);
        timeline.stage(VERIFY_STAGE, answered).await
    }
}

/// Probes until the backend is no longer available.
async fn await_end(probe: &Probe) -> Result<(), String> {
    if probe.await_unavailable(Instant::now() + ASLEEP_WITHIN).await {
        return Ok(());
    }
    let reason = format!(
        "the probe still finds the backend available {} s after the sleep recipe; a server that answers while it \
         sleeps needs a `probe` with `expect`",
        ASLEEP_WITHIN.as_secs()
    );
    let taken = OptionFuture::from(probe.port().map(LocalPort::taken)).await;
    Err(with(reason, taken.flatten()))
}

/// Probes for `max_wait`, or until the served backend ends: it will not become available then. `earlier` listened on its port
/// before it was started.
async fn await_boot(
    max_wait: Duration,
    probe: &Probe,
    running: &mut Option<Child>,
    earlier: Option<&Earlier>,
) -> Result<(), Failed> {
    let ended = tokio::select! {
        Some(failed) = OptionFuture::from(running.as_mut().map(served_ended)) => Ok(failed),
        booted = boot(max_wait, probe, earlier) => Err(booted),
    };
    let failed = match ended {
        Ok(failed) => failed,
        Err(Ok(())) => return Ok(()),
        Err(Err(failed)) => {
            let instead = OptionFuture::from(
                probe
                    .port()
                    .zip(running.as_ref())
                    .map(|(port, child)| port.instead(child.id())),
            );
            return Err(Failed {
                reason: with(failed.reason, instead.await.flatten()),
                ..failed
            });
        }
    };
    let left = running.as_ref().is_some_and(|child| !child.left().is_empty());
    let taken = match earlier {
        // What the command itself left there was ended.
        Some(earlier) if left => earlier.taken().await,
        Some(earlier) => earlier.port().taken().await,
        None => None,
    };
    Err(Failed {
        reason: with(failed.reason, taken),
        ..failed
    })
}

/// Probes until the backend is available, for `max_wait`. What listened there `earlier` isn't the backend, but the served command
/// may be about to end it.
async fn boot(max_wait: Duration, probe: &Probe, earlier: Option<&Earlier>) -> Result<(), Failed> {
    let mut first = None;
    loop {
        // Looked at before the probe, which it may answer in its last moment.
        let was_there = OptionFuture::from(earlier.map(Earlier::is_there)).await == Some(true);
        let began = *first.get_or_insert_with(Instant::now);
        let found = probe.await_available(began + max_wait).await;
        let taken = match earlier {
            Some(earlier) if found.is_err() || was_there => {
                let patience = found
                    .as_ref()
                    .map_or(Duration::ZERO, |()| REPLACED_WITHIN.min(max_wait));
                taken_at(earlier, began + patience).await
            }
            Some(_) | None => None,
        };
        match (found, taken) {
            (Err(why), _) if why.is_hub_itself() => {
                return Err(Failed::unavailable(why.reason));
            }
            (Err(why), taken) if why.other_models => {
                let reason = match probe.pull_command().await {
                    Some(pull) => format!("{}; `{pull}` gets it", why.reason),
                    None => why.reason,
                };
                let is_maybe_another = earlier.is_none() || taken.is_some();
                return Err(Failed {
                    hint: Some(Hint::OtherModels { is_maybe_another }),
                    ..Failed::of_models(with(reason, taken))
                });
            }
            (Err(why), taken) => {
                let reason = format!("not available within {max_wait:?} (`max_wait`): {}", why.reason);
                return Err(Failed::unavailable(with(reason, taken)));
            }
            (Ok(()), Some(taken)) => {
                let reason =
                    format!("{taken}, so it isn't the served command that answers there: end that program");
                return Err(reason.into());
            }
            (Ok(()), None) if was_there => {}
            (Ok(()), None) => return Ok(()),
        }
    }
}

/// Waits until what listened there earlier doesn't any longer; or who has the port if it still does at `deadline`.
async fn taken_at(earlier: &Earlier, deadline: Instant) -> Option<String> {
    while earlier.is_there().await {
        if Instant::now() >= deadline {
            return earlier.taken().await;
        }
        sleep(REPLACED_PAUSE).await;
    }
    None
}

/// A reason, and who has the port if somebody else does.
fn with(reason: String, taken: Option<String>) -> String {
    match taken {
        Some(taken) => format!("{reason}; {taken}"),
        None => reason,
    }
}

/// Verifies the backend, or fails when the served one ends.
async fn answers(
    completions: &[Verify],
    by: Option<Instant>,
    running: &mut Option<Child>,
) -> Result<(), Failed> {
    tokio::select! {
        Some(failed) = OptionFuture::from(running.as_mut().map(served_ended)) => Err(failed),
        verified = verify::any(completions, by) => Ok(verified?),
    }
}

/// Waits for the end of the served command; why there is no backend then.
async fn served_ended(child: &mut Child) -> Failed {
    let exit = child.exited().await;
    let left = child.left();
    if exit != Exit::Code(0) || left.is_empty() {
        return Failed::hinted(format!("the served command {exit}"), child.hint(true));
    }
    let reason = format!(
        "the served command {exit}, and what it left running was ended: {}; run = \"serve\" is for a server that stays in \
         the foreground, run = \"detach\" for a command that leaves one running",
        listed(left)
    );
    reason.into()
}
