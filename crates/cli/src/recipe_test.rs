//! `reveille recipe test`: runs a provider's recipes without a hub and times each step, to find mistakes before a
//! request waits for them.

use crate::{
    args::DataDirArg, client::line, config, data_dir::AGENT_STATE, failure::Failure, signals::Signals,
};
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use reveille_agent::{
    child::{Orphans, Shims},
    config::{Config, ProviderConfig, WakeConfig, nearest},
    fetch,
    output::OutputFile,
    probe::Probe,
    recipe::{Ended, Outcome, Progress, Run, Runner},
    state_dir::StateDir,
};
use reveille_domain::ProviderId;
use std::{
    future::ready,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Without a hub nothing shows which one this agent will belong to.
const A_HUB_ANSWERS: &str = "a Reveille hub answers: if it is this agent's own hub, the agent will refuse it, so set \
 base_url to the backend's own address";
/// How many lines of a failed command's output are shown.
const LINES_SHOWN: usize = 40;

/// `reveille recipe …`.
#[derive(Debug, Subcommand)]
pub enum RecipeCommand {
    /// Put a backend to sleep and wake it without a hub, timing each step.
    Test(RecipeTest),
}

/// `reveille recipe test`.
#[derive(Debug, Args)]
pub struct RecipeTest {
    /// The provider's name in the config, or AGENT/PROVIDER of the config's own agent.
    #[arg(value_name = "PROVIDER")]
    pub provider: String,
    /// The config file.
    #[arg(long, env = "REVEILLE_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    #[command(flatten)]
    pub data_dir: DataDirArg,
    /// Skip the sleep recipe.
    #[arg(long)]
    pub no_sleep: bool,
    /// Run the wake recipe even if the backend is already available.
    #[arg(long)]
    pub yes: bool,
}

/// Puts the backend to sleep if it can, wakes it, and prints the time of each step.
pub async fn run(args: RecipeTest) -> Result<(), Failure> {
    let config = config::load(&args.config)?;
    let provider = provider(&config, &args)?;
    let Some(wake) = provider.wake.clone() else {
        return Err(Failure::Config(format!(
            "provider `{}` has no [provider.wake], so there is no recipe to test",
            provider.name
        )));
    };
    let client = fetch::client()?;
    let to_backend = fetch::client_for(&provider.trust, provider.base_url.socket())?;
    let id = ProviderId::new(config.agent.name.clone(), provider.name.clone());
    let state = StateDir::new(args.data_dir.path()?.join(AGENT_STATE));
    let work = state.work();
    let work =
        work.with_context(|| format!("can't make a folder for commands in {}", state.path().display()))?;
    let signals = Signals::listen()?;
    let test = Test {
        probe: Probe::new(to_backend, provider),
        runner: Arc::new(Runner {
            client,
            shims: Shims::of_this_program()?
                .working_in(work)
                .keeping(OutputFile::of(&state, &id)),
            orphans: Orphans::none(),
        }),
        stop: signals.stop,
    };
    let was_available = test.prepare(provider, &args).await?;
    test.wake(wake, provider, was_available).await
}

fn provider<'a>(config: &'a Config, args: &RecipeTest) -> Result<&'a ProviderConfig, Failure> {
    let own = format!("{}/", config.agent.name);
    let name = args.provider.strip_prefix(&own).unwrap_or(&args.provider);
    let mut providers = config.providers.iter();
    if let Some(found) = providers.find(|provider| provider.name.as_str() == name) {
        return Ok(found);
    }
    Err(Failure::Config(format!(
        "{} has no provider `{}`{}",
        args.config.display(),
        args.provider,
        meant(config, name)
    )))
}

/// Which provider was probably meant, and those that there are.
fn meant(config: &Config, name: &str) -> String {
    let publishes = |provider: &&ProviderConfig| {
        let mut models = provider.models.iter().flatten();
        models.any(|model| [model.id.as_str(), model.public.as_str()].contains(&name))
    };
    if let Some(provider) = config.providers.iter().find(publishes) {
        return format!(": that is a model of `{}`", provider.name);
    }
    let names: Vec<_> = config
        .providers
        .iter()
        .map(|provider| provider.name.as_str())
        .collect();
    let listed = names.join(", ");
    match nearest(name, names.iter().copied()) {
        Some(nearest) => format!(", did you mean `{nearest}`? It has: {listed}"),
        None if names.is_empty() => "; it has none: add a [[provider]]".to_owned(),
        None => format!("; it has: {listed}"),
    }
}

struct Test {
    probe: Probe,
    runner: Arc<Runner>,
    stop: CancellationToken,
}

impl Test {
    /// Makes sure that the backend sleeps; refuses a wake that would prove nothing. Returns whether it is available all the same.
    async fn prepare(&self, provider: &ProviderConfig, args: &RecipeTest) -> Result<bool, Failure> {
        let began = Instant::now();
        let verdict = self.probe.check_and_identify().await;
        let steps = provider.sleep.as_ref().map(|sleep| sleep.steps.clone());
        let steps = steps.filter(|steps| !steps.is_empty() && !args.no_sleep);
        print("PHASE", "STAGE", "TOOK", "RESULT")?;
        if self.probe.hub().await.is_some() {
            print("before", "probe", "-", A_HUB_ANSWERS)?;
        }
        match verdict {
            Err(why) => {
                let taken = if why.stranger { self.taken().await } else { None };
                let taken = taken.map(|taken| format!("; {taken}")).unwrap_or_default();
                let result = format!("not available: {}{taken}", why.reason);
                row("before", "probe", began.elapsed(), &result)?;
                if steps.is_some() {
                    print("sleep", "-", "-", "skipped: the backend isn't available")?;
                }
                return Ok(false);
            }
            Ok(()) => row("before", "probe", began.elapsed(), "available")?,
        }
        let Some(steps) = steps else {
            if args.yes {
                let result = "skipped: the backend is available before the wake";
                print("sleep", "-", "-", result)?;
                return Ok(true);
            }
            let taken = self.taken().await;
            return Err(anyhow!(
                "the recipe wasn't tested: the backend is already available{}{}, so a wake would prove nothing{}. Stop it \
                 first, or use --yes to run the wake anyway",
                taken.map(|taken| format!(" ({taken})")).unwrap_or_default(),
                if args.no_sleep { " and --no-sleep keeps it so" } else { " and has no sleep recipe" },
                if provider.wake.as_ref().is_some_and(WakeConfig::serves) {
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
        report("sleep", &outcome, &ended)?;
        Ok(false)
    }

    /// Who has the backend's port, if that is on this machine.
    async fn taken(&self) -> Option<String> {
        self.probe.port()?.taken().await
    }

    async fn wake(
        &self,
        wake: WakeConfig,
        provider: &ProviderConfig,
        was_available: bool,
    ) -> Result<(), Failure> {
        let budget = wake.budget();
        let began = Instant::now();
        let run = Run::wake(self.runner.clone(), wake, self.probe.clone(), Box::pin(ready(())));
        let (outcome, ended) = self.outcome(run).await?;
        let took = began.elapsed();
        let reported = report("wake", &outcome, &ended);
        let left = match ended.served {
            Some(child) => {
                let began = Instant::now();
                child.stop().await;
                row("after", "stop", began.elapsed(), "the backend was stopped")?;
                "nothing is left running"
            }
            None => "the backend is left awake",
        };
        reported?;
        if was_available {
            return line(&format!(
                "ok: the recipe of {} ran, but wasn't tested: the backend was available before it; {left}",
                provider.name
            ));
        }
        line(&format!(
            "ok: {} was awake after {} (budget {}); {left}",
            provider.name,
            seconds(took),
            seconds(budget)
        ))
    }

    /// Runs to the end; Ctrl-C stops what was started.
    async fn outcome(&self, mut run: Run) -> Result<(Outcome, Ended), Failure> {
        let mut outcome = None;
        loop {
            let progress = tokio::select! {
                progress = run.next() => progress,
                () = self.stop.cancelled() => {
                    run.stop().await;
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
}

/// Prints the stages of a run, and what a failed command has printed last; fails if the run did.
fn report(phase: &str, outcome: &Outcome, ended: &Ended) -> Result<(), Failure> {
    let mut failure = outcome.failure.as_ref();
    for (index, stage) in outcome.stages.iter().enumerate() {
        let last = index + 1 == outcome.stages.len();
        let result = match failure.filter(|_| last) {
            Some(failure) => format!("FAILED: {}", failure.reason),
            None if stage.name == "probe" && phase == "sleep" => "not available, as it should be".to_owned(),
            None if stage.name == "probe" => "available".to_owned(),
            None => "ok".to_owned(),
        };
        row(phase, &stage.name, Duration::from_millis(stage.took_ms), &result)?;
    }
    if !ended.printed.is_empty() {
        print(phase, "printed", "", "the last lines of the command's output:")?;
        let lines: Vec<_> = ended.printed.lines().collect();
        for printed in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
            line(&format!("        | {printed}"))?;
        }
    }
    if let Some(hint) = &ended.hint {
        print(phase, "hint", "", &hint.to_string())?;
    }
    match failure.take() {
        None => Ok(()),
        Some(failure) => Err(anyhow!("{phase}: {}: {}", failure.stage, failure.reason).into()),
    }
}

fn row(phase: &str, stage: &str, took: Duration, result: &str) -> Result<(), Failure> {
    print(phase, stage, &seconds(took), result)
}

fn print(phase: &str, stage: &str, took: &str, result: &str) -> Result<(), Failure> {
    line(&format!("{phase:<8}{stage:<18}{took:>10}   {result}"))
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}
