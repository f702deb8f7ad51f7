//! The owner's loop: [`Owner::next`] waits for whatever happens next, [`Owner::apply`] draws the conclusions.

mod recipes;
mod sleeping;
mod vacancy;

use super::{
    Gate, Handle, Input, MAILBOX,
    activity::{Activity, Advance},
    belief::{Ask, Belief},
    groups::{Groups, Membership, Room, Terms},
    report_order::{Happened, ReportTurn},
};
use crate::{
    child::{Child, Exit},
    config::ProviderConfig,
    hub::Hub,
    models::{self, Memory},
    owner_policy::{OwnerPolicy, WakeAllowance},
    probe::{Probe, Verdict},
    recipe::Runner,
    state_dir::StateDir,
};
use futures::{FutureExt, future::BoxFuture};
use recipes::EXPECTED_WITHIN;
use reveille_bus::{
    control::{ControlAnswer, ControlError, ControlRequest},
    relay::CurrentEpoch,
};
use reveille_domain::{
    AgentName, Epoch, ModelName, ProviderId, ProviderName, ProviderSpec, ReportId, SleepReason, WakeId,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use vacancy::Vacancy;

/// How long a provider that control's replica can't read waits before it is reported again.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(2);

/// What an owner works with.
#[derive(Clone)]
pub struct Setup {
    /// The agent's name.
    pub agent: AgentName,
    /// The provider.
    pub config: ProviderConfig,
    /// What its recipes are run with.
    pub runner: Arc<Runner>,
    /// Control.
    pub hub: Arc<dyn Hub>,
    /// The epoch of the agent's session.
    pub epoch: CurrentEpoch,
    /// The models that backends have listed.
    pub memory: Memory,
    /// The groups of the agent's providers.
    pub groups: Groups,
    /// What the owner of the machine decides.
    pub owner_policy: OwnerPolicy,
    /// Where it is kept what must be known after a restart.
    pub state: Option<StateDir>,
    /// Told when control says that a later session has taken the agent's name.
    pub superseded: watch::Sender<Option<Epoch>>,
}

/// All that is known of one provider, and what is being done with it.
pub struct Owner {
    setup: Setup,
    probe: Probe,
    gate: Gate,
    mailbox: mpsc::Receiver<Input>,
    belief: Belief,
    models: Vec<ModelName>,
    activity: Activity,
    allowance: WakeAllowance,
    group: Option<Membership>,
    /// Its turn among the reports of its groups, and whether it waits for one.
    turn: Option<ReportTurn>,
    waits_to_report: bool,
    vacancy: Vacancy,
    /// The room that it could not make, and why: told when it is clear that the backend is still there.
    no_room: Option<(Room, String)>,
    /// A wake that came while it was being put to sleep.
    pending: Option<WakeId>,
    /// Whether it is to be put to sleep as soon as nothing else is done with it.
    rest_wanted: bool,
    /// The latest wake that requests wait for.
    awaited: Option<WakeId>,
    /// The last wake that found or made the backend available.
    last_woken: Option<Woken>,
    /// Since when the backend is awake.
    awake_since: Option<Instant>,
    /// How often in a row it couldn't be put to sleep, and until when it isn't tried again for being idle.
    failed_sleeps: u32,
    no_sleep_before: Option<Instant>,
    /// Whether the backend broke off in the middle of a request since it was last found available.
    broke_off: bool,
    /// The served backend; kept after its end until what it left behind is gone too.
    child: Option<Child>,
    child_ended: bool,
    asking: Option<Asking>,
    probing: Option<BoxFuture<'static, Verdict>>,
    discovering: Option<BoxFuture<'static, Option<Vec<ModelName>>>>,
    next_probe: Instant,
    /// Whether the last probe had no clear answer: the next one may take its whole time-out too.
    slow_probe: bool,
    /// The provider's latest commit that was heard of, by its journal sequence: older wakes are over.
    seen: u64,
    /// Requests that found no backend: those that a probe must confirm first, and those that wait for the report.
    unconfirmed: Vec<oneshot::Sender<Option<ReportId>>>,
    refused: Vec<oneshot::Sender<Option<ReportId>>>,
}

/// What control is being asked.
struct Asking {
    ask: Ask,
    /// When that happened; `None` once the members of its groups no longer wait for it.
    happened: Option<Happened>,
    answer: BoxFuture<'static, ControlAnswer>,
}

/// A wake that found or made the backend available.
#[derive(Debug, Clone, Copy)]
struct Woken {
    wake: WakeId,
    at: Instant,
    /// How many requests had passed the gate by then.
    entries: u64,
}

enum Event {
    Input(Input),
    Answer(ControlAnswer),
    Probed(Verdict),
    ProbeDue,
    Discovered(Option<Vec<ModelName>>),
    Advance(Advance),
    ChildEnded(Exit),
    /// Room is asked for, or no longer is.
    RoomAsked,
    /// It is time to look again.
    Again,
    IdleFor(Duration),
}

impl Owner {
    /// The owner of a provider, not running yet, and how it is reached.
    #[must_use]
    pub fn new(setup: Setup) -> (Self, Handle) {
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let gate = Gate::open();
        let config = &setup.config;
        let handle = Handle {
            name: config.name.clone(),
            gate: gate.clone(),
            mailbox: sender,
        };
        let models = match &config.models {
            Some(models) => models.iter().map(|model| model.public.clone()).collect(),
            None => setup.memory.recall(&config.name),
        };
        let probe = Probe::new(setup.runner.client.clone(), config);
        let terms = Terms {
            groups: config.exclusive.clone(),
            min_awake: config.min_awake(),
            persistent: config.persistent,
            max_wait: config.max_group_wait,
        };
        let group = setup.groups.join(&config.name, terms);
        let turn = setup.groups.reports().join(&config.name, &config.exclusive);
        let max_per_day = config.wake.as_ref().and_then(|wake| wake.max_per_day);
        let id = ProviderId::new(setup.agent.clone(), config.name.clone());
        let allowance = setup.owner_policy.of(&id, max_per_day);
        let vacancy = Vacancy::open(&id, setup.state.clone().filter(|_| group.is_some()));
        let owner = Self {
            probe,
            gate,
            mailbox,
            belief: Belief::new(config.wake.is_some()),
            models,
            activity: Activity::Idle,
            allowance,
            group,
            turn,
            waits_to_report: false,
            vacancy,
            no_room: None,
            pending: None,
            rest_wanted: false,
            awaited: None,
            last_woken: None,
            awake_since: None,
            failed_sleeps: 0,
            no_sleep_before: None,
            broke_off: false,
            child: None,
            child_ended: false,
            asking: None,
            probing: None,
            discovering: None,
            next_probe: Instant::now(),
            slow_probe: false,
            seen: 0,
            unconfirmed: Vec::new(),
            refused: Vec::new(),
            setup,
        };
        (owner, handle)
    }

    /// Runs until `stop`, and then ends all recipes and the served backend.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => break,
                event = self.next() => event,
            };
            self.apply(event);
            self.go_on();
            self.ask();
            self.settle();
        }
        self.clear().await;
    }

    async fn next(&mut self) -> Event {
        let idle = self.activity.is_idle();
        let probe_due = idle && self.probing.is_none();
        let idle_limit = self.idle_limit();
        let room_kept = self.keeps_room_for_waiters();
        let turn = self.turn.as_mut().filter(|_| self.waits_to_report);
        let child = self.child.as_mut().filter(|_| !self.child_ended);
        tokio::select! {
            biased;
            // First, so that a backend which ended under a request is known to have: the request's word comes first.
            Some(input) = self.mailbox.recv() => Event::Input(input),
            answer = ready(self.asking.as_mut().map(|asking| &mut asking.answer)) => Event::Answer(answer),
            verdict = ready(self.probing.as_mut()) => Event::Probed(verdict),
            () = sleep_until(self.next_probe), if probe_due => Event::ProbeDue,
            models = ready(self.discovering.as_mut()) => Event::Discovered(models),
            advance = self.activity.next() => Event::Advance(advance),
            exit = exited(child) => Event::ChildEnded(exit),
            () = self.gate.arrived(), if room_kept => Event::Again,
            () = turn_changed(turn) => Event::Again,
            () = room_asked(self.group.as_mut()) => Event::RoomAsked,
            limit = idle_for(&self.gate, idle_limit) => Event::IdleFor(limit),
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.take(input),
            Event::Answer(answer) => self.answered(answer),
            Event::Probed(verdict) => self.probed(&verdict),
            Event::ProbeDue => self.start_probe(),
            Event::Discovered(found) => self.discovered(found),
            Event::Advance(advance) => self.advance(advance),
            Event::ChildEnded(exit) => {
                warn!(provider.name = %self.name(), "the backend of {} {exit}", self.name());
                self.child_ended = true;
                if let Activity::Sleeping { .. } = self.activity {
                    // Its sleep recipe may have meant that, and says how it went.
                    return;
                }
                let crashed = self.broke_off || self.gate.in_flight() > 0;
                self.belief.down(if crashed {
                    SleepReason::Crashed
                } else {
                    SleepReason::Exited
                });
            }
            Event::RoomAsked => self.room_asked(),
            Event::Again => {}
            Event::IdleFor(limit) => {
                if self.kept_warm().is_none() && self.gate.close_if_idle(limit) {
                    self.begin_sleep(SleepReason::Idle.into());
                }
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Wake(wake) => self.wake(&wake),
            Input::Sleep(reply) => {
                // Whoever ordered it may have gone; it is done all the same.
                let _ = reply.send(self.sleep_ordered());
            }
            Input::Rest(wanted) => self.rest_wanted = wanted,
            Input::Resume => self.belief.inactive(),
            Input::Reconnected => {
                self.seen = 0;
                self.belief.unregistered();
            }
            Input::Suspect => {
                self.broke_off = true;
                self.start_probe();
            }
            // Settled when it sleeps, or doesn't.
            Input::Refused(reply) if self.activity.is_leaving() => wait(&mut self.unconfirmed, reply),
            Input::Refused(reply) if self.belief.is_up() => {
                if self.unconfirmed.is_empty() {
                    self.start_probe();
                }
                wait(&mut self.unconfirmed, reply);
            }
            Input::Refused(reply) => wait(&mut self.refused, reply),
        }
    }

    fn name(&self) -> &ProviderName {
        &self.setup.config.name
    }

    // ── Probes ──

    fn start_probe(&mut self) {
        if self.activity.is_idle() {
            self.probing = Some(self.check());
        }
    }

    fn check(&self) -> BoxFuture<'static, Verdict> {
        let (probe, anew) = (self.probe.clone(), !self.belief.is_up());
        async move {
            if anew {
                probe.check_and_verify().await
            } else {
                probe.check().await
            }
        }
        .boxed()
    }

    fn probed(&mut self, verdict: &Verdict) {
        self.probing = None;
        self.next_probe = Instant::now() + self.setup.config.probe.interval;
        let was_up = self.belief.is_up();
        self.found(verdict);
        self.refused.append(&mut self.unconfirmed);
        if self.belief.is_up() && (!was_up || self.models.is_empty()) {
            self.discover();
        }
    }

    /// Takes note of what a probe found.
    fn found(&mut self, verdict: &Verdict) {
        let was = self.belief.availability();
        self.slow_probe = matches!(verdict, Verdict::Unavailable(why) if !why.asleep && !why.refused);
        self.belief
            .probed(verdict, self.gate.in_flight() > 0, self.broke_off);
        self.look_for_room(verdict);
        if *verdict == Verdict::Available {
            self.broke_off = false;
        }
        if was != self.belief.availability() {
            match verdict {
                Verdict::Available => info!(provider.name = %self.name(), "{} is available", self.name()),
                Verdict::Unavailable(why) => {
                    info!(provider.name = %self.name(), "{} is not available: {}", self.name(), why.reason);
                }
            }
        }
    }

    fn discover(&mut self) {
        if self.setup.config.models.is_none() && self.discovering.is_none() {
            let client = self.setup.runner.client.clone();
            self.discovering = Some(models::discover(client, self.setup.config.clone()).boxed());
        }
    }

    fn discovered(&mut self, found: Option<Vec<ModelName>>) {
        self.discovering = None;
        let Some(models) = found.filter(|models| *models != self.models) else {
            return;
        };
        info!(provider.name = %self.name(), provider.models = models.len(), "{} lists other models", self.name());
        if let Err(error) = self.setup.memory.remember(self.name(), &models) {
            warn!(provider.name = %self.name(), %error, "can't remember the models of {}", self.name());
        }
        self.models = models;
        self.belief.unregistered();
    }

    // ── Control ──

    /// Asks control for the next thing that it is to know, unless it is being asked or an older event of its groups
    /// is to be reported first.
    fn ask(&mut self) {
        let first = self.note_unreported();
        self.waits_to_report = !first && self.asking.is_none();
        let undecided = self.models.is_empty() && self.discovering.is_some();
        if self.asking.is_some() || undecided || !first {
            return;
        }
        let Some(epoch) = self.setup.epoch.get() else {
            return;
        };
        let happened = self.belief.unreported();
        let Some(ask) = self.belief.next_ask(epoch) else {
            return;
        };
        let Some(request) = self.request(epoch, &ask) else {
            // Nothing of it is published, so nobody waits for it.
            self.belief.refused(&ask);
            self.note_unreported();
            return;
        };
        let answer = self.setup.hub.ask(request);
        self.asking = Some(Asking {
            ask,
            happened,
            answer,
        });
    }

    /// Lets the members of its groups know since when it has something to report. Whether nothing of theirs is older.
    fn note_unreported(&mut self) -> bool {
        let unreported = match &self.asking {
            Some(asking) => asking.happened,
            None => self.belief.unreported(),
        };
        self.turn.as_mut().is_none_or(|turn| turn.note(unreported))
    }

    fn request(&self, epoch: Epoch, ask: &Ask) -> Option<ControlRequest> {
        let provider = self.name().clone();
        Some(match ask.clone() {
            Ask::Register(seq, availability) => ControlRequest::Register {
                epoch,
                provider,
                seq,
                spec: self.spec()?,
                availability: Some(availability),
            },
            Ask::Resume(id, availability) => ControlRequest::Resume {
                provider,
                id,
                availability,
            },
            Ask::Report(id, report) => ControlRequest::Report { provider, id, report },
        })
    }

    /// Whether the journal has it asleep, whatever is still on its way there.
    fn is_recorded_asleep(&self) -> bool {
        self.asking.is_none() && self.belief.is_recorded_asleep()
    }

    fn spec(&self) -> Option<ProviderSpec> {
        let config = &self.setup.config;
        ProviderSpec::new(self.models.clone(), config.wake_spec(), config.sleep.is_some())
            .and_then(|spec| spec.in_groups(config.exclusive.clone()))
            .map_err(
                |error| error!(provider.name = %config.name, %error, "{} can't be published", config.name),
            )
            .ok()
    }

    fn answered(&mut self, answer: ControlAnswer) {
        let Some(Asking { ask, happened, .. }) = self.asking.take() else {
            return;
        };
        let name = self.name();
        match answer {
            ControlAnswer::Done {
                status,
                sequence,
                last_seq,
                wake,
                awaited,
            } => {
                if let (Ask::Register(..), Some(status)) = (&ask, status) {
                    info!(provider.name = %name, "{name} is published and {status}");
                }
                // A wake that was heard of since is newer than the answer.
                let late = sequence < self.seen;
                let status = if late { self.belief.status() } else { status };
                self.belief.done(&ask, status, last_seq);
                // A wake message that was sent before this may still be on its way, or come from a replica that is late.
                self.seen = self.seen.max(sequence);
                match wake {
                    Some(wake) => self.wake(&wake),
                    None if late => {}
                    None => self.leave_queue(),
                }
                if awaited && self.belief.is_up() {
                    // The wake of an earlier session, which ended with this registration.
                    self.gate.expect(Instant::now() + EXPECTED_WITHIN);
                }
            }
            ControlAnswer::Refused { refusal } => match refusal {
                ControlError::Superseded { current } => {
                    self.belief.refused(&ask);
                    self.setup.superseded.send_replace(Some(current));
                }
                ControlError::RegisterFirst => self.belief.unregistered(),
                ControlError::ResumeFirst => self.belief.inactive(),
                ControlError::Unreadable { reason } => self.ask_later(ask, happened, &reason),
                ControlError::Invalid { reason } | ControlError::Unavailable { reason } => {
                    error!(provider.name = %name, "control refuses what it is told of {name}: {reason}");
                    self.belief.refused(&ask);
                }
            },
            ControlAnswer::Connected { .. } | ControlAnswer::Stopped => {
                error!(provider.name = %name, "control's answer about {name} makes no sense");
                self.belief.refused(&ask);
            }
        }
    }

    /// Asks the same again after a pause: another replica may take it. The members of its groups don't wait for it
    /// any longer, nor do they get its room.
    fn ask_later(&mut self, ask: Ask, happened: Option<Happened>, reason: &str) {
        let name = self.name();
        let Some(request) = self.setup.epoch.get().and_then(|epoch| self.request(epoch, &ask)) else {
            return self.belief.refused(&ask);
        };
        if happened.is_some() {
            warn!(provider.name = %name, "control can't read what the journal has of {name}: {reason}");
        }
        let hub = self.setup.hub.clone();
        self.asking = Some(Asking {
            ask,
            happened: None,
            answer: async move {
                sleep(UNREADABLE_PAUSE).await;
                hub.ask(request).await
            }
            .boxed(),
        });
    }

    /// Makes known what follows from what is known now: who may pass, who has the group's room, and what it means for the
    /// requests that found no backend.
    fn settle(&mut self) {
        let leaving = self.activity.is_leaving();
        self.gate
            .set(self.belief.availability(), self.belief.is_open() && !leaving);
        self.awake_since = self
            .belief
            .is_up()
            .then(|| self.awake_since.unwrap_or_else(Instant::now));
        self.settle_group();
        if !leaving && self.probing.is_none() {
            self.refused.append(&mut self.unconfirmed);
        }
        if self.refused.is_empty() || leaving || self.asking.is_some() {
            return;
        }
        let epoch = self.setup.epoch.get().unwrap_or_default();
        if let Ok(report) = self.belief.asleep(epoch) {
            for reply in self.refused.drain(..) {
                // A request whose client has left doesn't wait any more.
                let _ = reply.send(report);
            }
        }
    }

    async fn clear(mut self) {
        self.end_what_runs().await;
    }
}

/// One more waits. Those who have given up go: they may ask again for as long as this takes.
fn wait(waiting: &mut Vec<oneshot::Sender<Option<ReportId>>>, reply: oneshot::Sender<Option<ReportId>>) {
    waiting.retain(|reply| !reply.is_closed());
    waiting.push(reply);
}

/// The future's result; never when there is none.
async fn ready<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn exited(child: Option<&mut Child>) -> Exit {
    match child {
        Some(child) => child.exited().await,
        None => std::future::pending().await,
    }
}

async fn turn_changed(turn: Option<&mut ReportTurn>) {
    match turn {
        Some(turn) => turn.changed().await,
        None => std::future::pending().await,
    }
}

async fn room_asked(group: Option<&mut Membership>) {
    match group {
        Some(group) => group.asked().await,
        None => std::future::pending().await,
    }
}

/// Waits until nobody has been at the gate for as long as the limit says, and until the time before which that means
/// nothing; forever without a limit.
async fn idle_for(gate: &Gate, limit: Option<(Duration, Instant)>) -> Duration {
    let Some((limit, not_before)) = limit else {
        return std::future::pending().await;
    };
    gate.idle_for(limit, not_before).await;
    limit
}
