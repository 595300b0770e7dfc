//! A replica's ledger states where it stands, and follows the fleet's.

use std::time::Duration;

use super::{
    super::{Order, Pool, Reply, Statement, doubt::is_far_below},
    Timing, WindowTold,
};
use crate::policy::ledger::{Ledger, LedgerRules, Shift};

/// A pool in which operators have ended pauses so often is false.
const MANY_RESUMES: u64 = 1 << 32;

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

    /// Takes a reply, and what the pool was then.
    pub fn hear(&mut self, reply: &Reply, pool: &Pool, timing: Timing, now: Duration) {
        let next = self.next_attempt();
        let Some(lease) = self.supply_mut() else {
            return;
        };
        let is_newcomer = !lease.is_member();
        lease.heard(reply, timing, next);
        let external = lease.external;
        let pauses = match reply.pauses {
            pauses if pauses < MANY_RESUMES => pauses,
            // As often no operator has ended a pause.
            _ => lease.pauses,
        };
        let said = lease.resumes_said - lease.resumes_heard;
        let is_resumed = !is_newcomer && pauses > lease.pauses + said;
        lease.pauses = lease.pauses.max(pauses);
        lease.resumes_heard = lease.resumes_said;
        if lease.resumes > lease.resumes_heard {
            // An operator has ended pauses here meanwhile, and the pool does not know it yet.
            self.count_held();
            return;
        }
        if is_resumed {
            (lease.group_pause, lease.operation_pause) = (None, None);
            lease.told = None;
            self.end_pauses();
        }
        let shift = Shift {
            fleet: reply.now,
            own: timing.began,
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
                    // The fleet knows it by now, or something like it.
                    let remaining = told.remaining;
                    told.low
                        .take_if(|(low, _)| !is_far_below(low.remaining, remaining));
                    told.fleet_end = Some(end);
                    if !told.is_own_end {
                        told.ends = shift.to_own(end);
                    }
                }
                told => {
                    *told = Some(WindowTold {
                        limit: Some(limit),
                        remaining,
                        reset,
                        ends: shift.to_own(end),
                        is_own_end: false,
                        fleet_end: Some(end),
                        sent_after: 0,
                        low: None,
                    });
                }
            }
        }
    }
}
