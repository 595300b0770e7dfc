//! Many replicas at once, without their ledgers: for the size of a pool, and the time that it takes.

use std::time::Duration;

use super::{
    super::{Order, Pauses, Pool, ReplicaId, Statement, Told},
    RULES,
};
use crate::policy::{ledger::Payload, operation::OperationId};

/// A busy replica, on which one request of each of so many callers waits.
pub(in super::super) fn statement(replica: ReplicaId, number: u64, callers: u64) -> Statement {
    let order = |caller: u64| Order {
        caller: format!("caller-{caller:016x}").into(),
        weight: 1,
        is_batch: false,
        operation: OperationId::NONE,
        payload: Payload::Whole,
        count: 1,
        oldest: Duration::from_millis(20),
        ageing_time: Duration::from_secs(10),
    };
    Statement {
        replica,
        number,
        known: None,
        held: [0; 2],
        in_flight: 1,
        streamed: 0,
        in_doubt: 0,
        sent: [number, 0],
        told: Some(Told {
            limit: Some(6000),
            remaining: 5000,
            reset: 2_000,
            ends_in: Some(Duration::from_secs(50)),
            known_end: None,
            sent_after: 0,
            low: None,
        }),
        pauses: Pauses::default(),
        ended: Vec::new(),
        orders: (0..callers).map(order).collect(),
        wants: Vec::new(),
        rate: [2.0, 0.0],
        leaves: false,
        rules: RULES,
    }
}

/// A pool of so many replicas.
pub(in super::super) fn crowd(replicas: u64, callers: u64, now: Duration) -> Pool {
    let mut pool = Pool::default();
    for replica in 0..replicas {
        let id = ReplicaId(u64::MAX - replica);
        let _ = pool.sync(&statement(id, 1, callers), now);
    }
    pool
}
