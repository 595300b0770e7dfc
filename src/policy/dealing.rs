//! Deals units to those that wait: whose turn it is by `fair`, and whether it may go by `ledger`.

use std::time::Duration;

use super::{
    fair::{Queue, Standing},
    ledger::{AttemptKind, Grant, Hold, HoldReason, Ledger},
};

/// What waits in a queue for a unit.
pub trait Waits {
    /// Its attempt. Its standing is that of a newcomer.
    fn kind(&self) -> AttemptKind;
}

/// What was left when no more could go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rest {
    /// When the next unit is due, if that is known.
    pub next: Option<Duration>,
    /// Whether the window holds somebody.
    pub held_by_window: bool,
}

/// Deals units in the order of turns, at most `most`. `grant` asks the ledger for one whose turn it is, with the standing that it has by now;
/// `give` gets what was granted.
pub fn deal<T: Waits>(
    ledger: &mut Ledger,
    queue: &mut Queue<T>,
    (now, most): (Duration, usize),
    grant: impl Fn(&mut Ledger, &T, AttemptKind) -> Result<Grant, Hold>,
    mut give: impl FnMut(T, AttemptKind, Grant),
) -> Rest {
    // The window holds requests of this standing and after it, until then.
    let (mut held, mut until) = (None, None);
    let mut held_by_window = false;
    let mut dealt = 0;
    loop {
        let gate = ledger.gate(now);
        let may_go = |waiter: &T, standing: Standing| {
            held.is_none_or(|held| standing < held) && gate.hold(&waiter.kind()).is_none()
        };
        let turn = queue.peek_where(now, may_go).filter(|_| dealt < most);
        let Some((waiter, standing)) = turn else {
            let next = gate.next().into_iter().chain(until).min();
            return Rest {
                next,
                held_by_window,
            };
        };
        let kind = AttemptKind {
            standing,
            ..waiter.kind()
        };
        match grant(ledger, waiter, kind) {
            Ok(grant) => match queue.take_where(now, may_go) {
                Some(waiter) => {
                    dealt += 1;
                    give(waiter, kind, grant);
                }
                None => ledger.put_back(grant, now),
            },
            Err(hold) => {
                held_by_window |= matches!(
                    hold.reason,
                    HoldReason::Spent | HoldReason::Spread | HoldReason::Asks
                );
                held = Some(standing);
                // Batch is held for less when it has aged.
                let ages = (standing == Standing::Batch).then(|| queue.next_aged(now));
                until = [until, hold.until, ages.flatten()]
                    .into_iter()
                    .flatten()
                    .min();
            }
        }
    }
}
