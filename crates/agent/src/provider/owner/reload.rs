//! How the owner takes up another config while it runs, and how it leaves when that takes another owner.

use super::{Owner, client_of, group_policy, reporting::Asking};
use crate::{
    config::ProviderConfig,
    hub::Superseded,
    probe::Probe,
    provider::{
        activity::Activity,
        handle::{Leave, Reloaded},
        reported_state::Ask,
    },
    recipe::Run,
};
use reveille_bus::control::{ControlAnswer, ControlError};
use reveille_domain::{ProviderId, SleepReason, provider::StatusName};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long requests may take to finish before their backend is stopped for another config. An answer of a large model may take
/// minutes, and nothing hurries.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// How far the owner has come in leaving.
#[derive(Debug)]
pub(super) struct Leaving {
    why: Leave,
    until: Instant,
    /// Control no longer has the provider.
    withdrawn: bool,
    /// Its backend is being stopped, was stopped, or could not be.
    stopping: bool,
}

impl Leaving {
    /// Whether the provider is still served while control forgets it.
    const fn is_published(&self) -> bool {
        matches!(self.why, Leave::Removed) && !self.withdrawn
    }
}

impl Owner {
    /// A reload has told something, or several have.
    pub(super) fn reloaded(&mut self) {
        let Reloaded { config, leave } = self.reloads.borrow_and_update().clone();
        if let Some(config) = config.filter(|config| *config != self.setup.config) {
            self.configure(config);
        }
        if let Some(why) = leave.filter(|_| !self.is_leaving()) {
            self.leave(why);
        }
    }

    // ── Another config ──

    /// Uses another config from now on. What its backend is and whom it shares with are the same; what runs goes on.
    fn configure(&mut self, config: ProviderConfig) {
        let max_per_day = |config: &ProviderConfig| config.wake.as_ref().and_then(|wake| wake.max_per_day);
        if max_per_day(&config) != max_per_day(&self.setup.config) {
            let id = ProviderId::new(self.setup.agent.clone(), config.name.clone());
            self.allowance = self.setup.owner_policy.of(&id, max_per_day(&config));
        }
        if let Some(group) = &self.group {
            group.set_policy(group_policy(&config));
        }
        self.client = client_of(&self.setup, &config);
        self.probe = Probe::new(self.client.clone(), &config);
        self.probing = None;
        self.next_probe = Instant::now();
        self.setup.config = config;
        self.reopen_listing();
        if self.suspicion.failed.is_some() {
            self.probe = self.probe.verified_by(self.completions());
        }
    }

    // ── Leaving ──

    /// Begins to leave: no wake begins, the requests inside finish, and then the backend is stopped as far as this agent can.
    fn leave(&mut self, why: Leave) {
        info!(provider.name = %self.name(), provider.in_flight = self.gate.in_flight(), "{} leaves", self.name());
        self.leaving = Some(Leaving {
            why,
            until: Instant::now() + DRAIN_LIMIT,
            withdrawn: false,
            stopping: false,
        });
    }

    pub(super) const fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Goes on with it. A served backend is stopped, and a member of groups sleeps, since others may use the room then.
    pub(super) fn go_on_leaving(&mut self) {
        let Some(leaving) = self.leaving.as_ref().filter(|leaving| !leaving.is_published()) else {
            return;
        };
        let (until, stopping) = (leaving.until, leaving.stopping);
        self.gate.close_for_good();
        match &self.activity {
            Activity::Checking { .. } => self.activity = Activity::Idle,
            Activity::Queued { .. } => {
                self.leave_queue();
            }
            // The next owner begins the wake again, with its own recipe.
            Activity::Waking { .. } => {
                let ended = self.end_what_runs();
                self.activity = Activity::Ending {
                    run: Run::ending(ended),
                };
            }
            Activity::Idle
            | Activity::Draining { .. }
            | Activity::Sleeping { .. }
            | Activity::Ending { .. } => {}
        }
        if !self.activity.is_idle() || !self.must_stop() || stopping && self.group.is_none() {
            return;
        }
        if let Some(not_before) = self
            .sleep
            .not_before
            .filter(|at| stopping && *at > Instant::now())
        {
            self.next_probe = self.next_probe.min(not_before);
            return;
        }
        self.drain(SleepReason::Operator.into(), until);
        if let Some(leaving) = &mut self.leaving {
            leaving.stopping = true;
        }
    }

    /// Whether it leaves, and its backend is being stopped for that, or could not be.
    pub(super) fn is_stopping(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.stopping)
    }

    /// Whether its backend still has to stop. A member of groups that could not be put to sleep keeps its room until it is
    /// known to sleep, since it may be on the GPU until then.
    fn is_in_the_way(&self) -> bool {
        let is_member = self.group.is_some();
        match self.is_stopping() {
            true => is_member && !self.resource.is_free(),
            false => self.must_stop() || is_member && self.reported.availability().is_none(),
        }
    }

    fn must_stop(&self) -> bool {
        let stops = self.child.is_some() || self.end_step().is_some() || self.group.is_some();
        stops && self.reported.is_up() && self.can_sleep().is_ok()
    }

    /// Whether nothing is left to do: what runs has ended, and control knows everything.
    pub(super) fn has_left(&self) -> bool {
        let Some(leaving) = &self.leaving else {
            return false;
        };
        let registered = !matches!(self.reported.status(), None | Some(StatusName::Inactive));
        let unreported = registered && self.reported.unreported().is_some();
        !leaving.is_published()
            && !self.is_in_the_way()
            && self.activity.is_idle()
            && self.asking.is_none()
            && (leaving.withdrawn || !unreported)
    }

    /// Whether control has forgotten the provider, or is about to: nothing else is reported then.
    pub(super) fn withdraws(&self) -> bool {
        let leaving = self.leaving.as_ref();
        leaving.is_some_and(|leaving| matches!(leaving.why, Leave::Removed))
    }

    /// Asks control to forget the provider, once it has answered what was asked before.
    pub(super) fn ask_withdrawal(&mut self) {
        let published = self.leaving.as_ref().is_some_and(Leaving::is_published);
        if !published || self.asking.is_some() {
            return;
        }
        let Some(request) = self
            .setup
            .epoch
            .get()
            .and_then(|epoch| self.request(epoch, &Ask::Withdraw))
        else {
            return;
        };
        self.asking = Some(Asking {
            ask: Ask::Withdraw,
            happened: None,
            entries: self.gate.entries(),
            answer: self.setup.hub.ask(request),
        });
    }

    pub(super) fn withdrawn(&mut self, answer: &ControlAnswer) {
        let name = self.name();
        match answer {
            ControlAnswer::Refused {
                refusal:
                    ControlError::Superseded {
                        current,
                        restored,
                        revoked,
                    },
            } => {
                let superseded = Superseded {
                    current: *current,
                    restored: *restored,
                    revoked: *revoked,
                };
                if self.setup.epoch.get() < Some(*current) {
                    self.setup.superseded.send_replace(Some(superseded));
                }
                // A session that goes on asks again, with its new epoch.
                return;
            }
            ControlAnswer::Refused { refusal } => {
                warn!(provider.name = %name, %refusal, "{name} could not be withdrawn");
            }
            ControlAnswer::Done { .. } | ControlAnswer::Connected { .. } | ControlAnswer::Stopped => {
                info!(provider.name = %name, "{name} is no longer published");
            }
        }
        self.reported.unregistered();
        if let Some(leaving) = &mut self.leaving {
            leaving.withdrawn = true;
        }
    }
}
