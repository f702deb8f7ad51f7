//! The rules by example: given these events, when a command comes, then these events or this refusal.

mod backoff;
mod fixtures;
mod handle;
mod inactive;
mod register;
mod report;
mod transition_table;
mod wake;

use fixtures::*;

use super::{Provider, ProviderCommand, ProviderEvent, RegisteredAs, Rejection, StableStatus, Status};
use crate::{
    Availability, Epoch, Failures, ModelName, ProviderId, ProviderSpec, RecipeKind, ReportId, ReportSeq,
    SleepReason, Stage, Timestamp, Wake, WakeCause, WakeFailure, WakeFailureKind, WakeId, WakeOutcome,
    WakeSpec,
};
use std::time::Duration;
use uuid::Uuid;

/// The events so far, and the state that they were folded into step by step.
#[derive(Debug, Clone, Default)]
struct Given {
    events: Vec<ProviderEvent>,
    provider: Provider,
}

fn given(events: impl IntoIterator<Item = ProviderEvent>) -> Given {
    let mut given = Given::default();
    given.happened(events);
    given
}

impl Given {
    fn when(self, command: ProviderCommand) -> When {
        let decision = self.provider.decide(&command);
        When {
            given: self,
            command,
            decision,
        }
    }

    /// Moves the state on; it must equal the fold from the beginning, after both went through JSON.
    fn happened(&mut self, events: impl IntoIterator<Item = ProviderEvent>) {
        for event in events {
            self.provider = std::mem::take(&mut self.provider).evolve(&event);
            self.events.push(event);
        }
        let refolded = self.events.iter().fold(Provider::default(), |provider, event| {
            provider.evolve(&through_json(event))
        });
        assert_eq!(
            refolded, self.provider,
            "the fold of the events is the state: {:#?}",
            self.events
        );
        assert_eq!(
            through_json(&self.provider),
            self.provider,
            "the state reads back as written"
        );
    }

    fn status(&self) -> &Status {
        &self.provider.registered().expect("registered").status
    }
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).expect("serializes")).expect("deserializes")
}

struct When {
    given: Given,
    command: ProviderCommand,
    decision: Result<Vec<ProviderEvent>, Rejection>,
}

impl When {
    /// Exactly these events, on which the next command builds.
    #[track_caller]
    fn then(self, expected: impl IntoIterator<Item = ProviderEvent>) -> Given {
        let expected: Vec<_> = expected.into_iter().collect();
        let Self {
            mut given,
            command,
            decision,
        } = self;
        assert_eq!(
            decision,
            Ok(expected.clone()),
            "{command:#?} on {:#?}",
            given.provider
        );
        given.happened(expected);
        given
    }

    /// No event: it was so already, or no longer matters.
    #[track_caller]
    fn then_nothing(self) -> Given {
        self.then([])
    }

    #[track_caller]
    fn then_refused(self, rejection: &Rejection) -> Given {
        assert_eq!(
            self.decision.as_ref(),
            Err(rejection),
            "{:#?} on {:#?}",
            self.command,
            self.given.provider
        );
        self.given
    }
}

// Histories: in epoch 1, with (1, 0) as the last report unless noted.

/// Active since 0 by itself.
fn active() -> Given {
    given([registered(1, recipe(), RegisteredAs::Active, 0)])
}

/// Hibernating since 0.
fn hibernating() -> Given {
    given([registered(1, recipe(), RegisteredAs::Hibernating, 0)])
}

/// Wake 1 in flight since 10, deadline 75.
fn waking() -> Given {
    given([
        registered(1, recipe(), RegisteredAs::Hibernating, 0),
        requested(1, 10),
    ])
}

/// Active since 20 by wake 1; report (1, 1) was heard.
fn woken() -> Given {
    given([
        registered(1, recipe(), RegisteredAs::Hibernating, 0),
        requested(1, 10),
        succeeded(1, report(1, 1), 20),
    ])
}

/// Inactive since 40, its agent lost, active before.
fn inactive() -> Given {
    given([
        registered(1, recipe(), RegisteredAs::Active, 0),
        lost(1, StableStatus::Active, 5, 40),
    ])
}

/// Down since 0: its backend is unavailable, and it has no recipe.
fn down() -> Given {
    given([registered(1, no_recipe(), RegisteredAs::Down, 0)])
}

/// Gone since 40.
fn gone() -> Given {
    given([
        registered(1, recipe(), RegisteredAs::Active, 0),
        deregistered(1, 40),
    ])
}
