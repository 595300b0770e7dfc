//! How long an attempt will wait.

use std::time::Duration;

use super::{Ledger, LedgerRules, Standing, window::spread_time};
use crate::policy::operation::OperationId;

impl Ledger {
    /// Changes with what [`Self::predict_wait`] goes by, where that may have become worse: a window has been learnt, units are taken
    /// outside revgate, a pause has begun or become longer, or there are other rules. What attempts take is not such a change, because
    /// it was expected.
    pub fn basis(&self) -> u64 {
        self.basis
    }

    /// There are other rules.
    pub fn rules_changed(&mut self) {
        self.basis += 1;
    }

    /// The expected wait of an attempt of this operation, or of any that is not paused, with this standing, that comes after `ahead`
    /// others. Zero if it depends on the answers of attempts in flight.
    pub fn predict_wait(
        &self,
        operation: Option<OperationId>,
        (standing, ahead): (Standing, u64),
        rules: &LedgerRules,
        now: Duration,
    ) -> Duration {
        let own = self.paused_operation(now);
        let own = own.filter(|(id, _)| Some(*id) == operation);
        let own = own.map_or(now, |(_, until)| until);
        let at = self.paused_until(now).unwrap_or(now).max(own);
        let at = match (&self.window, &self.last_report) {
            (Some(window), _) if window.ends > at => window
                .when_available(rules, self.outside(), (standing, ahead), now)
                .max(at),
            // Another window will have begun by then. It is assumed to be like the last.
            (_, Some(last)) => {
                let wanted = ahead as f64 + 1.0;
                when_in_later_windows(rules, (last.limit, last.length), (standing, wanted), at)
            }
            (_, None) => at,
        };
        at.saturating_sub(now)
    }
}

/// When the `wanted`th unit is available in a series of windows that starts at `at`, all with this limit and length.
pub(super) fn when_in_later_windows(
    rules: &LedgerRules,
    (limit, length): (u64, Duration),
    (standing, wanted): (Standing, f64),
    at: Duration,
) -> Duration {
    let grantable = (limit as f64 - rules.reserved(limit)).max(1.0);
    let windows = ((wanted - 1.0) / grantable).floor().max(0.0);
    let within = wanted - windows * grantable;
    let first_come = match standing {
        Standing::Interactive => rules.spread_above * limit as f64,
        Standing::Aged | Standing::Batch => 0.0,
    };
    let free = first_come + 1.0;
    let spread = ((within - free) / (grantable - free).max(1.0)).clamp(0.0, 1.0);
    let spread = spread * spread_time(length).as_secs_f64();
    let after = Duration::try_from_secs_f64(length.as_secs_f64() * windows + spread);
    at.saturating_add(after.unwrap_or(Duration::MAX))
}
