//! A replica's exchanges: when the next is due, what it states, and how it takes the reply.

use std::time::Duration;

use super::{
    super::{
        DEALT_TERM, Ending, HEARTBEAT, IDLE, Known, Order, Pauses, Reply, SAYS_AGAIN, Statement,
        TERM, Told, plausible::MOST,
    },
    Heard, Lease, MARKS,
};
use crate::policy::{
    ledger::{LedgerRules, Shift},
    operation::OperationId,
};

/// Exchanges that news causes keep this distance, so that many answers at once cost one.
const DISTANCE: Duration = Duration::from_millis(2);

/// Rows of orders in a statement. More kinds of requests of more callers than these wait for others to go first.
const MAX_ORDERS: usize = 128;

/// An exchange, by this replica's clock.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// When its statement was made.
    pub began: Duration,
    /// From a message to the register until its answer.
    pub round_trip: Duration,
}

impl Lease {
    /// When the next exchange is due; `None` while there is nothing to say. `waits` tells whether somebody waits here, `claimed` whether
    /// attempts are in flight or in doubt.
    pub fn due(&self, waits: bool, claimed: bool, now: Duration) -> Option<Duration> {
        let Some(exchanged) = self.exchanged else {
            let says = self.news || self.wanted || self.newcomer || waits || self.leaves;
            return says.then_some(now).or(self.in_turn);
        };
        let news = (self.news || self.leaves).then(|| exchanged.saturating_add(DISTANCE));
        let waits = waits || self.wanted || self.newcomer || self.waited > 0;
        let waiting = waits.then(|| self.asks_again(exchanged));
        let holds = self.units() > 0 || !self.dealt.is_empty();
        // What was stated is unsaid when it is so no longer.
        let claims = holds || claimed || self.claimed || !self.ended.is_empty();
        let beat = claims.then(|| exchanged.saturating_add(HEARTBEAT));
        let idle = self
            .last_request
            .map(|at| at.saturating_add(IDLE))
            .filter(|at| *at > exchanged);
        let ends = [idle, Some(self.until).filter(|until| *until > exchanged)];
        let ends = ends.into_iter().flatten().filter(|_| holds);
        let due = [news, self.in_turn, waiting, beat]
            .into_iter()
            .flatten()
            .chain(ends)
            .min();
        due.map(|due| due.max(now))
    }

    /// When somebody waits and nothing is heard of others: a newcomer soon, the others when a unit is due.
    fn asks_again(&self, exchanged: Duration) -> Duration {
        let interval = exchanged.saturating_add(self.rhythm.interval());
        if self.newcomer {
            // Where there is plenty, the answer is a unit.
            let at_once = exchanged.saturating_add(DISTANCE);
            return if self.knows_plenty() {
                at_once
            } else {
                interval
            };
        }
        let again = exchanged.saturating_add(SAYS_AGAIN).max(interval);
        let next = self.known.and_then(|heard| heard.next);
        let turn = self.rhythm.turn() + DISTANCE;
        next.map_or(again, |next| {
            next.saturating_add(turn).clamp(interval, again)
        })
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
        (self.news, self.wanted, self.newcomer) = (false, false, false);
        self.in_turn = None;
        self.resumes_said = self.resumes;
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
        self.waited = orders.iter().map(|order| u64::from(order.count)).sum();
        self.claimed = in_flight + in_doubt + self.units() > 0 || !self.dealt.is_empty();
        Statement {
            replica: self.replica,
            number,
            known: self.known.map(|heard| Known {
                revision: heard.revision,
                number: heard.number,
                dealt: self.highest_dealt,
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
                low: told.low.map(|(low, _)| low),
            }),
            pauses: Pauses {
                heard: self.pauses,
                resumes: self.resumes,
                unheard: self.resumes - self.resumes_heard,
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

    /// Takes a reply, with the number of the next attempt here.
    pub(super) fn heard(&mut self, reply: &Reply, timing: Timing, next: u64) {
        let began = timing.began;
        let before = self.known.map_or(0, |heard| heard.revision);
        let shift = Shift {
            fleet: reply.now,
            own: began,
        };
        self.until = shift.to_own(reply.until).min(began.saturating_add(TERM));
        for (revision, units) in &reply.leased {
            if *revision > before {
                for (held, more) in self.held.iter_mut().zip(units) {
                    *held = held.saturating_add(*more).min(MOST);
                }
            }
        }
        for (revision, dealt) in &reply.dealt {
            if *revision > before {
                let until = shift.to_own(dealt.at).saturating_add(DEALT_TERM);
                self.highest_dealt = self.highest_dealt.max(dealt.number());
                self.dealt.push_back((dealt.clone(), until));
                self.waited = self.waited.saturating_sub(1);
            }
        }
        for class in [0, 1] {
            if !reply.keeps[class] && self.held[class] > 0 {
                self.held[class] = 0;
                self.news = true;
            }
        }
        self.had = self.held;
        self.ended.retain(|(first, ..)| *first > reply.number);
        self.known = Some(Heard {
            revision: reply.revision,
            number: reply.number,
            at: began,
            fleet: reply.now,
            next: reply.next.map(|next| shift.to_own(next)),
            plenty: reply.keeps == [true; 2],
            awaits_ends: reply.awaits_ends,
            others_rate: reply.others_rate,
            share: reply.share,
        });
        match self.marks.back_mut().filter(|(_, first)| *first == next) {
            Some((revision, _)) => *revision = reply.revision,
            None => {
                if self.marks.len() >= MARKS {
                    self.marks.pop_front();
                }
                self.marks.push_back((reply.revision, next));
            }
        }
        self.alone = None;
        self.overtaken = 0;
        self.rhythm.heard(reply.active, timing.round_trip);
    }
}
