//! What the replicas of a fleet share of one group, and the one function that changes it.

mod deal;
mod reply;
#[cfg(test)]
mod tests;

pub use self::reply::{Hinted, Reply};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    DEAD, HEARTBEAT, QUARANTINE, ReplicaId, Statement,
    clock::{FleetClock, SLACK},
    doubt::Doubt,
    member::Member,
    plausible::MOST,
    statement::{Ending, Known},
    tokens::Limits,
};
use crate::policy::{
    fair::Turns,
    feedback::Feedback,
    ledger::{Claims, Ledger, SAME},
    operation::OperationId,
};

/// Replicas of one group. More would not fit into the value's bound, and one register would not serve them.
pub const MAX_REPLICAS: usize = 1000;

/// Units that were dealt in what a register loses.
const LOST_AT_MOST: u64 = 4096;

/// A replica that knew the pool so long ago may have been forgotten since.
const LONG_KNOWN: Duration = DEAD.saturating_sub(HEARTBEAT);

/// Rows of orders of all replicas together, and of each at least. They are a third of the largest value. Callers whose rows find no room wait
/// until others have been served; the oldest come first.
const MAX_ORDERS: usize = 1500;
const FEWEST_ORDERS: usize = 2;

/// The time after a loss in which replicas say what they hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Quarantine {
    until: Duration,
    /// Units that were given in it.
    given: u64,
}

/// The value of one group. See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pool {
    /// How often it was changed.
    revision: u64,
    /// When it was made.
    born: Duration,
    clock: FleetClock,
    ledger: Ledger,
    turns: Turns,
    members: BTreeMap<ReplicaId, Member>,
    /// Units of replicas that died, and the revision when that was noticed.
    limbo: Vec<(u64, u64)>,
    /// The window to which this and what is leased belong.
    window: u64,
    /// The register has lost something.
    quarantine: Option<Quarantine>,
    doubt: Option<Doubt>,
    /// Raised by each `resume`, so that a pause from before it is told from a later one.
    pauses: u64,
    limits: Limits,
    /// The end of the group's last pause.
    paused_until: Duration,
}

impl Pool {
    /// Takes a statement in and says what the replica may do. `register` is the register's clock. A statement that is older than the last
    /// of its replica changes nothing.
    pub fn sync(&mut self, statement: &Statement, register: Duration) -> Reply {
        let replica = statement.replica;
        let known = statement.known;
        let member = self.members.get(&replica);
        let now = self
            .clock
            .now(register, known.map(|known| (known.fleet, known.age)));
        let lost = known.is_some_and(|known| match member {
            Some(member) => member.number < known.number,
            // Otherwise it was taken for dead.
            None => known.age < LONG_KNOWN,
        });
        let is_new = member.is_none_or(|member| member.number < statement.number);
        if self.revision == 0 {
            self.born = now;
        }
        // Revisions only grow, so that what was sent after one is told from what was sent before.
        let revision = known.map_or(0, |known| known.revision);
        self.revision = self.revision.max(revision.min(MOST / 2)) + 1;
        if lost {
            self.recover(known, now);
        }
        let latest = now.saturating_add(QUARANTINE);
        self.quarantine.take_if(|lost| lost.until <= now);
        if let Some(lost) = &mut self.quarantine {
            lost.until = lost.until.min(latest);
        }
        let rules = &statement.rules;
        self.ledger.cut(rules, now);
        let resumes = self.resumes(statement).filter(|_| is_new);
        if is_new && !self.take_in(statement, now) {
            let mut reply = self.reply(statement, (false, [false; 2], Hinted::Nobody), now);
            reply.is_full = true;
            return reply;
        }
        self.bury(now);
        self.count_claims();
        let before = self.held_up(now);
        self.begin_window(now);
        self.learn(statement, now);
        self.begin_window(now);
        if self.quarantine.is_some() {
            self.ledger.forgive_outside();
        }
        let resumed = self.follow_pauses(statement, resumes, now);
        let is_news = lost || resumed || self.held_up(now) != before;
        let mut hint = BTreeSet::new();
        let next = self.deal(rules, (replica, now), &mut hint);
        let keeps = self.keeps(rules, now);
        self.call_back(keeps, &mut hint);
        if !statement.leaves {
            self.lease(statement, keeps, now);
            let until = self.leases_end(now);
            if let Some(member) = self.members.get_mut(&replica) {
                member.until = until;
            }
        }
        hint.remove(&replica);
        let hint = if is_news {
            Hinted::All
        } else if hint.is_empty() {
            Hinted::Nobody
        } else {
            Hinted::These(hint.into_iter().collect())
        };
        let sales = self.limits.sync(replica, &statement.wants, now);
        let mut reply = self.reply(statement, (lost, keeps, hint), now);
        reply.sales = sales;
        reply.next = next;
        if statement.leaves {
            // What it still has in flight is told by an answer that was sent later, as for one that died.
            self.end(replica);
        }
        reply
    }

    /// The register has lost what a replica knew.
    fn recover(&mut self, known: Option<Known>, now: Duration) {
        // So that the end of an attempt is not taken for that of another. Other replicas may know of higher ones.
        let dealt = known.map_or(0, |known| known.dealt);
        self.ledger
            .number_above(dealt.saturating_add(LOST_AT_MOST).min(MOST / 2));
        let given = self.quarantine.as_ref().map_or(0, |lost| lost.given);
        self.quarantine = Some(Quarantine {
            until: now.saturating_add(QUARANTINE),
            given,
        });
    }

    /// What holds up attempts: a pause of the group, one of an operation, and what follows them. All replicas should know when it begins
    /// and when it ends.
    fn held_up(&mut self, now: Duration) -> (bool, Option<OperationId>, bool) {
        let gate = self.ledger.gate(now);
        let operation = gate.paused_operation().map(|(operation, _)| operation);
        let recovers = self.ledger.recovers();
        (gate.group_is_paused(), operation, recovers)
    }

    /// Calls back leases that may not be kept.
    fn call_back(&self, keeps: [bool; 2], hint: &mut BTreeSet<ReplicaId>) {
        for (id, member) in &self.members {
            // Also what its replica has not said yet that it has.
            if (0..2).any(|class| member.leased(class) > 0 && !keeps[class]) {
                hint.insert(*id);
            }
        }
    }

    /// The fleet's ledger, which the replica's follows.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How long it is kept if nobody changes it: longer than anything in it lasts.
    pub fn kept_for(&self, now: Duration) -> Duration {
        self.ledger
            .lasts(now)
            .saturating_add(Duration::from_secs(900))
    }

    /// False if there is no room for another replica.
    fn take_in(&mut self, statement: &Statement, now: Duration) -> bool {
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
        self.ledger.count_sent(sent);
        for (number, end) in &statement.ended {
            if let Some(dealt) = member.out.remove(number) {
                self.ledger.ended_elsewhere(dealt.grant, *end, now);
            }
        }
        true
    }

    /// Sees to it that another replica finds room. False if it does not.
    fn make_room(&mut self, now: Duration) -> bool {
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
    fn bury(&mut self, now: Duration) {
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

    fn end(&mut self, id: ReplicaId) {
        self.limits.forget(id);
        if let Some(member) = self.members.remove(&id) {
            let units = member.units();
            if units > 0 {
                self.limbo.push((units, self.revision));
            }
        }
    }

    fn count_claims(&mut self) {
        let claims = self.members.values().map(Member::claims);
        let mut claims = claims.fold(Claims::default(), Claims::plus);
        claims.in_doubt += self.limbo.iter().map(|(units, _)| units).sum::<u64>();
        self.ledger.set_claims(claims);
    }

    /// What was out in another window takes nothing from this one.
    fn begin_window(&mut self, now: Duration) {
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

    /// Learns what the replica's answers told.
    fn learn(&mut self, statement: &Statement, now: Duration) {
        if let Some(mut told) = statement.told {
            let free = self.ledger.free().unwrap_or(0);
            let judged = (told.reset, free);
            if Doubt::judge(&mut self.doubt, statement, judged, self.revision)
                && let Some(low) = told.low
            {
                told.remaining = told.remaining.min(low.remaining);
            }
            let is_known = knows_time(statement, now);
            let ends = [
                told.ends_in.map(|time| now.saturating_add(time)),
                told.known_end.map(|end| end.at(now, is_known)),
            ];
            let ends = ends.into_iter().flatten().min();
            // What DevRev says is in the value as it is, as long as it can be read again.
            let feedback = Feedback {
                limit: told.limit.map(|limit| limit.min(MOST)),
                remaining: Some(told.remaining.min(MOST)),
                reset: Some(told.reset.min(MOST)),
                resets_in: ends.map(|ends| ends.saturating_sub(now)),
                retry_after: None,
            };
            self.ledger
                .learn_elsewhere(&feedback, &statement.rules, now);
            // It was sent after these died, so it tells what they have taken.
            self.limbo
                .retain(|(_, revision)| *revision > told.sent_after);
            for member in self.members.values_mut() {
                member.tell(told.sent_after);
            }
        }
        self.count_claims();
    }

    /// How often an operator has ended pauses there since it was heard of last. What was said before is not said anew.
    fn resumes(&self, statement: &Statement) -> Option<u64> {
        let pauses = statement.pauses;
        let new = match self.members.get(&statement.replica) {
            Some(member) => pauses.resumes.saturating_sub(member.resumes),
            None => pauses.unheard,
        };
        (new > 0).then_some(new)
    }

    /// Takes over pauses that begin or last longer. True if an operator has ended them.
    fn follow_pauses(
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

    fn active(&self, now: Duration) -> u64 {
        self.members
            .values()
            .filter(|member| member.is_active(now))
            .count() as u64
    }
}

/// Whether the replica's idea of the fleet's time is right. It is not if the register has lost a pool whose time was another's.
fn knows_time(statement: &Statement, now: Duration) -> bool {
    let time = statement
        .known
        .map(|known| known.fleet.saturating_add(known.age));
    time.is_some_and(|time| time.abs_diff(now) <= SLACK)
}

#[cfg(test)]
use crate::policy::{
    fair::Standing,
    ledger::{Leasable, LedgerRules},
};

#[cfg(any(test, fuzzing))]
impl Pool {
    /// Units of the window with this reset that nobody may take yet.
    pub(super) fn free(&self, reset: u64) -> Option<u64> {
        let (_, remaining, known, _) = self.ledger.told()?;
        (known == reset).then(|| {
            let members: u64 = self.members.values().map(Member::units).sum();
            let limbo: u64 = self.limbo.iter().map(|(units, _)| units).sum();
            remaining.saturating_sub(members + limbo)
        })
    }
}

#[cfg(test)]
impl Pool {
    pub(super) fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Units that this replica may take.
    pub(super) fn claimed_by(&self, replica: ReplicaId) -> u64 {
        self.members.get(&replica).map_or(0, Member::units)
    }

    pub(super) fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// How long the group's pause lasts yet.
    pub(super) fn pause_left(&self, register: Duration) -> Option<Duration> {
        let now = self.clock.clone().now(register, None);
        self.ledger.paused_until(now).map(|until| until - now)
    }

    /// Whether an interactive request could have a unit at once.
    pub(super) fn could_serve(&self, rules: &LedgerRules, register: Duration) -> bool {
        let now = self.clock.clone().now(register, None);
        let leasable = self
            .ledger
            .clone()
            .leasable(Standing::Interactive, rules, now);
        self.quarantine.is_none()
            && self.doubt.is_none()
            && matches!(leasable, Leasable::Units(1..))
    }
}
