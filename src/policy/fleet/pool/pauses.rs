//! Pauses, which replicas state, and operators end.

use std::time::Duration;

use super::{
    super::{Ending, Statement, plausible::MOST},
    Pool, knows_time,
};
use crate::policy::{ledger::SAME, operation::OperationId};

impl Pool {
    /// What holds up attempts: a pause of the group, one of an operation, and what follows them. All replicas should know when it begins
    /// and when it ends.
    pub(super) fn held_up(&mut self, now: Duration) -> (bool, Option<OperationId>, bool) {
        let gate = self.ledger.gate(now);
        let operation = gate.paused_operation().map(|(operation, _)| operation);
        let recovers = self.ledger.recovers();
        (gate.group_is_paused(), operation, recovers)
    }

    /// How often an operator has ended pauses there since it was heard of last. What was said before is not said anew.
    pub(super) fn resumes(&self, statement: &Statement) -> Option<u64> {
        let pauses = statement.pauses;
        let new = match self.members.get(&statement.replica) {
            Some(member) => pauses.resumes.saturating_sub(member.resumes),
            None => pauses.unheard,
        };
        (new > 0).then_some(new)
    }

    /// Takes over pauses that begin or last longer. True if an operator has ended them.
    pub(super) fn follow_pauses(
        &mut self,
        statement: &Statement,
        resumes: Option<u64>,
        now: Duration,
    ) -> bool {
        let pauses = statement.pauses;
        // What a newcomer says is of now, although it has not heard how often pauses were ended.
        let is_over = statement.known.is_some() && pauses.heard < self.pauses;
        // It is less than what was heard if the register has lost it. That ends no pause.
        self.pauses = self.pauses.max(pauses.heard.min(MOST));
        if let Some(resumes) = resumes {
            self.pauses = self.pauses.saturating_add(resumes).min(MOST);
            self.ledger.resume();
            self.paused_until = Duration::ZERO;
            (self.doubt, self.quarantine) = (None, None);
            self.limbo.clear();
        }
        let resumed = resumes.is_some();
        if is_over {
            return resumed;
        }
        let is_known = knows_time(statement, now);
        let end = |end: Ending| end.at(now, is_known);
        if let Some(until) = pauses.group.map(end) {
            // A replica's clock may say that the last one is not over yet. Attempts probe by now, and that must not begin anew.
            let is_over = self.ledger.paused_until(now).is_none();
            if !is_over || until > self.paused_until.saturating_add(SAME) {
                self.ledger.pause_until(until, now);
                let until = self.ledger.paused_until(now);
                self.paused_until = until.unwrap_or(self.paused_until);
            }
        }
        if let Some((operation, until)) = pauses.operation {
            self.ledger.refused_elsewhere(operation, end(until), now);
        }
        resumed
    }
}
