//! The owner's loop: [`Owner::next`] waits for the next event, [`Owner::apply`] draws the conclusions.

mod eviction;
mod hub_itself;
mod listing;
mod probing;
mod recipes;
mod reload;
mod reporting;
mod resource_hold;
mod sleep_state;
mod sleeping;
mod suspicion;

use super::{
    activity::{Activity, Advance},
    demand::Demand,
    gate::Gate,
    groups::{GroupPolicy, Groups, Membership},
    handle::{Handle, Input, Reloaded},
    health::Health,
    last_sleep::LastSleep,
    report_numbers::ReportNumbers,
    reported_state::ReportedState,
};
use crate::{
    backend_client::BackendClient,
    child::{Child, Exit},
    config::ProviderConfig,
    hub::{Hub, Superseded},
    models::{Listed, Memory},
    output::OutputFile,
    own_hub::OwnHub,
    owner_policy::{OwnerPolicy, WakeAllowance},
    probe::{Probe, Verdict},
    recipe::Runner,
    state_dir::StateDir,
};
use futures::{
    StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use listing::Listing;
use probing::Look;
use reload::Leaving;
use reporting::Asking;
use resource_hold::ResourceHold;
use reveille_bus::{HubId, control::ControlAnswer, relay::CurrentEpoch};
use reveille_domain::{AgentName, ProviderId, ProviderName, ReportId, SleepReason};
use sleep_state::SleepState;
use std::{sync::Arc, time::Duration};
use suspicion::Suspicion;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// What an owner works with.
#[derive(Clone)]
pub struct Setup {
    pub agent: AgentName,
    pub config: ProviderConfig,
    pub runner: Arc<Runner>,
    pub hub: Arc<dyn Hub>,
    /// The epoch of the agent's session.
    pub epoch: CurrentEpoch,
    /// The hub that control belongs to.
    pub own_hub: OwnHub,
    pub memory: Memory,
    pub groups: Groups,
    pub owner_policy: OwnerPolicy,
    pub state: Option<StateDir>,
    pub reports: ReportNumbers,
    /// Notified of what becomes of attempts to put a backend to sleep.
    pub sleep_changes: Arc<Notify>,
    /// Notified when control says that a later session has taken the agent's name.
    pub superseded: watch::Sender<Option<Superseded>>,
}

/// Everything known about one provider, and what is being done with it.
pub struct Owner {
    setup: Setup,
    /// The client of the backend.
    client: BackendClient,
    /// Notified when the agent's hub is another one.
    hub_changes: watch::Receiver<Option<HubId>>,
    /// Why the backend is the hub itself, if it is.
    hub_itself: Option<String>,
    /// Whether it was published as such.
    published_as_hub: bool,
    probe: Probe,
    gate: Gate,
    mailbox: mpsc::Receiver<Input>,
    reloads: watch::Receiver<Reloaded>,
    reported: ReportedState,
    listing: Listing,
    activity: Activity,
    demand: Demand,
    allowance: WakeAllowance,
    group: Option<Membership>,
    resource: ResourceHold,
    sleep: SleepState,
    health: Health,
    last_sleep: LastSleep,
    /// What still finds out why the backend can't sleep, and says so.
    explaining: FuturesUnordered<BoxFuture<'static, ()>>,
    suspicion: Suspicion,
    /// The served backend; kept until its descendants have ended too.
    child: Option<Child>,
    child_ended: bool,
    asking: Option<Asking>,
    probing: Option<Look>,
    /// Whether something has happened since that probe began.
    must_look_again: bool,
    next_probe: Instant,
    /// Whether the last probe had no clear answer, so that the next one may take its whole time-out too.
    slow_probe: bool,
    /// Whether the last probe couldn't even begin, because the agent has reached its limit of open files.
    unlooked: bool,
    /// The journal sequence of the provider's latest known commit. Older wakes are over.
    seen: u64,
    /// Requests that found no backend, waiting for a probe to confirm that, or for the report.
    unconfirmed: Vec<oneshot::Sender<Option<ReportId>>>,
    refused: Vec<oneshot::Sender<Option<ReportId>>>,
    leaving: Option<Leaving>,
}

enum Event {
    Input(Input),
    Reloaded,
    Answer(ControlAnswer),
    Probed(Verdict),
    ProbeDue,
    Listed(Option<Listed>),
    Advance(Advance),
    ChildEnded(Exit),
    /// Something else may be possible now.
    Recheck,
    /// The agent's hub is another one than before.
    HubChanged,
    IdleFor(Duration),
    /// Nobody wants the wake any longer that waits for its groups.
    NotNeeded,
}

impl Owner {
    /// An owner, which must be [run](Self::run), and the handle that reaches it.
    #[must_use]
    pub fn new(mut setup: Setup) -> (Self, Handle) {
        let id = ProviderId::new(setup.agent.clone(), setup.config.name.clone());
        if let Some(state) = &setup.state {
            setup.runner = Arc::new(setup.runner.keeping(OutputFile::of(state, &id)));
        }
        let gate = Gate::open();
        let config = &setup.config;
        let changes = setup.sleep_changes.clone();
        let (handle, mailbox, reloads) = Handle::new(config.name.clone(), gate.clone(), changes);
        let listing = Listing::open(&setup.memory, config);
        let client = client_of(&setup, config);
        let probe = Probe::new(client.clone(), config);
        let group = setup.groups.join(&config.name, group_policy(config));
        let max_per_day = config.wake.as_ref().and_then(|wake| wake.max_per_day);
        let allowance = setup.owner_policy.of(&id, max_per_day);
        let resource = ResourceHold::open(&id, setup.state.clone().filter(|_| group.is_some()));
        let owner = Self {
            client,
            hub_changes: setup.own_hub.subscribe(),
            hub_itself: None,
            published_as_hub: false,
            probe,
            gate,
            mailbox,
            reloads,
            reported: ReportedState::new(config.wake.is_some()).numbered_after(setup.reports.last()),
            listing,
            activity: Activity::Idle,
            demand: Demand::default(),
            allowance,
            group,
            resource,
            sleep: SleepState::default(),
            health: handle.health.clone(),
            last_sleep: handle.last_sleep.clone(),
            explaining: FuturesUnordered::new(),
            suspicion: Suspicion::default(),
            child: None,
            child_ended: false,
            asking: None,
            probing: None,
            must_look_again: false,
            next_probe: Instant::now(),
            slow_probe: false,
            unlooked: false,
            seen: 0,
            unconfirmed: Vec::new(),
            refused: Vec::new(),
            leaving: None,
            setup,
        };
        (owner, handle)
    }

    /// Runs until `stop`, or until it has left, and then ends all recipes and the served backend. While its membership
    /// is kept, others of its groups don't get its room, unless its backend is known to sleep.
    pub async fn run(mut self, stop: CancellationToken) -> Option<Membership> {
        while !self.has_left() {
            let event = tokio::select! {
                () = stop.cancelled() => break,
                event = self.next() => event,
            };
            self.apply(event);
            self.go_on();
            self.ask();
            self.settle();
        }
        self.setup.memory.release(&self.setup.config.name);
        self.end_what_runs().await;
        self.setup.reports.raise(self.reported.last_number());
        self.group
    }

    async fn next(&mut self) -> Event {
        let idle = self.activity.is_idle();
        let probe_due = idle && self.probing.is_none();
        let idle_limit = self.idle_limit();
        let unwanted = self.end_of_demand().map(sleep_until);
        let keeps_room = self.keeps_room_for_arrivals();
        let idle_for = idle_limit.map(|(limit, not_before)| self.gate.idle_for(limit, not_before));
        let answer = self.asking.as_mut().map(|asking| &mut asking.answer);
        let child = self.child.as_mut().filter(|_| !self.child_ended);
        let group = self.group.as_mut();
        tokio::select! {
            biased;
            // First: if a backend ends during a request, the request's report about that must come before the end.
            Some(input) = self.mailbox.recv() => Event::Input(input),
            Ok(()) = self.reloads.changed() => Event::Reloaded,
            Some(answer) = OptionFuture::from(answer) => Event::Answer(answer),
            Some(verdict) = OptionFuture::from(self.probing.as_mut().map(|look| &mut look.verdict)) => Event::Probed(verdict),
            () = sleep_until(self.next_probe), if probe_due => Event::ProbeDue,
            Some(found) = OptionFuture::from(self.listing.under_way()) => Event::Listed(found),
            advance = self.activity.next() => Event::Advance(advance),
            Some(exit) = OptionFuture::from(child.map(Child::exited)) => Event::ChildEnded(exit),
            () = self.gate.arrived(), if keeps_room => Event::Recheck,
            Some(()) = OptionFuture::from(group.map(Membership::changed)) => Event::Recheck,
            Ok(()) = self.hub_changes.changed() => Event::HubChanged,
            Some(()) = self.explaining.next() => Event::Recheck,
            Some(limit) = OptionFuture::from(idle_for) => Event::IdleFor(limit),
            Some(()) = OptionFuture::from(unwanted) => Event::NotNeeded,
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.take(input),
            Event::Reloaded => self.reloaded(),
            Event::Answer(answer) => self.answered(answer),
            Event::Probed(verdict) => self.probed(verdict),
            Event::ProbeDue => self.start_probe(),
            Event::Listed(found) => self.listed(found),
            Event::Advance(advance) => self.advance(advance),
            Event::ChildEnded(exit) => {
                warn!(provider.name = %self.name(), "the backend of {} {exit}", self.name());
                self.child_ended = true;
                if let Activity::Sleeping { .. } = self.activity {
                    // The sleep recipe may have ended it, and reports the outcome.
                    return;
                }
                if let Some(child) = &self.child {
                    self.log_printed(child.printed(), child.hint(false).as_ref());
                }
                let crashed = self.suspicion.broke_off || self.gate.in_flight() > 0;
                self.reported.down(if crashed {
                    SleepReason::Crashed
                } else {
                    SleepReason::Exited
                });
            }
            Event::Recheck => {}
            Event::HubChanged => self.look_again(),
            Event::IdleFor(limit) => {
                if self.kept_warm().is_none() && self.gate.close_if_idle(limit) {
                    self.begin_sleep(SleepReason::Idle.into());
                }
            }
            // What a replica says may just not arrive.
            Event::NotNeeded if !self.setup.hub.is_connected() && self.demand.outlast(Instant::now()) => {}
            Event::NotNeeded => self.withdraw_wake(),
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Wake(wake) => self.wake(&wake),
            Input::Sleep(reply) => self.sleep_ordered(reply),
            Input::Rest(attempt) => self.rest_ordered(attempt),
            Input::Resume => self.reported.inactive(),
            Input::Reconnected => {
                self.seen = 0;
                self.demand.outlast(Instant::now());
                self.reported.register_again();
            }
            Input::Suspect(symptom) => self.suspect(symptom),
            // The request learns from the gate that the owner leaves.
            Input::Refused(_) if self.gate.is_closed_for_good() => {}
            // Answered when it sleeps, or stays awake.
            Input::Refused(reply) if self.activity.is_leaving() => wait(&mut self.unconfirmed, reply),
            Input::Refused(reply) if self.reported.is_up() => {
                if self.probing.is_none() {
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
}

fn group_policy(config: &ProviderConfig) -> GroupPolicy {
    GroupPolicy {
        groups: config.exclusive.clone(),
        min_awake: config.min_awake(),
        persistent: config.persistent,
        max_wait: config.max_group_wait,
    }
}

/// The client of a provider's backend. Says so if that verifies nothing.
fn client_of(setup: &Setup, config: &ProviderConfig) -> BackendClient {
    let runner = &setup.runner;
    if config.trust.skip_verify {
        warn!(
            provider.name = %config.name,
            "the certificate of {} is NOT verified (`insecure_skip_verify`): whoever is on the way to {} can read and change \
             every request and answer, and gets its key",
            config.name, config.base_url
        );
    }
    let client = runner.client_for(&config.trust, config.base_url.socket());
    let client = client.unwrap_or_else(|error| {
        // The relay can't be set up either then, so no owner runs with this client.
        error!(provider.name = %config.name, %error, "can't set up the HTTP client of {}", config.name);
        runner.client.clone()
    });
    BackendClient::new(client, setup.own_hub.clone())
}

/// Adds a waiting request, and drops those that have given up: they may ask repeatedly.
fn wait(waiting: &mut Vec<oneshot::Sender<Option<ReportId>>>, reply: oneshot::Sender<Option<ReportId>>) {
    waiting.retain(|reply| !reply.is_closed());
    waiting.push(reply);
}
