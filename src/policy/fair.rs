//! Whose turn it is: by priority, then by weight, then first come.
//!
//! This is start-time fair queueing (Goyal, Vin and Cheng, 1996). Each caller has a queue of its own and a virtual time at which
//! its next turn starts. A turn moves that time on by one over the caller's weight, and the earliest goes first. A new caller starts at the
//! present of the others: it is neither behind them nor owed what it did not ask for. A caller that queues a thousand
//! requests delays only itself.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::fair::{Priority, Queue, Share};
//!
//! let share = |caller: &str, weight| Share {
//!     caller: caller.into(),
//!     weight,
//!     priority: Priority::Interactive,
//! };
//! let (now, deadline) = (Duration::ZERO, Duration::from_secs(30));
//! let mut queue = Queue::default();
//! for _ in 0..4 {
//!     queue.push(&share("light", 1), (now, deadline), now, "light");
//!     queue.push(&share("heavy", 3), (now, deadline), now, "heavy");
//! }
//! let turns: Vec<_> = (0..4).filter_map(|_| queue.take(now)).collect();
//! assert_eq!(turns.iter().filter(|caller| **caller == "heavy").count(), 3);
//! ```

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc, time::Duration};

use crate::label::label_enum;

label_enum! {
    /// Which turns come first.
    #[derive(Default)]
    pub enum Priority {
        /// Somebody waits for the answer.
        #[default]
        Interactive = "interactive",
        /// Has its turn when no interactive caller wants it; see [`AGE`].
        Batch = "batch",
    }
}

/// A batch caller that has had no turn for so long while it waited has one as if it were interactive; see [`age`].
pub const AGE: Duration = Duration::from_secs(10);

/// No batch caller ages sooner, or little patience would buy priority.
const YOUNG: Duration = Duration::from_secs(2);

/// When a batch request that is willing to wait for `patience` has aged: after a third of that, at most [`AGE`]. Late
/// enough to stay out of the way, early enough to be served before its patience ends.
pub fn age(patience: Duration) -> Duration {
    (patience / 3).clamp(YOUNG, AGE)
}

/// What a caller is entitled to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The caller's name.
    pub caller: Arc<str>,
    /// Turns in proportion to this; 0 counts as 1.
    pub weight: u32,
    /// Which class of turns.
    pub priority: Priority,
}

/// Where an entry stands; [`Queue::remove`] takes it.
#[derive(Clone, Debug)]
pub struct Ticket {
    caller: Arc<str>,
    place: Place,
}

/// When its request came, then in order of entry: a request that is tried again keeps its age.
type Place = (Duration, u64);

/// Entries of all callers, in the order of their turns.
#[derive(Debug)]
pub struct Queue<T> {
    /// A caller stays while it waits, or while it has had more than the others: leaving must not wipe that out.
    flows: BTreeMap<Arc<str>, Flow<T>>,
    /// Present virtual time of the interactive turns, and of the batch turns.
    clocks: [f64; 2],
    /// The virtual time of the next interactive turn of all aged batch callers together: they are as one caller of weight
    /// 1, or a crowd of them would leave nothing to those who are interactive.
    aged: f64,
    len: usize,
    entered: u64,
}

#[derive(Debug)]
struct Flow<T> {
    waiting: BTreeMap<Place, Entry<T>>,
    weight: f64,
    priority: Priority,
    /// The virtual time of its next turn, by the clock of its class.
    start: f64,
    /// When it last had a turn, or began to wait.
    since: Duration,
    /// It has had no turn since it began to wait.
    fresh: bool,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    /// How long its caller goes without a turn until it has aged.
    age: Duration,
}

const INTERACTIVE: usize = 0;
const BATCH: usize = 1;

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            flows: BTreeMap::new(),
            clocks: [0.0; 2],
            aged: 0.0,
            len: 0,
            entered: 0,
        }
    }
}

impl<T> Queue<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Enters a request that came at `arrived` and waits until `deadline` at most. Times are since any fixed instant.
    pub fn push(
        &mut self,
        share: &Share,
        (arrived, deadline): (Duration, Duration),
        now: Duration,
        item: T,
    ) -> Ticket {
        let clocks = self.clocks;
        let flow = self
            .flows
            .entry(share.caller.clone())
            .or_insert_with(|| Flow {
                waiting: BTreeMap::new(),
                weight: 1.0,
                priority: share.priority,
                start: 0.0,
                since: now,
                fresh: true,
            });
        // What the configuration says now holds for the turns to come.
        flow.weight = f64::from(share.weight.max(1));
        flow.priority = share.priority;
        if flow.waiting.is_empty() {
            flow.start = flow.start.max(clocks[flow.class()]);
            flow.since = now;
            flow.fresh = true;
        }
        let place = (arrived, self.entered);
        self.entered += 1;
        self.len += 1;
        let age = age(deadline.saturating_sub(arrived));
        flow.waiting.insert(place, Entry { item, age });
        Ticket {
            caller: share.caller.clone(),
            place,
        }
    }

    /// The caller whose turn it is, and whether it has it because it has aged.
    fn turn(&self, now: Duration) -> Option<(&Arc<str>, bool)> {
        let waiting = || self.flows.iter().filter(|(_, f)| !f.waiting.is_empty());
        let of = |class: usize| waiting().filter(move |(_, flow)| flow.class() == class);
        let interactive = of(INTERACTIVE).min_by(|(_, a), (_, b)| a.before(b));
        let oldest = of(BATCH)
            .filter(|(_, flow)| flow.has_aged(now))
            .min_by_key(|(_, flow)| flow.since);
        let aged = self.aged.max(self.clocks[INTERACTIVE]);
        match (interactive, oldest) {
            (Some((_, flow)), Some((caller, _))) if aged < flow.start => Some((caller, true)),
            (Some((caller, _)), _) => Some((caller, false)),
            (None, _) => Some((of(BATCH).min_by(|(_, a), (_, b)| a.before(b))?.0, false)),
        }
    }

    /// The entry whose turn it is; it stays.
    pub fn peek(&self, now: Duration) -> Option<&T> {
        let (caller, _) = self.turn(now)?;
        let (_, entry) = self.flows.get(caller)?.waiting.first_key_value()?;
        Some(&entry.item)
    }

    /// Takes out the entry whose turn it is.
    pub fn take(&mut self, now: Duration) -> Option<T> {
        let (caller, as_aged) = self.turn(now)?;
        let caller = caller.clone();
        if as_aged {
            let aged = self.aged.max(self.clocks[INTERACTIVE]);
            self.clocks[INTERACTIVE] = aged;
            self.aged = aged + 1.0;
        }
        let flow = self.flows.get_mut(&caller)?;
        let (_, entry) = flow.waiting.pop_first()?;
        let clock = &mut self.clocks[flow.class()];
        if !as_aged {
            *clock = clock.max(flow.start);
        }
        flow.start = flow.start.max(*clock) + 1.0 / flow.weight;
        flow.since = now;
        flow.fresh = false;
        self.left(&caller);
        Some(entry.item)
    }

    /// Takes out an entry before its turn; `None` when it has gone already.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        let flow = self.flows.get_mut(&ticket.caller)?;
        let entry = flow.waiting.remove(&ticket.place)?;
        self.left(&ticket.caller);
        Some(entry.item)
    }

    /// Takes out the entry of this caller that came last.
    pub fn remove_newest(&mut self, caller: &Arc<str>) -> Option<T> {
        let (_, entry) = self.flows.get_mut(caller)?.waiting.pop_last()?;
        self.left(caller);
        Some(entry.item)
    }

    /// Takes out every entry for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        let callers: Vec<Arc<str>> = self.flows.keys().cloned().collect();
        for caller in callers {
            let Some(flow) = self.flows.get_mut(&caller) else {
                continue;
            };
            let before = flow.waiting.len();
            let all = std::mem::take(&mut flow.waiting);
            for (place, entry) in all {
                if keep(&entry.item) {
                    flow.waiting.insert(place, entry);
                } else {
                    out.push(entry.item);
                }
            }
            let gone = before - flow.waiting.len();
            (0..gone).for_each(|_| self.left(&caller));
        }
        out
    }

    /// How many turns come before that of a request of this caller which came at `arrived`: what of its own queue came
    /// before it, what its weight leaves to the others, and no more of them than wait.
    pub fn ahead(&self, share: &Share, arrived: Duration) -> u64 {
        let own = self.before(share, arrived);
        let rounds = (own + 1) as f64 / f64::from(share.weight.max(1));
        let others = self
            .flows
            .iter()
            .filter(|(caller, _)| **caller != share.caller)
            .map(|(_, flow)| match (share.priority, flow.priority) {
                (Priority::Interactive, Priority::Batch) => 0,
                (Priority::Batch, Priority::Interactive) => flow.waiting.len(),
                _ => flow.waiting.len().min((rounds * flow.weight) as usize),
            });
        (own + others.sum::<usize>()) as u64
    }

    fn before(&self, share: &Share, arrived: Duration) -> usize {
        let flow = self.flows.get(&share.caller);
        flow.map_or(0, |flow| flow.waiting.range(..=(arrived, u64::MAX)).count())
    }

    /// How long a batch request of this caller would be passed over at most, if it came now, until it has a turn as if it
    /// were interactive: its age, once for each that its caller has before it and once for each other that has aged by then.
    pub fn ageing(
        &self,
        share: &Share,
        (arrived, deadline): (Duration, Duration),
        now: Duration,
    ) -> Duration {
        let own = self.before(share, arrived);
        let since = match self.flows.get(&share.caller) {
            Some(flow) if own > 0 => flow.since,
            _ => now,
        };
        let turns = u32::try_from(own + 1).unwrap_or(u32::MAX);
        let age = age(deadline.saturating_sub(arrived));
        let at = since.saturating_add(age.saturating_mul(turns));
        at.saturating_sub(now)
    }

    /// How many batch callers wait: aged, they have one turn after another.
    pub fn batch_callers(&self) -> u64 {
        let batch = |flow: &&Flow<T>| flow.priority == Priority::Batch && !flow.waiting.is_empty();
        self.flows.values().filter(batch).count() as u64
    }

    /// How many of each caller wait; callers of whom none waits are left out.
    pub fn waiting(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.flows
            .iter()
            .map(|(caller, flow)| (caller, flow.waiting.len()))
            .filter(|(_, waiting)| *waiting > 0)
    }

    /// One entry of this caller is out.
    fn left(&mut self, caller: &Arc<str>) {
        self.len -= 1;
        if self.len == 0 {
            // Nobody competes any more, so nobody is ahead of anybody.
            self.flows.clear();
            self.clocks = [0.0; 2];
            self.aged = 0.0;
            return;
        }
        let even = self
            .flows
            .get(caller)
            .is_some_and(|flow| flow.waiting.is_empty() && flow.start <= self.clocks[flow.class()]);
        if even {
            self.flows.remove(caller);
        }
    }
}

impl<T> Flow<T> {
    fn class(&self) -> usize {
        match self.priority {
            Priority::Interactive => INTERACTIVE,
            Priority::Batch => BATCH,
        }
    }

    fn has_aged(&self, now: Duration) -> bool {
        let first = self.waiting.values().next();
        first.is_some_and(|first| now.saturating_sub(self.since) >= first.age)
    }

    /// Ties go to whoever has just come, so that it waits for no more than the turn that is under way; then to whoever
    /// had no turn for longest, then to the request that came first.
    fn before(&self, other: &Self) -> Ordering {
        let first = |flow: &Self| flow.waiting.keys().next().copied();
        self.start
            .total_cmp(&other.start)
            .then(other.fresh.cmp(&self.fresh))
            .then(self.since.cmp(&other.since))
            .then(first(self).cmp(&first(other)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ZERO: Duration = Duration::ZERO;
    const SECOND: Duration = Duration::from_secs(1);
    const FOREVER: Duration = Duration::from_secs(1_000_000);
    const PATIENT: (Duration, Duration) = (ZERO, FOREVER);

    fn share(caller: &str, weight: u32, priority: Priority) -> Share {
        Share {
            caller: caller.into(),
            weight,
            priority,
        }
    }

    fn interactive(caller: &str, weight: u32) -> Share {
        share(caller, weight, Priority::Interactive)
    }

    fn batch(caller: &str) -> Share {
        share(caller, 1, Priority::Batch)
    }

    fn fill(queue: &mut Queue<&'static str>, share: &Share, name: &'static str, count: usize) {
        for _ in 0..count {
            queue.push(share, PATIENT, ZERO, name);
        }
    }

    fn turns(queue: &mut Queue<&'static str>, count: usize) -> BTreeMap<&'static str, usize> {
        let mut turns = BTreeMap::new();
        for _ in 0..count {
            *turns
                .entry(queue.take(ZERO).expect("one waits"))
                .or_default() += 1;
        }
        turns
    }

    #[test]
    fn turns_are_in_proportion_to_weight_however_long_the_queues() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 1000);
        fill(&mut queue, &interactive("b", 1), "b", 20);
        fill(&mut queue, &interactive("c", 2), "c", 40);
        let turns = turns(&mut queue, 40);
        assert_eq!(turns, BTreeMap::from([("a", 10), ("b", 10), ("c", 20)]));
    }

    #[test]
    fn what_one_does_not_want_goes_to_the_others() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 100);
        fill(&mut queue, &interactive("b", 9), "b", 3);
        assert_eq!(turns(&mut queue, 23), BTreeMap::from([("a", 20), ("b", 3)]));
    }

    #[test]
    fn whoever_comes_late_has_the_next_turn_and_is_owed_nothing() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 100);
        fill(&mut queue, &interactive("b", 2), "b", 100);
        turns(&mut queue, 60);
        fill(&mut queue, &interactive("late", 1), "late", 100);
        assert_eq!(queue.take(ZERO), Some("late"));
        let turns = turns(&mut queue, 40);
        assert_eq!(turns, BTreeMap::from([("a", 10), ("b", 20), ("late", 10)]));
    }

    #[test]
    fn leaving_the_queue_does_not_wipe_out_what_one_has_had() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 10);
        fill(&mut queue, &interactive("b", 1), "b", 10);
        let mut seen = BTreeMap::<_, usize>::new();
        for _ in 0..10 {
            // Never more than one at a time, and back as soon as it had its turn.
            queue.push(&interactive("in-and-out", 1), PATIENT, ZERO, "in-and-out");
            for _ in 0..3 {
                *seen
                    .entry(queue.take(ZERO).expect("one waits"))
                    .or_default() += 1;
            }
        }
        assert_eq!(seen["in-and-out"], 10);
        assert_eq!(seen["a"] + seen["b"], 20);
    }

    #[test]
    fn whoever_was_away_is_owed_nothing() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 100);
        fill(&mut queue, &interactive("b", 1), "b", 100);
        fill(&mut queue, &interactive("away", 1), "away", 1);
        // It leaves with more than the others had, so it is remembered; then they overtake it.
        assert_eq!(turns(&mut queue, 1), BTreeMap::from([("a", 1)]));
        turns(&mut queue, 62);
        fill(&mut queue, &interactive("away", 1), "away", 100);
        let turns = turns(&mut queue, 30);
        assert_eq!(turns, BTreeMap::from([("a", 10), ("away", 10), ("b", 10)]));
    }

    #[test]
    fn batch_waits_for_interactive_and_ages() {
        let mut queue = Queue::default();
        fill(&mut queue, &batch("batch"), "batch", 100);
        fill(&mut queue, &interactive("a", 1), "a", 100);
        assert_eq!(turns(&mut queue, 10), BTreeMap::from([("a", 10)]));
        // Its age gives it one turn, not its whole backlog.
        let mut seen = Vec::new();
        for _ in 0..10 {
            seen.push(queue.take(AGE).expect("one waits"));
        }
        assert_eq!(seen.iter().filter(|name| **name == "batch").count(), 1);
        assert_eq!(queue.take(AGE * 2 - SECOND), Some("a"));
        let seen = [queue.take(AGE * 2), queue.take(AGE * 2)];
        assert!(seen.contains(&Some("batch")), "{seen:?}");
    }

    #[test]
    fn a_batch_request_ages_within_its_patience() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 100);
        let patience = SECOND * 6;
        assert_eq!(
            queue.ageing(&batch("x"), (SECOND, SECOND + patience), SECOND),
            SECOND * 2
        );
        queue.push(&batch("x"), (SECOND, SECOND + patience), SECOND, "x");
        assert_eq!(
            queue.ageing(&batch("x"), (SECOND * 2, SECOND * 2 + patience), SECOND * 2),
            SECOND * 3
        );
        assert_eq!(queue.take(SECOND * 2), Some("a"));
        let seen = [queue.take(SECOND * 3), queue.take(SECOND * 3)];
        assert!(seen.contains(&Some("x")), "{seen:?}");
    }

    #[test]
    fn a_crowd_of_batch_callers_has_one_share_of_what_interactive_ones_want() {
        let mut queue = Queue::default();
        for n in 0..200 {
            fill(&mut queue, &batch(&format!("batch-{n}")), "batch", 10);
        }
        fill(&mut queue, &interactive("a", 1), "a", 100);
        let half = SECOND / 2;
        let turn = |queue: &mut Queue<_>, n: u32| queue.take(half * n);
        let had = (0..120).filter(|n| turn(&mut queue, *n) == Some("a"));
        assert!(had.count() >= 60);
        // And one that comes late waits for a turn, not for all of theirs.
        queue.push(
            &interactive("late", 1),
            (SECOND * 60, FOREVER),
            SECOND * 60,
            "late",
        );
        let after = (120..).find(|n| turn(&mut queue, *n) == Some("late"));
        assert!(after.is_some_and(|n| n <= 121), "{after:?}");
    }

    #[test]
    fn impatience_buys_no_priority() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 300);
        let mut had = 0;
        for n in 0..120u32 {
            let now = SECOND / 2 * n;
            queue.push(&batch("x"), (now, now + SECOND), now, "x");
            had += u32::from(queue.take(now) == Some("x"));
        }
        // One in two seconds, of four turns in that time.
        assert!((1..=31).contains(&had), "{had}");
    }

    #[test]
    fn batch_has_what_interactive_leaves() {
        let mut queue = Queue::default();
        fill(&mut queue, &batch("x"), "x", 30);
        fill(&mut queue, &interactive("a", 1), "a", 5);
        fill(&mut queue, &batch("y"), "y", 30);
        let turns = turns(&mut queue, 25);
        assert_eq!(turns, BTreeMap::from([("a", 5), ("x", 10), ("y", 10)]));
    }

    #[test]
    fn within_a_caller_the_oldest_request_goes_first() {
        let mut queue = Queue::default();
        let a = interactive("a", 1);
        queue.push(&a, (SECOND * 2, FOREVER), SECOND * 2, "second");
        queue.push(&a, (SECOND * 3, FOREVER), SECOND * 3, "third");
        // Tried again: it came before the others.
        queue.push(&a, (SECOND, FOREVER), SECOND * 4, "first");
        let order: Vec<_> = std::iter::from_fn(|| queue.take(ZERO)).collect();
        assert_eq!(order, ["first", "second", "third"]);
    }

    #[test]
    fn ahead_counts_what_will_have_its_turn_before() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 1000);
        fill(&mut queue, &interactive("b", 2), "b", 3);
        fill(&mut queue, &batch("batch"), "batch", 7);
        for (share, ahead) in [
            // One round of `a` and two turns of `b`.
            (interactive("new", 1), 3),
            (interactive("heavy", 10), 0),
            (interactive("a", 1), 1003),
            (batch("other"), 1000 + 3 + 1),
        ] {
            assert_eq!(queue.ahead(&share, ZERO), ahead, "{share:?}");
        }
    }

    #[test]
    fn nothing_is_kept_of_callers_that_have_gone() {
        let mut queue = Queue::default();
        for number in 0..100 {
            let ticket = queue.push(&interactive(&number.to_string(), 1), PATIENT, ZERO, "x");
            assert!(queue.remove(&ticket).is_some());
            assert!(queue.remove(&ticket).is_none());
        }
        assert!(queue.flows.is_empty() && queue.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Take,
        Remove(usize),
        RemoveNewest(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0usize..5).prop_map(Step::Push),
            3 => Just(Step::Take),
            1 => any::<usize>().prop_map(Step::Remove),
            1 => (0usize..5).prop_map(Step::RemoveNewest),
            1 => (0u64..15).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn nobody_is_lost_and_everybody_has_a_turn(steps in prop::collection::vec(step(), 0..300)) {
            let shares = [
                interactive("a", 1), interactive("b", 1), interactive("c", 2), batch("x"), batch("y"),
            ];
            let (mut queue, mut waiting, mut tickets) = (Queue::default(), BTreeMap::new(), Vec::new());
            let (mut now, mut next) = (ZERO, 0u64);
            for step in steps {
                match step {
                    Step::Push(who) => {
                        tickets.push((next, queue.push(&shares[who], (now, now + AGE * 3), now, next)));
                        waiting.insert(next, who);
                        next += 1;
                    }
                    Step::Take => {
                        let taken = queue.take(now);
                        prop_assert_eq!(taken.is_none(), waiting.is_empty());
                        if let Some(id) = taken {
                            prop_assert!(waiting.remove(&id).is_some());
                        }
                    }
                    Step::Remove(which) if !tickets.is_empty() => {
                        let (id, ticket) = &tickets[which % tickets.len()];
                        prop_assert_eq!(queue.remove(ticket).is_some(), waiting.remove(id).is_some());
                    }
                    Step::Remove(_) => {}
                    Step::RemoveNewest(who) => {
                        if let Some(id) = queue.remove_newest(&shares[who].caller) {
                            prop_assert_eq!(waiting.remove(&id), Some(who));
                        }
                    }
                    Step::Wait(seconds) => now += SECOND * u32::try_from(seconds).unwrap(),
                }
                prop_assert_eq!(queue.len(), waiting.len());
                prop_assert!(queue.flows.len() <= shares.len());
            }
            // Every turn is somebody's, until nobody is left.
            while queue.take(now).is_some() {}
            prop_assert!(queue.is_empty() && queue.flows.is_empty());
        }

        /// The bound of start-time fair queueing: two callers that both wait are never further apart than a turn of each.
        #[test]
        fn whoever_waits_has_its_share(
            weights in prop::collection::vec(1u32..8, 2..6),
            turns in 1usize..200,
        ) {
            let names: Vec<Share> =
                weights.iter().enumerate().map(|(n, w)| interactive(&n.to_string(), *w)).collect();
            let mut queue = Queue::default();
            for (n, share) in names.iter().enumerate() {
                for _ in 0..turns {
                    queue.push(share, PATIENT, ZERO, n);
                }
            }
            let mut had = vec![0u32; weights.len()];
            for _ in 0..turns {
                had[queue.take(ZERO).unwrap()] += 1;
            }
            for a in 0..had.len() {
                for b in 0..had.len() {
                    let share = |n: usize| f64::from(had[n]) / f64::from(weights[n]);
                    let bound = 1.0 / f64::from(weights[a]) + 1.0 / f64::from(weights[b]);
                    prop_assert!((share(a) - share(b)).abs() <= bound + 1e-6, "{had:?} for {weights:?}");
                }
            }
        }
    }
}
