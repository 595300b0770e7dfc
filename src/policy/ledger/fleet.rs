//! The ledger of a fleet, whose attempts are made by replicas; and a replica's own, which follows it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    End, Feedback, Grant, Ledger, LedgerRules, Standing, in_doubt::InDoubt, recovery::Recovery,
};
use crate::policy::operation::OperationId;

/// Pauses whose ends differ by less are the same: messages take time.
pub(crate) const SAME: Duration = Duration::from_millis(250);

/// Units that attempts may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub in_flight: u64,
    /// Those of them whose attempts have a streamed body.
    pub streamed: u64,
    /// Not used yet; and how many of these are for interactive callers.
    pub leased: u64,
    pub in_advance: u64,
    pub in_doubt: u64,
}

impl Claims {
    pub fn plus(self, other: Claims) -> Claims {
        Claims {
            in_flight: self.in_flight + other.in_flight,
            streamed: self.streamed + other.streamed,
            leased: self.leased + other.leased,
            in_advance: self.in_advance + other.in_advance,
            in_doubt: self.in_doubt + other.in_doubt,
        }
    }
}

/// What may be leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leasable {
    /// Nothing: each attempt needs a unit of its own.
    Nothing,
    /// So many units, perhaps none just now.
    Units(u64),
}

impl Leasable {
    pub fn is_open(self) -> bool {
        matches!(self, Leasable::Units(_))
    }
}

/// Where a grant's unit comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// This ledger's own window.
    #[default]
    Own,
    /// A lease.
    Lease,
    /// Dealt by the fleet, under this number.
    Dealt(u64),
}

impl Grant {
    /// Identifies it in its ledger.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where its unit comes from.
    pub fn source(&self) -> Source {
        self.source
    }
}

/// The fleet's ledger.
impl Ledger {
    /// Says what all replicas may take.
    pub(crate) fn set_claims(&mut self, claims: Claims) {
        self.in_flight = claims.in_flight;
        self.streamed = claims.streamed;
        self.leased = claims.leased;
        self.in_advance = claims.in_advance;
        self.in_doubt = InDoubt::of(claims.in_doubt);
        if let Some(window) = &mut self.window {
            window.set_in_flight(claims.in_flight + claims.leased);
        }
    }

    /// Whoever writes to the register may have written any times. None is later than an answer of DevRev's may name, so what is false ends
    /// by itself soon after it is mended, although replicas state again what they know.
    pub(crate) fn cut(&mut self, rules: &LedgerRules, now: Duration) {
        let latest = now.saturating_add(rules.max_retry_after);
        if let Some(window) = &mut self.window {
            window.ends = window.ends.min(latest);
        }
        self.pauses.cut(latest);
    }

    /// The next attempt has a number above this.
    pub(crate) fn number_above(&mut self, number: u64) {
        self.next_number = self.next_number.max(number.saturating_add(1));
    }

    /// Adds units to a lease for callers of this standing.
    pub(crate) fn lease(&mut self, units: u64, standing: Standing) {
        self.leased += units;
        if standing == Standing::Interactive {
            self.in_advance += units;
        }
    }

    /// Replicas have sent so many attempts for interactive callers and for batch, on leases or without the fleet.
    pub(crate) fn count_sent(&mut self, [interactive, batch]: [u64; 2]) {
        if let Some(window) = &mut self.window {
            window.count_sent(interactive, batch);
        }
    }

    /// What was taken until now was not taken by others: replicas that were not heard of spent it.
    pub(crate) fn forgive_outside(&mut self) {
        if let Some(window) = &mut self.window {
            window.forgive_outside();
        }
    }

    /// An attempt has ended for which a unit was dealt. What it told of the window is learnt apart from this.
    pub(crate) fn ended_elsewhere(&mut self, grant: Grant, end: End, now: Duration) {
        self.roll(now);
        let current = self
            .window
            .as_mut()
            .filter(|_| grant.window == self.window_id);
        if let Some(window) = current.filter(|_| matches!(end, End::Unsent | End::Unreachable)) {
            window.record_unsent(grant.spread, grant.kind.standing);
        }
        self.conclude(&grant, end);
    }

    /// Learns what a replica's answers told.
    pub(crate) fn learn_elsewhere(
        &mut self,
        feedback: &Feedback,
        rules: &LedgerRules,
        now: Duration,
    ) {
        self.roll(now);
        self.learn(feedback, 0, rules, now);
    }

    /// A pause of the group that a replica knows of.
    pub(crate) fn pause_until(&mut self, until: Duration, now: Duration) {
        let old = self.paused_until(now).unwrap_or(now);
        if until > old.saturating_add(SAME) || (until > now && old == now) {
            self.pauses.group.pause(until);
            self.basis += 1;
        }
    }

    /// A pause of an operation that a replica knows of; see [`Ledger::refused`].
    pub(crate) fn refused_elsewhere(
        &mut self,
        operation: OperationId,
        until: Duration,
        now: Duration,
    ) {
        let own = self.paused_operation(now);
        let own = own.filter(|(id, _)| *id == operation);
        // After its end attempts probe already: that must not begin anew.
        let before = self.pauses.last_end(operation);
        if own.is_none() && before.is_some_and(|end| until <= end.saturating_add(SAME)) {
            return;
        }
        let old = own.map_or(now, |(_, until)| until);
        if until > old.saturating_add(SAME) || (until > now && old == now) {
            self.refused(operation, false, until, now);
        }
    }

    /// How many units attempts with this standing could take at once, without asking for each.
    pub(crate) fn leasable(
        &mut self,
        standing: Standing,
        rules: &LedgerRules,
        now: Duration,
    ) -> Leasable {
        let gate = self.gate(now);
        let is_open = matches!(self.pauses.group, Recovery::Open) && !self.learning.goes_on();
        if !is_open || gate.group.whole.is_some() {
            return Leasable::Nothing;
        }
        let (taken, outside) = (self.taken(), self.outside());
        match &self.window {
            Some(window) => window
                .due_at_once(rules, outside, (taken, standing), now)
                .map_or(Leasable::Nothing, Leasable::Units),
            // Without any there is no limit.
            None if self.ended.is_some() => self.leasable_between(standing, rules),
            None => Leasable::Units(u64::MAX),
        }
    }

    /// Units of the window that nobody may take yet.
    pub(crate) fn free(&self) -> Option<u64> {
        let window = self.window.as_ref()?;
        Some(window.remaining.saturating_sub(self.claimed()))
    }

    /// As [`Self::leasable`], in the moment after a window's end: what is first come, first served in the next if it is like the last. As
    /// many could be dealt one by one.
    fn leasable_between(&self, standing: Standing, rules: &LedgerRules) -> Leasable {
        let last = self
            .last_report
            .filter(|_| standing == Standing::Interactive);
        let Some(last) = last else {
            return Leasable::Nothing;
        };
        let most = last.limit as f64 - rules.reserved(last.limit);
        let first_come = (rules.spread_above * most) as u64;
        Leasable::Units(first_come.saturating_sub(self.claimed()))
    }

    /// Whether the ends of attempts decide what others may do.
    pub(crate) fn awaits_ends(&self) -> bool {
        self.learning.goes_on() || self.ended.is_some() || self.pauses.recovers()
    }

    /// Whether a pause, or what follows it, holds up attempts.
    pub(crate) fn recovers(&self) -> bool {
        self.pauses.recovers()
    }

    /// The end of the window.
    pub(crate) fn window_ends(&self) -> Option<Duration> {
        self.window.as_ref().map(|window| window.ends)
    }

    /// For how long it knows something.
    pub(crate) fn lasts(&self, now: Duration) -> Duration {
        let ends = [
            self.window_ends(),
            self.paused_until(now),
            self.paused_operation(now).map(|(_, until)| until),
        ];
        let last = ends.into_iter().flatten().max();
        last.map_or(Duration::ZERO, |last| last.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fleet::{Lease, ReplicaId};

    const RULES: LedgerRules = LedgerRules {
        spread_above: 0.5,
        reserve: 0.0,
        max_retry_after: Duration::from_secs(600),
    };

    fn told(remaining: u64) -> Feedback {
        Feedback {
            limit: Some(100),
            remaining: Some(remaining),
            reset: Some(1060),
            resets_in: Some(Duration::from_secs(60)),
            retry_after: None,
        }
    }

    fn external(ledger: &mut Ledger) -> u64 {
        ledger.view(&RULES, Duration::ZERO).external.1
    }

    #[test]
    fn what_a_replica_has_not_said_yet_is_not_external() {
        let mut fleet = Ledger::default();
        fleet.learn_elsewhere(&told(99), &RULES, Duration::ZERO);
        let leased = |leased| Claims {
            leased,
            ..Claims::default()
        };
        // One replica tells what is left before another says what it has spent.
        fleet.set_claims(leased(20));
        fleet.learn_elsewhere(&told(85), &RULES, Duration::ZERO);
        assert_eq!(external(&mut fleet), 0);
        fleet.count_sent([14, 0]);
        fleet.set_claims(leased(6));
        fleet.learn_elsewhere(&told(85), &RULES, Duration::ZERO);
        assert_eq!(external(&mut fleet), 0);
        // More than all of them can have spent.
        fleet.learn_elsewhere(&told(70), &RULES, Duration::ZERO);
        assert_eq!(external(&mut fleet), 9);
        // What was not spent after all comes to light when the lease is returned.
        fleet.set_claims(leased(0));
        fleet.learn_elsewhere(&told(70), &RULES, Duration::ZERO);
        assert_eq!(external(&mut fleet), 15);
    }

    #[test]
    fn a_replica_takes_no_other_for_a_stranger_unless_it_is_alone() {
        let mut replica = Ledger::default();
        replica.join(Lease::new(ReplicaId(1)));
        replica.learn_elsewhere(&told(99), &RULES, Duration::ZERO);
        replica.learn_elsewhere(&told(90), &RULES, Duration::ZERO);
        assert_eq!(external(&mut replica), 0);
        if let Some(lease) = replica.supply_mut() {
            lease.fail(Duration::ZERO);
        }
        replica.learn_elsewhere(&told(80), &RULES, Duration::ZERO);
        assert_eq!(external(&mut replica), 19);
    }
}
