//! What must be true after each step.

use std::{collections::BTreeSet, time::Duration};

use super::{
    super::{FORGOTTEN, Lease},
    RULES, SECOND, Scenario,
    run::Fleet,
};
use crate::policy::{
    fair::Priority,
    ledger::{Grant, PROBE_TIMEOUT, Source},
};

/// What each replica adds to the time that others leave it.
const STEP: Duration = Duration::from_millis(5);

/// Two clocks agree to this.
const ROUNDING: Duration = Duration::from_millis(60);

#[derive(Default)]
pub(super) struct Checks {
    /// Replicas have gone by themselves, or the register has lost something, so the pool may not know of all that is out.
    pub pool_may_err: bool,
    /// An operator ends pauses, or the register loses them.
    pub pauses_may_end: bool,
    dealt: BTreeSet<(usize, u64)>,
    /// The pause that the pool knows: since when, and until when.
    pause: Option<(Duration, Duration)>,
    /// After its end: attempts that probe.
    probes: Option<(Duration, u64)>,
}

impl Fleet {
    pub(super) fn check(&mut self, changed: bool) {
        if changed {
            self.check_free();
            self.check_pause();
            self.check_waits();
        }
    }

    /// The pool calls no more units free than DevRev has left, without those on the way to it.
    fn check_free(&mut self) {
        if self.checks.pool_may_err {
            return;
        }
        let (reset, left) = self.upstream.window(self.now);
        let Some(pool) = self.pool() else {
            return;
        };
        if let Some(free) = pool.free(reset) {
            assert!(
                left >= free + self.on_wire,
                "{:?}: the pool says that {free} are free, {left} are left, {} on the wire: {pool:#?}",
                self.now,
                self.on_wire
            );
        }
    }

    /// A pause that the pool knows lasts to its end.
    fn check_pause(&mut self) {
        let register = self.registers[0].now(self.now);
        let Some(pool) = self.pool() else {
            return;
        };
        let left = pool.pause_left(register);
        match (self.checks.pause, left) {
            (Some((_, until)), None) => {
                let ends_early = until > self.now + ROUNDING;
                assert!(
                    !ends_early || self.checks.pauses_may_end,
                    "{:?}: a pause until {until:?} is forgotten",
                    self.now
                );
                self.checks.pause = None;
                self.checks.probes = (!ends_early).then_some((until, 0));
            }
            (Some((since, until)), Some(left)) => {
                let now_until = self.now + left;
                assert!(
                    now_until + ROUNDING >= until || self.checks.pauses_may_end,
                    "{:?}: a pause until {until:?} lasts until {now_until:?}",
                    self.now
                );
                // A longer one must become known first.
                let since = if now_until > until + ROUNDING {
                    self.now
                } else {
                    since
                };
                self.checks.pause = Some((since, now_until.max(until)));
            }
            (None, Some(left)) => {
                self.checks.pause = Some((self.now, self.now + left));
                self.checks.probes = None;
            }
            (None, None) => {}
        }
    }

    /// Nobody waits for longer than an interval for what is there.
    fn check_waits(&mut self) {
        let Scenario {
            loss,
            late,
            delay,
            replicas,
            ..
        } = self.scenario;
        if loss > 0.0 || late > 0.0 {
            return;
        }
        let interval = STEP * u32::try_from(replicas).unwrap_or(u32::MAX);
        let longest = interval.clamp(SECOND / 20, SECOND) + delay * 15;
        let register = self.registers[0].now(self.now);
        let somebody_waits = self
            .replicas
            .iter()
            .any(|replica| !replica.queue.is_empty());
        let is_up = somebody_waits && !self.registers[0].stopped;
        let could = self
            .pool()
            .is_some_and(|pool| is_up && pool.could_serve(&RULES, register));
        for (index, replica) in self.replicas.iter_mut().enumerate() {
            let is_away = replica.dead || replica.frozen || replica.cut || replica.is_alone();
            if !could || is_away {
                replica.could_serve = None;
                continue;
            }
            let waiting = replica.queue.entries();
            let interactive = waiting.filter(|(share, ..)| share.priority == Priority::Interactive);
            let Some(oldest) = interactive.map(|(.., waiter)| waiter.arrived).min() else {
                continue;
            };
            let since = *replica.could_serve.get_or_insert(self.now);
            assert!(
                self.now <= since.max(oldest) + longest,
                "{:?}: somebody waits on {index} since {oldest:?} although units are free since {since:?}",
                self.now,
            );
        }
    }

    /// An attempt is sent.
    pub(super) fn check_sent(&mut self, index: usize, grant: &Grant) {
        if let Source::Dealt(number) = grant.source() {
            // The two sides of a split count apart.
            let side = self.replicas[index].register;
            let is_first = self.checks.dealt.insert((side, number));
            assert!(is_first, "{:?}: unit {number} is used twice", self.now);
        }
        let Scenario {
            delay,
            loss,
            late,
            replicas,
            ..
        } = self.scenario;
        if self.replicas[index].is_alone() || loss > 0.0 || late > 0.0 {
            return;
        }
        if let Some((since, until)) = self.checks.pause {
            // The hint takes a message, and what it told an exchange in turn, perhaps after another.
            let turns = STEP * u32::try_from(replicas).unwrap_or(u32::MAX);
            let replica = &self.replicas[index];
            let told = since.max(replica.joined) + turns + delay * 12;
            let is_known = replica.register == 0 && told < self.now;
            assert!(
                !is_known || self.now + ROUNDING >= until,
                "{:?}: {index} sends in a pause since {since:?} until {until:?}",
                self.now
            );
        }
        // Each side of a split has its own probe.
        let replica = &self.replicas[index];
        let is_of_it = |end: Duration| replica.register == 0 && replica.joined < end;
        let probes = self.checks.probes.as_mut();
        if let Some((end, sent)) = probes.filter(|(end, _)| is_of_it(*end)) {
            *sent += 1;
            let times = self.now.saturating_sub(*end).as_secs_f64() / PROBE_TIMEOUT.as_secs_f64();
            // The end of a window is probed too. It is known up to two seconds late.
            let window = |time: Duration| time.as_secs() / self.scenario.window.as_secs();
            let windows = window(self.now) - window(end.saturating_sub(SECOND * 2));
            assert!(
                *sent <= 1 + times as u64 + windows,
                "{:?}: {sent} probes since {end:?}",
                self.now
            );
        }
    }

    /// Nobody asks for anything any more. Then every wait ends, and no unit stays with anybody.
    pub(super) fn end(&mut self) {
        let last = self.last_deadline.max(self.now);
        self.run(last + FORGOTTEN * 2);
        for (index, replica) in self.replicas.iter().enumerate() {
            if replica.dead {
                continue;
            }
            let ledger = &replica.ledger;
            let units = ledger.supply().map_or(0, Lease::units);
            let claimed = ledger.in_flight() + ledger.in_doubt() + units;
            assert!(
                replica.queue.is_empty() && claimed == 0,
                "{index}: {} wait, {claimed} units are claimed",
                replica.queue.len()
            );
            assert!(!replica.is_alone() || replica.cut, "{index} is alone");
            let kept = self.pool().map_or(0, |pool| pool.claimed_by(replica.id));
            assert_eq!(kept, 0, "the pool keeps units for {index}");
        }
    }

    /// An attempt that was sent then was let in, and that is known now.
    pub(super) fn check_let_in(&mut self, sent: Duration) {
        self.checks
            .probes
            .take_if(|(end, _)| sent + ROUNDING >= *end);
    }
}
