//! A replica's side: what it holds, when it exchanges, and what it does alone.

use std::{collections::VecDeque, time::Duration};

use super::{
    DEALT_TERM, Ending, HEARTBEAT, IDLE, Known, Order, Pauses, Pool, ReplicaId, Reply, Statement,
    TERM, Told, member::Dealt, waiting_interval,
};
use crate::policy::{
    fair::Standing,
    feedback::Feedback,
    ledger::{End, Ledger, LedgerRules, Shift, Source, SpendRate},
    operation::OperationId,
};

/// Revisions of which it is remembered which attempts were sent later. Exchanges are at least milliseconds apart, so this is more than
/// the latency of most answers; of an older one nothing is said.
const MARKS: usize = 64;

/// Ends of attempts on dealt units that the pool has not heard of. More come from few exchanges that fail; then the oldest are left
/// out, and the fleet finds out by a timeout.
const UNHEARD: usize = 1024;

/// Exchanges that news causes keep this distance, so that many answers at once cost one.
const DISTANCE: Duration = Duration::from_millis(2);

/// Rows of orders in a statement. More kinds of requests of more callers than these wait for others to go first.
const MAX_ORDERS: usize = 128;

/// Alone, what answers told counts for so long: others spend meanwhile.
const FRESH: Duration = Duration::from_secs(1);

/// See the module. Times are the replica's own.
#[derive(Clone, Debug)]
pub struct Lease {
    replica: ReplicaId,
    /// The number of the next statement.
    number: u64,
    known: Option<Heard>,
    /// Since when the register is not there.
    alone: Option<Duration>,
    /// Units for interactive callers and for batch, and their end.
    held: [u64; 2],
    until: Duration,
    /// What was held after the last exchange: the next is due when most of it is gone.
    had: [u64; 2],
    dealt: VecDeque<(Dealt, Duration)>,
    /// With the number of the statement that said so first.
    ended: VecDeque<(u64, u64, End)>,
    sent: [u64; 2],
    rate: [SpendRate; 2],
    told: Option<Report>,
    /// The revision that was known, and the number of the first attempt that was granted after it.
    marks: VecDeque<(u64, u64)>,
    told_at: Option<Duration>,
    pauses: u64,
    /// The end of a pause in the fleet's time, and in this replica's.
    group_pause: Option<(Duration, Duration)>,
    operation_pause: Option<(OperationId, Duration, Duration)>,
    external: u64,
    last_request: Option<Duration>,
    /// The last exchange began then.
    exchanged: Option<Duration>,
    /// Nobody waited anywhere when the pool was asked last, and there were units for all.
    plenty: bool,
    /// Something that others should know at once.
    news: bool,
    wanted: bool,
    leaves: bool,
    status: Standings,
}

/// The last reply.
#[derive(Clone, Copy, Debug)]
struct Heard {
    revision: u64,
    number: u64,
    /// When its exchange began.
    at: Duration,
    /// The fleet's time then.
    fleet: Duration,
    interval: Duration,
    others_rate: f64,
    share: f64,
}

#[derive(Clone, Copy, Debug)]
struct Report {
    limit: Option<u64>,
    remaining: u64,
    reset: u64,
    ends: Duration,
    /// Whether that is by this replica's own answers.
    is_own_end: bool,
    /// The end in the fleet's time, as the pool told it.
    fleet_end: Option<Duration>,
    sent_after: u64,
}

/// How the fleet stands, for operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standings {
    pub replicas: u64,
    /// Units leased to all replicas and not used.
    pub leased: u64,
    /// Units of replicas that died, until an answer tells what they used.
    pub limbo: u64,
    /// Requests that wait on other replicas.
    pub waiting: u64,
}

impl Lease {
    pub fn new(replica: ReplicaId) -> Lease {
        Lease {
            replica,
            number: 1,
            known: None,
            alone: None,
            held: [0; 2],
            until: Duration::ZERO,
            had: [0; 2],
            dealt: VecDeque::new(),
            ended: VecDeque::new(),
            sent: [0; 2],
            rate: Default::default(),
            told: None,
            marks: VecDeque::new(),
            told_at: None,
            pauses: 0,
            group_pause: None,
            operation_pause: None,
            external: 0,
            last_request: None,
            exchanged: None,
            plenty: false,
            news: false,
            wanted: false,
            leaves: false,
            status: Standings::default(),
        }
    }

    /// Whether it goes by what it knows itself.
    pub fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Since when.
    pub fn alone_since(&self) -> Option<Duration> {
        self.alone
    }

    /// Units that are not used.
    pub fn units(&self) -> u64 {
        self.held.iter().sum()
    }

    pub fn standings(&self) -> Standings {
        self.status
    }

    /// Whether it has ever heard of the fleet.
    pub fn is_member(&self) -> bool {
        self.known.is_some()
    }

    /// A unit of the lease for a request with this standing, if there is one.
    pub(in crate::policy) fn take(&mut self, standing: Standing, now: Duration) -> bool {
        self.last_request = Some(now);
        let class = class(standing);
        if now >= self.until || self.held[class] == 0 || standing == Standing::Aged {
            return false;
        }
        self.held[class] -= 1;
        if self.held[class] * 4 <= self.had[class] && self.held[class] * 4 + 4 > self.had[class] {
            self.news = true;
        }
        true
    }

    /// A request waits for a unit.
    pub(in crate::policy) fn wants(&mut self, now: Duration) {
        self.last_request = Some(now);
        self.wanted = true;
    }

    /// An attempt was granted.
    pub(in crate::policy) fn sent(&mut self, source: Source, standing: Standing, now: Duration) {
        let class = class(standing);
        if !matches!(source, Source::Dealt(_)) {
            self.sent[class] += 1;
        }
        self.rate[class].add(1, now);
        self.last_request = Some(now);
    }

    /// An attempt has ended.
    pub(in crate::policy) fn ended(
        &mut self,
        source: Source,
        standing: Standing,
        end: End,
        now: Duration,
    ) {
        let is_unsent = matches!(end, End::Unsent | End::Unreachable);
        let class = class(standing);
        match source {
            Source::Dealt(number) => self.note_end(number, end),
            Source::Lease | Source::Own if is_unsent => {
                self.sent[class] = self.sent[class].saturating_sub(1);
                if source == Source::Lease && now < self.until {
                    self.held[class] += 1;
                }
            }
            Source::Lease | Source::Own => {}
        }
        if let End::Answered { refused: true, .. } = end {
            self.news = true;
        }
    }

    fn note_end(&mut self, number: u64, end: End) {
        if self.ended.len() >= UNHEARD {
            self.ended.pop_front();
        }
        self.ended.push_back((self.number, number, end));
        // Others may wait for what it shows. If nobody does, it can be said with something else.
        self.news |= !self.plenty;
    }

    /// What an answer to the attempt `number` told.
    pub(in crate::policy) fn tell(&mut self, feedback: &Feedback, number: u64, now: Duration) {
        let (Some(remaining), Some(reset), Some(resets_in)) =
            (feedback.remaining, feedback.reset, feedback.resets_in)
        else {
            return;
        };
        self.told_at = Some(now);
        if resets_in.is_zero() {
            return;
        }
        let sent_after = self.marks.iter().rev().find(|(_, first)| number >= *first);
        let sent_after = sent_after.map_or(0, |(revision, _)| *revision);
        let ends = now.saturating_add(resets_in);
        match &mut self.told {
            Some(told) if told.reset.abs_diff(reset) <= 1 && told.ends > now => {
                told.limit = feedback.limit.or(told.limit);
                told.remaining = told.remaining.min(remaining);
                told.ends = if told.is_own_end {
                    told.ends.min(ends)
                } else {
                    ends
                };
                told.is_own_end = true;
                told.sent_after = told.sent_after.max(sent_after);
            }
            Some(told) if told.reset > reset && told.ends > now => {}
            told => {
                // A window that others may not know.
                self.news = true;
                *told = Some(Report {
                    limit: feedback.limit,
                    remaining,
                    reset,
                    ends,
                    is_own_end: true,
                    fleet_end: None,
                    sent_after,
                });
            }
        }
    }

    /// Alone: what the others spend, in units a second, and this replica's share of the whole, as it was known last.
    pub(in crate::policy) fn others(&self) -> (f64, f64) {
        self.known
            .map_or((0.0, 1.0), |heard| (heard.others_rate, heard.share))
    }

    /// Alone: whether others may have spent what answers told.
    pub(in crate::policy) fn is_stale(&self, now: Duration) -> bool {
        self.is_alone()
            && self.is_member()
            && self
                .told_at
                .is_none_or(|at| at.saturating_add(FRESH) <= now)
    }

    /// When the next exchange is due; `None` while there is nothing to say. `waits` tells whether somebody waits here, `claimed` whether
    /// attempts are in flight or in doubt.
    pub fn due(&self, waits: bool, claimed: bool, now: Duration) -> Option<Duration> {
        let Some(exchanged) = self.exchanged else {
            return (self.news || self.wanted || waits || self.leaves).then_some(now);
        };
        let interval = self
            .known
            .map_or(waiting_interval(1), |heard| heard.interval);
        let news = (self.news || self.leaves).then(|| exchanged.saturating_add(DISTANCE));
        // Where there is plenty, the answer to who waits is a unit.
        let distance = if self.plenty { DISTANCE } else { interval };
        let waiting = (waits || self.wanted).then(|| exchanged.saturating_add(distance));
        let holds = self.units() > 0 || !self.dealt.is_empty() || !self.ended.is_empty();
        let beat = (holds || claimed).then(|| exchanged.saturating_add(HEARTBEAT));
        let idle = self
            .last_request
            .map(|at| at.saturating_add(IDLE))
            .filter(|at| *at > exchanged);
        let ends = [idle, Some(self.until).filter(|until| *until > exchanged)];
        let ends = ends.into_iter().flatten().filter(|_| holds);
        let due = [news, waiting, beat]
            .into_iter()
            .flatten()
            .chain(ends)
            .min();
        due.map(|due| due.max(now))
    }

    /// The register cannot be used: from now on this replica goes by itself.
    pub fn fail(&mut self, now: Duration) {
        self.alone.get_or_insert(now);
        self.exchanged = Some(now);
    }

    /// Whether what the pool told is new enough to judge by, or the only thing there is.
    pub fn is_informed(&self, now: Duration) -> bool {
        self.is_alone()
            || self
                .known
                .is_some_and(|heard| heard.at.saturating_add(FRESH * 2) > now)
    }

    /// How long it takes at most until the fleet is asked for a unit; `None` while nobody can be asked.
    pub fn asks_after(&self) -> Option<Duration> {
        let interval = self
            .known
            .map_or(waiting_interval(1), |heard| heard.interval);
        (!self.is_alone()).then_some(interval)
    }

    /// Whether an exchange is wanted at once, or soon.
    pub fn calls(&self) -> bool {
        self.news || self.wanted
    }

    /// A hint says that something concerns this replica.
    pub fn hinted(&mut self) {
        self.news = true;
    }

    /// An operator ends all pauses.
    pub(in crate::policy) fn resume(&mut self) {
        self.pauses += 1;
        (self.group_pause, self.operation_pause) = (None, None);
        self.told = None;
        self.news = true;
    }

    /// This replica ends. It returns what it holds.
    pub fn leave(&mut self) {
        self.leaves = true;
        self.held = [0; 2];
    }

    /// Units dealt to requests that wait. Each is taken once; what nobody takes goes back by [`Self::put_back`].
    pub fn take_dealt(&mut self, now: Duration) -> Vec<Dealt> {
        let dealt = std::mem::take(&mut self.dealt);
        let (good, late): (Vec<_>, Vec<_>) = dealt.into_iter().partition(|(_, until)| *until > now);
        for (dealt, _) in late {
            self.put_back(dealt.number());
        }
        good.into_iter().map(|(dealt, _)| dealt).collect()
    }

    /// Returns a dealt unit that nobody waits for any more.
    pub fn put_back(&mut self, number: u64) {
        self.note_end(number, End::Unsent);
    }

    /// Where this replica stands.
    pub(in crate::policy) fn state(
        &mut self,
        (in_flight, streamed, in_doubt): (u64, u64, u64),
        pauses: (Option<Duration>, Option<(OperationId, Duration)>),
        mut orders: Vec<Order>,
        rules: LedgerRules,
        now: Duration,
    ) -> Statement {
        let is_idle = self
            .last_request
            .is_none_or(|at| at.saturating_add(IDLE) <= now);
        if is_idle || now >= self.until {
            self.held = [0; 2];
        }
        let number = self.number;
        self.number += 1;
        self.exchanged = Some(now);
        (self.news, self.wanted) = (false, false);
        let pause = |until: Duration, known: Option<(Duration, Duration)>| Ending {
            told: known
                .filter(|(_, own)| *own >= until)
                .map(|(fleet, _)| fleet),
            left: until.saturating_sub(now),
        };
        let (group, operation) = pauses;
        let group = group.map(|until| pause(until, self.group_pause));
        let operation = operation.map(|(id, until)| {
            let known = self.operation_pause.filter(|(known, ..)| *known == id);
            (id, pause(until, known.map(|(_, fleet, own)| (fleet, own))))
        });
        orders.truncate(MAX_ORDERS);
        Statement {
            replica: self.replica,
            number,
            known: self.known.map(|heard| Known {
                revision: heard.revision,
                number: heard.number,
                fleet: heard.fleet,
                age: now.saturating_sub(heard.at),
            }),
            held: self.held,
            in_flight: in_flight + self.dealt.len() as u64,
            streamed,
            in_doubt,
            sent: self.sent,
            told: self.told.filter(|told| told.ends > now).map(|told| Told {
                limit: told.limit,
                remaining: told.remaining,
                reset: told.reset,
                ends_in: told.is_own_end.then(|| told.ends - now),
                known_end: told.fleet_end.map(|end| Ending {
                    told: Some(end),
                    left: told.ends - now,
                }),
                sent_after: told.sent_after,
            }),
            pauses: Pauses {
                number: self.pauses,
                group,
                operation,
            },
            ended: self
                .ended
                .iter()
                .map(|(_, number, end)| (*number, *end))
                .collect(),
            orders,
            wants: Vec::new(),
            rate: [self.rate[0].at(now), self.rate[1].at(now)],
            leaves: self.leaves,
            rules,
        }
    }

    /// Takes a reply. `began` is when its exchange began, `next` the number of the next attempt here.
    fn heard(&mut self, reply: &Reply, (began, next): (Duration, u64)) {
        let before = self.known.map_or(0, |heard| heard.revision);
        let shift = Shift {
            fleet: reply.now,
            own: began,
        };
        self.until = shift.to_own(reply.until).min(began.saturating_add(TERM));
        for (revision, units) in &reply.leased {
            if *revision > before {
                self.held[0] += units[0];
                self.held[1] += units[1];
            }
        }
        for (revision, dealt) in &reply.dealt {
            if *revision > before {
                let until = shift.to_own(dealt.at).saturating_add(DEALT_TERM);
                self.dealt.push_back((dealt.clone(), until));
            }
        }
        for class in [0, 1] {
            if !reply.keeps[class] && self.held[class] > 0 {
                self.held[class] = 0;
                self.news = true;
            }
        }
        self.had = self.held;
        self.plenty = reply.keeps == [true; 2];
        self.ended.retain(|(first, ..)| *first > reply.number);
        self.known = Some(Heard {
            revision: reply.revision,
            number: reply.number,
            at: began,
            fleet: reply.now,
            interval: reply.interval,
            others_rate: reply.others_rate,
            share: reply.share,
        });
        if self.marks.len() >= MARKS {
            self.marks.pop_front();
        }
        if self.marks.back().is_none_or(|(_, first)| *first < next) {
            self.marks.push_back((reply.revision, next));
        }
        self.alone = None;
        self.status = Standings {
            replicas: reply.replicas,
            leased: reply.leased_in_all,
            limbo: reply.limbo,
            waiting: reply.elsewhere.iter().map(|(_, count)| count).sum(),
        };
    }
}

fn class(standing: Standing) -> usize {
    usize::from(standing != Standing::Interactive)
}

/// A replica's ledger in the fleet.
impl Ledger {
    /// Where this replica stands, with the requests that wait.
    pub fn state(
        &mut self,
        orders: Vec<Order>,
        rules: LedgerRules,
        now: Duration,
    ) -> Option<Statement> {
        let claims = (self.in_flight(), self.streamed(), self.in_doubt());
        let pauses = (self.paused_until(now), self.paused_operation(now));
        let lease = self.supply_mut()?;
        let statement = lease.state(claims, pauses, orders, rules, now);
        self.count_held();
        Some(statement)
    }

    /// Takes a reply, and what the pool was then. `began` is when the exchange began, that is when the statement was made.
    pub fn hear(&mut self, reply: &Reply, pool: &Pool, began: Duration, now: Duration) {
        let next = self.next_attempt();
        let Some(lease) = self.supply_mut() else {
            return;
        };
        lease.heard(reply, (began, next));
        let external = lease.external;
        let is_resumed = reply.pauses > lease.pauses;
        lease.pauses = lease.pauses.max(reply.pauses);
        if is_resumed {
            (lease.group_pause, lease.operation_pause) = (None, None);
            lease.told = None;
            self.end_pauses();
        }
        let shift = Shift {
            fleet: reply.now,
            own: began,
        };
        self.adopt(pool.ledger(), reply.claimed, shift);
        let external = self.count_external(external, pool.ledger());
        let known = pool.ledger().known_pauses(reply.now);
        let report = pool.ledger().told();
        self.count_held();
        let Some(lease) = self.supply_mut() else {
            return;
        };
        lease.external = external;
        lease.group_pause = known.0.map(|until| (until, shift.to_own(until)));
        lease.operation_pause = known.1.map(|(id, until)| (id, until, shift.to_own(until)));
        // What the fleet knows is stated again if the register loses it.
        if let Some((limit, remaining, reset, end)) = report {
            match &mut lease.told {
                Some(told) if told.reset > reset.saturating_add(1) && told.ends > now => {}
                Some(told) if told.reset.abs_diff(reset) <= 1 && told.ends > now => {
                    told.remaining = told.remaining.min(remaining);
                    told.fleet_end = Some(end);
                    if !told.is_own_end {
                        told.ends = shift.to_own(end);
                    }
                }
                told => {
                    *told = Some(Report {
                        limit: Some(limit),
                        remaining,
                        reset,
                        ends: shift.to_own(end),
                        is_own_end: false,
                        fleet_end: Some(end),
                        sent_after: 0,
                    });
                }
            }
        }
    }
}
