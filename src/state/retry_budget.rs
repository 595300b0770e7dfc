//! The retry budgets of all callers, shared by all workers.

use std::sync::Arc;

use super::Clock;
use crate::{
    lock::Lock,
    policy::retry::{Budgets, MAX_BUDGETS},
    types::{Caller, other},
};

/// `policy::retry`'s budgets behind a short lock, with a clock.
pub struct RetryBudget {
    clock: Clock,
    budgets: Lock<Budgets<BudgetKey>>,
}

/// Group and caller. In mode "validate" all callers have one name, and each user has a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BudgetKey(Arc<str>, Arc<str>);

impl BudgetKey {
    /// The budget of this caller.
    pub fn of(caller: &Caller) -> BudgetKey {
        BudgetKey(caller.group.clone(), caller.share.caller.clone())
    }

    /// The one budget of all requests whose user is not known yet.
    pub fn of_unknown() -> BudgetKey {
        BudgetKey(other(), other())
    }
}

impl RetryBudget {
    /// Budgets without requests.
    pub fn new(clock: Clock) -> Self {
        RetryBudget {
            clock,
            budgets: Lock::new(Budgets::new(MAX_BUDGETS)),
        }
    }

    /// Counts a request.
    pub fn request(&self, key: &BudgetKey) {
        self.budgets.lock().request(key, self.clock.now());
    }

    /// Counts a retry if the budget allows it; `ratio` is the retries allowed per request.
    pub fn try_retry(&self, key: &BudgetKey, ratio: f64) -> bool {
        let now = self.clock.now();
        self.budgets.lock().try_retry(key, ratio, now)
    }
}
