//! Who is served within its deadline, and who is refused at once: by its place in the order of turns.
//!
//! A newcomer is judged when it comes. Those that wait are judged again when what they were judged by has become worse, or was not
//! known when they came: see [`Group::review`].

use std::time::Duration;

use super::{
    group::{Deliveries, Group, GroupState, Waiter},
    wait_rules::WaitRules,
};
use crate::{
    error::Error,
    policy::{
        fair::{Position, Priority, Share, Standing, newcomer},
        ledger::{AttemptKind, Gate, View},
    },
    types::QuotaRules,
};

/// A review looks at all that wait, and many answers may each make matters a little worse, as all those that pause the group do. So
/// reviews keep a distance of a millisecond for so many that wait: a quarter of a second if the waiting room is full, and none for a few.
/// Then even a thousand batch callers, which take most time to judge, cost a small part of a processor.
const REVIEWED_IN_A_MILLISECOND: u64 = 4;

/// While the window holds requests, those that come may go before others that wait, so all are reviewed this often.
const WHILE_HELD: Duration = Duration::from_secs(1);

/// The latest review.
#[derive(Default)]
pub(super) struct Reviewed {
    at: Option<Duration>,
    /// What [`Ledger::basis`](crate::policy::ledger::Ledger::basis) was then.
    basis: u64,
}

/// Whose wait is forecast.
struct Candidate<'a> {
    share: &'a Share,
    position: Position,
    deadline: Duration,
    kind: AttemptKind,
    rules: WaitRules,
}

impl Group {
    /// A snapshot, and the expected wait of a request of this kind and with this share that arrives now and waits `max_wait` at
    /// most.
    pub(crate) fn forecast(
        &self,
        share: &Share,
        max_wait: Duration,
        kind: AttemptKind,
        rules: &QuotaRules,
    ) -> (View, Duration) {
        let now = self.now();
        let times = (newcomer(now), now.saturating_add(max_wait));
        (self.view(rules).0, self.predict(share, times, kind, rules))
    }

    /// The expected wait of a request at this position of its caller's queue, and with this deadline.
    pub(super) fn predict(
        &self,
        share: &Share,
        (position, deadline): (Position, Duration),
        kind: AttemptKind,
        rules: &QuotaRules,
    ) -> Duration {
        let now = self.now();
        let candidate = Candidate {
            share,
            position,
            deadline,
            kind,
            rules: self.wait_rules(rules),
        };
        let mut state = self.state.lock();
        let gate = state.ledger.gate(now);
        let counts = |waiter: &Waiter| !gate.passes(&kind, &waiter.kind);
        let ahead = state.queue.ahead(share, position, counts);
        state.expected_wait(&candidate, &gate, ahead, now)
    }

    /// Refuses those that wait and cannot be served within their deadlines. Does so if the forecast's basis has changed since the last
    /// review, and now and then while the window holds requests. Returns when a review is due that has been put off.
    pub(super) fn review(
        &self,
        state: &mut GroupState,
        held_by_window: bool,
        now: Duration,
        deliveries: &mut Deliveries,
    ) -> Option<Duration> {
        // What a replica of a fleet heard a while ago tells nothing. It hears more before long.
        let is_informed = state
            .ledger
            .supply()
            .is_none_or(|lease| lease.is_informed(now));
        if state.queue.is_empty() || !is_informed {
            return None;
        }
        let basis = state.ledger.basis();
        let changed = basis != state.reviewed.basis;
        let distance = if changed {
            Duration::from_millis(state.queue.len() as u64 / REVIEWED_IN_A_MILLISECOND)
        } else if held_by_window {
            WHILE_HELD
        } else {
            return None;
        };
        let due = state.reviewed.at.map(|at| at.saturating_add(distance));
        if let Some(due) = due.filter(|due| *due > now) {
            return changed.then_some(due);
        }
        state.reviewed = Reviewed {
            at: Some(now),
            basis,
        };
        self.refuse_unservable(state, now, deliveries);
        None
    }

    /// Judges all that wait, in the order of turns: who is refused is not ahead of those after it.
    fn refuse_unservable(
        &self,
        state: &mut GroupState,
        now: Duration,
        deliveries: &mut Deliveries,
    ) {
        let gate = state.ledger.gate(now);
        // Of those that stay: how many, and how many of them let the others pass.
        let (mut stay, mut passed) = (0, 0);
        let mut refused = 0;
        // Those that wait on other replicas have their turns too.
        let in_fleet = state.ledger.supply().is_some();
        for (share, ticket) in state.queue.in_order() {
            let Some(waiter) = state.queue.get(&ticket) else {
                continue;
            };
            let (kind, deadline) = (waiter.kind, waiter.deadline);
            let candidate = Candidate {
                share: &share,
                position: ticket.position(),
                deadline,
                kind,
                rules: self.wait_rules(&waiter.rules),
            };
            let is_passed = gate.holds_operation_of(&kind);
            let ahead = if in_fleet {
                let counts = |waiter: &Waiter| !gate.passes(&kind, &waiter.kind);
                state.queue.ahead(&share, candidate.position, counts)
            } else if is_passed {
                stay
            } else {
                stay - passed
            };
            let wait = state.expected_wait(&candidate, &gate, ahead, now);
            if now.saturating_add(wait) <= deadline {
                stay += 1;
                passed += u64::from(is_passed);
                continue;
            }
            // Each when its turn would be, if all of them come back.
            let retry_after = state.expected_wait(&candidate, &gate, ahead + refused, now);
            refused += 1;
            if let Some(waiter) = state.queue.remove(&ticket) {
                deliveries.push((waiter.sender, Err(Error::QuotaExhausted { retry_after })));
            }
        }
    }
}

impl GroupState {
    /// The expected wait of a request that has its turn after `ahead` others.
    fn expected_wait(
        &self,
        candidate: &Candidate<'_>,
        gate: &Gate,
        ahead: u64,
        now: Duration,
    ) -> Duration {
        let Candidate {
            share,
            position,
            deadline,
            kind,
            rules,
        } = *candidate;
        let counts = |waiter: &Waiter| !gate.passes(&kind, &waiter.kind);
        let (queue, ledger) = (&self.queue, &self.ledger);
        let wait_behind = |standing, ahead| {
            rules.predict_wait(ledger, Some(kind.operation), (standing, ahead), now)
        };
        let wait = wait_behind(share.priority.into(), ahead);
        if share.priority == Priority::Interactive || wait.is_zero() {
            return wait;
        }
        // A batch request is passed over until it has aged, and then takes turns with interactive ones.
        let ageing_wait = queue.ageing_wait(share, (position, deadline), now, counts);
        if ageing_wait >= wait {
            return wait;
        }
        let aged = Share {
            priority: Priority::Interactive,
            weight: 1,
            ..share.clone()
        };
        let ahead = queue.ahead(&aged, position, counts) + queue.batch_callers();
        wait.min(ageing_wait.saturating_add(wait_behind(Standing::Aged, ahead)))
    }
}
