//! A replica's own ledger, which follows that of its fleet.

use std::time::Duration;

use super::{
    AttemptKind, End, Gate, Grant, Hold, HoldReason, Ledger, Source, in_doubt::InDoubt,
    window::Outside,
};
use crate::policy::{fleet::Lease, operation::OperationId};

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
        let reason = match lease.knows_plenty() {
            true => HoldReason::Asks,
            false => HoldReason::Spread,
        };
        Some(Err(Hold {
            reason,
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
