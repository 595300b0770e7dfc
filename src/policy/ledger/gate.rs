//! Which attempts are paused, and at whose word: the whole group, or one operation.
//!
//! A 429 with a time pauses the group, because DevRev limits its user. A 503 with a time says that something is overloaded, and that
//! may be the operation alone. So it pauses the operation, and the group when a second operation says so too. At most one operation
//! is paused beside its group, so that this takes no more memory however many operations there are.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Hold, HoldReason,
    recovery::{Holds, Payload, ProbeResult, Recovery},
};
use crate::policy::{fair::Standing, operation::OperationId};

/// How long after its pause an operation still counts as the first of two. Longer than most retry-afters, so that an overloaded
/// upstream is noticed although its callers make few calls.
pub const REMEMBERED: Duration = Duration::from_secs(10);

/// What decides, beside the window, whether an attempt may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptKind {
    /// Its operation.
    pub operation: OperationId,
    /// Its body.
    pub payload: Payload,
    /// Its caller's, in the order of turns.
    pub standing: Standing,
}

/// What a retry-after pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    /// Every attempt of the group.
    Group,
    /// The attempts of one operation.
    Operation,
}

/// The pause of the group, and the one of an operation in it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Pauses {
    pub group: Recovery,
    operation: Option<PausedOperation>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PausedOperation {
    id: OperationId,
    recovery: Recovery,
    /// The end of its pause.
    until: Duration,
}

impl PausedOperation {
    /// Whether a second operation that names a time shows that the group is concerned. Not once a probe has succeeded.
    fn is_first_of_two(&self, now: Duration) -> bool {
        match self.recovery {
            Recovery::Paused { .. } | Recovery::Probing { .. } => {
                now < self.until.saturating_add(REMEMBERED)
            }
            Recovery::Ramping { .. } | Recovery::Open => false,
        }
    }
}

/// Which kinds of attempts must wait at one moment, apart from the window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gate {
    pub(super) group: Holds,
    operation: Option<(OperationId, Holds)>,
}

impl Gate {
    /// Why an attempt of this kind must wait.
    pub fn hold(&self, kind: &AttemptKind) -> Option<Hold> {
        self.group.of(kind.payload).or_else(|| self.own_hold(kind))
    }

    fn own_hold(&self, kind: &AttemptKind) -> Option<Hold> {
        let (id, holds) = self.operation.as_ref()?;
        holds.of(kind.payload).filter(|_| *id == kind.operation)
    }

    /// Whether an attempt of the kind `other` lets one of this kind pass, because only the operation of the former is held.
    pub fn passes(&self, kind: &AttemptKind, other: &AttemptKind) -> bool {
        self.holds_operation_of(other) && !self.holds_operation_of(kind)
    }

    /// Whether the operation of this attempt is held.
    pub fn holds_operation_of(&self, kind: &AttemptKind) -> bool {
        self.own_hold(kind).is_some()
    }

    /// Leaves pauses alone, without what follows them.
    pub(super) fn keep_pauses(&mut self) {
        self.group.keep_pauses();
        if let Some((_, holds)) = &mut self.operation {
            holds.keep_pauses();
        }
    }

    /// Whether the group is paused.
    pub fn group_is_paused(&self) -> bool {
        let hold = self.group.whole;
        hold.is_some_and(|hold| hold.reason == HoldReason::Paused)
    }

    /// The operation that is paused, and until when.
    pub fn paused_operation(&self) -> Option<(OperationId, Duration)> {
        let (id, holds) = self.operation?;
        let hold = holds
            .whole
            .filter(|hold| hold.reason == HoldReason::Paused)?;
        Some((id, hold.until?))
    }

    /// When the first of the kinds that must wait may go, if no answer arrives before.
    pub fn next(&self) -> Option<Duration> {
        let own = self.operation.map(|(_, holds)| holds);
        let holds = [Some(self.group), own].into_iter().flatten();
        holds
            .flat_map(|holds| [holds.whole, holds.streamed])
            .filter_map(|hold| hold?.until)
            .min()
    }
}

impl Pauses {
    pub(super) fn gate(&mut self, now: Duration, next: u64) -> Gate {
        Gate {
            group: self.group.holds(now, next),
            operation: self
                .operation
                .as_mut()
                .map(|paused| (paused.id, paused.recovery.holds(now, next))),
        }
    }

    fn own(&mut self, kind: &AttemptKind) -> Option<&mut Recovery> {
        let paused = self.operation.as_mut();
        let paused = paused.filter(|paused| paused.id == kind.operation)?;
        Some(&mut paused.recovery)
    }

    pub(super) fn granted(&mut self, number: u64, kind: &AttemptKind, now: Duration) {
        self.group.granted((number, kind.payload), now);
        if let Some(recovery) = self.own(kind) {
            recovery.granted((number, kind.payload), now);
        }
    }

    pub(super) fn settled(&mut self, number: u64, kind: &AttemptKind, result: ProbeResult) {
        self.group.settled((number, kind.payload), result);
        if let Some(recovery) = self.own(kind) {
            recovery.settled((number, kind.payload), result);
            if matches!(recovery, Recovery::Open) {
                self.operation = None;
            }
        }
    }

    /// A 503 to this operation names the time `until`. Returns what is paused.
    pub(super) fn pause(&mut self, id: OperationId, until: Duration, now: Duration) -> Paused {
        match &mut self.operation {
            Some(first) if first.id == id => {
                first.until = first.until.max(until);
                first.recovery.pause(until);
            }
            // Anybody can invent an operation, so one that is not known is no second witness.
            Some(first) if first.is_first_of_two(now) && id.is_known() && first.id.is_known() => {
                self.group.pause(until);
                return Paused::Group;
            }
            _ => {
                self.operation = Some(PausedOperation {
                    id,
                    recovery: Recovery::Paused { until },
                    until,
                });
            }
        }
        Paused::Operation
    }

    /// The operation that is paused beside the group, and until when.
    pub(super) fn operation(&self, now: Duration) -> Option<(OperationId, Duration)> {
        let paused = self.operation.as_ref()?;
        let until = paused.recovery.paused_until()?;
        (until > now).then_some((paused.id, until))
    }

    /// The operation that its own pause holds back, until a probe has succeeded.
    pub(super) fn operation_held_back(&self) -> Option<OperationId> {
        let paused = self.operation.as_ref()?;
        paused.recovery.holds_back().then_some(paused.id)
    }

    /// Whether a pause of this operation lasts, or its end must be shown by a probe and a ramp.
    pub(super) fn operation_recovers(&self, id: OperationId) -> bool {
        self.operation
            .as_ref()
            .is_some_and(|paused| paused.id == id)
    }

    /// Follows those of the fleet, except for a pause that it does not know yet. `next` is the number of the next attempt.
    pub(super) fn follow(
        &mut self,
        fleet: &Pauses,
        next: u64,
        now: Duration,
        own: impl Fn(Duration) -> Duration + Copy,
    ) {
        let unknown = self.group.paused_until().filter(|until| *until > now);
        self.group = fleet.group.followed(next, own);
        if let Some(until) = unknown {
            let theirs = self.group.paused_until();
            if theirs.is_none_or(|theirs| theirs < until) {
                self.group.pause(until);
            }
        }
        let unknown = self.operation(now);
        self.operation = fleet.operation.as_ref().map(|paused| PausedOperation {
            id: paused.id,
            recovery: paused.recovery.followed(next, own),
            until: own(paused.until),
        });
        if let Some((id, until)) = unknown {
            // Of two that nobody knows the fleet keeps one.
            let theirs = self.operation(now);
            let both_known = |theirs: OperationId| theirs.is_known() && id.is_known();
            if theirs.is_none_or(|(theirs, _)| theirs == id || both_known(theirs)) {
                self.pause(id, until, now);
            }
        }
    }

    /// When the pause of this operation ends or has ended, while it recovers from it.
    pub(super) fn last_end(&self, id: OperationId) -> Option<Duration> {
        let paused = self.operation.as_ref();
        paused
            .filter(|paused| paused.id == id)
            .map(|paused| paused.until)
    }

    /// No pause lasts longer than this.
    pub(super) fn cut(&mut self, latest: Duration) {
        self.group.cut(latest);
        if let Some(paused) = &mut self.operation {
            paused.until = paused.until.min(latest);
            paused.recovery.cut(latest);
        }
    }

    /// Whether a pause lasts, or attempts must show that it is over.
    pub(super) fn recovers(&self) -> bool {
        !matches!(self.group, Recovery::Open) || self.operation.is_some()
    }

    /// Ends all pauses; the next attempt, number `next`, is a probe.
    pub(super) fn resume(&mut self, next: u64) {
        self.operation = None;
        self.group.probe(next);
    }
}
