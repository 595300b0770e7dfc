//! Permission to send one attempt.

use std::{sync::Arc, time::Duration};

use super::group::{End, Group};
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

    /// The answer says to wait this long. For when the attempt cannot be settled yet; see `Ledger::refused`.
    pub(crate) fn refused(&mut self, throttled: bool, time: Duration) {
        self.refused = true;
        self.group.refused(self.kind.operation, throttled, time);
    }

    pub(crate) fn settle(mut self, settlement: Settlement) {
        self.end(settlement, None);
    }

    /// DevRev has answered this caller's attempt.
    pub(crate) fn answered(mut self, caller: &Arc<str>, settlement: Settlement) {
        self.end(settlement, Some(caller));
    }

    fn end(&mut self, settlement: Settlement, answered: Option<&Arc<str>>) {
        if let Some(grant) = self.grant.take() {
            let end = End {
                kind: self.kind,
                settlement,
                answered,
                again: self.refused,
            };
            self.group.settle(grant, end, &self.rules);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let settlement = if self.sent {
            Settlement::InDoubt
        } else {
            Settlement::Unsent
        };
        self.end(settlement, None);
    }
}
