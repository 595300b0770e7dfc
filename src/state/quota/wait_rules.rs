//! Which rules hold a waiting request after a reload.

use std::time::Duration;

use crate::policy::{
    fair::Standing,
    ledger::{AttemptKind, Grant, Hold, Ledger, LedgerRules},
    operation::OperationId,
};

/// What lets a waiting request go: the rules of its own plan, or those of the latest if they differ. Otherwise a reload that
/// relaxes the rules would not help the requests that wait, nor those that come behind them.
#[derive(Clone, Copy)]
pub(super) struct WaitRules {
    own: LedgerRules,
    latest: Option<LedgerRules>,
}

impl WaitRules {
    pub(super) fn new(own: LedgerRules, latest: LedgerRules) -> WaitRules {
        let latest = Some(latest).filter(|latest| *latest != own);
        WaitRules { own, latest }
    }

    pub(super) fn grant(
        self,
        ledger: &mut Ledger,
        kind: AttemptKind,
        now: Duration,
    ) -> Result<Grant, Hold> {
        ledger.grant(kind, &self.own, now).or_else(|hold| {
            let Some(latest) = &self.latest else {
                return Err(hold);
            };
            ledger.grant(kind, latest, now).map_err(|latest| Hold {
                until: hold.until.into_iter().chain(latest.until).min(),
                ..hold
            })
        })
    }

    pub(super) fn predict_wait(
        self,
        ledger: &Ledger,
        operation: Option<OperationId>,
        (standing, ahead): (Standing, u64),
        now: Duration,
    ) -> Duration {
        let behind = (standing, ahead);
        let wait = ledger.predict_wait(operation, behind, &self.own, now);
        self.latest.map_or(wait, |latest| {
            wait.min(ledger.predict_wait(operation, behind, &latest, now))
        })
    }
}
