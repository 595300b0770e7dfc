//! Permission to send one attempt.

use std::{sync::Arc, time::Duration};

use super::group::Group;
use crate::{
    policy::ledger::{AttemptKind, Grant, Settlement},
    types::QuotaRules,
};

/// Permission to send one attempt, and the reservation of its unit. Dropped without being settled, it returns the unit if the
/// attempt was never sent; otherwise the unit is in doubt.
pub(crate) struct Permit {
    group: Arc<Group>,
    kind: AttemptKind,
    rules: QuotaRules,
    grant: Option<Grant>,
    sent: bool,
    /// Whether its answer has been reported already.
    refused: bool,
}

impl Permit {
    pub(super) fn new(
        group: Arc<Group>,
        kind: AttemptKind,
        rules: QuotaRules,
        grant: Grant,
    ) -> Permit {
        Permit {
            group,
            kind,
            rules,
            grant: Some(grant),
            sent: false,
            refused: false,
        }
    }

    /// Marks the attempt as sent: from here on DevRev may count it.
    pub(crate) fn sent(&mut self) {
        self.sent = true;
    }

    /// DevRev has answered with 429. Counts it at once, since the attempt may be settled later.
    pub(crate) fn throttled(&self) {
        self.group.count_throttled();
    }

    /// The answer says to wait this long. For when the attempt cannot be settled yet; see `Ledger::refused`.
    pub(crate) fn refused(&mut self, throttled: bool, time: Duration) {
        self.refused = true;
        self.group.refused(self.kind.operation, throttled, time);
    }

    pub(crate) fn settle(mut self, settlement: Settlement) {
        self.end(settlement);
    }

    /// DevRev has answered this caller's attempt.
    pub(crate) fn answered(self, caller: &Arc<str>, settlement: Settlement) {
        let group = self.group.clone();
        self.settle(settlement);
        // After it, because this answer may have opened a window.
        group.count_use(caller);
    }

    fn end(&mut self, settlement: Settlement) {
        if let Some(grant) = self.grant.take() {
            let end = (self.kind, settlement);
            self.group.settle(grant, end, self.refused, &self.rules);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end(if self.sent {
            Settlement::InDoubt
        } else {
            Settlement::Unsent
        });
    }
}
