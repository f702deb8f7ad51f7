//! Whether a journal keeps every rule that docs/invariants.md publishes and that its commits can show.

use super::verify::{AnyStep, Breach, Checked, Fault, ParsedCommit, Step, Verifier};
use cqrs_es::Aggregate;
use reveille_domain::{
    ProviderEvent,
    audit::{Findings, HistoryAudit, Invariant, Violation},
};

/// The rules that every commit is checked against, whatever is in it.
const OF_EVERY_COMMIT: [Invariant; 6] = [
    Invariant::Sequence,
    Invariant::Readable,
    Invariant::Chain,
    Invariant::Numbers,
    Invariant::Fold,
    Invariant::Command,
];

/// A commit that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditBreach {
    /// The rule.
    pub invariant: Invariant,
    /// The commit at which it shows.
    pub sequence: u64,
    /// That commit's subject.
    pub subject: String,
    /// What is wrong, as a sentence without its full stop.
    pub what: String,
}

impl From<Breach> for AuditBreach {
    fn from(breach: Breach) -> Self {
        Self {
            invariant: breach.fault.invariant(),
            sequence: breach.sequence,
            subject: breach.subject,
            what: breach.fault.to_string(),
        }
    }
}

/// How much was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audited {
    /// Commits.
    pub commits: u64,
    /// Their events, as far as they can be read.
    pub events: u64,
    /// The wakes that began.
    pub wakes: u64,
}

/// Checks the commits of a journal in order and goes on behind each breach. It remembers the last state of each aggregate,
/// however long the journal is.
#[derive(Debug, Default)]
pub struct JournalAudit {
    verifier: Verifier,
    history: HistoryAudit,
    found: Findings,
    audited: Audited,
}

impl JournalAudit {
    /// Checks the next commit, and returns what is wrong with it.
    pub fn take(&mut self, mut parsed: ParsedCommit) -> Vec<AuditBreach> {
        let (sequence, subject) = (parsed.sequence(), std::mem::take(&mut parsed.subject));
        let Checked {
            misplaced,
            fault,
            step,
        } = self.verifier.check(parsed);
        self.audited.commits += 1;
        for invariant in OF_EVERY_COMMIT {
            let mut faults = misplaced.iter().chain(&fault);
            let broken = faults.find(|fault| fault.invariant() == invariant);
            self.found.apply(invariant, broken.is_none(), || {
                broken.map(Fault::to_string).unwrap_or_default()
            });
        }
        if let Some(step) = step {
            self.judge(step, sequence, fault.as_ref());
        }
        let breach = |violation: Violation| AuditBreach {
            invariant: violation.invariant,
            sequence,
            subject: subject.clone(),
            what: violation.what,
        };
        self.found.take().into_iter().map(breach).collect()
    }

    /// Checks the events against the history. What follows on a gap, or on a commit that can't be read, isn't judged:
    /// it would only repeat that breach in other words.
    fn judge(&mut self, step: AnyStep, sequence: u64, fault: Option<&Fault>) {
        let mut unjudged = Findings::default();
        let follows = matches!(
            fault,
            None | Some(Fault::State | Fault::Command | Fault::ForgottenCommand)
        );
        let judged = follows && has_before(&step);
        let found = if judged { &mut self.found } else { &mut unjudged };
        match step {
            AnyStep::Agent(name, Step { before, events }) => {
                self.audited.events += events.len() as u64;
                self.history
                    .agent(&name, &before.unwrap_or_default(), &events, found);
            }
            AnyStep::Provider(id, step) => {
                let Step { before, events } = *step;
                self.audited.events += events.len() as u64;
                let begun = events.iter().filter(|event| begins_a_wake(event)).count();
                self.audited.wakes += begun as u64;
                self.history
                    .provider(&id, &before.unwrap_or_default(), &events, sequence, found);
            }
            AnyStep::Key(id, Step { before, events }) => {
                self.audited.events += events.len() as u64;
                self.history.key(&id, &before.unwrap_or_default(), &events, found);
            }
        }
    }

    /// How much was checked so far.
    #[must_use]
    pub const fn audited(&self) -> Audited {
        self.audited
    }

    /// How often the rule was applied so far.
    #[must_use]
    pub const fn checks(&self, invariant: Invariant) -> u64 {
        self.found.checks(invariant)
    }

    /// The last state of each aggregate.
    #[must_use]
    pub const fn last_states(&self) -> &Verifier {
        &self.verifier
    }
}

fn has_before(step: &AnyStep) -> bool {
    const fn known<A: Aggregate>(step: &Step<A>) -> bool {
        step.before.is_some()
    }
    match step {
        AnyStep::Agent(_, step) => known(step),
        AnyStep::Provider(_, step) => known(step),
        AnyStep::Key(_, step) => known(step),
    }
}

const fn begins_a_wake(event: &ProviderEvent) -> bool {
    matches!(event, ProviderEvent::WakeRequested { .. })
}
