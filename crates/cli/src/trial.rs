//! Tries a provider's recipes without a hub: puts the backend to sleep if it can, wakes it, and tells the time of each step.

use crate::{data_dir::AGENT_STATE, failure::Failure, signals::Signals};
use anyhow::{Context, anyhow};
use reveille_agent::{
    BackendClient,
    child::{Orphans, SHIM, Shims},
    config::{Config, ProviderConfig, WakeConfig},
    fetch,
    models::discover,
    output::OutputFile,
    owner_policy::OwnerPolicy,
    probe::Probe,
    recipe::{Ended, Outcome, Progress, Run, Runner},
    state_dir::StateDir,
};
use reveille_domain::ProviderId;
use std::{
    fmt,
    future::ready,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Without a hub nothing shows which one this agent will belong to.
const A_HUB_ANSWERS: &str = "a Reveille hub answers: if it is this agent's own hub, the agent will refuse it, so set \
 base_url to the backend's own address";
/// While an agent runs, requests wake its backends, too.
const AN_AGENT_RUNS: &str = "this machine's agent is running, and a request may wake the backend meanwhile: `reveille agent pause` \
 prevents that";
/// How many lines of a failed command's output are shown.
const LINES_SHOWN: usize = 40;

/// What a trial says while it runs.
#[derive(Debug, Clone, Copy)]
pub enum Said<'a> {
    /// The headings of what follows.
    Headings,
    /// What came of one stage.
    Stage {
        phase: &'static str,
        stage: &'a str,
        took: Option<Duration>,
        result: &'a str,
    },
    /// A line that a command has printed.
    Printed(&'a str),
}

/// As a line for people.
impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Headings => write!(f, "{:<8}{:<18}{:>10}   RESULT", "PHASE", "STAGE", "TOOK"),
            Self::Stage {
                phase,
                stage,
                took,
                result,
            } => {
                let took = took.map_or_else(|| "-".to_owned(), seconds);
                write!(f, "{phase:<8}{stage:<18}{took:>10}   {result}")
            }
            Self::Printed(line) => write!(f, "        | {line}"),
        }
    }
}

/// How recipes are tried.
#[derive(Clone, Copy)]
pub struct TrialOptions<'a> {
    /// Leaves the sleep recipe out.
    pub no_sleep: bool,
    /// Runs the wake recipe even if the backend is available already.
    pub wake_anyway: bool,
    /// Takes what is said, in its order.
    pub say: &'a dyn Fn(Said<'_>) -> Result<(), Failure>,
}

/// A wake that succeeded.
#[derive(Debug, Clone, Copy)]
pub struct TriedWake {
    pub took: Duration,
    pub budget: Duration,
    /// What the backend did before it.
    pub before: Before,
    /// Whether what the wake started was ended; else the backend is left awake.
    pub ended: bool,
}

/// What a backend did before its wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It wasn't available.
    Asleep,
    /// It was available, and the sleep recipe ended that.
    PutToSleep,
    /// It was available, so its wake proves nothing.
    Available,
}

/// Tries the recipes of one provider. What it starts ends with it, and at a signal. A second one ends the wait for that: the shims
/// see to it by themselves.
pub async fn run(
    config: &Config,
    provider: &ProviderConfig,
    data_dir: &Path,
    options: TrialOptions<'_>,
    signals: &Signals,
) -> Result<TriedWake, Failure> {
    let Some(wake) = provider.wake.clone() else {
        return Err(Failure::Config(format!(
            "provider `{}` has no [provider.wake], so there is no recipe to test",
            provider.name
        )));
    };
    let client = fetch::client()?;
    let to_backend = fetch::client_for(&provider.trust, provider.base_url.socket())?;
    let id = ProviderId::new(config.agent.name.clone(), provider.name.clone());
    let state = StateDir::new(data_dir.join(AGENT_STATE));
    let work = state.work();
    let work =
        work.with_context(|| format!("can't make a folder for commands in {}", state.path().display()))?;
    let used = state.is_in_use().ok().flatten().unwrap_or_default();
    let hours = config.agent.quiet_hours.clone();
    let is_paused = OwnerPolicy::new(Some(state.clone()), hours).refusal().is_some();
    let test = Test {
        may_wake: used && !is_paused,
        agent_runs: used.then(|| id.clone()),
        probe: Probe::new(to_backend.clone(), provider),
        backend: to_backend.into(),
        runner: Arc::new(Runner {
            client,
            shims: Shims::of_this_program()?
                .working_in(work)
                .keeping(OutputFile::of(&state, &id)),
            orphans: Orphans::none(),
        }),
        options,
        signals: signals.clone(),
    };
    let before = test.prepare(provider).await?;
    test.wake(wake, provider, before).await
}

struct Test<'a> {
    probe: Probe,
    backend: BackendClient,
    runner: Arc<Runner>,
    options: TrialOptions<'a>,
    /// The provider, if an agent of this data directory runs, which wakes it for requests.
    agent_runs: Option<ProviderId>,
    /// Whether its owner lets it wake backends now.
    may_wake: bool,
    signals: Signals,
}

impl Test<'_> {
    /// Makes sure that the backend sleeps; refuses a wake that would prove nothing. Returns what it did before.
    async fn prepare(&self, provider: &ProviderConfig) -> Result<Before, Failure> {
        let began = Instant::now();
        let verdict = self.probe.check_and_identify().await;
        let steps = provider.sleep.as_ref().map(|sleep| sleep.steps.clone());
        let steps = steps.filter(|steps| !steps.is_empty() && !self.options.no_sleep);
        (self.options.say)(Said::Headings)?;
        if self.may_wake {
            self.print("before", "agent", None, AN_AGENT_RUNS)?;
        }
        if self.probe.hub().await.is_some() {
            self.print("before", "probe", None, A_HUB_ANSWERS)?;
        }
        match verdict {
            Err(why) => {
                let taken = if why.stranger { self.taken().await } else { None };
                let taken = taken.map(|taken| format!("; {taken}")).unwrap_or_default();
                let result = format!("not available: {}{taken}", why.reason);
                self.row("before", "probe", began.elapsed(), &result)?;
                if steps.is_some() {
                    self.print("sleep", "-", None, "skipped: the backend isn't available")?;
                }
                return Ok(Before::Asleep);
            }
            Ok(()) => self.row("before", "probe", began.elapsed(), "available")?,
        }
        let Some(steps) = steps else {
            if self.options.wake_anyway {
                let result = "skipped: the backend is available before the wake";
                self.print("sleep", "-", None, result)?;
                return Ok(Before::Available);
            }
            let taken = self.taken().await;
            let serves = provider.wake.as_ref().is_some_and(WakeConfig::serves);
            let is_ours = match self.probe.port() {
                Some(port) => port.is_below(SHIM).await,
                None => None,
            };
            let first = match &self.agent_runs {
                // Neither the agent nor a second server beside it can do anything about that one.
                _ if serves && is_ours == Some(false) => {
                    "Stop that program first (a service with `systemctl stop`): Reveille ends only what it has started itself"
                        .to_owned()
                }
                Some(id) => format!(
                    "Put it to sleep first with `reveille sleep {id} --wait`, or with `reveille agent pause --sleep` if requests \
                     would wake it again (`reveille agent resume` ends that)"
                ),
                None if serves => "Stop it first".to_owned(),
                None => "Stop it first, or use `recipe test --yes` to run the wake anyway".to_owned(),
            };
            return Err(anyhow!(
                "the recipe wasn't tested: the backend is already available{}{}, so a wake would prove nothing{}. {first}",
                taken
                    .map(|taken| format!(" ({taken})"))
                    .unwrap_or_default(),
                if self.options.no_sleep {
                    " and --no-sleep keeps it so"
                } else {
                    " and has no sleep recipe"
                },
                if serves {
                    " and might start a second server beside it"
                } else {
                    ""
                }
            )
            .into());
        };
        let (runner, probe) = (self.runner.clone(), self.probe.clone());
        let run = Run::sleep(runner, steps, probe, Box::pin(ready(())));
        let (outcome, ended) = self.outcome(run).await?;
        self.report("sleep", &outcome, &ended)?;
        Ok(Before::PutToSleep)
    }

    /// Who has the backend's port, if that is on this machine.
    async fn taken(&self) -> Option<String> {
        self.probe.port()?.taken().await
    }

    /// Warns of a model of the config that the backend doesn't list: requests for it will fail.
    async fn models(&self, provider: &ProviderConfig) -> Result<(), Failure> {
        let listed = discover(self.backend.clone(), provider.clone(), None).await;
        let named = provider.models.as_deref().unwrap_or_default();
        let Some(model) = listed.as_ref().and_then(|listed| listed.lacks(named)) else {
            return Ok(());
        };
        let result = format!(
            "WARNING: the backend doesn't list `{model}`, so requests for it will fail: load or pull it there, or correct \
             `models`"
        );
        self.print("after", "models", None, &result)
    }

    async fn wake(
        &self,
        wake: WakeConfig,
        provider: &ProviderConfig,
        before: Before,
    ) -> Result<TriedWake, Failure> {
        let budget = wake.budget();
        let began = Instant::now();
        let run = Run::wake(self.runner.clone(), wake, self.probe.clone(), Box::pin(ready(())));
        let (outcome, mut ended) = self.outcome(run).await?;
        let took = began.elapsed();
        let mut reported = self.report("wake", &outcome, &ended);
        if reported.is_ok() && ended.served.is_some() {
            reported = self.is_own().await;
        }
        if reported.is_ok() {
            self.models(provider).await?;
        }
        let child = ended.served.take();
        let ended = child.is_some();
        if let Some(child) = child {
            let began = Instant::now();
            self.ended(child.stop()).await?;
            self.row("after", "stop", began.elapsed(), "the backend was stopped")?;
        }
        reported?;
        Ok(TriedWake {
            took,
            budget,
            before,
            ended,
        })
    }

    /// Fails if the agent's server answered rather than the one that was started here.
    async fn is_own(&self) -> Result<(), Failure> {
        let Some(port) = self.probe.port() else {
            return Ok(());
        };
        if port.is_below_another(SHIM).await != Some(true) {
            return Ok(());
        }
        let taken = port.taken().await;
        let taken = taken.map(|taken| format!(" ({taken})")).unwrap_or_default();
        let first = match &self.agent_runs {
            Some(id) => format!(
                "wait until `reveille status` shows it awake, put it to sleep with `reveille sleep {id} --wait`, and test it again"
            ),
            None => "stop that agent, and test it again".to_owned(),
        };
        Err(anyhow!(
            "the recipe wasn't tested: an agent was waking this backend at the same time, and its server answered{taken}, not the one \
             that was started here: {first}"
        )
        .into())
    }

    /// Runs to the end; Ctrl-C stops what was started.
    async fn outcome(&self, mut run: Run) -> Result<(Outcome, Ended), Failure> {
        let mut outcome = None;
        loop {
            let progress = tokio::select! {
                progress = run.next() => progress,
                () = self.signals.stop.cancelled() => {
                    self.ended(run.stop()).await?;
                    return Err(anyhow!("stopped, and ended what the recipe had started").into());
                }
            };
            match (progress, outcome.take()) {
                (Progress::Outcome(ended), _) => outcome = Some(ended),
                (Progress::Ended(ended), Some(outcome)) => return Ok((outcome, ended)),
                (Progress::Ended(_), None) => return Err(anyhow!("the recipe was interrupted").into()),
            }
        }
    }

    /// Waits for the end of what a recipe has started, unless a second signal ends that.
    async fn ended<T>(&self, end: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            ended = end => Ok(ended),
            () = self.signals.hurry.cancelled() => Err(anyhow!(
                "stopped before what the recipe had started has ended; it is still ending, and is killed after its grace (`stop_grace`)"
            )
            .into()),
        }
    }

    /// Prints the stages of a run, and what a failed command has printed last; fails if the run did.
    fn report(&self, phase: &'static str, outcome: &Outcome, ended: &Ended) -> Result<(), Failure> {
        let mut failure = outcome.failure.as_ref();
        for (index, stage) in outcome.stages.iter().enumerate() {
            let last = index + 1 == outcome.stages.len();
            let result = match failure.filter(|_| last) {
                Some(failure) => format!("FAILED: {}", failure.reason),
                None if stage.name == "probe" && phase == "sleep" => {
                    "not available, as it should be".to_owned()
                }
                None if stage.name == "probe" => "available".to_owned(),
                None => "ok".to_owned(),
            };
            self.row(phase, &stage.name, Duration::from_millis(stage.took_ms), &result)?;
        }
        if !ended.printed.is_empty() {
            self.print(phase, "printed", None, "the last lines of the command's output:")?;
            let lines: Vec<_> = ended.printed.lines().collect();
            for printed in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
                (self.options.say)(Said::Printed(printed))?;
            }
        }
        if let Some(hint) = &ended.hint {
            self.print(phase, hint.label(), None, &hint.to_string())?;
        }
        match failure.take() {
            None => Ok(()),
            Some(failure) => Err(anyhow!("{phase}: {}: {}", failure.stage, failure.reason).into()),
        }
    }

    fn row(&self, phase: &'static str, stage: &str, took: Duration, result: &str) -> Result<(), Failure> {
        self.print(phase, stage, Some(took), result)
    }

    fn print(
        &self,
        phase: &'static str,
        stage: &str,
        took: Option<Duration>,
        result: &str,
    ) -> Result<(), Failure> {
        (self.options.say)(Said::Stage {
            phase,
            stage,
            took,
            result,
        })
    }
}

/// A duration for a person.
pub fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}
