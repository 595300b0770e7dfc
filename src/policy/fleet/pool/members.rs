//! What replicas hold: counted while they live, and for as long as it matters after they died.

use std::time::Duration;

use super::{
    super::{ReplicaId, Statement, TERM, clock::SLACK},
    FEWEST_ORDERS, LONG_KNOWN, MAX_ORDERS, MAX_REPLICAS, Member, Pool,
};
use crate::policy::ledger::Claims;

impl Pool {
    /// False if there is no room for another replica.
    pub(super) fn take_in(&mut self, statement: &Statement, now: Duration) -> bool {
        let is_new = !self.members.contains_key(&statement.replica);
        if is_new && !self.make_room(now) {
            return false;
        }
        let most_orders = (MAX_ORDERS / (self.members.len() + 1)).max(FEWEST_ORDERS);
        let member = self.members.entry(statement.replica).or_default();
        member.state(statement, self.revision, now);
        member.orders.truncate(most_orders);
        let count = |class: usize| statement.sent[class].saturating_sub(member.sent[class]);
        // Of a replica that is new here nothing was counted in this window: how much it has sent before is not known.
        let sent = if is_new { [0, 0] } else { [count(0), count(1)] };
        member.sent = statement.sent;
        member.resumes = statement.pauses.resumes;
        if is_new {
            // What it holds was leased before the register lost it.
            member.until = now.saturating_add(TERM);
        }
        self.ledger.count_sent(sent);
        for (number, end) in &statement.ended {
            if let Some(dealt) = member.out.remove(number) {
                self.ledger.ended_elsewhere(dealt.grant, *end, now);
            }
        }
        true
    }

    /// Sees to it that another replica finds room. False if it does not.
    pub(super) fn make_room(&mut self, now: Duration) -> bool {
        if self.members.len() < MAX_REPLICAS {
            return true;
        }
        self.bury(now);
        if self.members.len() < MAX_REPLICAS {
            return true;
        }
        // One that would not be missed, and that would not take its record for lost.
        let idle = self.members.iter().filter(|(_, member)| {
            member.units() == 0 && now.saturating_sub(member.seen) >= LONG_KNOWN
        });
        let oldest = idle.min_by_key(|(_, member)| member.seen);
        let oldest = oldest.map(|(id, _)| *id);
        oldest.inspect(|id| self.end(*id)).is_some()
    }

    /// Ends replicas that died, and forgets those that left without a word.
    pub(super) fn bury(&mut self, now: Duration) {
        let over = self
            .members
            .iter()
            .filter(|(_, member)| member.is_over(now));
        let over: Vec<ReplicaId> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end(id));
        for member in self.members.values_mut() {
            // Whoever has written may have written any time.
            member.seen = member.seen.min(now);
            // One that lives has said at its leases' end what it has left.
            let mut ended = member.end_dealt(now);
            if now >= member.until.saturating_add(SLACK) {
                ended += member.end_leases();
            }
            if ended > 0 {
                self.limbo.push((ended, self.revision));
            }
            // Nobody waits on a replica that has not said so for too long.
            if !member.orders.is_empty() && member.waiting(now).is_empty() {
                member.orders.clear();
            }
        }
    }

    pub(super) fn end(&mut self, id: ReplicaId) {
        self.limits.forget(id);
        if let Some(member) = self.members.remove(&id) {
            let units = member.units();
            if units > 0 {
                self.limbo.push((units, self.revision));
            }
        }
    }

    pub(super) fn count_claims(&mut self) {
        let claims = self.members.values().map(Member::claims);
        let mut claims = claims.fold(Claims::default(), Claims::plus);
        claims.in_doubt += self.limbo.iter().map(|(units, _)| units).sum::<u64>();
        self.ledger.set_claims(claims);
    }

    /// What was out in another window takes nothing from this one.
    pub(super) fn begin_window(&mut self, now: Duration) {
        let window = self.ledger.window_id();
        if std::mem::replace(&mut self.window, window) != window {
            self.limbo.clear();
            self.doubt = None;
            for member in self.members.values_mut() {
                // A moment ago it may have sent what DevRev counts just now.
                if now.saturating_sub(member.seen) >= SLACK * 2 {
                    member.end_attempts();
                }
            }
            self.count_claims();
        }
    }
}
