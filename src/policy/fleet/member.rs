//! What the pool knows of one replica.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{DEAD, DEALT_TERM, FORGOTTEN, ON_WIRE, Order, Statement, WAITS_NO_MORE, clock::SLACK};
use crate::policy::{
    ledger::{Claims, Grant, Payload},
    operation::OperationId,
};

/// Dealt units whose attempts are remembered until they end. More than one replica has in flight while it matters how they end: in a ramp
/// of 64.
const REMEMBERED: usize = 128;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Member {
    /// When its last statement came, and its number.
    pub seen: Duration,
    pub number: u64,
    pub held: [u64; 2],
    pub in_flight: u64,
    pub streamed: u64,
    /// Attempts of which nothing is known; how many of them an answer has told since, and since which revision there are others.
    pub in_doubt: u64,
    told: u64,
    doubted_at: u64,
    /// When what it has leased ends.
    pub until: Duration,
    /// How often an operator has ended pauses there.
    pub resumes: u64,
    pub sent: [u64; 2],
    pub rate: [f64; 2],
    pub orders: Vec<Order>,
    /// What it was given and may not know yet.
    pub granted: Vec<Granted>,
    /// Attempts on dealt units that it knows of, by number.
    pub out: BTreeMap<u64, Dealt>,
}

/// Units that were given to a replica, and at which revision of the pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Granted {
    pub revision: u64,
    pub what: What,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum What {
    /// So many, for interactive callers and for batch.
    Lease([u64; 2]),
    Dealt(Dealt),
}

/// A unit for one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dealt {
    pub(super) grant: Grant,
    /// For a request of this caller and kind.
    pub caller: Arc<str>,
    pub operation: OperationId,
    pub payload: Payload,
    /// When, in the fleet's time.
    pub(super) at: Duration,
}

impl Dealt {
    /// The unit's number.
    pub fn number(&self) -> u64 {
        self.grant.number()
    }
}

impl Granted {
    fn units(&self) -> u64 {
        match &self.what {
            What::Lease(units) => units.iter().sum(),
            What::Dealt(_) => 1,
        }
    }

    fn leased(&self) -> u64 {
        match self.what {
            What::Lease(units) => units.iter().sum(),
            What::Dealt(_) => 0,
        }
    }
}

impl Member {
    /// Takes the place of what it stated before. What it has been given since the revision that it knows it still has.
    pub(super) fn state(&mut self, statement: &Statement, revision: u64, now: Duration) {
        self.seen = now;
        self.number = statement.number;
        self.held = statement.held;
        self.in_flight = statement.in_flight;
        self.streamed = statement.streamed.min(statement.in_flight);
        if statement.in_doubt > self.in_doubt {
            self.doubted_at = revision;
        }
        self.in_doubt = statement.in_doubt;
        self.told = self.told.min(self.in_doubt);
        self.rate = statement.rate;
        let known = statement.known.map_or(0, |known| known.revision);
        let granted = std::mem::take(&mut self.granted);
        for granted in granted {
            match granted.what {
                _ if granted.revision > known => self.granted.push(granted),
                What::Dealt(dealt) => drop(self.out.insert(dealt.number(), dealt)),
                What::Lease(_) => {}
            }
        }
        while self.out.len() > REMEMBERED {
            self.out.pop_first();
        }
        self.orders.clear();
        for order in &statement.orders {
            let mut order = order.clone();
            // It waits for these no longer, and does not know.
            let dealt = self.granted.iter().filter(|granted| {
                matches!(&granted.what, What::Dealt(dealt)
                    if dealt.caller == order.caller && dealt.operation == order.operation && dealt.payload == order.payload)
            });
            let dealt = u32::try_from(dealt.count()).unwrap_or(u32::MAX);
            order.count = order.count.saturating_sub(dealt);
            order.oldest = now.saturating_sub(order.oldest);
            if order.count > 0 {
                self.orders.push(order);
            }
        }
    }

    /// The units that it may take.
    pub(super) fn claims(&self) -> Claims {
        let leased: u64 = self.granted.iter().map(Granted::leased).sum();
        let dealt = self.granted.iter().map(Granted::units).sum::<u64>() - leased;
        Claims {
            in_flight: self.in_flight + dealt,
            streamed: self.streamed,
            leased: self.held.iter().sum::<u64>() + leased,
            in_advance: self.leased(0),
            in_doubt: self.in_doubt - self.told,
        }
    }

    /// An attempt that was sent after this revision was answered, so what was in doubt by then is told.
    pub(super) fn tell(&mut self, sent_after: u64) {
        if sent_after >= self.doubted_at {
            self.told = self.in_doubt;
        }
    }

    /// What it has sent is counted. Returns how much that was.
    pub(super) fn end_attempts(&mut self) -> u64 {
        let sent = self.in_flight + self.in_doubt - self.told;
        (self.in_flight, self.streamed) = (0, 0);
        self.told = self.in_doubt;
        sent
    }

    /// Takes away dealt units that it has not acknowledged and can use no longer, and returns how many they were. How they ended it may say yet.
    pub(super) fn end_dealt(&mut self, now: Duration) -> u64 {
        let is_over = |granted: &mut Granted| match &granted.what {
            What::Dealt(dealt) => dealt.at.saturating_add(DEALT_TERM + ON_WIRE + SLACK) <= now,
            What::Lease(_) => false,
        };
        let mut count = 0;
        for granted in self.granted.extract_if(.., is_over) {
            if let What::Dealt(dealt) = granted.what {
                self.out.insert(dealt.number(), dealt);
                count += 1;
            }
        }
        count
    }

    /// Takes away what it has leased, and returns how much that was.
    pub(super) fn end_leases(&mut self) -> u64 {
        let held: u64 = std::mem::take(&mut self.held).iter().sum();
        let granted: u64 = self.granted.iter().map(Granted::leased).sum();
        let is_dealt = |granted: &Granted| matches!(granted.what, What::Dealt(_));
        self.granted.retain(is_dealt);
        held + granted
    }

    /// The units that it has leased for interactive callers, or for batch.
    pub(super) fn leased(&self, class: usize) -> u64 {
        let granted = self.granted.iter().map(|granted| match granted.what {
            What::Lease(units) => units[class],
            What::Dealt(_) => 0,
        });
        self.held[class] + granted.sum::<u64>()
    }

    /// All units that it may take.
    pub(super) fn units(&self) -> u64 {
        let claims = self.claims();
        claims.in_flight + claims.leased + claims.in_doubt
    }

    /// Whether it takes part in the sharing now.
    pub(super) fn is_active(&self, now: Duration) -> bool {
        let is_heard = now.saturating_sub(self.seen) < DEAD;
        is_heard
            && (self.held != [0; 2]
                || !self.granted.is_empty()
                || !self.orders.is_empty()
                || self.rate.iter().sum::<f64>() > 0.05)
    }

    /// Who waits on it, unless it has not said so for too long.
    pub(super) fn waiting(&self, now: Duration) -> &[Order] {
        if now.saturating_sub(self.seen) < WAITS_NO_MORE {
            &self.orders
        } else {
            &[]
        }
    }

    /// Whether it has ended, or may be forgotten.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        let silent = now.saturating_sub(self.seen);
        silent >= if self.units() > 0 { DEAD } else { FORGOTTEN }
    }
}
