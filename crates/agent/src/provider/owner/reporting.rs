//! What the owner reports to control, and what follows from the answers.

use super::{Owner, recipes::ARRIVAL_LIMIT};
use crate::{
    hub::Superseded,
    provider::{happened::Happened, reported_state::Ask},
};
use futures::{FutureExt, future::BoxFuture};
use reveille_bus::control::{ControlAnswer, ControlError, ControlRequest, Report};
use reveille_domain::Epoch;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

/// How long to wait before asking again, after a replica of control couldn't read the provider.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(2);

/// The question that control is answering.
pub(super) struct Asking {
    pub(super) ask: Ask,
    /// When the reported event happened; `None` once the members of its groups no longer wait for this report.
    pub(super) happened: Option<Happened>,
    /// How many requests had passed the gate before.
    pub(super) entries: u64,
    pub(super) answer: BoxFuture<'static, ControlAnswer>,
}

impl Owner {
    /// Sends control the next report, unless it is still answering, or an older event of the provider's groups comes first.
    pub(super) fn ask(&mut self) {
        if self.withdraws() {
            self.note_unreported();
            return self.ask_withdrawal();
        }
        self.publish_refusal();
        let first = self.note_unreported();
        if self.asking.is_some() || self.listing.is_undecided() || !first {
            return;
        }
        let Some(epoch) = self.setup.epoch.get() else {
            return;
        };
        let happened = self.reported.unreported();
        let Some(ask) = self.reported.next_ask(epoch) else {
            return;
        };
        let Some(request) = self.request(epoch, &ask) else {
            // Nothing is published, so no report of its groups needs to wait.
            self.reported.refused(&ask);
            self.note_unreported();
            return;
        };
        let answer = self.setup.hub.ask(request);
        self.asking = Some(Asking {
            ask,
            happened,
            entries: self.gate.entries(),
            answer,
        });
    }

    /// Tells the members of its groups how old its oldest unreported event is. Returns whether none of theirs is older.
    fn note_unreported(&self) -> bool {
        let unreported = match &self.asking {
            _ if self.withdraws() => None,
            Some(asking) => asking.happened,
            None => self.reported.unreported(),
        };
        self.group.as_ref().is_none_or(|group| group.note(unreported))
    }

    pub(super) fn request(&mut self, epoch: Epoch, ask: &Ask) -> Option<ControlRequest> {
        let provider = self.name().clone();
        Some(match ask.clone() {
            Ask::Register(seq, availability) => ControlRequest::Register {
                epoch,
                provider,
                seq,
                spec: self.publish()?,
                availability: Some(availability),
            },
            Ask::Resume(id, availability) => ControlRequest::Resume {
                provider,
                id,
                availability,
            },
            Ask::Report(id, report) => ControlRequest::Report { provider, id, report },
            Ask::Withdraw => ControlRequest::Deregister { epoch, provider },
        })
    }

    /// Whether the journal has the backend asleep, and no report is on its way that may change that.
    pub(super) fn is_recorded_asleep(&self) -> bool {
        let asleep = self.reported.is_recorded_asleep() || self.is_recorded_as_hub();
        self.asking.is_none() && asleep
    }

    pub(super) fn answered(&mut self, answer: ControlAnswer) {
        let Some(Asking {
            ask,
            happened,
            entries,
            ..
        }) = self.asking.take()
        else {
            return;
        };
        if ask == Ask::Withdraw {
            return self.withdrawn(&answer);
        }
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
                // A wake may have come since, which is newer than the answer.
                let late = sequence < self.seen;
                let status = if late { self.reported.status() } else { status };
                self.reported.done(&ask, status, last_seq);
                // Older wake messages may still be on their way.
                self.seen = self.seen.max(sequence);
                match wake {
                    Some(wake) => self.wake(&wake),
                    None if late => {}
                    None => {
                        if let Some((wake, _)) = self.leave_queue() {
                            info!(provider.name = %self.name(), wake.id = %wake, "left the queue of the group: the wake has ended");
                        }
                    }
                }
                // Its own wakes say themselves whether requests wait.
                let own = matches!(ask, Ask::Report(_, Report::Wake { .. }));
                if awaited && !own && self.reported.is_up() {
                    let until = Instant::now() + ARRIVAL_LIMIT;
                    self.gate.expect_unless_entered(entries, until);
                }
            }
            ControlAnswer::Refused { refusal } => match refusal {
                // About the session before this one, which a restore of the journal has ended.
                ControlError::Superseded { current, .. } if self.setup.epoch.get() >= Some(current) => {
                    self.reported.unregistered();
                }
                ControlError::Superseded {
                    current,
                    restored,
                    revoked,
                } => {
                    self.reported.refused(&ask);
                    let superseded = Superseded {
                        current,
                        restored,
                        revoked,
                    };
                    self.setup.superseded.send_replace(Some(superseded));
                }
                ControlError::RegisterFirst => self.reported.unregistered(),
                ControlError::ResumeFirst => self.reported.inactive(),
                ControlError::Unreadable { reason } => self.ask_later(ask, happened, &reason),
                ControlError::Invalid { reason } | ControlError::Unavailable { reason } => {
                    error!(provider.name = %name, "control refuses a report about {name}: {reason}");
                    self.reported.refused(&ask);
                }
            },
            ControlAnswer::Connected { .. } | ControlAnswer::Stopped => {
                error!(provider.name = %name, "control's answer about {name} doesn't fit the question");
                self.reported.refused(&ask);
            }
        }
    }

    /// Asks again after a pause, since another replica may answer. The members of its groups no longer wait for this report,
    /// but don't get its room either.
    pub(super) fn ask_later(&mut self, ask: Ask, happened: Option<Happened>, reason: &str) {
        let name = self.name().clone();
        let Some(request) = self.setup.epoch.get().and_then(|epoch| self.request(epoch, &ask)) else {
            return self.reported.refused(&ask);
        };
        if happened.is_some() {
            warn!(provider.name = %name, "control can't read the journal's state of {name}: {reason}");
        }
        let hub = self.setup.hub.clone();
        self.asking = Some(Asking {
            ask,
            happened: None,
            entries: self.gate.entries(),
            answer: async move {
                sleep(UNREADABLE_PAUSE).await;
                hub.ask(request).await
            }
            .boxed(),
        });
    }

    /// Publishes the conclusions: opens or closes the gate, reports to the group, and answers requests that found no backend.
    pub(super) fn settle(&mut self) {
        let leaving = self.activity.is_leaving();
        self.gate
            .set(self.reported.availability(), self.reported.is_open() && !leaving);
        self.sleep.awake_since = self
            .reported
            .is_up()
            .then(|| self.sleep.awake_since.unwrap_or_else(Instant::now));
        self.settle_group();
        if !leaving && self.probing.is_none() {
            self.refused.append(&mut self.unconfirmed);
        }
        if self.refused.is_empty() || leaving || self.asking.is_some() {
            return;
        }
        if self.hub_itself.is_some() {
            // The gate tells them why.
            self.refused.clear();
            return;
        }
        let epoch = self.setup.epoch.get().unwrap_or_default();
        if let Ok(report) = self.reported.asleep(epoch) {
            for reply in self.refused.drain(..) {
                // The request may be gone.
                let _ = reply.send(report);
            }
        }
    }
}
