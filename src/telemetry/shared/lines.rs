//! What the log tells of the fleet: that the register cannot be used and can be again, and what it has lost.

use std::{sync::Arc, time::Duration};

use super::Cause;
use crate::{
    event::Event,
    lock::Lock,
    policy::{
        duration_words::duration_words,
        trouble::{Over, Sign, Trouble},
    },
    telemetry::{
        client_lines::{ClientLines, StateLine},
        labels::{ExchangeResult, Lost, RegisterKind, RegisterState},
    },
};

/// The register's troubles, each with its lines from the first to the last.
pub(super) struct Story {
    /// The register's name.
    register: &'static str,
    lines: Arc<ClientLines>,
    troubles: Lock<Troubles>,
}

/// What an operator has to do differs: only rights do not come back by themselves. So each has a beginning of its own.
#[derive(Default)]
struct Troubles {
    down: Trouble,
    denied: Trouble,
}

impl Troubles {
    /// The longer of the two, with the signs of both.
    fn end(&mut self, now: Duration) -> Option<Over> {
        let (down, denied) = (self.down.end(now), self.denied.end(now));
        down.into_iter().chain(denied).reduce(|one, other| Over {
            lasted: one.lasted.max(other.lasted),
            signs: one.signs + other.signs,
        })
    }
}

/// The event that a beginning has.
fn event_of(fault: ExchangeResult) -> &'static str {
    match fault {
        ExchangeResult::Denied => Event::SharedDenied.label(),
        _ => Event::SharedDown.label(),
    }
}

impl Story {
    pub(super) fn new(kind: RegisterKind, lines: Arc<ClientLines>) -> Story {
        Story {
            register: kind.name(),
            lines,
            troubles: Lock::default(),
        }
    }

    /// The register cannot be used. Writes a line, or counts it for the next one.
    pub(super) fn down(&self, cause: &Cause, now: Duration) {
        let Cause { fault, reason } = cause;
        // Not under the lock: a line is formatted by the thread that writes it.
        let sign = {
            let mut troubles = self.troubles.lock();
            match fault {
                ExchangeResult::Denied => troubles.denied.sign(now),
                _ => troubles.down.sign(now),
            }
        };
        let (event, fault) = (event_of(*fault), fault.label());
        let what = match event == Event::SharedDenied.label() {
            true => "refuses this user",
            false => "cannot be used",
        };
        let register = self.register;
        match sign {
            Some(Sign::Begins) => tracing::warn!(
                event,
                fault,
                %reason,
                "{register} {what}, so each replica goes by its lease and then by DevRev's answers: {reason}"
            ),
            Some(Sign::GoesOn { lasted, signs }) => tracing::warn!(
                event,
                fault,
                %reason,
                failures = signs,
                since_seconds = lasted.as_secs_f64(),
                "{register} still {what} (for {}); failures: {signs}: {reason}",
                duration_words(lasted)
            ),
            None => {}
        }
    }

    /// It can be used, and could not before.
    pub(super) fn up(&self, before: RegisterState, now: Duration) {
        let (event, register) = (Event::SharedUp.label(), self.register);
        let over = self.troubles.lock().end(now);
        match over {
            Some(Over { lasted, signs }) => tracing::info!(
                event,
                after_seconds = lasted.as_secs_f64(),
                failures = signs,
                "{register} can be used again, after {}; failures: {signs}",
                duration_words(lasted)
            ),
            None if before == RegisterState::Unknown => {
                tracing::info!(event, "{register} can be used: replicas share the quota");
            }
            None => {}
        }
    }

    /// A group is alone although the register can be used. Whether a line says so, and so its end has one too.
    pub(super) fn alone(&self, group: &Arc<str>, cause: &Cause) -> bool {
        let passes = self.lines.try_pass_state(StateLine::Alone(group.clone()));
        if passes {
            let (Cause { fault, reason }, register) = (cause, self.register);
            tracing::warn!(
                event = event_of(*fault),
                group = &**group,
                fault = fault.label(),
                %reason,
                "the group {group} is shared no more, although {register} answers: {reason}"
            );
        }
        passes
    }

    pub(super) fn lost(&self, group: &Arc<str>, lost: Lost) {
        if !self.lines.try_pass_state(StateLine::Lost(group.clone())) {
            return;
        }
        let what = match lost {
            Lost::Gone => "has been flushed, evicted or restarted",
            Lost::Older => {
                "is older than what this replica knows, as after a failover or a restore"
            }
        };
        let register = self.register;
        tracing::warn!(
            event = Event::SharedLostState.label(),
            group = &**group,
            lost = lost.label(),
            "what {register} kept of the group {group} {what}; each replica states anew what it holds"
        );
    }

    pub(super) fn unreadable(&self, group: &Arc<str>, reason: &str) {
        if self
            .lines
            .try_pass_state(StateLine::Unreadable(group.clone()))
        {
            let register = self.register;
            tracing::warn!(
                event = Event::SharedUnreadable.label(),
                group = &**group,
                reason,
                "what {register} keeps of the group {group} cannot be read: {reason}"
            );
        }
    }

    /// The limits of so many callers of this replica found no room.
    pub(super) fn no_room(&self, group: &Arc<str>, callers: u64) {
        if self.lines.try_pass_state(StateLine::NoRoom(group.clone())) {
            let register = self.register;
            tracing::warn!(
                event = Event::SharedNoRoom.label(),
                group = &**group,
                callers,
                "what {register} keeps of the group {group} has no room left for limits of callers, so this replica's own limiters decide for {callers} of them: their rates hold for each replica by itself"
            );
        }
    }
}

/// A group whose being alone was told is shared again.
pub(super) fn joined(group: &str, lasted: Duration) {
    tracing::info!(
        event = Event::SharedUp.label(),
        group,
        after_seconds = lasted.as_secs_f64(),
        "the group {group} is shared again, after {}",
        duration_words(lasted)
    );
}
