//! Who may take how much of a bounded thing that callers share: places in flight, connections, bytes in memory, introspections.
//!
//! Units are anyone's while nobody else wants them, except for a reserve. How much of the free units a party must leave grows
//! with what it holds: one that holds seven units leaves one, one that holds seven hundred leaves a hundred. A party that holds
//! none may take the last one. So a party that takes all it can and gives nothing back leaves an eighth to the others, the next such
//! party an eighth of that, and whoever comes with nothing finds something. (Choudhury and Hahne, "Dynamic queue length
//! thresholds for shared-memory packet switches", 1998, deal out buffers in this way.)
//!
//! Where units can be waited for, a unit that becomes free goes to the party that holds least in proportion to its weight, and among
//! equals to the one whose turn it is, as in [`fair`](super::fair). Interactive parties go before batch ones that have not aged.
//! Nothing is taken away from a holder.
//!
//! Clients that are not known are one party of little weight. Beneath it their addresses share in the same way.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::{allocator::{Allocator, Claim, Party}, fair::Priority};
//!
//! let claim = |name: &str| Claim {
//!     party: Party::Caller { group: "main".into(), name: name.into() },
//!     weight: 1,
//!     priority: Priority::Interactive,
//! };
//! let (greedy, modest) = (claim("greedy"), claim("modest"));
//! let mut places = Allocator::default();
//! let taken = (0..100).filter(|_| places.try_take(64, &greedy, 1)).count();
//! assert_eq!(taken, 56, "an eighth is left");
//! assert!(places.try_take(64, &modest, 1));
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use super::fair::{Priority, Share, ageing_time};

/// Who shares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A known caller. In mode "validate" all callers have one name, and the group tells them apart.
    Caller {
        /// Its quota group.
        group: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// revgate itself, for calls that no caller asked for.
    Gateway,
    /// A client of which it is not known, or not known yet, which caller it is.
    Unknown(Address),
}

/// Where an unknown client connects from. An IPv6 client may choose any address of its network, so the network counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// The address, or the first one of its network of 64 bits.
    Ip(IpAddr),
    /// A unix socket has none.
    Local,
}

impl From<Option<IpAddr>> for Address {
    fn from(address: Option<IpAddr>) -> Self {
        const HOST: u128 = (1 << 64) - 1;
        match address.map(|address| address.to_canonical()) {
            None => Address::Local,
            Some(IpAddr::V4(address)) => Address::Ip(address.into()),
            Some(IpAddr::V6(address)) if address.is_loopback() => Address::Ip(address.into()),
            Some(IpAddr::V6(address)) => {
                Address::Ip(Ipv6Addr::from_bits(address.to_bits() & !HOST).into())
            }
        }
    }
}

/// Who wants units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who will hold them.
    pub party: Party,
    /// What it may hold is in proportion to this, compared with the others that hold some; 0 counts as 1.
    pub weight: u32,
    /// A batch caller leaves more, and waits for interactive ones. So does an unknown client that has shown a wrong credential.
    pub priority: Priority,
}

impl Claim {
    /// Of a client that is not known.
    pub fn unknown(address: Option<IpAddr>) -> Claim {
        Claim {
            party: Party::Unknown(address.into()),
            weight: 1,
            priority: Priority::Interactive,
        }
    }

    /// Of revgate itself.
    pub fn own() -> Claim {
        Claim {
            party: Party::Gateway,
            weight: 1,
            priority: Priority::Interactive,
        }
    }

    /// Of a caller with this share of its group.
    pub fn caller(group: Arc<str>, share: &Share) -> Claim {
        Claim {
            party: Party::Caller {
                group,
                name: share.caller.clone(),
            },
            weight: share.weight,
            priority: share.priority,
        }
    }
}

/// Of its own units and those that it leaves free, an interactive party leaves an eighth.
const LEAVES_ONE_FOR: u64 = 7;
/// A batch party leaves a quarter, so that it never reaches into what interactive ones leave.
const BATCH_LEAVES_ONE_FOR: u64 = 3;
/// All unknown clients together leave half. What those may take who have shown a wrong credential is half of that.
const UNKNOWN_LEAVE: u64 = 1;
const FAILED_LEAVE: u64 = 3;

/// A turn of one unit at weight 1, in virtual time; large enough that weights divide it well.
const TURN: u64 = 1 << 20;

/// Identifies one that waits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    number: u64,
    waiters: Waiters,
}

/// Units of a bounded thing and who holds them. How many there are comes with each call, because it belongs to the configuration.
#[derive(Debug, Default)]
pub struct Allocator {
    used: u64,
    callers: BTreeMap<Party, Holding>,
    /// Of all in `callers`.
    weights: u64,
    unknown: u64,
    by_address: BTreeMap<Address, u64>,
    /// No queue in it is empty.
    waiting: BTreeMap<Waiters, Flow>,
    /// The start of the latest turn.
    virtual_time: u64,
    /// Where the next turn starts of those whose last turn is ahead of that, so that leaving the queue does not erase their lead.
    ahead: BTreeMap<Waiters, u64>,
    next_ticket: u64,
}

#[derive(Clone, Copy, Debug)]
struct Holding {
    units: u64,
    weight: u64,
}

/// Those who wait in one queue: a party, and whether it is batch. Only at one address there may be both.
type Waiters = (Party, bool);

impl Claim {
    fn waiters(&self) -> Waiters {
        (self.party.clone(), self.priority == Priority::Batch)
    }
}

/// A queue.
#[derive(Debug)]
struct Flow {
    /// Of its next turn, in virtual time: each turn moves it on by the units taken over the weight.
    start: u64,
    /// In the order in which they came.
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    claim: Claim,
    units: u64,
    /// From then on a batch request counts as interactive.
    ages: Duration,
}

impl Allocator {
    /// Units that are taken, by all together.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.values().map(|flow| flow.queue.len()).sum()
    }

    /// How many units are free, if this claim may take one; else 0.
    pub fn free_for(&self, capacity: u64, claim: &Claim) -> u64 {
        match self.may_take(capacity, claim, 1) {
            true => capacity.saturating_sub(self.used),
            false => 0,
        }
    }

    /// Takes so many units at once, or none. Whoever takes gives back as many.
    pub fn try_take(&mut self, capacity: u64, claim: &Claim, units: u64) -> bool {
        // Whoever waits has been refused, and nothing has changed since, or it would not wait. Only its own queue must not overtake it.
        let may =
            !self.waiting.contains_key(&claim.waiters()) && self.may_take(capacity, claim, units);
        if may {
            self.take_anyway(claim, units);
        }
        may
    }

    /// Takes units even if there are none: for one that gave back its own for a while.
    pub fn take_anyway(&mut self, claim: &Claim, units: u64) {
        self.used += units;
        match claim.party {
            Party::Unknown(address) => {
                self.unknown += units;
                *self.by_address.entry(address).or_default() += units;
            }
            Party::Caller { .. } | Party::Gateway => {
                let weight = u64::from(claim.weight.max(1));
                let new = Holding {
                    units: 0,
                    weight: 0,
                };
                let holding = self.callers.entry(claim.party.clone()).or_insert(new);
                // The weight of the latest configuration holds from now on.
                self.weights = self.weights - holding.weight + weight;
                holding.units += units;
                holding.weight = weight;
            }
        }
    }

    /// Gives units back.
    pub fn give_back(&mut self, party: &Party, units: u64) {
        match party {
            Party::Unknown(address) => {
                let Some(held) = self.by_address.get_mut(address) else {
                    return;
                };
                let units = units.min(*held);
                *held -= units;
                if *held == 0 {
                    self.by_address.remove(address);
                }
                self.unknown -= units;
                self.used -= units;
            }
            Party::Caller { .. } | Party::Gateway => {
                let Some(holding) = self.callers.get_mut(party) else {
                    return;
                };
                let units = units.min(holding.units);
                holding.units -= units;
                self.used -= units;
                if holding.units == 0 {
                    self.weights -= holding.weight;
                    self.callers.remove(party);
                }
            }
        }
    }

    /// Queues a request that could not take its units. It came at `since` and waits until `deadline` at most.
    pub fn wait(
        &mut self,
        claim: &Claim,
        units: u64,
        (since, deadline): (Duration, Duration),
    ) -> Ticket {
        self.next_ticket += 1;
        let number = self.next_ticket;
        let ahead = self.ahead.get(&claim.waiters()).copied();
        let flow = self.waiting.entry(claim.waiters()).or_insert(Flow {
            start: ahead.unwrap_or(self.virtual_time),
            queue: VecDeque::new(),
        });
        flow.queue.push_back(Waiter {
            number,
            claim: claim.clone(),
            units,
            ages: since.saturating_add(ageing_time(deadline.saturating_sub(since))),
        });
        let waiters = claim.waiters();
        Ticket { number, waiters }
    }

    /// Removes one that waits no longer. False if it is not there, because its turn came.
    pub fn leave(&mut self, ticket: &Ticket) -> bool {
        let Some(flow) = self.waiting.get_mut(&ticket.waiters) else {
            return false;
        };
        let before = flow.queue.len();
        flow.queue.retain(|waiter| waiter.number != ticket.number);
        let left = flow.queue.len() < before;
        if flow.queue.is_empty() {
            self.waiting.remove(&ticket.waiters);
        }
        left
    }

    /// Takes the units of the next one in turn; `None` if nobody who waits may take any. To be repeated after every change until
    /// it returns `None`.
    pub fn next(&mut self, capacity: u64, now: Duration) -> Option<Ticket> {
        let flows = self.waiting.values();
        let first = flows.filter_map(|flow| Some((flow.start, flow.queue.front()?)));
        let able = first.filter(|(_, waiter)| self.may_take(capacity, &waiter.claim, waiter.units));
        let (start, next) = able.min_by_key(|(start, waiter)| self.turn(*start, waiter, now))?;
        let waiters = next.claim.waiters();
        let flow = self.waiting.get_mut(&waiters)?;
        let waiter = flow.queue.pop_front()?;
        let weight = u64::from(waiter.claim.weight.max(1));
        flow.start = start.saturating_add(waiter.units.saturating_mul(TURN) / weight);
        let time = self.virtual_time.max(start);
        self.virtual_time = time;
        self.ahead.insert(waiters.clone(), flow.start);
        self.ahead.retain(|_, start| *start > time);
        if flow.queue.is_empty() {
            self.waiting.remove(&waiters);
        }
        self.take_anyway(&waiter.claim, waiter.units);
        let number = waiter.number;
        Some(Ticket { number, waiters })
    }

    /// The smallest goes first.
    fn turn(&self, start: u64, waiter: &Waiter, now: Duration) -> (bool, u64, u64, u64, u64) {
        let passed_over = waiter.claim.priority == Priority::Batch && now < waiter.ages;
        let weight = u64::from(waiter.claim.weight.max(1));
        let (held, beneath) = match waiter.claim.party {
            // Little weight: a caller that holds more goes first.
            Party::Unknown(address) => (
                self.unknown.saturating_mul(2),
                self.by_address.get(&address).copied().unwrap_or(0),
            ),
            Party::Caller { .. } | Party::Gateway => (self.held(&waiter.claim.party), 0),
        };
        let share = held.saturating_mul(TURN) / weight;
        (passed_over, share, beneath, start, waiter.number)
    }

    fn held(&self, party: &Party) -> u64 {
        self.callers.get(party).map_or(0, |holding| holding.units)
    }

    fn may_take(&self, capacity: u64, claim: &Claim, units: u64) -> bool {
        let Some(left) = capacity.saturating_sub(self.used).checked_sub(units) else {
            return false;
        };
        match claim.party {
            Party::Unknown(address) => {
                let after = self.unknown + units;
                let leave_for_each = match claim.priority {
                    Priority::Interactive => UNKNOWN_LEAVE,
                    Priority::Batch => FAILED_LEAVE,
                };
                let leave = match self.unknown {
                    0 => 0,
                    _ => after * leave_for_each,
                };
                let held = self.by_address.get(&address).copied().unwrap_or(0);
                // What unknown clients could still take together, is shared by their addresses as all is by callers.
                let headroom = left.saturating_sub(leave) / (leave_for_each + 1);
                left >= leave && (held == 0 || headroom >= (held + units) / LEAVES_ONE_FOR)
            }
            Party::Caller { .. } | Party::Gateway => {
                let held = self.held(&claim.party);
                if held == 0 {
                    return true;
                }
                let per_one = match claim.priority {
                    Priority::Interactive => LEAVES_ONE_FOR,
                    Priority::Batch => BATCH_LEAVES_ONE_FOR,
                };
                // In proportion to its weight, compared with the average of those that hold some.
                let weight = u128::from(claim.weight.max(1));
                let own = self.callers.get(&claim.party).map_or(0, |own| own.weight);
                let all = u128::from(self.weights - own) + weight;
                let leave = u128::from(held + units) * all
                    / (weight * self.callers.len() as u128 * u128::from(per_one));
                u128::from(left) >= leave
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caller(name: &str, weight: u32, priority: Priority) -> Claim {
        Claim {
            party: Party::Caller {
                group: "main".into(),
                name: name.into(),
            },
            weight,
            priority,
        }
    }

    fn named(name: &str) -> Claim {
        caller(name, 1, Priority::Interactive)
    }

    fn unknown(last: u8) -> Claim {
        Claim::unknown(Some(IpAddr::from([192, 0, 2, last])))
    }

    /// How many single units it gets.
    fn take_all(allocator: &mut Allocator, capacity: u64, claim: &Claim) -> u64 {
        let mut taken = 0;
        while allocator.try_take(capacity, claim, 1) {
            taken += 1;
        }
        taken
    }

    const NOW: Duration = Duration::from_secs(1);
    const TIMES: (Duration, Duration) = (NOW, Duration::from_secs(31));

    #[test]
    fn whoever_takes_all_leaves_some_to_the_next() {
        // Capacity, and what one greedy party after another gets.
        for (capacity, want) in [
            (1, &[1, 0][..]),
            (2, &[2, 0]),
            (7, &[6, 1, 0]),
            (8, &[7, 1, 0]),
            (64, &[56, 7, 1, 0]),
            (1024, &[896, 112, 14, 2, 0]),
        ] {
            let mut allocator = Allocator::default();
            let got: Vec<u64> = (0..want.len())
                .map(|number| take_all(&mut allocator, capacity, &named(&number.to_string())))
                .collect();
            assert_eq!(got, want, "of {capacity}");
        }
    }

    #[test]
    fn weight_and_priority_count() {
        let mut allocator = Allocator::default();
        assert_eq!(
            take_all(&mut allocator, 64, &caller("batch", 9, Priority::Batch)),
            48
        );
        let mut allocator = Allocator::default();
        assert!(allocator.try_take(64, &caller("light", 1, Priority::Interactive), 1));
        let heavy = caller("heavy", 3, Priority::Interactive);
        let heavy_got = take_all(&mut allocator, 64, &heavy);
        let mut allocator = Allocator::default();
        assert!(allocator.try_take(64, &caller("heavy", 3, Priority::Interactive), 1));
        let light = caller("light", 1, Priority::Interactive);
        let light_got = take_all(&mut allocator, 64, &light);
        assert!(heavy_got > light_got, "{heavy_got} {light_got}");
    }

    #[test]
    fn unknown_clients_are_one_party_of_little_weight_and_share_by_address() {
        let mut allocator = Allocator::default();
        let first = take_all(&mut allocator, 64, &unknown(1));
        let others: u64 = (2..=9)
            .map(|last| take_all(&mut allocator, 64, &unknown(last)))
            .sum();
        assert!(
            others >= 4,
            "other addresses find something: {first} {others}"
        );
        assert!(first + others <= 32, "half is left: {first} {others}");
        assert!(take_all(&mut allocator, 64, &named("known")) >= 28);
    }

    /// Whoever floods with made-up credentials from an address leaves room to others at the same address.
    #[test]
    fn unknown_clients_that_have_failed_leave_more_and_go_later() {
        let failed = Claim {
            priority: Priority::Batch,
            ..unknown(1)
        };
        let mut allocator = Allocator::default();
        assert_eq!(take_all(&mut allocator, 64, &failed), 14);
        assert_eq!(take_all(&mut allocator, 64, &unknown(1)), 14);
        let old = allocator.wait(&failed, 1, TIMES);
        let new = allocator.wait(&unknown(1), 1, TIMES);
        allocator.give_back(&failed.party, 20);
        assert_eq!(allocator.next(64, NOW), Some(new));
        assert_eq!(allocator.next(64, NOW), Some(old));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let of = |text: &str| Address::from(Some(text.parse::<IpAddr>().expect("an address")));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("::1"), of("::2"));
    }

    #[test]
    fn a_unit_that_becomes_free_goes_to_whoever_holds_least() {
        let mut allocator = Allocator::default();
        let (a, b) = (named("a"), named("b"));
        assert_eq!(take_all(&mut allocator, 4, &a), 4);
        let waits: Vec<Ticket> = (0..3).map(|_| allocator.wait(&a, 1, TIMES)).collect();
        let late = allocator.wait(&b, 1, TIMES);
        assert_eq!(allocator.next(4, NOW), None);
        allocator.give_back(&a.party, 1);
        assert_eq!(allocator.next(4, NOW), Some(late));
        allocator.give_back(&a.party, 1);
        assert_eq!(allocator.next(4, NOW).as_ref(), waits.first());
        assert!(!allocator.leave(&waits[0]), "it has had its turn");
        assert!(allocator.leave(&waits[1]) && allocator.leave(&waits[2]));
        assert_eq!(allocator.waiting(), 0);
    }

    /// With one unit nobody holds any when it becomes free, so turns decide.
    #[test]
    fn turns_of_a_single_unit_are_in_proportion_to_the_weights() {
        let mut allocator = Allocator::default();
        let (light, heavy) = (named("light"), caller("heavy", 3, Priority::Interactive));
        assert!(allocator.try_take(1, &light, 1));
        for claim in [&light, &heavy] {
            for _ in 0..100 {
                let _ = allocator.wait(claim, 1, TIMES);
            }
        }
        let mut holder = light.party.clone();
        let mut turns = 0;
        for _ in 0..40 {
            allocator.give_back(&holder, 1);
            let ticket = allocator.next(1, NOW).expect("somebody waits");
            holder = ticket.waiters.0;
            turns += u32::from(holder == heavy.party);
        }
        assert!((29..=31).contains(&turns), "{turns} of 40");
    }

    /// Neither does one that always has one more in the queue.
    #[test]
    fn who_comes_back_at_once_does_not_go_before_who_waits() {
        let mut allocator = Allocator::default();
        let (busy, patient) = (named("busy"), named("patient"));
        assert!(allocator.try_take(1, &busy, 1));
        let mut turns = 0;
        let _ = allocator.wait(&busy, 1, TIMES);
        for _ in 0..40 {
            let _ = allocator.wait(&patient, 1, TIMES);
        }
        let mut holder = busy.party.clone();
        for _ in 0..40 {
            allocator.give_back(&holder, 1);
            holder = allocator.next(1, NOW).expect("somebody waits").waiters.0;
            if holder == busy.party {
                let _ = allocator.wait(&busy, 1, TIMES);
            } else {
                turns += 1;
            }
        }
        assert!((19..=21).contains(&turns), "{turns} of 40");
    }

    #[test]
    fn batch_waits_for_interactive_and_ages() {
        let mut allocator = Allocator::default();
        let (batch, other) = (caller("batch", 9, Priority::Batch), named("other"));
        assert!(allocator.try_take(1, &other, 1));
        let old = allocator.wait(&batch, 1, TIMES);
        let new = allocator.wait(&other, 1, TIMES);
        allocator.give_back(&other.party, 1);
        assert_eq!(allocator.next(1, NOW), Some(new));
        let new = allocator.wait(&other, 1, TIMES);
        allocator.give_back(&other.party, 1);
        assert_eq!(allocator.next(1, NOW + Duration::from_secs(10)), Some(old));
        assert!(allocator.leave(&new));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(usize, u64),
        Wait(usize, u64),
        Leave(usize),
        GiveBack(usize),
        Next,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..8usize, 1..4u64).prop_map(|(who, units)| Step::Take(who, units)),
            (0..8usize, 1..4u64).prop_map(|(who, units)| Step::Wait(who, units)),
            any::<usize>().prop_map(Step::Leave),
            any::<usize>().prop_map(Step::GiveBack),
            Just(Step::Next),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Never more than there is, every unit is accounted for, whoever holds nothing gets the free ones, and when everything is
        /// given back nobody is left waiting and nothing is remembered.
        #[test]
        fn no_interleaving_overspends_leaks_or_strands(
            capacity in 1..40u64,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let claims: Vec<Claim> = (0..8u8)
                .map(|number| match number {
                    0..=1 => unknown(number),
                    2..=3 => caller(&number.to_string(), u32::from(number), Priority::Batch),
                    _ => caller(&number.to_string(), u32::from(number), Priority::Interactive),
                })
                .collect();
            let mut allocator = Allocator::default();
            let mut held: Vec<(Claim, u64)> = Vec::new();
            let mut waits: Vec<(Ticket, Claim, u64)> = Vec::new();
            let mut now = NOW;
            for step in steps {
                now += Duration::from_millis(700);
                match step {
                    Step::Take(who, units) => {
                        let claim = &claims[who];
                        let none = !held.iter().any(|(other, _)| other.party == claim.party)
                            && !waits.iter().any(|(_, other, _)| other.party == claim.party);
                        let free = capacity - allocator.used();
                        let took = allocator.try_take(capacity, claim, units);
                        if took {
                            held.push((claim.clone(), units));
                        }
                        if none && matches!(claim.party, Party::Caller { .. }) {
                            prop_assert_eq!(took, units <= free);
                        }
                    }
                    Step::Wait(who, units) => {
                        let units = units.min(capacity);
                        let times = (now, now + Duration::from_secs(30));
                        let ticket = allocator.wait(&claims[who], units, times);
                        waits.push((ticket, claims[who].clone(), units));
                    }
                    Step::Leave(which) if !waits.is_empty() => {
                        let (ticket, ..) = waits.remove(which % waits.len());
                        prop_assert!(allocator.leave(&ticket));
                    }
                    Step::GiveBack(which) if !held.is_empty() => {
                        let (claim, units) = held.remove(which % held.len());
                        allocator.give_back(&claim.party, units);
                    }
                    Step::Leave(_) | Step::GiveBack(_) | Step::Next => {}
                }
                while let Some(ticket) = allocator.next(capacity, now) {
                    let at = waits.iter().position(|(other, ..)| *other == ticket);
                    let (_, claim, units) = waits.remove(at.expect("it waits"));
                    held.push((claim, units));
                }
                prop_assert!(allocator.used() <= capacity);
                let sum: u64 = held.iter().map(|(_, units)| units).sum();
                prop_assert_eq!(allocator.used(), sum);
                prop_assert_eq!(allocator.waiting(), waits.len());
            }
            while !held.is_empty() || !waits.is_empty() {
                prop_assert!(!held.is_empty(), "stranded: {:?}", waits);
                let (claim, units) = held.remove(0);
                allocator.give_back(&claim.party, units);
                while let Some(ticket) = allocator.next(capacity, now) {
                    let at = waits.iter().position(|(other, ..)| *other == ticket);
                    let (_, claim, units) = waits.remove(at.expect("it waits"));
                    held.push((claim, units));
                }
            }
            prop_assert_eq!(allocator.used(), 0);
            prop_assert!(allocator.callers.is_empty() && allocator.by_address.is_empty());
            prop_assert!(allocator.weights == 0 && allocator.unknown == 0);
        }
    }
}
