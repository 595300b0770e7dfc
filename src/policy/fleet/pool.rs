//! What the replicas of a fleet share of one group, and the one function that changes it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    DEAD, HEARTBEAT, Order, QUARANTINE, ReplicaId, Statement, TERM,
    clock::{FleetClock, SLACK},
    member::{Dealt, Granted, Member, What},
    statement::Ending,
    tokens::{Limits, Sale},
    waiting_interval,
};
use crate::policy::{
    dealing::{Waits, deal},
    fair::{Queue, Share, Standing, Turns},
    feedback::Feedback,
    ledger::{AttemptKind, Claims, Gate, Leasable, Ledger, LedgerRules},
};

/// Replicas of one group. More would not fit into the value's bound, and one register would not serve them.
const MAX_MEMBERS: usize = 1000;

/// Requests of one order that a sync looks at. A replica has its turn again soon.
const LOOKED_AT: u32 = 64;

/// Units that one sync deals: what one reply and one value hold without growing much.
const DEALT_AT_ONCE: usize = 128;

/// A lease is for at most so much time of a replica's own rate.
const LEASED_TIME: f64 = 15.0;

/// But for so many units if there are enough, so that a slow replica does not exchange for each request.
const SMALLEST_LEASE: f64 = 8.0;

/// Below this rate, in units a second, a replica gets no lease: it would return most of it.
const LEASED_RATE: f64 = 0.1;

/// A group of which DevRev reports no window needs no units. A lease counts them all the same, so that it is clear that it ends.
const UNLIMITED: u64 = 1000;

/// The value of one group. See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pool {
    /// How often it was changed.
    revision: u64,
    clock: FleetClock,
    ledger: Ledger,
    turns: Turns,
    members: BTreeMap<ReplicaId, Member>,
    /// Units of replicas that died, and the revision when that was noticed.
    limbo: Vec<(u64, u64)>,
    /// Until then no leases, because the register has lost something.
    quarantine: Option<Duration>,
    /// Raised by each `resume`.
    pauses: u64,
    limits: Limits,
}

/// What a replica may do.
#[derive(Clone, Debug)]
pub struct Reply {
    pub revision: u64,
    /// The number of the statement that it answers.
    pub number: u64,
    /// The fleet's time.
    pub now: Duration,
    /// Units that the replica has been given and may not know yet: at which revision.
    pub leased: Vec<(u64, [u64; 2])>,
    pub dealt: Vec<(u64, Dealt)>,
    /// The end of everything that is leased.
    pub until: Duration,
    /// Whether it may keep what it has leased, for interactive callers and for batch.
    pub keeps: [bool; 2],
    /// How often to exchange while somebody waits.
    pub interval: Duration,
    /// The replica's share of what all spend, and what the others spend, in units a second.
    pub share: f64,
    pub others_rate: f64,
    /// The units that the pool counts as this replica's.
    pub claimed: u64,
    /// Who waits on other replicas.
    pub elsewhere: Vec<(Share, u64)>,
    /// The number of the last `resume`.
    pub pauses: u64,
    /// If the register had lost what this replica knew: whether it had nothing at all.
    pub lost: Option<bool>,
    pub hint: Hinted,
    pub sales: Vec<Sale>,
    pub replicas: u64,
    pub limbo: u64,
    pub leased_in_all: u64,
}

/// Who should exchange at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hinted {
    #[default]
    Nobody,
    These(Vec<ReplicaId>),
    All,
}

impl Hinted {
    pub fn concerns(&self, replica: ReplicaId) -> bool {
        match self {
            Hinted::Nobody => false,
            Hinted::These(replicas) => replicas.contains(&replica),
            Hinted::All => true,
        }
    }
}

/// A request that waits on some replica.
struct Place {
    replica: ReplicaId,
    order: usize,
    kind: AttemptKind,
}

impl Waits for Place {
    fn kind(&self) -> AttemptKind {
        self.kind
    }
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
            None => known.age < DEAD.saturating_sub(HEARTBEAT),
        });
        self.revision += 1;
        let rules = &statement.rules;
        let mut hint = BTreeMap::new();
        if lost {
            self.revision = self
                .revision
                .max(known.map_or(0, |known| known.revision) + 1);
            self.quarantine = Some(now.saturating_add(QUARANTINE));
        }
        self.quarantine = self.quarantine.filter(|until| *until > now);
        if member.is_none_or(|member| member.number < statement.number) {
            self.take_in(statement, now);
        }
        self.bury(now);
        self.count_claims();
        let before = self.ledger.gate(now);
        self.learn(statement, now);
        let resumed = self.follow_pauses(statement, now);
        let after = self.ledger.gate(now);
        self.deal(rules, (replica, now), &mut hint);
        let keeps = self.keeps(rules, now);
        if keeps.contains(&false) {
            let holders = self.members.iter().filter(|(_, member)| {
                member
                    .held
                    .iter()
                    .zip(keeps)
                    .any(|(held, keeps)| *held > 0 && !keeps)
            });
            hint.extend(holders.map(|(id, _)| (*id, ())));
        }
        if !statement.leaves {
            self.lease(statement, keeps, now);
        }
        let paused = |gate: &Gate| {
            let operation = gate.paused_operation().map(|(operation, _)| operation);
            (gate.group_is_paused(), operation)
        };
        let is_news = lost || resumed || paused(&before) != paused(&after);
        hint.remove(&replica);
        let hint = if is_news {
            Hinted::All
        } else if hint.is_empty() {
            Hinted::Nobody
        } else {
            Hinted::These(hint.into_keys().collect())
        };
        let sales = self.limits.sync(replica, &statement.wants, now);
        let mut reply = self.reply(statement, (lost, keeps, hint), now);
        reply.sales = sales;
        if statement.leaves {
            self.members.remove(&replica);
            self.limits.forget(replica);
        }
        reply
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

    fn take_in(&mut self, statement: &Statement, now: Duration) {
        let is_new = !self.members.contains_key(&statement.replica);
        if is_new && self.members.len() >= MAX_MEMBERS {
            // The one that was heard of longest ago. What it holds is in limbo.
            let oldest = self.members.iter().min_by_key(|(_, member)| member.seen);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.end(id);
            }
        }
        let member = self.members.entry(statement.replica).or_default();
        member.state(statement, now);
        let count = |class: usize| statement.sent[class].saturating_sub(member.sent[class]);
        // Of a replica that is new here nothing was counted in this window: how much it has sent before is not known.
        let sent = if is_new { [0, 0] } else { [count(0), count(1)] };
        member.sent = statement.sent;
        self.ledger.count_sent(sent);
        for (number, end) in &statement.ended {
            if let Some(dealt) = member.out.remove(number) {
                self.ledger.ended_elsewhere(dealt.grant, *end, now);
            }
        }
    }

    /// Ends replicas that died, and forgets those that left without a word.
    fn bury(&mut self, now: Duration) {
        let over = self
            .members
            .iter()
            .filter(|(_, member)| member.is_over(now));
        let over: Vec<ReplicaId> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end(id));
        // Of units that were dealt to a replica which does not ask for them any more.
        for member in self.members.values_mut() {
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

    /// Learns what the replica's answers told.
    fn learn(&mut self, statement: &Statement, now: Duration) {
        let window = self.ledger.window_id();
        if let Some(told) = statement.told {
            let is_known = knows_time(statement, now);
            let ends = [
                told.ends_in.map(|time| now.saturating_add(time)),
                told.known_end.map(|end| end.at(now, is_known)),
            ];
            let ends = ends.into_iter().flatten().min();
            let feedback = Feedback {
                limit: told.limit,
                remaining: Some(told.remaining),
                reset: Some(told.reset),
                resets_in: ends.map(|ends| ends.saturating_sub(now)),
                retry_after: None,
            };
            self.ledger
                .learn_elsewhere(&feedback, &statement.rules, now);
            // It was sent after these died, so it tells what they have taken.
            self.limbo
                .retain(|(_, revision)| *revision > told.sent_after);
        }
        if self.ledger.window_id() != window {
            // They have taken nothing from another window.
            self.limbo.clear();
        }
        self.count_claims();
    }

    /// Takes over pauses that begin or last longer. True if an operator has ended them.
    fn follow_pauses(&mut self, statement: &Statement, now: Duration) -> bool {
        let pauses = statement.pauses;
        let resumed = pauses.number > self.pauses;
        if resumed {
            self.pauses = pauses.number;
            self.ledger.resume();
        }
        if pauses.number < self.pauses {
            return resumed;
        }
        let is_known = knows_time(statement, now);
        let end = |end: Ending| end.at(now, is_known);
        if let Some(until) = pauses.group.map(end) {
            self.ledger.pause_until(until, now);
        }
        if let Some((operation, until)) = pauses.operation {
            self.ledger.refused_elsewhere(operation, end(until), now);
        }
        resumed
    }

    /// Deals units to those that wait on any replica.
    fn deal(
        &mut self,
        rules: &LedgerRules,
        (replica, now): (ReplicaId, Duration),
        hint: &mut BTreeMap<ReplicaId, ()>,
    ) {
        let mut entries = Vec::new();
        for (id, member) in &self.members {
            for (index, order) in member.waiting(now).iter().enumerate() {
                entries.extend(places(*id, index, order, now));
            }
        }
        let mut queue = Queue::resume(std::mem::take(&mut self.turns), entries, now);
        let most = if self.quarantine.is_some() {
            1
        } else {
            DEALT_AT_ONCE
        };
        let mut given = Vec::new();
        deal(
            &mut self.ledger,
            &mut queue,
            (now, most),
            |ledger, _, kind| ledger.grant(kind, rules, now),
            |place, _, grant| given.push((place, grant)),
        );
        self.turns = queue.turns();
        for (place, grant) in given {
            let Some(member) = self.members.get_mut(&place.replica) else {
                continue;
            };
            let Some(order) = member.orders.get_mut(place.order) else {
                continue;
            };
            order.count = order.count.saturating_sub(1);
            let dealt = Dealt {
                grant,
                caller: order.caller.clone(),
                operation: order.operation,
                payload: order.payload,
                at: now,
            };
            member.granted.push(Granted {
                revision: self.revision,
                what: What::Dealt(dealt),
            });
            if place.replica != replica {
                hint.insert(place.replica, ());
            }
        }
        for member in self.members.values_mut() {
            member.orders.retain(|order| order.count > 0);
        }
    }

    /// Whether leases may be had, for interactive callers and for batch: while nobody waits whom the window holds.
    fn keeps(&mut self, rules: &LedgerRules, now: Duration) -> [bool; 2] {
        if self.quarantine.is_some() {
            return [false; 2];
        }
        let waits = |is_batch: bool| {
            let mut orders = self.members.values().flat_map(|member| member.waiting(now));
            orders.any(|order| order.is_batch == is_batch)
        };
        let waits = [waits(false), waits(true)];
        let of = |class: usize, ledger: &mut Ledger| {
            ledger.leasable(standing(class), rules, now).is_open()
        };
        [
            !waits[0] && of(0, &mut self.ledger),
            !waits[0] && !waits[1] && of(1, &mut self.ledger),
        ]
    }

    /// Gives this replica more units in advance.
    fn lease(&mut self, statement: &Statement, keeps: [bool; 2], now: Duration) {
        let active = self.active(now).max(1);
        let mut units = [0; 2];
        for class in [0, 1] {
            let rate = statement.rate[class];
            if !keeps[class] || rate < LEASED_RATE {
                continue;
            }
            let Leasable::Units(free) =
                self.ledger.leasable(standing(class), &statement.rules, now)
            else {
                continue;
            };
            let free = free.min(UNLIMITED * 2 * active);
            let held = self
                .members
                .get(&statement.replica)
                .map_or(0, |member| member.leased(class));
            let wanted = (rate * LEASED_TIME).max(SMALLEST_LEASE) as u64;
            let most = (free + held) / (2 * active);
            units[class] = wanted.min(most).saturating_sub(held);
            self.ledger.lease(units[class]);
            let Some(member) = self
                .members
                .get_mut(&statement.replica)
                .filter(|_| units[class] > 0)
            else {
                continue;
            };
            let mut lease = [0; 2];
            lease[class] = units[class];
            member.granted.push(Granted {
                revision: self.revision,
                what: What::Lease(lease),
            });
        }
    }

    fn active(&self, now: Duration) -> u64 {
        self.members
            .values()
            .filter(|member| member.is_active(now))
            .count() as u64
    }

    fn reply(
        &self,
        statement: &Statement,
        (lost, keeps, hint): (bool, [bool; 2], Hinted),
        now: Duration,
    ) -> Reply {
        let member = self.members.get(&statement.replica);
        let (mut leased, mut dealt) = (Vec::new(), Vec::new());
        for granted in member.into_iter().flat_map(|member| &member.granted) {
            match &granted.what {
                What::Lease(units) => leased.push((granted.revision, *units)),
                What::Dealt(unit) => dealt.push((granted.revision, unit.clone())),
            }
        }
        let of = |member: &Member| member.rate.iter().sum::<f64>();
        let all: f64 = self.members.values().map(of).sum();
        let own = statement.rate.iter().sum::<f64>();
        let active = self.active(now);
        let share = if all > 0.0 {
            own / all
        } else {
            1.0 / active.max(1) as f64
        };
        let term = now.saturating_add(TERM);
        Reply {
            revision: self.revision,
            number: statement.number,
            now,
            leased,
            dealt,
            until: self
                .ledger
                .window_ends()
                .map_or(term, |ends| ends.min(term)),
            keeps,
            interval: waiting_interval(active),
            share: share.clamp(0.0, 1.0),
            others_rate: (all - own).max(0.0),
            claimed: member.map_or(0, Member::units),
            elsewhere: self.elsewhere(statement.replica, now),
            pauses: self.pauses,
            lost: lost.then(|| self.members.len() <= 1),
            hint,
            sales: Vec::new(),
            replicas: self.members.len() as u64,
            limbo: self.limbo.iter().map(|(units, _)| units).sum(),
            leased_in_all: self
                .members
                .values()
                .map(|member| member.claims().leased)
                .sum(),
        }
    }

    fn elsewhere(&self, replica: ReplicaId, now: Duration) -> Vec<(Share, u64)> {
        let mut waiting: BTreeMap<Arc<str>, (Share, u64)> = BTreeMap::new();
        let others = self.members.iter().filter(|(id, _)| **id != replica);
        for order in others.flat_map(|(_, member)| member.waiting(now)) {
            let row = waiting
                .entry(order.caller.clone())
                .or_insert_with(|| (order.share(), 0));
            row.1 += u64::from(order.count);
        }
        waiting.into_values().collect()
    }
}

/// Whether the replica's idea of the fleet's time is right. It is not if the register has lost a pool whose time was another's.
fn knows_time(statement: &Statement, now: Duration) -> bool {
    let time = statement
        .known
        .map(|known| known.fleet.saturating_add(known.age));
    time.is_some_and(|time| time.abs_diff(now) <= SLACK)
}

/// The places of an order in the queue. When each but the oldest arrived is not known: evenly since then.
fn places(
    replica: ReplicaId,
    index: usize,
    order: &Order,
    now: Duration,
) -> impl Iterator<Item = (Share, (Duration, Duration), Place)> {
    let share = order.share();
    let standing = Standing::from(share.priority);
    let kind = AttemptKind {
        operation: order.operation,
        payload: order.payload,
        standing,
    };
    let (oldest, count) = (order.oldest, order.count);
    let ageing_time = order.ageing_time;
    (0..count.min(LOOKED_AT)).map(move |n| {
        let after = now
            .saturating_sub(oldest)
            .mul_f64(f64::from(n) / f64::from(count));
        let arrived = oldest.saturating_add(after);
        let deadline = arrived.saturating_add(ageing_time.saturating_mul(3));
        let place = Place {
            replica,
            order: index,
            kind,
        };
        (share.clone(), (arrived, deadline), place)
    })
}

fn standing(class: usize) -> Standing {
    if class == 0 {
        Standing::Interactive
    } else {
        Standing::Batch
    }
}

#[cfg(test)]
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

    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    pub(super) fn leased(&self) -> u64 {
        self.members
            .values()
            .map(|member| member.claims().leased)
            .sum()
    }
}
