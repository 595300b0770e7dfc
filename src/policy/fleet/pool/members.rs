//! What replicas hold: counted while they live, and for as long as it matters after they died.

use std::time::Duration;

use super::{
    super::{ON_WIRE, ReplicaId, Statement, TERM, clock::SLACK},
    FEWEST_ORDERS, LONG_KNOWN, MAX_ORDERS, MAX_REPLICAS, Member, Pool,
};
use crate::policy::ledger::Claims;

/// Losses that are told apart.
const MAX_LIMBO: usize = 64;

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
        let mut ended = 0;
        for member in self.members.values_mut() {
            // Whoever has written may have written any time.
            member.seen = member.seen.min(now);
            // One that lives has said at its leases' end what it has left. What was sent until then is counted.
            ended += member.end_dealt(now);
            if now >= member.until.saturating_add(ON_WIRE + SLACK) {
                ended += member.end_leases();
            }
            // Nobody waits on a replica that has not said so for too long.
            if !member.orders.is_empty() && member.waiting(now).is_empty() {
                member.orders.clear();
            }
        }
        self.lose(ended);
    }

    /// Nobody may take these units until an answer tells what became of them.
    fn lose(&mut self, units: u64) {
        match self.limbo.last_mut() {
            _ if units == 0 => {}
            Some((lost, revision)) if *revision == self.revision => *lost += units,
            _ => self.limbo.push((units, self.revision)),
        }
        if self.limbo.len() > MAX_LIMBO {
            // They wait a little longer than they must.
            let (units, _) = self.limbo.remove(0);
            self.limbo[0].0 += units;
        }
    }

    pub(super) fn end(&mut self, id: ReplicaId) {
        self.limits.forget(id);
        if let Some(member) = self.members.remove(&id) {
            self.lose(member.units());
        }
    }

    pub(super) fn count_claims(&mut self) {
        let claims = self.members.values().map(Member::claims);
        let mut claims = claims.fold(Claims::default(), Claims::plus);
        claims.in_doubt += self.limbo.iter().map(|(units, _)| units).sum::<u64>();
        self.ledger.set_claims(claims);
    }

    /// What was out in another window takes nothing from this one, but for what was sent at its end. The next answer tells that.
    pub(super) fn begin_window(&mut self, now: Duration) {
        let window = self.ledger.window_id();
        if std::mem::replace(&mut self.window, window) == window {
            return;
        }
        self.doubt = None;
        let revision = self.revision;
        self.limbo.retain(|(_, since)| *since == revision);
        let silent = |member: &&mut Member| now.saturating_sub(member.seen) >= ON_WIRE;
        let silent = self.members.values_mut().filter(silent);
        let ended: u64 = silent.map(Member::end_attempts).sum();
        self.lose(ended);
        self.count_claims();
    }
}
