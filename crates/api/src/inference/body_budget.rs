//! The memory for held request bodies in this process. Requests wait for minutes: without a limit, large prompts for a
//! sleeping backend would fill the machine.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A limit on the bytes of all held bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BodyBudget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// One body's share; given back when dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    budget: BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            used: Arc::default(),
            limit,
        }
    }

    /// A share of nothing yet.
    pub fn hold(&self) -> HeldBytes {
        HeldBytes {
            budget: self.clone(),
            bytes: 0,
        }
    }

    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl HeldBytes {
    /// Takes `more` bytes; the error is the limit that they would exceed.
    pub fn add(&mut self, more: usize) -> Result<(), usize> {
        let limit = self.budget.limit;
        let fits = |used: usize| used.checked_add(more).filter(|sum| *sum <= limit);
        let taken = self
            .budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map_err(|_| limit)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_never_gives_more_than_its_limit_and_gets_everything_back() {
        let budget = BodyBudget::new(100);
        let mut first = budget.hold();
        assert_eq!(first.add(60), Ok(()));
        let mut second = budget.hold();
        assert_eq!(second.add(41), Err(100));
        assert_eq!(second.add(40), Ok(()));
        drop(first);
        assert_eq!(budget.used(), 40);
        assert_eq!(second.add(usize::MAX), Err(100));
        drop(second);
        assert_eq!(budget.used(), 0);
    }
}
