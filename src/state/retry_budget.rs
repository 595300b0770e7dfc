//! The retry budget, shared by all workers.

use super::Clock;
use crate::{lock::Lock, policy::retry::Budget};

/// `policy::retry`'s budget behind a short lock, with a clock.
pub struct RetryBudget {
    clock: Clock,
    budget: Lock<Budget>,
}

impl RetryBudget {
    /// A budget without requests.
    pub fn new(clock: Clock) -> Self {
        RetryBudget {
            clock,
            budget: Lock::default(),
        }
    }

    /// Counts a request.
    pub fn request(&self) {
        self.budget.lock().request(self.clock.now());
    }

    /// Counts a retry if the budget allows it; `ratio` is the retries allowed per request.
    pub fn try_retry(&self, ratio: f64) -> bool {
        self.budget.lock().try_retry(ratio, self.clock.now())
    }
}
