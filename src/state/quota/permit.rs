//! Leave to send one attempt.

use std::sync::Arc;

use super::group::Group;
use crate::{
    policy::ledger::{Grant, Settlement},
    types::QuotaRules,
};

/// Leave to send one attempt. Dropped before its end is told, it gives its unit back as far as that is known to be
/// right: none is gone before it was sent.
pub struct Permit {
    group: Arc<Group>,
    rules: QuotaRules,
    grant: Option<Grant>,
    sent: bool,
}

impl Permit {
    pub(super) fn new(group: Arc<Group>, rules: QuotaRules, grant: Grant) -> Permit {
        Permit {
            group,
            rules,
            grant: Some(grant),
            sent: false,
        }
    }

    /// From here on a unit may be gone.
    pub fn sent(&mut self) {
        self.sent = true;
    }

    pub fn settle(mut self, settlement: Settlement) {
        self.end(settlement);
    }

    fn end(&mut self, settlement: Settlement) {
        if let Some(grant) = self.grant.take() {
            self.group.settle(grant, settlement, &self.rules);
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
