//! Which connection to DevRev an attempt is sent on, when another one is opened, and when one ends. One set of rules for both
//! protocols: a connection of HTTP/1.1 has one place, one of HTTP/2 as many as DevRev allows.
//!
//! ```
//! use std::time::Duration;
//! use revgate::policy::upstream::{Choice, Connections, MAX_STREAMS, Rules};
//!
//! let rules = Rules {
//!     idle_timeout: Duration::from_secs(50),
//!     max_age: Duration::from_secs(600),
//!     max_connections: 64,
//! };
//! let now = Duration::ZERO;
//! let mut all = Connections::new(Some(MAX_STREAMS));
//! let Choice::Connect(connect) = all.choose(&rules, now) else { panic!() };
//! // Another attempt waits for the same connection.
//! assert!(matches!(all.choose(&rules, now), Choice::Wait { connect: same, .. } if same == connect));
//! all.opened(connect, 2, 0.0, now);
//! assert_eq!(all.choose(&rules, now), Choice::Use { connection: connect, reused: false });
//! assert_eq!(all.choose(&rules, now), Choice::Use { connection: connect, reused: true });
//! // Both of its places are taken.
//! assert!(matches!(all.choose(&rules, now), Choice::Connect(_)));
//! ```

use std::{collections::BTreeMap, time::Duration};

/// Streams of HTTP/2 at once, all connections of a worker together: memory is counted for so many.
pub const MAX_STREAMS: usize = 100;

/// How long attempts rely on one connect alone. After it one of them begins another: a lost packet or a bad machine costs this and no
/// timeout. The time between two attempts to connect of RFC 8305.
pub const SLOW_CONNECT: Duration = Duration::from_millis(250);

/// How long a new connection is kept for those who have waited for it, however short its idle time and its age may be.
const FIRST_USE: Duration = Duration::from_secs(1);

/// The share of `max_age` by which connections differ, so that those that were opened together do not end together.
const AGE_SPREAD: f64 = 0.2;

/// What the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A connection without an exchange for so long ends.
    pub idle_timeout: Duration,
    /// An older connection takes no more exchanges, and ends with its last.
    pub max_age: Duration,
    /// That take exchanges, and that are being opened.
    pub max_connections: usize,
}

/// Identifies a connection, from the moment in which it begins to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// The connections of one worker. Times are since any fixed instant.
#[derive(Debug)]
pub struct Connections {
    open: BTreeMap<Id, Connection>,
    /// Connections that are being opened, and since when.
    connecting: BTreeMap<Id, Duration>,
    /// Of the latest connection; `None` before it is known which protocol DevRev speaks.
    places: Option<usize>,
    /// Attempts that wait for a place.
    waiting: usize,
    latest: u64,
}

#[derive(Debug)]
struct Connection {
    /// Exchanges at once.
    places: usize,
    in_flight: usize,
    opened: Duration,
    /// Where in the spread its greatest age lies, from 0 to 1.
    jitter: f64,
    /// The beginning or end of its latest exchange.
    used: Duration,
    /// It has had an exchange.
    reused: bool,
    /// It takes no exchange any more.
    closing: bool,
    /// An exchange on it had no answer in time. It takes no other until something has come from DevRev since.
    suspect: Option<Duration>,
}

/// Where an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It has a place on this connection.
    Use {
        /// The connection.
        connection: Id,
        /// Whether the connection has been used before, so that DevRev may have closed it meanwhile.
        reused: bool,
    },
    /// It opens this connection, and waits.
    Connect(Id),
    /// It waits for this connection, or for a place on any other.
    Wait {
        /// The connection that is being opened.
        connect: Id,
        /// When to choose again, even if nothing has changed.
        again: Option<Duration>,
    },
    /// Every place is taken, and no connection may be opened: more attempts are under way than DevRev allows now.
    Full,
}

impl Connections {
    /// `places` of each connection, if the protocol is known: 1 of HTTP/1.1.
    pub fn new(places: Option<usize>) -> Self {
        Connections {
            open: BTreeMap::new(),
            connecting: BTreeMap::new(),
            places,
            waiting: 0,
            latest: 0,
        }
    }

    /// Chooses for an attempt that is not waiting.
    pub fn choose(&mut self, rules: &Rules, now: Duration) -> Choice {
        self.waiting += 1;
        let choice = self.choose_again(rules, now);
        self.waiting -= 1;
        choice
    }

    /// An attempt begins to wait.
    pub fn wait(&mut self) {
        self.waiting += 1;
    }

    /// It no longer waits.
    pub fn leave(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Chooses for an attempt that waits.
    pub fn choose_again(&mut self, rules: &Rules, now: Duration) -> Choice {
        let free = self
            .open
            .iter_mut()
            .filter(|(_, connection)| connection.has_place(rules, now));
        // The one that is used most, so that surplus ones become idle.
        let busiest = free.max_by_key(|(_, connection)| (connection.in_flight, connection.used));
        if let Some((id, connection)) = busiest {
            connection.in_flight += 1;
            connection.used = now;
            let reused = std::mem::replace(&mut connection.reused, true);
            return Choice::Use {
                connection: *id,
                reused,
            };
        }
        let latest = self.connecting.iter().next_back();
        let latest = latest.map(|(id, since)| (*id, *since + SLOW_CONNECT));
        let expected = self
            .connecting
            .len()
            .saturating_mul(self.places_of_next().max(1));
        let (wanted, again) = match latest {
            None => (true, None),
            Some(_) if self.waiting > expected => (true, None),
            // Never more than there are attempts to use them.
            Some(_) if self.waiting <= self.connecting.len() => (false, None),
            Some((_, slow)) => (slow <= now, Some(slow).filter(|slow| now < *slow)),
        };
        let taken = self.accepting(rules, now) + self.connecting.len();
        match latest {
            _ if wanted && taken < rules.max_connections && self.places_of_next() > 0 => {
                self.latest += 1;
                let id = Id(self.latest);
                self.connecting.insert(id, now);
                Choice::Connect(id)
            }
            Some((connect, _)) => Choice::Wait { connect, again },
            None => Choice::Full,
        }
    }

    /// A connection is open, with so many places. `jitter` is a random number in `0..1`.
    pub fn opened(&mut self, id: Id, places: usize, jitter: f64, now: Duration) {
        self.connecting.remove(&id);
        self.places = Some(places);
        let connection = Connection {
            places: places.min(MAX_STREAMS),
            in_flight: 0,
            opened: now,
            jitter,
            used: now,
            reused: false,
            closing: false,
            suspect: None,
        };
        self.open.insert(id, connection);
    }

    /// A connection could not be opened.
    pub fn failed(&mut self, id: Id) {
        self.connecting.remove(&id);
    }

    /// DevRev allows so many streams on the connection from now on.
    pub fn allow(&mut self, id: Id, places: usize) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.places = places.min(MAX_STREAMS);
            self.places = Some(places);
        }
    }

    /// Whether the connection has not ended.
    pub fn is_open(&self, id: Id) -> bool {
        self.open.contains_key(&id)
    }

    /// The connection takes no more exchanges: DevRev is closing it, or it is not in a state for another.
    pub fn close(&mut self, id: Id) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.closing = true;
        }
    }

    /// The connection has ended, with all that was on it.
    pub fn ended(&mut self, id: Id) {
        self.open.remove(&id);
        self.forget_none();
    }

    /// An exchange has ended.
    pub fn end(&mut self, id: Id, now: Duration) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.in_flight = connection.in_flight.saturating_sub(1);
            connection.used = now;
        }
    }

    /// An exchange on the connection had no answer in time.
    pub fn suspect(&mut self, id: Id, now: Duration) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.suspect = Some(now);
        }
    }

    /// Something came from DevRev at that time.
    pub fn heard(&mut self, id: Id, at: Duration) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.suspect = connection.suspect.filter(|since| at <= *since);
        }
    }

    /// Forgets the connections that have no exchange and take none, and returns them: they are to be closed.
    pub fn sweep(&mut self, rules: &Rules, now: Duration) -> Vec<Id> {
        let over =
            |connection: &Connection| connection.in_flight == 0 && !connection.takes(rules, now);
        let over = self.open.iter().filter(|(_, connection)| over(connection));
        let over: Vec<Id> = over.map(|(id, _)| *id).collect();
        for id in &over {
            self.open.remove(id);
        }
        self.forget_none();
        over
    }

    /// With the last connection goes that DevRev allowed nothing on it. Only another one tells whether it does now.
    fn forget_none(&mut self) {
        if self.open.is_empty() && self.places == Some(0) {
            self.places = Some(MAX_STREAMS);
        }
    }

    /// When the next idle connection ends by itself.
    pub fn next_sweep(&self, rules: &Rules) -> Option<Duration> {
        let idle = self.open.values().filter(|c| c.in_flight == 0);
        idle.map(|connection| connection.ends(rules)).min()
    }

    /// How many attempts can be under way at once: each has a place, or finds one on a connection that may be opened.
    pub fn capacity(&self, rules: &Rules, now: Duration) -> usize {
        let bound = match self.places {
            Some(1) => rules.max_connections,
            _ => MAX_STREAMS,
        };
        let (mut accepting, mut places) = (0, 0_usize);
        for connection in self.open.values() {
            let takes = connection.takes(rules, now);
            accepting += usize::from(takes);
            places += match takes {
                true => connection.places.max(connection.in_flight),
                false => connection.in_flight,
            };
        }
        let others = rules
            .max_connections
            .saturating_sub(accepting)
            .max(self.connecting.len());
        let of_others = others.saturating_mul(self.places_of_next());
        places.saturating_add(of_others).min(bound)
    }

    /// Places that another connection will probably have.
    fn places_of_next(&self) -> usize {
        self.places
            .map_or(MAX_STREAMS, |places| places.min(MAX_STREAMS))
    }

    fn accepting(&self, rules: &Rules, now: Duration) -> usize {
        let all = self.open.values();
        all.filter(|connection| connection.takes(rules, now))
            .count()
    }
}

impl Connection {
    fn has_place(&self, rules: &Rules, now: Duration) -> bool {
        self.in_flight < self.places && self.takes(rules, now)
    }

    /// Whether it takes exchanges, now or when some have ended.
    fn takes(&self, rules: &Rules, now: Duration) -> bool {
        let until = match self.in_flight {
            0 => self.ends(rules),
            _ => self.retires(rules),
        };
        !self.closing && self.suspect.is_none() && now < until
    }

    /// When it ends, if it is not used before.
    fn ends(&self, rules: &Rules) -> Duration {
        let ends = self.retires(rules).min(self.used + rules.idle_timeout);
        match self.reused {
            true => ends,
            false => ends.max(self.opened + FIRST_USE),
        }
    }

    /// When it is too old.
    fn retires(&self, rules: &Rules) -> Duration {
        let share = 1.0 - AGE_SPREAD * self.jitter.clamp(0.0, 1.0);
        self.opened.saturating_add(rules.max_age.mul_f64(share))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        idle_timeout: Duration::from_secs(50),
        max_age: Duration::from_secs(600),
        max_connections: 3,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An open connection with so many places, of which none is taken.
    fn open(all: &mut Connections, places: usize, now: Duration) -> Id {
        let Choice::Connect(id) = all.choose(&RULES, now) else {
            panic!("no other is open");
        };
        all.opened(id, places, 0.0, now);
        id
    }

    fn used(choice: Choice) -> Option<Id> {
        match choice {
            Choice::Use { connection, .. } => Some(connection),
            _ => None,
        }
    }

    /// What becomes of a connection, over either protocol: an event, and whether it takes another exchange at a time, with an exchange on it
    /// and without.
    #[test]
    fn when_a_connection_takes_exchanges() {
        type Event = fn(&mut Connections, Id);
        let nothing: Event = |_, _| {};
        let suspect: Event = |all, id| all.suspect(id, at(10));
        let cases: [(&str, Event, u64, bool, bool); 11] = [
            ("fresh", nothing, 49, true, true),
            ("idle for its time", nothing, 50, true, false),
            ("almost too old", nothing, 599, true, false),
            ("too old", nothing, 600, false, false),
            ("closed by DevRev", |all, id| all.close(id), 1, false, false),
            ("ended", |all, id| all.ended(id), 1, false, false),
            ("suspect", suspect, 11, false, false),
            (
                "silent since",
                |all, id| {
                    all.suspect(id, at(10));
                    all.heard(id, at(10));
                },
                11,
                false,
                false,
            ),
            (
                "heard of since",
                |all, id| {
                    all.suspect(id, at(10));
                    all.heard(id, at(11));
                },
                11,
                true,
                true,
            ),
            (
                "nothing allowed",
                |all, id| all.allow(id, 0),
                1,
                false,
                false,
            ),
            ("more allowed", |all, id| all.allow(id, 9), 1, true, true),
        ];
        for (what, event, time, with_exchange, without) in cases {
            for (busy, takes) in [(true, with_exchange), (false, without)] {
                let mut all = Connections::new(None);
                let id = open(&mut all, 2, at(0));
                if busy {
                    assert_eq!(used(all.choose(&RULES, at(0))), Some(id));
                }
                event(&mut all, id);
                let found = used(all.choose(&RULES, at(time))) == Some(id);
                assert_eq!(found, takes, "{what}, busy: {busy}");
            }
        }
    }

    #[test]
    fn what_takes_nothing_and_has_no_exchange_is_closed() {
        let mut all = Connections::new(None);
        let (a, b) = (open(&mut all, 1, at(0)), {
            assert!(used(all.choose(&RULES, at(0))).is_some());
            open(&mut all, 1, at(0))
        });
        assert_eq!(used(all.choose(&RULES, at(1))), Some(b));
        assert!(all.sweep(&RULES, at(700)).is_empty(), "both have one");
        all.end(a, at(700));
        assert_eq!(all.sweep(&RULES, at(700)), [a]);
        all.end(b, at(20));
        assert_eq!(all.next_sweep(&RULES), Some(at(70)));
        assert!(all.sweep(&RULES, at(69)).is_empty());
        assert_eq!(all.sweep(&RULES, at(70)), [b]);
        assert_eq!(all.next_sweep(&RULES), None);
    }

    #[test]
    fn connections_that_were_opened_together_do_not_end_together() {
        let mut all = Connections::new(None);
        for (jitter, retires) in [(0.0, 600), (0.5, 540), (1.0, 480)] {
            let Choice::Connect(id) = all.choose(&RULES, at(0)) else {
                panic!("none is open");
            };
            all.opened(id, 1, jitter, at(0));
            assert_eq!(all.open[&id].retires(&RULES), at(retires));
            all.ended(id);
        }
    }

    /// Otherwise whoever waits for a connection could find it gone, again and again.
    #[test]
    fn a_new_connection_is_there_for_those_who_wait_for_it() {
        let rules = Rules {
            idle_timeout: Duration::from_millis(1),
            max_age: Duration::from_millis(1),
            ..RULES
        };
        for (later, used_before, expected) in [
            (Duration::from_millis(999), false, true),
            (Duration::from_secs(1), false, false),
            (Duration::from_millis(1), true, false),
        ] {
            let mut all = Connections::new(None);
            let id = open(&mut all, 1, at(0));
            if used_before {
                assert_eq!(used(all.choose(&rules, at(0))), Some(id));
                all.end(id, at(0));
            }
            assert_eq!(all.sweep(&rules, later).is_empty(), expected, "{later:?}");
            assert_eq!(
                used(all.choose(&rules, later)).is_some(),
                expected,
                "{later:?}"
            );
        }
    }

    #[test]
    fn so_many_wait_for_a_connect_as_it_will_serve() {
        for (places, connects) in [
            (Some(1), 3),
            (Some(2), 3),
            (Some(4), 2),
            (Some(100), 1),
            (None, 1),
        ] {
            let mut all = Connections::new(places);
            let (mut opened, mut waited) = (0, 0);
            for _ in 0..8 {
                all.wait();
                loop {
                    match all.choose_again(&RULES, at(0)) {
                        Choice::Connect(_) => opened += 1,
                        Choice::Wait { .. } => break waited += 1,
                        other => panic!("{other:?}"),
                    }
                }
            }
            assert_eq!((opened, waited), (connects, 8), "{places:?}");
        }
    }

    #[test]
    fn a_slow_connect_gets_another_beside_it_but_not_for_one_attempt_alone() {
        let mut all = Connections::new(Some(100));
        let begun = at(1);
        all.wait();
        let Choice::Connect(first) = all.choose_again(&RULES, begun) else {
            panic!("none is open");
        };
        let wait = |again| Choice::Wait {
            connect: first,
            again,
        };
        assert_eq!(all.choose_again(&RULES, begun + SLOW_CONNECT), wait(None));
        all.wait();
        assert_eq!(
            all.choose_again(&RULES, begun),
            wait(Some(begun + SLOW_CONNECT))
        );
        let second = all.choose_again(&RULES, begun + SLOW_CONNECT);
        assert!(matches!(second, Choice::Connect(_)), "{second:?}");
    }

    /// Of one that says it takes none, nothing is known any more once its connection has ended.
    #[test]
    fn a_peer_that_allows_nothing_is_asked_again() {
        let mut all = Connections::new(Some(100));
        open(&mut all, 0, at(0));
        assert_eq!(all.choose(&RULES, at(0)), Choice::Full);
        assert_eq!(all.capacity(&RULES, at(0)), 0);
        assert_eq!(all.sweep(&RULES, at(50)).len(), 1);
        assert_eq!(all.capacity(&RULES, at(50)), MAX_STREAMS);
        assert!(matches!(all.choose(&RULES, at(50)), Choice::Connect(_)));
    }

    #[test]
    fn capacity_is_what_devrev_allows() {
        for (places, capacity) in [(None, 100), (Some(1), 3), (Some(2), 6), (Some(40), 100)] {
            assert_eq!(Connections::new(places).capacity(&RULES, at(0)), capacity);
        }
        let mut all = Connections::new(Some(100));
        let id = open(&mut all, 3, at(0));
        assert_eq!(all.capacity(&RULES, at(0)), 9);
        assert!((0..3).all(|_| used(all.choose(&RULES, at(0))).is_some()));
        // What goes on is not lost.
        all.allow(id, 2);
        assert_eq!(all.capacity(&RULES, at(0)), 3 + 2 * 2);
        all.close(id);
        assert_eq!(all.capacity(&RULES, at(0)), 3 + 3 * 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// No connection has more than it may, none that should take nothing takes something, no more are open than may be, and an attempt
        /// that finds none has more beside it than the capacity: so it waits when it asks for a lane again.
        #[test]
        fn holds_under_any_interleaving(steps in prop::collection::vec((0..12u8, any::<usize>(), 0..4usize), 1..150)) {
            let mut all = Connections::new(None);
            let mut now = at(0);
            let mut in_flight: Vec<Id> = Vec::new();
            let mut waiting = 0_usize;
            let pick = |ids: &[Id], which: usize| (!ids.is_empty()).then(|| ids[which % ids.len().max(1)]);
            for (step, which, places) in steps {
                let open: Vec<Id> = all.open.keys().copied().collect();
                let connecting: Vec<Id> = all.connecting.keys().copied().collect();
                match (step, pick(&open, which), pick(&connecting, which)) {
                    (0..=3, _, _) => {
                        let waits = waiting > 0 && step < 2;
                        let choice = match waits {
                            true => all.choose_again(&RULES, now),
                            false => all.choose(&RULES, now),
                        };
                        match choice {
                            Choice::Use { connection, .. } => {
                                let used = &all.open[&connection];
                                prop_assert!(used.in_flight <= used.places && !used.closing && used.suspect.is_none());
                                prop_assert!(now < used.retires(&RULES));
                                in_flight.push(connection);
                                if waits {
                                    waiting -= 1;
                                    all.leave();
                                }
                            }
                            Choice::Connect(_) => {
                                prop_assert!(all.accepting(&RULES, now) + all.connecting.len() <= RULES.max_connections);
                            }
                            Choice::Wait { connect, again } => {
                                prop_assert!(all.connecting.contains_key(&connect));
                                prop_assert!(again.is_none_or(|again| now < again));
                                if !waits {
                                    waiting += 1;
                                    all.wait();
                                }
                            }
                            Choice::Full => {
                                let under_way = in_flight.len() + waiting + usize::from(!waits);
                                prop_assert!(under_way > all.capacity(&RULES, now));
                            }
                        }
                    }
                    (4, _, Some(id)) => all.opened(id, places, 0.5, now),
                    (5, _, Some(id)) => all.failed(id),
                    (6 | 7, _, _) => if let Some(id) = pick(&in_flight, which) {
                        in_flight.remove(which % in_flight.len());
                        all.end(id, now);
                    },
                    (8, Some(id), _) => all.allow(id, places),
                    (9, Some(id), _) => match places {
                        0 => all.close(id),
                        1 => all.suspect(id, now),
                        _ => all.heard(id, now),
                    },
                    (10, Some(id), _) if places == 0 => {
                        all.ended(id);
                        in_flight.retain(|other| *other != id);
                    }
                    _ => now += Duration::from_secs(which as u64 % 30),
                }
                for over in all.sweep(&RULES, now) {
                    prop_assert!(!in_flight.contains(&over));
                }
                prop_assert!(all.capacity(&RULES, now) <= MAX_STREAMS);
                let counted: usize = all.open.values().map(|connection| connection.in_flight).sum();
                prop_assert_eq!(counted, in_flight.len());
            }
            in_flight.into_iter().for_each(|id| all.end(id, now));
            all.sweep(&RULES, now + RULES.max_age);
            prop_assert!(all.open.is_empty());
        }
    }
}
