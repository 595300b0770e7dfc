//! Which connections stay while as many are open as may be.
//!
//! Until a connection has brought a good credential it is unproven, and gives way to whoever comes: of the address that has most
//! such connections, the oldest, but none before it had time to bring one. After that it counts for its caller. A caller may hold connections
//! as it may hold units of anything that is shared (see [`allocator`](super::allocator)), so that some stay free; where several callers have
//! taken those as well, an idle connection of the caller that has most gives way, and if it has no idle one, one of its others once its
//! requests are done.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::allocator::{Allocator, Claim, Party};

/// How long a connection stays without a credential, whoever comes. In a flood of connections the oldest is a few ms old, which is less
/// than a client may need to send a request and a busy worker to read it. The longer this is, the fewer newcomers a second find a place
/// in a flood: with the default of `listen.max_connections`, 10,000.
pub const TIME_TO_BEGIN: Duration = Duration::from_millis(100);

/// The open connections. Times are since any fixed instant.
#[derive(Debug, Default)]
pub struct Connections {
    /// Counts all of them.
    allocator: Allocator,
    all: BTreeMap<u64, Connection>,
    /// Those that may give way, in the order in which they were opened.
    unproven: BTreeMap<Party, BTreeSet<u64>>,
    callers: BTreeMap<Party, BTreeSet<u64>>,
    /// Those that were chosen to give way and are still open.
    chosen: BTreeSet<u64>,
    latest: u64,
}

#[derive(Debug)]
struct Connection {
    claim: Claim,
    proven: bool,
    opened: Duration,
    /// Requests in flight.
    busy: usize,
    /// Requests of which is being found out whose they are.
    pending: usize,
    /// Orders connections by their last use.
    used: u64,
}

/// Who makes room for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveWay {
    /// This one.
    Chosen(u64),
    /// Nobody before this time.
    NotBefore(Duration),
    /// Nobody now.
    None,
}

/// The caller has as many connections as it may have, and none of them is idle.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany;

impl Connections {
    /// Takes in a connection from this address; `None` if `max` are open.
    pub fn open(&mut self, max: usize, claim: Claim, now: Duration) -> Option<u64> {
        if self.all.len() >= max {
            return None;
        }
        let id = self.tick();
        self.allocator.take_anyway(&claim, 1);
        let of_address = self.unproven.entry(claim.party.clone()).or_default();
        of_address.insert(id);
        let connection = Connection {
            claim,
            proven: false,
            opened: now,
            busy: 0,
            pending: 0,
            used: id,
        };
        self.all.insert(id, connection);
        Some(id)
    }

    /// The connection has ended.
    pub fn close(&mut self, id: u64) {
        self.no_longer_gives_way(id);
        self.chosen.remove(&id);
        if let Some(connection) = self.all.remove(&id) {
            self.allocator.give_back(&connection.claim.party, 1);
        }
    }

    /// Whether one that was chosen is about to end.
    pub fn is_making_room(&self) -> bool {
        let is_idle = |id: &u64| self.all.get(id).is_some_and(|chosen| chosen.busy == 0);
        self.chosen.iter().any(is_idle)
    }

    /// Chooses the connection that makes room for a new one; each is chosen once.
    pub fn give_way(&mut self, now: Duration) -> GiveWay {
        let chosen = match self.oldest_unproven() {
            Some((id, opened)) if opened + TIME_TO_BEGIN <= now => Some(id),
            Some((_, opened)) => return GiveWay::NotBefore(opened + TIME_TO_BEGIN),
            None => None,
        };
        let chosen = chosen
            .or_else(|| self.of_largest_caller(true))
            .or_else(|| self.of_largest_caller(false));
        let Some(id) = chosen else {
            return GiveWay::None;
        };
        self.no_longer_gives_way(id);
        self.chosen.insert(id);
        GiveWay::Chosen(id)
    }

    /// The connection has brought a good credential, so it counts for this claim from now on. Returns an idle connection of the same
    /// party that gives way, if the party has as many as it may have.
    ///
    /// # Errors
    /// If it has none that is idle. The connection then ends with this request.
    pub fn prove(&mut self, max: usize, id: u64, claim: &Claim) -> Result<Option<u64>, TooMany> {
        let Some(connection) = self.all.get_mut(&id) else {
            return Ok(None);
        };
        if std::mem::replace(&mut connection.proven, true) {
            return Ok(None);
        }
        let old = std::mem::replace(&mut connection.claim, claim.clone());
        let gives_way = self.remove_from(id, &old.party, false);
        self.allocator.give_back(&old.party, 1);
        let fits = self.allocator.try_take(max as u64, claim, 1);
        if !fits {
            self.allocator.take_anyway(claim, 1);
        }
        let idle = match fits {
            true => None,
            false => Some(self.idle_of(&claim.party).ok_or(TooMany)?),
        };
        if let Some(idle) = idle {
            self.no_longer_gives_way(idle);
            self.chosen.insert(idle);
        }
        if gives_way {
            let of_caller = self.callers.entry(claim.party.clone()).or_default();
            of_caller.insert(id);
        }
        Ok(idle)
    }

    /// The connection is a proxy's, and counts for another unknown client from now on. One that has brought a good credential counts for
    /// its caller.
    pub fn speaks_for(&mut self, id: u64, claim: Claim) {
        let Some(connection) = self.all.get_mut(&id).filter(|one| !one.proven) else {
            return;
        };
        let old = std::mem::replace(&mut connection.claim, claim.clone());
        self.allocator.give_back(&old.party, 1);
        self.allocator.take_anyway(&claim, 1);
        // Not if it was chosen to give way.
        if self.remove_from(id, &old.party, false) {
            self.unproven.entry(claim.party).or_default().insert(id);
        }
    }

    /// A request has arrived on the connection.
    pub fn begin(&mut self, id: u64) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.busy += 1;
        }
    }

    /// A request's answer has been delivered, or has failed. Returns whether the connection is idle now.
    pub fn end(&mut self, id: u64) -> bool {
        let used = self.tick();
        let Some(connection) = self.all.get_mut(&id) else {
            return false;
        };
        connection.busy = connection.busy.saturating_sub(1);
        connection.used = used;
        connection.busy == 0
    }

    /// It is being found out whose a request is. Meanwhile its connection does not give way.
    pub fn pend(&mut self, id: u64) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.pending += 1;
        }
    }

    /// It is known, or never will be.
    pub fn settle(&mut self, id: u64) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.pending = connection.pending.saturating_sub(1);
        }
    }

    fn tick(&mut self) -> u64 {
        self.latest += 1;
        self.latest
    }

    /// And when it was opened.
    fn oldest_unproven(&self) -> Option<(u64, Duration)> {
        let may = |id: &u64| {
            let connection = self.all.get(id)?;
            (connection.pending == 0).then_some((*id, connection.opened))
        };
        let oldest = self
            .unproven
            .values()
            .filter_map(|ids| Some((ids.len(), ids.iter().find_map(may)?)));
        oldest.max_by_key(|(most, _)| *most).map(|(_, found)| found)
    }

    /// Of the caller that has most for its weight, if that is beyond an equal share.
    fn of_largest_caller(&self, idle: bool) -> Option<u64> {
        let (parties, open) = (self.callers.len(), self.all.len());
        let candidates = self.callers.iter().filter_map(|(party, ids)| {
            let one = match idle {
                true => self.idle_of(party)?,
                false => *ids.first()?,
            };
            let weight = self.all.get(&one)?.claim.weight.max(1) as usize;
            (ids.len() * (parties + 1) > open).then_some((ids.len() * 1024 / weight, one))
        });
        candidates.max_by_key(|(most, _)| *most).map(|(_, id)| id)
    }

    /// The one that has been idle longest.
    fn idle_of(&self, party: &Party) -> Option<u64> {
        let ids = self.callers.get(party)?.iter();
        let idle = ids.filter_map(|id| Some((*id, self.all.get(id)?)));
        let idle = idle.filter(|(_, connection)| connection.busy == 0);
        idle.min_by_key(|(_, connection)| connection.used)
            .map(|(id, _)| id)
    }

    fn no_longer_gives_way(&mut self, id: u64) {
        let Some(connection) = self.all.get(&id) else {
            return;
        };
        let (party, proven) = (connection.claim.party.clone(), connection.proven);
        self.remove_from(id, &party, proven);
    }

    fn remove_from(&mut self, id: u64, party: &Party, proven: bool) -> bool {
        let all = match proven {
            true => &mut self.callers,
            false => &mut self.unproven,
        };
        let Some(ids) = all.get_mut(party) else {
            return false;
        };
        let was_there = ids.remove(&id);
        if ids.is_empty() {
            all.remove(party);
        }
        was_there
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::fair::Priority;

    const START: Duration = Duration::from_secs(7);
    /// All that is opened at the start may give way.
    const LATER: Duration = START.saturating_add(TIME_TO_BEGIN);

    fn make_room(all: &mut Connections) -> Option<u64> {
        match all.give_way(LATER) {
            GiveWay::Chosen(id) => Some(id),
            GiveWay::NotBefore(_) | GiveWay::None => None,
        }
    }

    fn from(last: u8) -> Claim {
        Claim::unknown(Some(IpAddr::from([192, 0, 2, last])))
    }

    fn caller(name: &str) -> Claim {
        Claim {
            party: Party::Caller {
                group: "main".into(),
                name: name.into(),
            },
            weight: 1,
            priority: Priority::Interactive,
        }
    }

    fn open(all: &mut Connections, max: usize, claim: &Claim) -> u64 {
        all.open(max, claim.clone(), START).expect("a place")
    }

    fn proven(all: &mut Connections, max: usize, name: &str) -> u64 {
        let id = open(all, max, &from(1));
        assert_eq!(all.prove(max, id, &caller(name)), Ok(None));
        id
    }

    #[test]
    fn unproven_ones_give_way_first_and_those_of_the_busiest_address_before_others() {
        let mut all = Connections::default();
        let known = proven(&mut all, 6, "a");
        let single = open(&mut all, 6, &from(2));
        let many: Vec<_> = (0..4).map(|_| open(&mut all, 6, &from(3))).collect();
        assert_eq!(all.open(6, from(4), START), None);
        // Whether a request of it was refused makes no difference; that it is being found out whose it is, does.
        all.begin(many[0]);
        all.pend(many[1]);
        let gave_way: Vec<_> = std::iter::from_fn(|| make_room(&mut all)).collect();
        assert_eq!(gave_way[..2], [many[0], many[2]]);
        assert_eq!(gave_way.len(), 4, "{gave_way:?} without {known}");
        assert!(gave_way.contains(&single));
        all.settle(many[1]);
        assert_eq!(make_room(&mut all), Some(many[1]));
    }

    #[test]
    fn a_connection_of_a_proxy_counts_for_whom_it_speaks() {
        let mut all = Connections::default();
        let proxy: Vec<_> = (0..4).map(|_| open(&mut all, 6, &from(9))).collect();
        let others = [open(&mut all, 6, &from(2)), open(&mut all, 6, &from(3))];
        // Three for one client, one for another.
        for (id, client) in proxy.iter().zip([1, 1, 1, 2]) {
            all.speaks_for(*id, from(client));
        }
        assert_eq!(make_room(&mut all), Some(proxy[0]));
        // One that gives way already does so once, and one with a good credential counts for its caller.
        all.speaks_for(proxy[0], from(7));
        assert_eq!(all.prove(6, others[0], &caller("a")), Ok(None));
        all.speaks_for(others[0], from(7));
        let mut rest: Vec<_> = std::iter::from_fn(|| make_room(&mut all)).take(4).collect();
        rest.sort_unstable();
        assert_eq!(rest, [proxy[1], proxy[2], proxy[3], others[1]]);
    }

    #[test]
    fn none_gives_way_before_it_had_time_to_begin_nor_a_proven_one_instead() {
        let mut all = Connections::default();
        proven(&mut all, 2, "a");
        let id = open(&mut all, 2, &from(1));
        let just_before = LATER.saturating_sub(Duration::from_millis(1));
        assert_eq!(all.give_way(just_before), GiveWay::NotBefore(LATER));
        assert_eq!(all.give_way(LATER), GiveWay::Chosen(id));
    }

    #[test]
    fn without_unproven_ones_the_caller_with_most_gives_an_idle_one_or_one_that_ends_soon() {
        let mut all = Connections::default();
        let a: Vec<_> = (0..4).map(|_| proven(&mut all, 6, "a")).collect();
        let b = proven(&mut all, 6, "b");
        let c = proven(&mut all, 6, "c");
        for id in [a[0], a[1], a[2], a[3]] {
            all.begin(id);
        }
        all.end(a[2]);
        all.end(a[1]);
        assert_eq!(make_room(&mut all), Some(a[2]), "idle longest");
        assert_eq!(make_room(&mut all), Some(a[1]));
        // Neither b nor c has more than a share, so one of a's is next, although it is busy.
        assert_eq!(make_room(&mut all), Some(a[0]), "{b} {c}");
    }

    #[test]
    fn a_caller_leaves_some_free_and_reuses_its_own_idle_ones() {
        const MAX: usize = 16;
        let mut all = Connections::default();
        let own: Vec<_> = (0..14).map(|_| proven(&mut all, MAX, "a")).collect();
        own.iter().for_each(|id| all.begin(*id));
        let more = open(&mut all, MAX, &from(1));
        assert_eq!(all.prove(MAX, more, &caller("a")), Err(TooMany));
        all.close(more);
        all.end(own[5]);
        let more = open(&mut all, MAX, &from(1));
        assert_eq!(all.prove(MAX, more, &caller("a")), Ok(Some(own[5])));
        // Another caller finds one.
        all.close(own[5]);
        proven(&mut all, MAX, "b");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Never more than may be open; none is chosen twice or after its end; an unproven one gives way if there is one that is not
        /// pending; and nothing is left behind.
        #[test]
        fn holds_under_any_interleaving(steps in prop::collection::vec((0..9u8, any::<usize>(), 0..4u8), 1..200)) {
            const MAX: usize = 12;
            let mut all = Connections::default();
            let mut live: Vec<u64> = Vec::new();
            let mut chosen: Vec<u64> = Vec::new();
            for (step, which, who) in steps {
                let one = (!live.is_empty()).then(|| live[which % live.len().max(1)]);
                match (step, one) {
                    (0 | 1, _) => match all.open(MAX, from(who), START) {
                        Some(id) => live.push(id),
                        None => {
                            prop_assert_eq!(live.len(), MAX);
                            let could = all.unproven.values().flatten().any(|id| all.all[id].pending == 0);
                            let gives_way = make_room(&mut all);
                            prop_assert!(gives_way.is_some() || !could);
                            if let Some(id) = gives_way {
                                prop_assert!(live.contains(&id) && !chosen.contains(&id));
                                chosen.push(id);
                            }
                        }
                    },
                    (2, Some(id)) => {
                        if let Ok(Some(other)) = all.prove(MAX, id, &caller(&who.to_string())) {
                            prop_assert!(other != id && !chosen.contains(&other));
                            chosen.push(other);
                        }
                    }
                    (3, Some(id)) => all.begin(id),
                    (4, Some(id)) => drop(all.end(id)),
                    (5, Some(id)) => all.close(id),
                    (6, Some(id)) => all.pend(id),
                    (7, Some(id)) => all.speaks_for(id, from(who)),
                    (_, Some(id)) => all.settle(id),
                    (_, None) => {}
                }
                if step == 5 && let Some(id) = one {
                    live.retain(|other| *other != id);
                    chosen.retain(|other| *other != id);
                }
                prop_assert!(live.len() <= MAX);
            }
            for id in live {
                all.close(id);
            }
            prop_assert_eq!(all.allocator.used(), 0);
            prop_assert!(all.all.is_empty() && all.unproven.is_empty() && all.callers.is_empty());
            prop_assert!(all.chosen.is_empty());
        }
    }
}
