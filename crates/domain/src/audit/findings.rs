//! What an audit has found so far.

use super::invariant::Invariant;

/// A rule that an event breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub invariant: Invariant,
    /// How it is broken, as a sentence without its full stop.
    pub what: String,
}

/// The violations found, and how often each rule was applied.
#[derive(Debug, Default)]
pub struct Findings {
    checks: [u64; Invariant::ALL.len()],
    violations: Vec<Violation>,
}

impl Findings {
    /// Applies a rule once. Unless it `holds`, `what` says how it is broken.
    pub fn apply(&mut self, invariant: Invariant, holds: bool, what: impl FnOnce() -> String) {
        self.checks[invariant as usize] += 1;
        if !holds {
            let what = what();
            self.violations.push(Violation { invariant, what });
        }
    }

    /// How often the rule was applied.
    #[must_use]
    pub const fn checks(&self, invariant: Invariant) -> u64 {
        self.checks[invariant as usize]
    }

    /// The violations since this was last asked.
    pub fn take(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }
}
