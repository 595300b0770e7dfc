//! The retry budget, shared by all workers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Clock;
use crate::policy::retry::Budget;

/// `policy::retry`'s budget behind a short lock, with a clock.
pub struct RetryBudget {
    clock: Clock,
    budget: Mutex<Budget>,
}

impl RetryBudget {
    /// A budget without requests.
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

    /// Counts a retry if the budget allows it; `ratio` is the retries allowed per request.
    pub fn try_retry(&self, ratio: f64) -> bool {
        self.budget().try_retry(ratio, self.clock.now())
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
