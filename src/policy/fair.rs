//! Whose turn it is: by priority, then by weight, then by time of arrival.
//!
//! This is start-time fair queueing (Goyal, Vin and Cheng, 1996). Each caller has its own queue, its flow, and a virtual time at
//! which its next turn starts. A turn advances that time by 1 / weight, and the earliest start goes first. A new caller starts
//! at the current virtual time: it is not behind the others, and it gets no credit for turns that it did not ask for. A caller
//! that queues a thousand requests delays only itself.
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

mod forecast;
mod share;
mod turns;

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc, time::Duration};

pub use self::{
    share::{MAX_AGEING, Priority, Share, Standing, ageing_time},
    turns::Turns,
};

/// Identifies an entry for [`Queue::remove`].
#[derive(Clone, Debug)]
pub struct Ticket {
    caller: Arc<str>,
    position: Position,
}

impl Ticket {
    /// Where the entry stands among its caller's.
    pub fn position(&self) -> Position {
        self.position
    }
}

/// Time of the request's arrival, then order of entry. A retried request keeps its arrival and so its age.
pub type Position = (Duration, u64);

/// The position of a request that arrived then and has not entered yet.
pub fn newcomer(arrived: Duration) -> Position {
    (arrived, u64::MAX)
}

/// The entries of all callers, taken in the order of turns.
#[derive(Debug)]
pub struct Queue<T> {
    /// A flow is kept while its caller waits or is ahead of the others, so that leaving the queue does not erase its lead.
    flows: BTreeMap<Arc<str>, Flow<T>>,
    /// The current virtual time of interactive turns and of batch turns.
    virtual_times: [f64; 2],
    /// Start of the next interactive turn of all aged batch callers. Together they count as one caller of weight 1; otherwise
    /// many of them would crowd out the interactive callers.
    aged_start: f64,
    len: usize,
    next_entry: u64,
    /// Of each caller: how many more wait elsewhere, with whom those here take turns. For forecasts alone.
    elsewhere: BTreeMap<Arc<str>, (u32, Priority, u64)>,
}

#[derive(Debug)]
struct Flow<T> {
    waiting: BTreeMap<Position, Entry<T>>,
    weight: f64,
    priority: Priority,
    /// Start of its next turn, in the virtual time of its class.
    start: f64,
    /// Time of its last turn, or when it began to wait.
    waiting_since: Duration,
    /// Whether it has had no turn since it began to wait.
    is_new: bool,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    /// See [`ageing_time`].
    ageing_time: Duration,
}

const INTERACTIVE: usize = 0;
const BATCH: usize = 1;

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            flows: BTreeMap::new(),
            virtual_times: [0.0; 2],
            aged_start: 0.0,
            len: 0,
            next_entry: 0,
            elsewhere: BTreeMap::new(),
        }
    }
}

impl<T> Queue<T> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a request that arrived at `arrived` and waits until `deadline` at most. Times are since any fixed instant.
    pub fn push(
        &mut self,
        share: &Share,
        (arrived, deadline): (Duration, Duration),
        now: Duration,
        item: T,
    ) -> Ticket {
        let virtual_times = self.virtual_times;
        let flow = self
            .flows
            .entry(share.caller.clone())
            .or_insert_with(|| Flow {
                waiting: BTreeMap::new(),
                weight: 1.0,
                priority: share.priority,
                start: 0.0,
                waiting_since: now,
                is_new: true,
            });
        // A reload may have changed them; they apply to future turns.
        flow.weight = f64::from(share.weight.max(1));
        flow.priority = share.priority;
        if flow.waiting.is_empty() {
            flow.start = flow.start.max(virtual_times[flow.class()]);
            flow.waiting_since = now;
            flow.is_new = true;
        }
        let position = (arrived, self.next_entry);
        self.next_entry += 1;
        self.len += 1;
        let ageing_time = ageing_time(deadline.saturating_sub(arrived));
        flow.waiting.insert(position, Entry { item, ageing_time });
        Ticket {
            caller: share.caller.clone(),
            position,
        }
    }

    /// The caller whose turn is next among those with an entry that may go, and with which standing.
    fn next_turn(
        &self,
        now: Duration,
        may_go: &impl Fn(&T, Standing) -> bool,
    ) -> Option<(&Arc<str>, Standing)> {
        let of = |class: usize, standing: Standing| {
            self.flows.iter().filter(move |(_, flow)| {
                let mut entries = flow.waiting.values();
                flow.class() == class && entries.any(|entry| may_go(&entry.item, standing))
            })
        };
        let first = |class: usize, standing: Standing| {
            let virtual_time = self.virtual_times[class];
            of(class, standing).min_by(|(_, a), (_, b)| a.compare_turns(b, virtual_time))
        };
        let oldest = of(BATCH, Standing::Aged)
            .filter(|(_, flow)| flow.has_aged(now))
            .min_by_key(|(_, flow)| flow.waiting_since);
        let virtual_time = self.virtual_times[INTERACTIVE];
        let aged = self.aged_start.max(virtual_time);
        match (first(INTERACTIVE, Standing::Interactive), oldest) {
            (Some((_, flow)), Some((caller, _))) if aged < flow.start.max(virtual_time) => {
                Some((caller, Standing::Aged))
            }
            (Some((caller, _)), _) => Some((caller, Standing::Interactive)),
            (None, oldest) => match (first(BATCH, Standing::Batch), oldest) {
                (Some((caller, _)), _) => Some((caller, Standing::Batch)),
                (None, oldest) => Some((oldest?.0, Standing::Aged)),
            },
        }
    }

    /// The entry whose turn is next; it stays in the queue.
    pub fn peek(&self, now: Duration) -> Option<&T> {
        Some(self.peek_where(now, |_, _| true)?.0)
    }

    /// The entry whose turn is next among those that may go with the standing that they have, and that standing; it stays in the
    /// queue. The others keep their places: they delay nobody, and their callers get no credit for the turns that pass meanwhile.
    pub fn peek_where(
        &self,
        now: Duration,
        may_go: impl Fn(&T, Standing) -> bool,
    ) -> Option<(&T, Standing)> {
        let (caller, standing) = self.next_turn(now, &may_go)?;
        let mut items = self.flows.get(caller)?.waiting.values();
        let item = items.find_map(|entry| {
            let item = &entry.item;
            may_go(item, standing).then_some(item)
        });
        Some((item?, standing))
    }

    /// Removes the entry whose turn is next.
    pub fn take(&mut self, now: Duration) -> Option<T> {
        self.take_where(now, |_, _| true)
    }

    /// Removes the entry whose turn is next among those that may go; see [`Queue::peek_where`].
    pub fn take_where(
        &mut self,
        now: Duration,
        may_go: impl Fn(&T, Standing) -> bool,
    ) -> Option<T> {
        let (caller, standing) = self.next_turn(now, &may_go)?;
        let caller = caller.clone();
        let as_aged = standing == Standing::Aged;
        if as_aged {
            let aged = self.aged_start.max(self.virtual_times[INTERACTIVE]);
            self.virtual_times[INTERACTIVE] = aged;
            self.aged_start = aged + 1.0;
        }
        let flow = self.flows.get_mut(&caller)?;
        let mut waiting = flow.waiting.iter();
        let position = *waiting.find(|(_, entry)| may_go(&entry.item, standing))?.0;
        let entry = flow.waiting.remove(&position)?;
        let virtual_time = &mut self.virtual_times[flow.class()];
        if !as_aged {
            *virtual_time = virtual_time.max(flow.start);
        }
        flow.start = flow.start.max(*virtual_time) + 1.0 / flow.weight;
        flow.waiting_since = now;
        flow.is_new = false;
        self.removed_one(&caller);
        Some(entry.item)
    }

    /// Whether an entry that may go has its turn before a newcomer of this priority, or may have.
    pub fn any_before(
        &self,
        priority: Priority,
        now: Duration,
        may_go: impl Fn(&T) -> bool,
    ) -> bool {
        self.flows.values().any(|flow| {
            let is_before = priority == Priority::Batch
                || flow.priority == Priority::Interactive
                || flow.has_aged(now);
            let mut entries = flow.waiting.values();
            is_before && entries.any(|entry| may_go(&entry.item))
        })
    }

    /// Removes an entry before its turn; `None` if it is no longer queued.
    pub fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        let flow = self.flows.get_mut(&ticket.caller)?;
        let entry = flow.waiting.remove(&ticket.position)?;
        self.removed_one(&ticket.caller);
        Some(entry.item)
    }

    /// Removes the newest entry of this caller.
    pub fn remove_newest(&mut self, caller: &Arc<str>) -> Option<T> {
        let (_, entry) = self.flows.get_mut(caller)?.waiting.pop_last()?;
        self.removed_one(caller);
        Some(entry.item)
    }

    /// When the next batch caller will have aged.
    pub fn next_aged(&self, now: Duration) -> Option<Duration> {
        let batch = self
            .flows
            .values()
            .filter(|flow| flow.priority == Priority::Batch);
        let at = batch.filter_map(Flow::ages_at);
        at.filter(|at| *at > now).min()
    }

    /// The number of entries by caller, without callers that have none.
    pub fn waiting(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.flows
            .iter()
            .map(|(caller, flow)| (caller, flow.waiting.len()))
            .filter(|(_, waiting)| *waiting > 0)
    }

    /// Updates the bookkeeping after one entry of this caller was removed.
    fn removed_one(&mut self, caller: &Arc<str>) {
        self.len -= 1;
        if self.len == 0 {
            // Without competition no caller is ahead of another.
            self.flows.clear();
            self.virtual_times = [0.0; 2];
            self.aged_start = 0.0;
            return;
        }
        let is_level = self.flows.get(caller).is_some_and(|flow| {
            flow.waiting.is_empty() && flow.start <= self.virtual_times[flow.class()]
        });
        if is_level {
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
        self.ages_at().is_some_and(|at| at <= now)
    }

    /// When it has aged; `None` if nothing waits.
    fn ages_at(&self) -> Option<Duration> {
        let first = self.waiting.values().next()?;
        Some(self.waiting_since.saturating_add(first.ageing_time))
    }

    /// The earlier start goes first. A tie goes to the newcomer, so that it waits for one turn at most, then to the caller without
    /// a turn for longest, then to the oldest request.
    ///
    /// A flow whose entries could not go for a while starts at the current virtual time, as a new one does.
    fn compare_turns(&self, other: &Self, virtual_time: f64) -> Ordering {
        let first = |flow: &Self| flow.waiting.keys().next().copied();
        let start = |flow: &Self| flow.start.max(virtual_time);
        start(self)
            .total_cmp(&start(other))
            .then(other.is_new.cmp(&self.is_new))
            .then(self.waiting_since.cmp(&other.waiting_since))
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
    const LONG_WAIT: (Duration, Duration) = (ZERO, FOREVER);

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
            queue.push(share, LONG_WAIT, ZERO, name);
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

    proptest! {
        /// Also after turns that have given some a lead.
        #[test]
        fn the_order_that_is_foretold_is_the_one_in_which_entries_are_taken(
            before in prop::collection::vec(0..6_usize, 0..40),
            turns in 0..20_usize,
            after in prop::collection::vec(0..6_usize, 0..40),
        ) {
            let shares = [
                interactive("a", 1), interactive("b", 2), interactive("c", 4),
                batch("d"), share("e", 2, Priority::Batch), batch("f"),
            ];
            let mut queue = Queue::default();
            let mut number = 0;
            let mut push = |queue: &mut Queue<usize>, which: usize| {
                queue.push(&shares[which], LONG_WAIT, ZERO, number);
                number += 1;
            };
            before.iter().for_each(|which| push(&mut queue, *which));
            for _ in 0..turns {
                let _ = queue.take(ZERO);
            }
            after.iter().for_each(|which| push(&mut queue, *which));
            let order = queue.in_order();
            let foretold: Vec<_> = order.iter().map(|(_, ticket)| *queue.get(ticket).expect("queued")).collect();
            let taken: Vec<_> = std::iter::from_fn(|| queue.take(ZERO)).collect();
            prop_assert_eq!(foretold, taken);
        }
    }

    #[test]
    fn turns_are_in_proportion_to_weight_and_not_to_queue_length() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 1000);
        fill(&mut queue, &interactive("b", 1), "b", 20);
        fill(&mut queue, &interactive("c", 2), "c", 40);
        let turns = turns(&mut queue, 40);
        assert_eq!(turns, BTreeMap::from([("a", 10), ("b", 10), ("c", 20)]));
    }

    #[test]
    fn entries_that_may_not_go_delay_nobody_and_earn_no_credit() {
        let mut queue = Queue::default();
        // One caller has only such entries, another one has them before its others.
        fill(&mut queue, &interactive("a", 1), "held", 100);
        fill(&mut queue, &interactive("b", 1), "held", 10);
        fill(&mut queue, &interactive("b", 1), "b", 100);
        fill(&mut queue, &interactive("c", 2), "c", 100);
        fill(&mut queue, &batch("d"), "held", 10);
        let may_go = |name: &&str, _| *name != "held";
        assert_eq!(
            queue.ahead(&interactive("new", 1), newcomer(ZERO), |name| *name
                != "held"),
            3
        );
        assert_eq!(
            queue.ahead(&interactive("b", 1), newcomer(ZERO), |name| *name != "held"),
            200
        );
        let mut turns = BTreeMap::new();
        for _ in 0..60 {
            let next = *queue.peek_where(ZERO, may_go).expect("one waits").0;
            assert_eq!(queue.take_where(ZERO, may_go), Some(next));
            *turns.entry(next).or_default() += 1;
        }
        assert_eq!(turns, BTreeMap::from([("b", 20), ("c", 40)]));
        for priority in [Priority::Interactive, Priority::Batch] {
            let any = |what: &str| queue.any_before(priority, ZERO, |name| *name == what);
            assert!(any("held") && !any("e"));
        }
        // Then all may go. The one that waited in vain gets its share and no more.
        let mut turns: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for _ in 0..40 {
            let caller = queue.next_turn(ZERO, &|_, _| true).expect("one waits").0;
            *turns.entry(caller.clone()).or_default() += 1;
            queue.take(ZERO);
        }
        let turns: Vec<_> = turns.values().copied().collect();
        assert!((9..=11).contains(&turns[0]), "{turns:?}");
        assert!((9..=11).contains(&turns[1]), "{turns:?}");
        assert!((19..=21).contains(&turns[2]), "{turns:?}");
        // When nothing may go, nothing is taken.
        let before = queue.len();
        assert_eq!(queue.take_where(ZERO, |_, _| false), None);
        assert_eq!(queue.len(), before);
    }

    #[test]
    fn unused_turns_go_to_the_others() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 100);
        fill(&mut queue, &interactive("b", 9), "b", 3);
        assert_eq!(turns(&mut queue, 23), BTreeMap::from([("a", 20), ("b", 3)]));
    }

    #[test]
    fn a_newcomer_has_the_next_turn_and_no_credit() {
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
    fn leaving_the_queue_does_not_erase_a_lead() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 10);
        fill(&mut queue, &interactive("b", 1), "b", 10);
        let mut seen = BTreeMap::<_, usize>::new();
        for _ in 0..10 {
            // One entry at a time, added again after each turn.
            queue.push(&interactive("in-and-out", 1), LONG_WAIT, ZERO, "in-and-out");
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
    fn absence_earns_no_credit() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 100);
        fill(&mut queue, &interactive("b", 1), "b", 100);
        fill(&mut queue, &interactive("away", 1), "away", 1);
        // It leaves ahead of the others, so its flow is kept until they overtake it.
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
        // Ageing gives it one turn and not one for each entry.
        let mut seen = Vec::new();
        for _ in 0..10 {
            seen.push(queue.take(MAX_AGEING).expect("one waits"));
        }
        assert_eq!(seen.iter().filter(|name| **name == "batch").count(), 1);
        assert_eq!(queue.take(MAX_AGEING * 2 - SECOND), Some("a"));
        let seen = [queue.take(MAX_AGEING * 2), queue.take(MAX_AGEING * 2)];
        assert!(seen.contains(&Some("batch")), "{seen:?}");
    }

    #[test]
    fn a_batch_request_ages_within_its_wait() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 100);
        let max_wait = SECOND * 6;
        assert_eq!(
            queue.ageing_wait(
                &batch("x"),
                (newcomer(SECOND), SECOND + max_wait),
                SECOND,
                |_| true
            ),
            SECOND * 2
        );
        queue.push(&batch("x"), (SECOND, SECOND + max_wait), SECOND, "x");
        assert_eq!(
            queue.ageing_wait(
                &batch("x"),
                (newcomer(SECOND * 2), SECOND * 2 + max_wait),
                SECOND * 2,
                |_| true
            ),
            SECOND * 3
        );
        assert_eq!(queue.take(SECOND * 2), Some("a"));
        let seen = [queue.take(SECOND * 3), queue.take(SECOND * 3)];
        assert!(seen.contains(&Some("x")), "{seen:?}");
    }

    #[test]
    fn many_aged_batch_callers_count_as_one_interactive_caller() {
        let mut queue = Queue::default();
        for n in 0..200 {
            fill(&mut queue, &batch(&format!("batch-{n}")), "batch", 10);
        }
        fill(&mut queue, &interactive("a", 1), "a", 100);
        let half = SECOND / 2;
        let turn = |queue: &mut Queue<_>, n: u32| queue.take(half * n);
        let served = (0..120).filter(|n| turn(&mut queue, *n) == Some("a"));
        assert!(served.count() >= 60);
        // A newcomer waits for one of their turns and not for all of them.
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
    fn a_short_wait_buys_no_priority() {
        let mut queue = Queue::default();
        fill(&mut queue, &interactive("a", 1), "a", 300);
        let mut served = 0;
        for n in 0..120u32 {
            let now = SECOND / 2 * n;
            queue.push(&batch("x"), (now, now + SECOND), now, "x");
            served += u32::from(queue.take(now) == Some("x"));
        }
        // One of the four turns in every two seconds.
        assert!((1..=31).contains(&served), "{served}");
    }

    #[test]
    fn batch_gets_the_turns_that_interactive_callers_leave() {
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
        // A retry, which arrived before the others.
        queue.push(&a, (SECOND, FOREVER), SECOND * 4, "first");
        let order: Vec<_> = std::iter::from_fn(|| queue.take(ZERO)).collect();
        assert_eq!(order, ["first", "second", "third"]);
    }

    #[test]
    fn ahead_counts_the_turns_that_come_before() {
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
            assert_eq!(
                queue.ahead(&share, newcomer(ZERO), |_| true),
                ahead,
                "{share:?}"
            );
        }
    }

    #[test]
    fn nothing_is_kept_of_callers_that_have_left() {
        let mut queue = Queue::default();
        for number in 0..100 {
            let ticket = queue.push(&interactive(&number.to_string(), 1), LONG_WAIT, ZERO, "x");
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
        fn no_entry_is_lost_and_each_gets_a_turn(steps in prop::collection::vec(step(), 0..300)) {
            let shares = [
                interactive("a", 1), interactive("b", 1), interactive("c", 2), batch("x"), batch("y"),
            ];
            let (mut queue, mut waiting, mut tickets) = (Queue::default(), BTreeMap::new(), Vec::new());
            let (mut now, mut next) = (ZERO, 0u64);
            for step in steps {
                match step {
                    Step::Push(who) => {
                        tickets.push((next, queue.push(&shares[who], (now, now + MAX_AGEING * 3), now, next)));
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
            // Every entry gets a turn.
            while queue.take(now).is_some() {}
            prop_assert!(queue.is_empty() && queue.flows.is_empty());
        }

        /// The bound of start-time fair queueing: two callers that both wait are never further apart than one turn of each.
        #[test]
        fn callers_that_wait_get_their_share(
            weights in prop::collection::vec(1u32..8, 2..6),
            turns in 1usize..200,
        ) {
            let names: Vec<Share> =
                weights.iter().enumerate().map(|(n, w)| interactive(&n.to_string(), *w)).collect();
            let mut queue = Queue::default();
            for (n, share) in names.iter().enumerate() {
                for _ in 0..turns {
                    queue.push(share, LONG_WAIT, ZERO, n);
                }
            }
            let mut served = vec![0u32; weights.len()];
            for _ in 0..turns {
                served[queue.take(ZERO).unwrap()] += 1;
            }
            for a in 0..served.len() {
                for b in 0..served.len() {
                    let share = |n: usize| f64::from(served[n]) / f64::from(weights[n]);
                    let bound = 1.0 / f64::from(weights[a]) + 1.0 / f64::from(weights[b]);
                    prop_assert!((share(a) - share(b)).abs() <= bound + 1e-6, "{served:?} for {weights:?}");
                }
            }
        }
    }
}
