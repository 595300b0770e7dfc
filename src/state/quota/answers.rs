//! What a group learns of the ends of attempts.

use std::{sync::Arc, time::Duration};

use super::{group::Group, story::Answer};
use crate::{
    policy::{
        feedback::{Admitted, Feedback},
        ledger::{AttemptKind, Grant, Settlement},
        operation::OperationId,
    },
    types::QuotaRules,
};

impl Group {
    /// See [`Ledger::settle`](crate::policy::ledger::Ledger::settle). `again` says that [`Self::refused`] has had the answer already.
    pub(super) fn settle(
        self: &Arc<Self>,
        grant: Grant,
        (kind, settlement): (AttemptKind, Settlement),
        again: bool,
        rules: &QuotaRules,
    ) {
        let answered = match settlement {
            Settlement::Answered { feedback, admitted } => {
                Some((feedback.retry_after, admitted == Admitted::No))
            }
            Settlement::InDoubt | Settlement::Unsent | Settlement::Unreachable => None,
        };
        let lines = self.update(|state, now| {
            let paused = state.ledger.settle(grant, settlement, &rules.ledger, now);
            let Some((time, throttled)) = answered else {
                return Vec::new();
            };
            let answer = Answer {
                operation: kind.operation,
                throttled,
                time,
                paused,
                again,
            };
            self.note(&answer, state, now)
        });
        self.write(&lines);
    }

    /// See [`Ledger::count_throttled`](crate::policy::ledger::Ledger::count_throttled).
    pub(super) fn count_throttled(&self) {
        self.state.lock().ledger.count_throttled();
    }

    /// An answer to this operation says to wait this long; see [`Ledger::refused`](crate::policy::ledger::Ledger::refused).
    pub(crate) fn refused(
        self: &Arc<Self>,
        operation: OperationId,
        throttled: bool,
        time: Duration,
    ) {
        let lines = self.update(|state, now| {
            let until = now.saturating_add(time);
            let answer = Answer {
                operation,
                throttled,
                time: Some(time),
                paused: state.ledger.refused(operation, throttled, until, now),
                again: false,
            };
            self.note(&answer, state, now)
        });
        self.write(&lines);
    }

    /// See [`Ledger::attribute`](crate::policy::ledger::Ledger::attribute).
    pub(crate) fn attribute(self: &Arc<Self>, feedback: &Feedback, rules: &QuotaRules) {
        self.update(|state, now| state.ledger.attribute(feedback, &rules.ledger, now));
    }
}
