//! How a recipe's run went: its stages with their times, and the failure that ended it.

use crate::{
    child::{Hint, NotStarted},
    config::millis,
};
use reveille_domain::{MODELS_STAGE, Stage, WakeFailure, WakeFailureKind, WakeOutcome};
use tokio::time::Instant;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The stages that ran, in order.
    pub stages: Vec<Stage>,
    /// What failed, if anything did.
    pub failure: Option<WakeFailure>,
}

impl Outcome {
    /// The outcome of a run that never began.
    #[must_use]
    pub const fn of(failure: WakeFailure) -> Self {
        Self {
            stages: vec![],
            failure: Some(failure),
        }
    }

    /// The same outcome with an earlier wait as its first stage.
    #[must_use]
    pub fn after(mut self, waited: Option<Stage>) -> Self {
        let Some(waited) = waited else { return self };
        for stage in &mut self.stages {
            stage.started_after_ms = stage.started_after_ms.saturating_add(waited.took_ms);
        }
        self.stages.insert(0, waited);
        self
    }
}

impl From<Outcome> for WakeOutcome {
    fn from(outcome: Outcome) -> Self {
        let stages = outcome.stages;
        match outcome.failure {
            None => Self::Succeeded { stages },
            Some(failure) => Self::Failed { failure, stages },
        }
    }
}

/// Why a stage failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) kind: WakeFailureKind,
    pub(super) reason: String,
    /// The stage's name, if this failure has one of its own.
    pub(super) stage: Option<&'static str>,
    /// What to do about it, for the owner of this machine.
    pub(super) hint: Option<Hint>,
}

impl Failed {
    pub(super) const fn unavailable(reason: String) -> Self {
        Self {
            kind: WakeFailureKind::Unavailable,
            reason,
            stage: None,
            hint: None,
        }
    }

    /// The backend is up, but it isn't the provider's: waiting longer wouldn't help.
    pub(super) fn of_models(reason: String) -> Self {
        Self {
            stage: Some(MODELS_STAGE),
            ..Self::from(reason)
        }
    }

    /// A command that failed as `reason` says, with what the hint may say to everybody.
    pub(super) fn hinted(reason: String, hint: Option<Hint>) -> Self {
        let reason = match &hint {
            Some(hint) => format!("{reason}; {}", hint.public()),
            None => reason,
        };
        Self {
            hint,
            ..Self::from(reason)
        }
    }

    /// The same, as the failure of a part.
    pub(super) fn of(self, part: &str) -> Self {
        Self {
            reason: format!("{part}: {}", self.reason),
            ..self
        }
    }
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self {
            kind: WakeFailureKind::Recipe,
            reason,
            stage: None,
            hint: None,
        }
    }
}

impl From<NotStarted> for Failed {
    fn from(NotStarted { reason, hint }: NotStarted) -> Self {
        Self {
            hint,
            ..Self::from(reason)
        }
    }
}

/// Measures the stages of a run.
#[derive(Debug)]
pub(super) struct Timeline {
    began: Instant,
    pub(super) stages: Vec<Stage>,
    /// What to do about the stage that failed.
    pub(super) hint: Option<Hint>,
}

impl Timeline {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
            stages: Vec::new(),
            hint: None,
        }
    }

    /// Runs a stage and records its time, whether or not it succeeds.
    pub(super) async fn stage<E: Into<Failed>>(
        &mut self,
        name: &str,
        stage: impl Future<Output = Result<(), E>>,
    ) -> Result<(), WakeFailure> {
        let started = self.began.elapsed();
        let result = stage.await.map_err(Into::<Failed>::into);
        let took = self.began.elapsed().saturating_sub(started);
        let own_name = result.as_ref().err().and_then(|failed| failed.stage);
        let name = own_name.unwrap_or(name);
        self.stages.push(Stage {
            name: name.to_owned(),
            started_after_ms: millis(started),
            took_ms: millis(took),
        });
        result.map_err(|failed| {
            let Failed {
                kind, reason, hint, ..
            } = failed;
            self.hint = hint;
            WakeFailure::new(kind, name, &reason)
        })
    }
}
