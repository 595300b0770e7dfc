//! How many turns come before a request's.

use std::{sync::Arc, time::Duration};

use super::{Flow, Position, Priority, Queue, Share, Ticket, ageing_time};

impl<T> Queue<T> {
    /// How many turns come before that of a request of this caller at `position`: its caller's older entries, and the turns that
    /// others get meanwhile by their weights, but no more than they have entries. Only entries that `counts` is true of come before
    /// it.
    pub fn ahead(&self, share: &Share, position: Position, counts: impl Fn(&T) -> bool) -> u64 {
        let own = self.own_ahead(share, position, &counts);
        let rounds = (own + 1) as f64 / f64::from(share.weight.max(1));
        let elsewhere = self.ahead_elsewhere(share, rounds);
        let up_to = |flow: &Flow<T>, most: usize| {
            let entries = flow.waiting.values();
            entries
                .filter(|entry| counts(&entry.item))
                .take(most)
                .count()
        };
        let others = self
            .flows
            .iter()
            .filter(|(caller, _)| **caller != share.caller)
            .map(|(_, flow)| match (share.priority, flow.priority) {
                (Priority::Interactive, Priority::Batch) => 0,
                (Priority::Batch, Priority::Interactive) => up_to(flow, usize::MAX),
                _ => up_to(flow, (rounds * flow.weight) as usize),
            });
        (own + others.sum::<usize>()) as u64 + elsewhere
    }

    /// As for others, of those that wait elsewhere. Of the caller's own any may be older.
    fn ahead_elsewhere(&self, share: &Share, rounds: f64) -> u64 {
        let waiting = self.elsewhere.iter();
        let ahead = waiting.map(|(caller, (weight, priority, count))| {
            if *caller == share.caller {
                return *count;
            }
            match (share.priority, *priority) {
                (Priority::Interactive, Priority::Batch) => 0,
                (Priority::Batch, Priority::Interactive) => *count,
                _ => (*count).min((rounds * f64::from((*weight).max(1))) as u64),
            }
        });
        ahead.sum()
    }

    fn own_ahead(&self, share: &Share, position: Position, counts: &impl Fn(&T) -> bool) -> usize {
        let flow = self.flows.get(&share.caller);
        flow.map_or(0, |flow| {
            let older = flow.waiting.range(..position);
            older.filter(|(_, entry)| counts(&entry.item)).count()
        })
    }

    /// How long it takes at most until a batch request of this caller competes as if it were interactive: its ageing time, once for
    /// itself and once for each entry that its caller has before it, of those that `counts` is true of.
    pub fn ageing_wait(
        &self,
        share: &Share,
        (position, deadline): (Position, Duration),
        now: Duration,
        counts: impl Fn(&T) -> bool,
    ) -> Duration {
        let own = self.own_ahead(share, position, &counts);
        let since = match self.flows.get(&share.caller) {
            Some(flow) if !flow.waiting.is_empty() => flow.waiting_since,
            _ => now,
        };
        let turns = u32::try_from(own + 1).unwrap_or(u32::MAX);
        let ageing_time = ageing_time(deadline.saturating_sub(position.0));
        let at = since.saturating_add(ageing_time.saturating_mul(turns));
        at.saturating_sub(now)
    }

    /// How many batch callers wait. Once aged they take turns with one another.
    pub fn batch_callers(&self) -> u64 {
        let batch = |flow: &&Flow<T>| flow.priority == Priority::Batch && !flow.waiting.is_empty();
        let elsewhere = self.elsewhere.iter();
        let elsewhere = elsewhere.filter(|(caller, (_, priority, count))| {
            *priority == Priority::Batch && *count > 0 && !self.flows.contains_key(*caller)
        });
        (self.flows.values().filter(batch).count() + elsewhere.count()) as u64
    }

    /// All entries in the order of their turns if none is added, apart from batch callers that will age.
    pub fn in_order(&self) -> Vec<(Share, Ticket)> {
        let mut entries = Vec::with_capacity(self.len);
        for (caller, flow) in &self.flows {
            let class = flow.class();
            let start = flow.start.max(self.virtual_times[class]);
            for (turn, position) in flow.waiting.keys().enumerate() {
                // As for the flows: the earlier start, then a newcomer, then the oldest.
                let start = start + turn as f64 / flow.weight;
                let had_turn = !flow.is_new || turn > 0;
                entries.push(((class, start, had_turn, *position), caller, flow));
            }
        }
        entries.sort_unstable_by(|((class, start, had_turn, position), ..), (other, ..)| {
            class
                .cmp(&other.0)
                .then(start.total_cmp(&other.1))
                .then(had_turn.cmp(&other.2))
                .then(position.cmp(&other.3))
        });
        let entry = |((.., position), caller, flow): ((_, _, _, Position), &Arc<str>, &Flow<T>)| {
            let share = Share {
                caller: caller.clone(),
                weight: flow.weight as u32,
                priority: flow.priority,
            };
            let caller = caller.clone();
            (share, Ticket { caller, position })
        };
        entries.into_iter().map(entry).collect()
    }

    /// The entry, if it is still queued.
    pub fn get(&self, ticket: &Ticket) -> Option<&T> {
        let entry = self
            .flows
            .get(&ticket.caller)?
            .waiting
            .get(&ticket.position)?;
        Some(&entry.item)
    }
}
