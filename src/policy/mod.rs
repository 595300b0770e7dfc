//! Policy: who may, how long, what next. Pure: no socket, clock, lock or environment of its own.
pub mod access;
pub mod circuit;
pub mod explain;
pub mod fair;
pub mod feedback;
pub mod headers;
pub mod ledger;
pub mod operation;
pub mod own;
pub mod rate;
pub mod retry;
pub mod rewrite;
pub mod target;
pub mod token;
pub mod token_health;
pub mod trace;
