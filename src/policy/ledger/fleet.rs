//! The ledger of a fleet, whose attempts are made by replicas; and a replica's own, which follows it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    AttemptKind, End, Feedback, Gate, Grant, Hold, HoldReason, Ledger, LedgerRules, Standing,
    in_doubt::InDoubt, recovery::Recovery, window::Outside,
};
use crate::policy::{fleet::Lease, operation::OperationId};

/// Pauses whose ends differ by less are the same: messages take time.
pub(crate) const SAME: Duration = Duration::from_millis(250);

/// Units that attempts may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub in_flight: u64,
    /// Those of them whose attempts have a streamed body.
    pub streamed: u64,
    /// Not used yet.
    pub leased: u64,
    pub in_doubt: u64,
}

impl Claims {
    pub fn plus(self, other: Claims) -> Claims {
        Claims {
            in_flight: self.in_flight + other.in_flight,
            streamed: self.streamed + other.streamed,
            leased: self.leased + other.leased,
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

    /// Adds units to a lease.
    pub(crate) fn lease(&mut self, units: u64) {
        self.leased += units;
    }

    /// Replicas have sent so many attempts for interactive callers and for batch, on leases or without the fleet.
    pub(crate) fn count_sent(&mut self, [interactive, batch]: [u64; 2]) {
        if let Some(window) = &mut self.window {
            window.count_sent(interactive, batch);
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
        let (claimed, outside) = (self.claimed(), self.outside());
        match &self.window {
            Some(window) => window
                .due_at_once(rules, outside, (claimed, standing), now)
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

/// The time of two clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shift {
    pub fleet: Duration,
    pub own: Duration,
}

impl Shift {
    /// A time of the fleet's by the own clock.
    pub(crate) fn to_own(self, time: Duration) -> Duration {
        self.own
            .saturating_add(time.saturating_sub(self.fleet))
            .saturating_sub(self.fleet.saturating_sub(time))
    }
}

/// A replica's ledger.
impl Ledger {
    /// Makes this the ledger of a replica of a fleet.
    pub(crate) fn join(&mut self, lease: Lease) {
        self.supply = Some(Box::new(lease));
    }

    pub(crate) fn supply(&self) -> Option<&Lease> {
        self.supply.as_deref()
    }

    pub(crate) fn supply_mut(&mut self) -> Option<&mut Lease> {
        self.supply.as_deref_mut()
    }

    /// Whether the fleet decides, and not what this ledger knows by itself.
    pub(super) fn follows(&self) -> bool {
        self.supply.as_ref().is_some_and(|lease| !lease.is_alone())
    }

    /// What is expected to be used by others. Alone, the other replicas are among them, for all of their share.
    pub(super) fn outside(&self) -> Outside {
        let alone = self.supply.as_ref().filter(|lease| lease.is_alone());
        let (rate, share) = alone.map_or((0.0, 1.0), |lease| lease.others());
        Outside {
            rate: self.external_rate.max(rate),
            most: (1.0 - share).max(0.5),
        }
    }

    /// A grant by the lease, or why there is none.
    pub(super) fn grant_by_lease(
        &mut self,
        kind: AttemptKind,
        now: Duration,
    ) -> Option<Result<Source, Hold>> {
        let recovers = self.pauses.operation_recovers(kind.operation);
        let is_paused = self.paused_until(now).is_some();
        let lease = self.supply.as_mut()?;
        // Only what the pool deals shows whether an operation is accepted again.
        if !recovers && !is_paused && lease.take(kind.standing, now) {
            self.leased = lease.units();
            return Some(Ok(Source::Lease));
        }
        if lease.is_alone() {
            return None;
        }
        lease.wants(now);
        Some(Err(Hold {
            reason: HoldReason::Spread,
            until: None,
        }))
    }

    /// A grant on a unit that was dealt for an attempt of this kind.
    pub(crate) fn grant_dealt(&mut self, number: u64, kind: AttemptKind, now: Duration) -> Grant {
        self.record_grant(kind, Source::Dealt(number), now)
    }

    /// Which kinds of attempts must wait by what is known here, although the fleet decides: pauses.
    pub(super) fn own_pauses(&mut self, now: Duration) -> Gate {
        let mut gate = self.pauses.gate(now, self.next_number);
        gate.keep_pauses();
        gate
    }

    /// Tells the lease how an attempt ended.
    pub(super) fn tell_supply(&mut self, grant: &Grant, end: End, now: Duration) {
        if let Some(lease) = &mut self.supply {
            lease.ended(grant.source, grant.kind.standing, end, now);
            self.leased = lease.units();
        }
    }

    /// Follows the fleet's ledger: `claimed` of what it counts is this replica's own.
    pub(crate) fn adopt(&mut self, fleet: &Ledger, claimed: u64, shift: Shift) {
        let own = |time: Duration| shift.to_own(time);
        let is_newer = match (&self.window, &fleet.window, &fleet.last_report) {
            (Some(window), Some(theirs), _) => window.reset > theirs.reset.saturating_add(1),
            (Some(window), None, Some(last)) => window.reset > last.reset.saturating_add(1),
            _ => false,
        };
        if !is_newer {
            let others = fleet.claimed().saturating_sub(claimed);
            let before = self
                .window
                .as_ref()
                .map(|window| (window.reset, window.limit));
            let in_flight = self.in_flight;
            self.window = fleet.window.clone().map(|mut window| {
                window.shift(own);
                window.remaining = window.remaining.saturating_sub(others);
                window.set_in_flight(in_flight);
                window
            });
            let after = self
                .window
                .as_ref()
                .map(|window| (window.reset, window.limit));
            if before.map(|(reset, _)| reset) != after.map(|(reset, _)| reset) {
                self.window_id += 1;
                self.in_doubt = InDoubt::default();
            }
            self.ended = fleet.ended.map(own);
            self.last_report = fleet.last_report.map(|mut last| {
                last.opened = own(last.opened);
                last
            });
            if fleet.learning.goes_on() {
                if !self.learning.goes_on() {
                    self.learning.begin(self.next_number);
                }
            } else {
                self.learning.told();
            }
        }
        self.external_rate = fleet.external_rate;
        self.spend_rate = fleet.spend_rate.shifted(own);
        self.external_spend = fleet.external_spend.shifted(own);
        self.pauses
            .follow(&fleet.pauses, self.next_number, shift.own, own);
        // What the forecast goes by is new each time.
        self.basis += 1;
    }

    /// The lease has changed.
    pub(crate) fn count_held(&mut self) {
        self.leased = self.supply.as_ref().map_or(0, |lease| lease.units());
    }

    /// Whether attempts are in flight or in doubt.
    pub(crate) fn is_claiming(&self) -> bool {
        self.in_flight + self.in_doubt.units() > 0
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(crate) fn streamed(&self) -> u64 {
        self.streamed
    }

    pub(crate) fn in_doubt(&self) -> u64 {
        self.in_doubt.units()
    }

    /// The number of the next attempt.
    pub(crate) fn next_attempt(&self) -> u64 {
        self.next_number
    }

    /// An operator has ended all pauses on another replica.
    pub(crate) fn end_pauses(&mut self) {
        self.pauses.resume(self.next_number);
        self.window = None;
        self.window_id += 1;
        self.last_report = None;
        self.basis += 1;
    }

    /// The ends of the pauses that last.
    pub(crate) fn known_pauses(
        &self,
        now: Duration,
    ) -> (Option<Duration>, Option<(OperationId, Duration)>) {
        (self.paused_until(now), self.paused_operation(now))
    }

    /// What is known of the window: limit, remaining units, reset and end.
    pub(crate) fn told(&self) -> Option<(u64, u64, u64, Duration)> {
        let window = self.window.as_ref()?;
        Some((window.limit, window.remaining, window.reset, window.ends))
    }

    /// Units taken outside revgate since the pool's ledger was made, as it was told last; the difference is counted here.
    pub(crate) fn count_external(&mut self, before: u64, fleet: &Ledger) -> u64 {
        let new = fleet.external.saturating_sub(before);
        self.external = self.external.saturating_add(new);
        fleet.external
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fleet::ReplicaId;

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
