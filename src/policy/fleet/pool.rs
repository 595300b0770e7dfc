//! What the replicas of a fleet share of one group, and the one function that changes it.

mod deal;
mod members;
mod pauses;
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
    statement::Known,
    tokens::Limits,
};
use crate::policy::{fair::Turns, feedback::Feedback, ledger::Ledger};

/// Replicas of one group. More would not fit into the value's bound, and one register would not serve them.
pub const MAX_REPLICAS: usize = 1000;

/// Units that were dealt in what a register loses.
const LOST_AT_MOST: u64 = 4096;

/// A replica that knew the pool so long ago may have been forgotten since.
const LONG_KNOWN: Duration = DEAD.saturating_sub(HEARTBEAT);

/// Rows of orders of all replicas together, and of each at least. They are a third of the largest value. What finds no room waits until others
/// have been served; each caller's oldest request comes first.
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
    /// Set for a moment after the register has lost something.
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
