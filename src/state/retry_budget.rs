//! The retry budget of all workers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Clock;
use crate::policy::retry::Budget;

/// `policy::retry`'s budget under a lock that is held for a few lines, with a clock.
pub struct RetryBudget {
    clock: Clock,
    budget: Mutex<Budget>,
}

impl RetryBudget {
    /// A fresh one.
    pub fn new(clock: Clock) -> Self {
        RetryBudget {
            clock,
            budget: Mutex::default(),
        }
    }

    /// Counts a request.
    pub fn request(&self) {
        self.budget().request(self.clock.now());
    }

    /// Counts a retry if there is room for it; `ratio` is the retries allowed per request.
    pub fn try_retry(&self, ratio: f64) -> bool {
        self.budget().try_retry(ratio, self.clock.now())
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
