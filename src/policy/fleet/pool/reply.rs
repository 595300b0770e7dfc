//! What a replica may do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    super::{
        ReplicaId, Statement, TERM,
        member::{Dealt, What},
        tokens::Sale,
    },
    Member, Pool,
};
use crate::policy::fair::Share;

/// What a replica may do.
#[derive(Clone, Debug)]
pub struct Reply {
    pub revision: u64,
    /// The number of the statement that it answers.
    pub number: u64,
    /// The fleet's time.
    pub now: Duration,
    /// Units that the replica has been given and may not know yet: at which revision.
    pub leased: Vec<(u64, [u64; 2])>,
    pub dealt: Vec<(u64, Dealt)>,
    /// The end of everything that is leased.
    pub until: Duration,
    /// Whether it may keep what it has leased, for interactive callers and for batch.
    pub keeps: [bool; 2],
    /// Whether others wait for the ends of attempts on dealt units.
    pub awaits_ends: bool,
    /// Replicas that take part in the sharing.
    pub active: u64,
    /// When the next unit is due for somebody that waits, in the fleet's time, if that is known. Before it only an answer of DevRev's can
    /// release one, and whoever gets that exchanges.
    pub next: Option<Duration>,
    /// The replica's share of what all spend, and what the others spend, in units a second.
    pub share: f64,
    pub others_rate: f64,
    /// The units that the pool counts as this replica's.
    pub claimed: u64,
    /// Who waits on other replicas.
    pub elsewhere: Vec<(Share, u64)>,
    /// The number of the last `resume`.
    pub pauses: u64,
    /// If the register had lost what this replica knew: whether all of it, so that another replica or this one began anew.
    pub lost: Option<bool>,
    pub hint: Hinted,
    /// There are [`MAX_REPLICAS`](super::MAX_REPLICAS) others already. Nothing was changed that is worth writing.
    pub is_full: bool,
    /// Of callers' tokens.
    pub sales: Vec<Sale>,
    pub replicas: u64,
    pub limbo: u64,
    pub leased_in_all: u64,
}

/// Who should exchange at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hinted {
    #[default]
    Nobody,
    These(Vec<ReplicaId>),
    All,
}

impl Hinted {
    pub fn concerns(&self, replica: ReplicaId) -> bool {
        match self {
            Hinted::Nobody => false,
            Hinted::These(replicas) => replicas.contains(&replica),
            Hinted::All => true,
        }
    }
}

impl Pool {
    pub(super) fn reply(
        &self,
        statement: &Statement,
        (lost, keeps, hint): (bool, [bool; 2], Hinted),
        now: Duration,
    ) -> Reply {
        let member = self.members.get(&statement.replica);
        let (mut leased, mut dealt) = (Vec::new(), Vec::new());
        for granted in member.into_iter().flat_map(|member| &member.granted) {
            match &granted.what {
                What::Lease(units) => leased.push((granted.revision, *units)),
                What::Dealt(unit) => dealt.push((granted.revision, unit.clone())),
            }
        }
        let of = |member: &Member| member.rate.iter().sum::<f64>();
        let all: f64 = self.members.values().map(of).sum();
        let own = statement.rate.iter().sum::<f64>();
        let active = self.active(now);
        let share = if all > 0.0 {
            own / all
        } else {
            1.0 / active.max(1) as f64
        };
        let known_since = statement.known.map(|known| now.saturating_sub(known.age));
        Reply {
            revision: self.revision,
            number: statement.number,
            now,
            leased,
            dealt,
            until: self.leases_end(now),
            keeps,
            awaits_ends: self.ledger.awaits_ends() || self.doubt.is_some(),
            active,
            next: None,
            share: share.clamp(0.0, 1.0),
            others_rate: (all - own).max(0.0),
            claimed: member.map_or(0, Member::units),
            elsewhere: self.elsewhere(statement.replica, now),
            pauses: self.pauses,
            lost: lost.then(|| known_since.is_some_and(|since| self.born >= since)),
            hint,
            is_full: false,
            sales: Vec::new(),
            replicas: self.members.len() as u64,
            limbo: self.limbo.iter().map(|(units, _)| units).sum(),
            leased_in_all: self
                .members
                .values()
                .map(|member| member.claims().leased)
                .sum(),
        }
    }

    /// When what is leased now ends.
    pub(super) fn leases_end(&self, now: Duration) -> Duration {
        let term = now.saturating_add(TERM);
        let window = self.ledger.window_ends();
        window.map_or(term, |ends| ends.min(term))
    }

    fn elsewhere(&self, replica: ReplicaId, now: Duration) -> Vec<(Share, u64)> {
        let mut waiting: BTreeMap<Arc<str>, (Share, u64)> = BTreeMap::new();
        let others = self.members.iter().filter(|(id, _)| **id != replica);
        for order in others.flat_map(|(_, member)| member.waiting(now)) {
            let row = waiting
                .entry(order.caller.clone())
                .or_insert_with(|| (order.share(), 0));
            row.1 += u64::from(order.count);
        }
        waiting.into_values().collect()
    }
}
